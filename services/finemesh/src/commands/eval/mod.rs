//! `finemesh eval`: quality and latency of pipelines on judged queries, with as much time as they take or within budgets.

mod measure;
mod plot;
mod report;
mod variants;

use std::fs;

use anyhow::{Context, Result};

use self::measure::{Measured, measure};
pub(super) use self::report::mean;
pub(crate) use self::variants::pipelines;
use self::variants::{Variant, budgets, variants};
use super::judged::Judged;
use crate::backend::Backend;
use crate::cli::EvalArgs;
use crate::output::say;
use crate::values::Budget;

/// One row of the result.
struct Row {
    /// The variant's name.
    variant: String,
    budget: Budget,
    measured: Measured,
}

/// Runs every judged query through every variant and prints the means and percentiles.
pub(crate) async fn eval(backend: &mut Backend, args: EvalArgs) -> Result<()> {
    let judged = Judged::read(&args.queries, &args.qrels, args.limit)?;
    let mut rows = Vec::new();
    for variant in variants(&args) {
        rows.extend(measure_budgets(backend, &args, &variant, &judged).await?);
    }
    if args.json {
        say(format_args!(
            "{}",
            report::as_json(&args, &judged.queries, &rows)
        ))?;
    } else {
        say(format_args!(
            "{}: {} queries\n{}",
            args.collection,
            judged.queries.len(),
            report::as_tables(&args, &rows)
        ))?;
    }
    if let Some(file) = &args.plot {
        let svg = plot::quality_over_budgets(&args.collection, &rows)?;
        fs::write(file, svg).with_context(|| format!("--plot: {}", file.display()))?;
    }
    Ok(())
}

/// One row per budget. So that all of them meet the same mesh, which learns what stages cost and keeps encodings of queries, all
/// queries are asked once before.
async fn measure_budgets(
    backend: &mut Backend,
    args: &EvalArgs,
    variant: &Variant,
    judged: &Judged,
) -> Result<Vec<Row>> {
    if !args.budgets.is_empty() {
        measure(backend, &args.collection, (variant, Budget::NONE), judged).await?;
    }
    let mut rows = Vec::new();
    for budget in budgets(args) {
        rows.push(Row {
            variant: variant.name.clone(),
            budget,
            measured: measure(backend, &args.collection, (variant, budget), judged).await?,
        });
    }
    Ok(rows)
}
