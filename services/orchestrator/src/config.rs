//! Settings of the orchestrator: its pipelines, what their stages are reckoned to cost, and how often it asks who holds what.

mod pipeline;
mod prior_costs;

pub(crate) use pipeline::{MAX_BUDGET_MS, RANK_CONSTANTS};
pub use pipeline::{
    RawFusion, RawHeadPart, RawMethod, RawPipeline, RawRequired, RawRouting, RawStage,
};
pub use prior_costs::{RawCost, RawPriorCosts};

use crate::costs::PriorCosts;
use crate::plan::{HeadStage, Pipelines};
use serde::{Deserialize, Serialize};
use service_kit::Problems;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A commit is found within this time; a `Describe` costs a replica some microseconds.
const DEFAULT_DESCRIBE_INTERVAL_MS: u64 = 500;
/// Longest interval between two looks at the replicas.
const MAX_DESCRIBE_INTERVAL_MS: u64 = 3_600_000;

/// The section as it stands in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// The pipeline of requests that name none.
    pub default_pipeline: String,
    /// Milliseconds between two looks at what the replicas hold.
    pub describe_interval_ms: u64,
    /// What the stages of the head are reckoned to cost until it is learnt from answers.
    pub prior_costs: RawPriorCosts,
    /// Pipelines by name. `sparse`, `dense`, `hybrid`, `colbert` and `full` are built in and can be changed.
    pub pipelines: BTreeMap<String, RawPipeline>,
}

impl Default for RawConfig {
    fn default() -> Self {
        let of_legs = |stages: &[RawStage]| RawPipeline {
            stages: stages.to_vec(),
            ..RawPipeline::default()
        };
        let hybrid = of_legs(&[RawStage::Sparse, RawStage::Dense]);
        let part = |stage| Some(RawHeadPart::default_of(stage));
        let colbert = RawPipeline {
            late_interaction: part(pipeline::LATE_INTERACTION),
            ..hybrid.clone()
        };
        let full = RawPipeline {
            rerank: part(HeadStage::Rerank),
            ..hybrid.clone()
        };
        let built_in = [
            ("sparse", of_legs(&[RawStage::Sparse])),
            ("dense", of_legs(&[RawStage::Dense])),
            ("hybrid", hybrid),
            ("colbert", colbert),
            ("full", full),
        ];
        Self {
            default_pipeline: "hybrid".to_owned(),
            describe_interval_ms: DEFAULT_DESCRIBE_INTERVAL_MS,
            prior_costs: RawPriorCosts::default(),
            pipelines: built_in
                .map(|(name, pipeline)| (name.to_owned(), pipeline))
                .into(),
        }
    }
}

/// The checked section.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub(crate) pipelines: Pipelines,
    pub(crate) describe_interval: Duration,
    pub(crate) prior_costs: PriorCosts,
}

impl Default for Config {
    fn default() -> Self {
        RawConfig::default().unchecked()
    }
}

impl RawConfig {
    /// Notes every mistake; `path` is the section's name.
    pub fn validate(self, path: &str, problems: &mut Problems) -> Config {
        let intervals = 1..=MAX_DESCRIBE_INTERVAL_MS;
        problems.require(
            intervals.contains(&self.describe_interval_ms),
            format!("{path}.describe_interval_ms"),
            || format!("must be 1 to {MAX_DESCRIBE_INTERVAL_MS}"),
        );
        problems.require(
            self.pipelines.contains_key(&self.default_pipeline),
            format!("{path}.default_pipeline"),
            || format!("{:?} is not one of the pipelines", self.default_pipeline),
        );
        self.prior_costs
            .check(&format!("{path}.prior_costs"), problems);
        for (name, pipeline) in &self.pipelines {
            pipeline.check(&format!("{path}.pipelines.{name}"), problems);
        }
        self.unchecked()
    }

    fn unchecked(self) -> Config {
        let built = |(name, raw): (String, RawPipeline)| (name.clone(), Arc::new(raw.build(name)));
        Config {
            pipelines: Pipelines {
                by_name: self.pipelines.into_iter().map(built).collect(),
                default: self.default_pipeline,
            },
            describe_interval: Duration::from_millis(self.describe_interval_ms),
            prior_costs: self.prior_costs.build(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(raw: RawConfig) -> Vec<String> {
        let mut problems = Problems::default();
        raw.validate("orchestrator", &mut problems);
        problems
            .iter()
            .map(|problem| problem.path.clone())
            .collect()
    }

    #[test]
    fn defaults_are_right() {
        assert_eq!(problems_of(RawConfig::default()), Vec::<String>::new());
    }

    #[test]
    fn all_mistakes_are_found_at_once() {
        let mut raw = RawConfig {
            default_pipeline: "best".to_owned(),
            describe_interval_ms: 0,
            ..RawConfig::default()
        };
        raw.prior_costs.late_interaction.item_us = 0.0;
        raw.prior_costs.rerank = RawCost {
            call_us: f64::NAN,
            item_us: f64::INFINITY,
        };
        let fusion = RawFusion {
            alpha: f64::NAN,
            rank_constant: 0,
            ..RawFusion::default()
        };
        let wrong = RawPipeline {
            stages: vec![RawStage::Dense; 2],
            retrieve_depth: 10_001,
            fusion,
            rescore: Some(RawHeadPart::new(1001, f64::NAN)),
            late_interaction: Some(RawHeadPart::new(1, 2.0)),
            rerank: Some(RawHeadPart::new(0, 1.1)),
            budget_ms: 0,
            required: vec![RawRequired::Dense, RawRequired::Sparse],
            routing: RawRouting {
                lexical_share: Some(0.0),
                sparse_margin: Some(f64::NAN),
            },
        };
        let hasty = RawPipeline {
            stages: vec![RawStage::Dense],
            rescore: Some(RawHeadPart {
                floor: Some(101),
                share: Some(f64::INFINITY),
                min_ms: Some(40),
                gate_margin: Some(-1.0),
                ..RawHeadPart::default()
            }),
            rerank: Some(RawHeadPart {
                min_ms: Some(50),
                ..RawHeadPart::default()
            }),
            budget_ms: 100,
            ..RawPipeline::default()
        };
        let deep = RawPipeline {
            stages: vec![RawStage::Sparse],
            retrieve_depth: 10,
            rescore: Some(RawHeadPart::new(11, 0.0)),
            late_interaction: Some(RawHeadPart::new(8, 1.0)),
            rerank: Some(RawHeadPart::new(9, 0.3)),
            ..RawPipeline::default()
        };
        let defaults = RawPipeline {
            stages: vec![RawStage::Sparse],
            rescore: Some(RawHeadPart::new(50, 0.5)),
            late_interaction: Some(RawHeadPart::default()),
            ..RawPipeline::default()
        };
        raw.pipelines.insert("defaults".to_owned(), defaults);
        raw.pipelines.insert("deep".to_owned(), deep);
        raw.pipelines.insert("hasty".to_owned(), hasty);
        raw.pipelines.insert("wrong".to_owned(), wrong);
        let expected = [
            "orchestrator.describe_interval_ms",
            "orchestrator.default_pipeline",
            "orchestrator.prior_costs.late_interaction.item_us",
            "orchestrator.prior_costs.rerank.call_us",
            "orchestrator.prior_costs.rerank.item_us",
            "orchestrator.pipelines.deep.rescore.window",
            "orchestrator.pipelines.deep.rescore.weight",
            "orchestrator.pipelines.deep.rerank.window",
            "orchestrator.pipelines.defaults.late_interaction.window",
            "orchestrator.pipelines.hasty.rescore.floor",
            "orchestrator.pipelines.hasty.rescore.gate_margin",
            "orchestrator.pipelines.hasty.rescore.share",
            "orchestrator.pipelines.hasty.budget_ms",
            "orchestrator.pipelines.wrong.stages",
            "orchestrator.pipelines.wrong.retrieve_depth",
            "orchestrator.pipelines.wrong.fusion.alpha",
            "orchestrator.pipelines.wrong.fusion.rank_constant",
            "orchestrator.pipelines.wrong.rescore.window",
            "orchestrator.pipelines.wrong.rescore.weight",
            "orchestrator.pipelines.wrong.late_interaction.weight",
            "orchestrator.pipelines.wrong.rerank.window",
            "orchestrator.pipelines.wrong.rerank.weight",
            "orchestrator.pipelines.wrong.rerank.floor",
            "orchestrator.pipelines.wrong.required[1]",
            "orchestrator.pipelines.wrong.routing.lexical_share",
            "orchestrator.pipelines.wrong.routing.sparse_margin",
            "orchestrator.pipelines.wrong.budget_ms",
            "orchestrator.pipelines.wrong.budget_ms",
        ];
        assert_eq!(problems_of(raw), expected);
    }
}
