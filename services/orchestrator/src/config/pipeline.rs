//! One pipeline: its stages, their defaults, and what may stand in a file.

use crate::plan::{
    DEFAULT_ALPHA, DEFAULT_RANK_CONSTANT, Fusion, HeadPart, Leg, MAX_DEPTH, MethodName, Pipeline,
    Retrieve, Stage,
};
use serde::{Deserialize, Serialize};
use service_kit::Problems;
use std::collections::BTreeSet;

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

impl RawPipeline {
    pub(super) fn check(&self, path: &str, problems: &mut Problems) {
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

    pub(super) fn build(self, name: String) -> Pipeline {
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
