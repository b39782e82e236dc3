//! What is measured: each pipeline under each fusion.

use search_proto::search::Fusion;

use crate::cli::{EvalArgs, FusionArgs};
use crate::commands::search::fusion;
use crate::values::Budget;

/// What is measured when nothing is named.
const DEFAULT_PIPELINES: [&str; 3] = ["sparse", "dense", "hybrid"];
/// What is measured when nothing but a fusion is named.
const FUSING_PIPELINE: &str = "hybrid";

/// A pipeline under one fusion.
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) pipeline: String,
    pub(super) fusion: Option<Fusion>,
}

/// The pipelines that are measured.
pub(crate) fn pipelines(args: &EvalArgs) -> Vec<String> {
    match args.pipelines.as_slice() {
        [] if is_about_fusion(args) => vec![FUSING_PIPELINE.to_owned()],
        [] => DEFAULT_PIPELINES.map(str::to_owned).to_vec(),
        named => named.to_vec(),
    }
}

pub(super) fn variants(args: &EvalArgs) -> Vec<Variant> {
    pipelines(args)
        .into_iter()
        .flat_map(|pipeline| pipeline_variants(args, pipeline))
        .collect()
}

/// Each variant's budgets; no limit where none was asked for.
pub(super) fn budgets(args: &EvalArgs) -> Vec<Budget> {
    match args.budgets.as_slice() {
        [] => vec![Budget::NONE],
        budgets => budgets.to_vec(),
    }
}

/// Pipelines of one retriever have nothing to fuse.
fn is_about_fusion(args: &EvalArgs) -> bool {
    let FusionArgs {
        fusion,
        rank_constant,
    } = &args.fusion;
    !args.alpha.is_empty() || fusion.is_some() || rank_constant.is_some()
}

fn pipeline_variants(args: &EvalArgs, pipeline: String) -> Vec<Variant> {
    if args.alpha.is_empty() {
        return vec![Variant {
            name: pipeline.clone(),
            pipeline,
            fusion: fusion(&args.fusion, None),
        }];
    }
    let with_alpha = |alpha: &f64| Variant {
        name: format!("{pipeline} alpha={alpha}"),
        pipeline: pipeline.clone(),
        fusion: fusion(&args.fusion, Some(*alpha)),
    };
    args.alpha.iter().map(with_alpha).collect()
}
