//! One pipeline: its stages, their defaults, and what may stand in a file.

use crate::plan::{
    DEFAULT_ALPHA, DEFAULT_RANK_CONSTANT, Fusion, HeadPart, HeadStage, Leg, MAX_DEPTH, MethodName,
    Pipeline, Retrieve, VectorStage,
};
use serde::{Deserialize, Serialize};
use service_kit::Problems;
use std::collections::BTreeSet;

/// The depth of the funnel's first stage, which the quality figures are measured with.
const DEFAULT_RETRIEVE_DEPTH: u32 = 1000;
/// Allowed rank constants; the contract's range.
pub(crate) const RANK_CONSTANTS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Names for what is nested.
const RESCORE: HeadStage = HeadStage::Vectors(VectorStage::Rescore);
/// See [`RESCORE`].
pub(super) const LATE_INTERACTION: HeadStage = HeadStage::Vectors(VectorStage::LateInteraction);
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
    pub rescore: Option<RawHeadPart>,
    /// How the head is scored by the vectors of its tokens; none: it is not.
    pub late_interaction: Option<RawHeadPart>,
    /// How the head is read by a cross-encoder; none: it is not.
    pub rerank: Option<RawHeadPart>,
}

/// How a later stage scores the head. What is left out is as the stage has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawHeadPart {
    /// Documents that are scored, the first ones.
    pub window: Option<u32>,
    /// Weight of the new score, more than 0; the earlier one has the rest of 1.
    pub weight: Option<f64>,
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
            late_interaction: None,
            rerank: None,
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

    /// No stage is given more than the one before it. One product of a rescorer is cheaper than those of all tokens, which are
    /// cheaper than to be read.
    fn check_windows(&self, path: &str, problems: &mut Problems) {
        let mut most = MAX_WINDOW.min(self.retrieve_depth);
        for part in self.head() {
            check_part(
                part,
                most,
                &format!("{path}.{}", part.stage.name()),
                problems,
            );
            most = most.min(part.window);
        }
    }

    /// The stages that score the head, in the order of the funnel.
    fn head(&self) -> impl Iterator<Item = HeadPart> {
        let stages = [
            (RESCORE, self.rescore),
            (LATE_INTERACTION, self.late_interaction),
            (HeadStage::Rerank, self.rerank),
        ];
        let parts = stages.into_iter();
        parts.filter_map(|(stage, raw)| Some(raw?.build(stage)))
    }

    pub(super) fn build(self, name: String) -> Pipeline {
        let legs: Vec<Leg> = self.stages.iter().map(|stage| stage.leg()).collect();
        Pipeline {
            name,
            fusion: (legs.len() > 1).then(|| self.fusion.build()),
            head: self.head().collect(),
            retrieve: Retrieve {
                legs,
                depth: self.retrieve_depth,
            },
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

impl RawHeadPart {
    /// The first `window` documents, with this weight.
    #[must_use]
    pub const fn new(window: u32, weight: f64) -> Self {
        Self {
            window: Some(window),
            weight: Some(weight),
        }
    }

    /// What the stage does where nothing is said.
    pub(super) fn default_of(stage: HeadStage) -> Self {
        let HeadPart { window, weight, .. } = default_part(stage);
        Self::new(window, weight)
    }

    fn build(self, stage: HeadStage) -> HeadPart {
        let default = default_part(stage);
        HeadPart {
            window: self.window.unwrap_or(default.window),
            weight: self.weight.unwrap_or(default.weight),
            ..default
        }
    }
}

/// Window and weight of a stage where nothing else is said.
const fn default_part(stage: HeadStage) -> HeadPart {
    let (window, weight) = match stage {
        // What is beyond seldom comes into the first ten; the weight is as much as all before it.
        RESCORE => (100, 0.5),
        // The same window; MaxSim over the tokens of an encoder that was not trained for it adds to what is known, and replaces nothing.
        LATE_INTERACTION => (100, 0.2),
        // What two cores read in the time of one answer; what the earlier stages knew counts for more.
        HeadStage::Rerank => (20, 0.3),
    };
    HeadPart {
        stage,
        window,
        weight,
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
