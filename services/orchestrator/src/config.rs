//! Settings of the orchestrator: its pipelines, and how often it asks who holds what.

use crate::plan::{
    DEFAULT_ALPHA, DEFAULT_RANK_CONSTANT, Fusion, HeadPart, Leg, MAX_DEPTH, MethodName, Pipeline,
    Pipelines, Retrieve, Stage,
};
use serde::{Deserialize, Serialize};
use service_kit::Problems;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A commit is found within this time; a `Describe` costs a replica some microseconds.
const DEFAULT_DESCRIBE_INTERVAL_MS: u64 = 500;
/// The depth of the funnel's first stage, which the quality figures are measured with.
const DEFAULT_RETRIEVE_DEPTH: u32 = 1000;
/// Allowed rank constants; the contract's range.
pub(crate) const RANK_CONSTANTS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Documents that a second encoder scores where nothing else is said: what is beyond seldom comes into the first ten.
const DEFAULT_RESCORE_WINDOW: u32 = 100;
/// Its weight: as much as all before it.
const DEFAULT_RESCORE_WEIGHT: f64 = 0.5;
/// Documents that a cross-encoder reads where nothing else is said: what two cores read in the time of one answer.
const DEFAULT_RERANK_WINDOW: u32 = 20;
/// Its weight: what the earlier stages knew counts for more.
const DEFAULT_RERANK_WEIGHT: f64 = 0.3;
/// Most documents that a later stage scores: more is no head.
const MAX_WINDOW: u32 = 1000;
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
    /// Pipelines by name. `sparse`, `dense`, `hybrid` and `full` are built in and can be changed.
    pub pipelines: BTreeMap<String, RawPipeline>,
}

/// One pipeline as it stands in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPipeline {
    /// The stages that score, each once.
    pub stages: Vec<RawStage>,
    /// Passages that each retriever gives on.
    pub retrieve_depth: u32,
    /// How several scores become one.
    pub fusion: RawFusion,
    /// How the head is scored by the vectors of a second encoder; none: it is not.
    pub rescore: Option<RawRescore>,
    /// How the head is read by a cross-encoder; none: it is not.
    pub rerank: Option<RawRerank>,
}

/// How the head is scored again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawRescore {
    /// Documents that are scored, the first ones.
    pub window: u32,
    /// Weight of the new score, more than 0; the earlier one has the rest of 1.
    pub weight: f64,
}

/// How the head is read together with the query.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawRerank {
    /// Documents that are read, the first ones.
    pub window: u32,
    /// Weight of the new score, more than 0; the earlier one has the rest of 1.
    pub weight: f64,
}

/// A stage that scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawStage {
    /// BM25.
    Sparse,
    /// Vectors.
    Dense,
}

/// How several scores become one; without effect where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawFusion {
    /// The method.
    pub method: RawMethod,
    /// Weight of the dense score, 0 to 1; the sparse one has the rest.
    pub alpha: f64,
    /// RRF's rank constant.
    pub rank_constant: u32,
}

/// A method of fusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawMethod {
    /// Scaled by minimum and maximum.
    MinMax,
    /// Z-scores.
    ZScore,
    /// Reciprocal ranks.
    Rrf,
    /// Scaled by mean and deviation.
    Dbsf,
}

impl Default for RawConfig {
    fn default() -> Self {
        let both = vec![RawStage::Sparse, RawStage::Dense];
        let built_in = [
            ("sparse", vec![RawStage::Sparse], None),
            ("dense", vec![RawStage::Dense], None),
            ("hybrid", both.clone(), None),
            ("full", both, Some(RawRerank::default())),
        ];
        let pipeline = |stages, rerank| RawPipeline {
            stages,
            rerank,
            ..RawPipeline::default()
        };
        Self {
            default_pipeline: "hybrid".to_owned(),
            describe_interval_ms: DEFAULT_DESCRIBE_INTERVAL_MS,
            pipelines: built_in
                .map(|(name, stages, rerank)| (name.to_owned(), pipeline(stages, rerank)))
                .into(),
        }
    }
}

impl Default for RawPipeline {
    fn default() -> Self {
        Self {
            stages: Vec::new(),
            retrieve_depth: DEFAULT_RETRIEVE_DEPTH,
            fusion: RawFusion::default(),
            rescore: None,
            rerank: None,
        }
    }
}

impl Default for RawRescore {
    fn default() -> Self {
        Self {
            window: DEFAULT_RESCORE_WINDOW,
            weight: DEFAULT_RESCORE_WEIGHT,
        }
    }
}

impl Default for RawRerank {
    fn default() -> Self {
        Self {
            window: DEFAULT_RERANK_WINDOW,
            weight: DEFAULT_RERANK_WEIGHT,
        }
    }
}

impl Default for RawFusion {
    fn default() -> Self {
        Self {
            // As good as min-max, and a little better on the training queries of SciFact and of Vespa's documentation.
            method: RawMethod::ZScore,
            alpha: DEFAULT_ALPHA,
            rank_constant: DEFAULT_RANK_CONSTANT,
        }
    }
}

/// The checked section.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub(crate) pipelines: Pipelines,
    pub(crate) describe_interval: Duration,
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
        }
    }
}

impl RawPipeline {
    fn check(&self, path: &str, problems: &mut Problems) {
        let distinct: BTreeSet<_> = self.stages.iter().map(|stage| stage.leg().name()).collect();
        let stages_are_right = !self.stages.is_empty() && distinct.len() == self.stages.len();
        problems.require(
            stages_are_right,
            format!("{path}.stages"),
            || "must have `sparse`, `dense` or both, each once",
        );
        let depths = 1..=MAX_DEPTH;
        problems.require(
            depths.contains(&self.retrieve_depth),
            format!("{path}.retrieve_depth"),
            || format!("must be 1 to {MAX_DEPTH}"),
        );
        let alphas = 0.0..=1.0;
        problems.require(
            alphas.contains(&self.fusion.alpha),
            format!("{path}.fusion.alpha"),
            || "must be 0 to 1",
        );
        problems.require(
            RANK_CONSTANTS.contains(&self.fusion.rank_constant),
            format!("{path}.fusion.rank_constant"),
            || "must be 1 to 10000",
        );
        self.check_windows(path, problems);
    }

    /// No stage is given more than the one before it.
    fn check_windows(&self, path: &str, problems: &mut Problems) {
        let mut most = MAX_WINDOW.min(self.retrieve_depth);
        if let Some(rescore) = self.rescore {
            let part = rescore.build();
            check_part(part, most, &format!("{path}.rescore"), problems);
            most = most.min(part.window);
        }
        if let Some(rerank) = self.rerank {
            check_part(rerank.build(), most, &format!("{path}.rerank"), problems);
        }
    }

    fn build(self, name: String) -> Pipeline {
        let legs: Vec<Leg> = self.stages.iter().map(|stage| stage.leg()).collect();
        let fuse = (legs.len() > 1).then(|| Stage::Fuse(self.fusion.build()));
        let rescore = self.rescore.map(|raw| Stage::Rescore(raw.build()));
        let rerank = self.rerank.map(|raw| Stage::Rerank(raw.build()));
        let retrieve = Stage::Retrieve(Retrieve {
            legs,
            depth: self.retrieve_depth,
        });
        Pipeline {
            name,
            stages: std::iter::once(retrieve)
                .chain(fuse)
                .chain(rescore)
                .chain(rerank)
                .collect(),
        }
    }
}

impl RawStage {
    const fn leg(self) -> Leg {
        match self {
            Self::Sparse => Leg::Sparse,
            Self::Dense => Leg::Dense,
        }
    }
}

/// `most`: documents that the stage can be given.
fn check_part(part: HeadPart, most: u32, path: &str, problems: &mut Problems) {
    problems.require(
        part.window >= 1 && part.window <= most,
        format!("{path}.window"),
        || format!("must be 1 to {MAX_WINDOW}, and no more than the stage before it gives on"),
    );
    problems.require(
        part.weight > 0.0 && part.weight <= 1.0,
        format!("{path}.weight"),
        || "must be more than 0 and at most 1",
    );
}

impl RawRescore {
    const fn build(self) -> HeadPart {
        HeadPart {
            window: self.window,
            weight: self.weight,
        }
    }
}

impl RawRerank {
    const fn build(self) -> HeadPart {
        HeadPart {
            window: self.window,
            weight: self.weight,
        }
    }
}

impl RawFusion {
    const fn build(self) -> Fusion {
        Fusion {
            method: self.method.name().with(self.rank_constant),
            alpha: self.alpha,
        }
    }
}

impl RawMethod {
    const fn name(self) -> MethodName {
        match self {
            Self::MinMax => MethodName::MinMax,
            Self::ZScore => MethodName::ZScore,
            Self::Rrf => MethodName::Rrf,
            Self::Dbsf => MethodName::Dbsf,
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
        let fusion = RawFusion {
            alpha: f64::NAN,
            rank_constant: 0,
            ..RawFusion::default()
        };
        let wrong = RawPipeline {
            stages: vec![RawStage::Dense; 2],
            retrieve_depth: 10_001,
            fusion,
            rescore: Some(RawRescore {
                window: 1001,
                weight: f64::NAN,
            }),
            rerank: Some(RawRerank {
                window: 0,
                weight: 1.1,
            }),
        };
        let deep = RawPipeline {
            stages: vec![RawStage::Sparse],
            retrieve_depth: 10,
            rescore: Some(RawRescore {
                window: 11,
                weight: 0.0,
            }),
            rerank: Some(RawRerank {
                window: 12,
                weight: 0.3,
            }),
            ..RawPipeline::default()
        };
        raw.pipelines.insert("deep".to_owned(), deep);
        raw.pipelines.insert("wrong".to_owned(), wrong);
        let expected = [
            "orchestrator.describe_interval_ms",
            "orchestrator.default_pipeline",
            "orchestrator.pipelines.deep.rescore.window",
            "orchestrator.pipelines.deep.rescore.weight",
            "orchestrator.pipelines.deep.rerank.window",
            "orchestrator.pipelines.wrong.stages",
            "orchestrator.pipelines.wrong.retrieve_depth",
            "orchestrator.pipelines.wrong.fusion.alpha",
            "orchestrator.pipelines.wrong.fusion.rank_constant",
            "orchestrator.pipelines.wrong.rescore.window",
            "orchestrator.pipelines.wrong.rescore.weight",
            "orchestrator.pipelines.wrong.rerank.window",
            "orchestrator.pipelines.wrong.rerank.weight",
        ];
        assert_eq!(problems_of(raw), expected);
    }
}
