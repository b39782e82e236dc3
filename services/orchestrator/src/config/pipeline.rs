//! One pipeline: its stages, their defaults, and what may stand in a file.

use crate::plan::{
    DEFAULT_ALPHA, DEFAULT_RANK_CONSTANT, Fusion, HeadPart, HeadStage, Leg, MAX_DEPTH, MethodName,
    Pipeline, Retrieve, Routing, VectorStage,
};
use search_core::{Budget, StageShare};
use serde::{Deserialize, Serialize};
use service_kit::Problems;
use std::collections::BTreeSet;
use std::time::Duration;

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
/// A whole answer of the dearest pipeline takes a tenth of it on two cores; whoever waits for a list longer has gone.
const DEFAULT_BUDGET_MS: u64 = 2000;
/// Longest budget; the contract's.
pub(crate) const MAX_BUDGET_MS: u32 = 600_000;
/// Kept back for the steps behind the stages: texts are fetched in a few milliseconds, in more where machines are busy.
const KEPT_BACK: Duration = Duration::from_millis(50);
/// Of what is left when the retrieval begins, by the shares of the later stages. What it does not use, and that is most, is theirs.
const RETRIEVE: StageShare = StageShare {
    share: 1.0,
    minimum: Duration::ZERO,
};
/// Of missing scores, which are asked for in one round.
const COMPLETE: StageShare = StageShare {
    share: 0.25,
    minimum: Duration::ZERO,
};
/// Largest share of a stage.
const MAX_SHARE: f64 = 1000.0;

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
    /// Milliseconds for a whole answer; a request may ask for less.
    pub budget_ms: u64,
    /// Stages without which there is no answer. At least one that retrieves always has to answer.
    pub required: Vec<RawRequired>,
    /// When the sparse stage alone is enough; not said: never.
    pub routing: RawRouting,
}

/// When a query is answered by the sparse stage alone. To be fitted on judged queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawRouting {
    /// Where so much of the query, more than 0 to 1, is quoted or looks like identifiers.
    pub lexical_share: Option<f64>,
    /// Where the sparse stage's first score is so much above its second, by the first: more than 0 to 1.
    pub sparse_margin: Option<f64>,
}

/// A stage that an answer may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawRequired {
    /// BM25.
    Sparse,
    /// Vectors.
    Dense,
    /// Vectors of a second encoder.
    Rescore,
    /// Vectors of tokens.
    LateInteraction,
    /// A cross-encoder.
    Rerank,
}

/// How a later stage scores the head. What is left out is as the stage has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawHeadPart {
    /// Documents that are scored, the first ones.
    pub window: Option<u32>,
    /// Weight of the new score, more than 0; the earlier one has the rest of 1.
    pub weight: Option<f64>,
    /// Documents that it is given at least, where time for fewer is expected to be left; at most the window.
    pub floor: Option<u32>,
    /// Its part of the time that is left, by the parts of the stages that follow it; the retrieval has 1.
    pub share: Option<f64>,
    /// Milliseconds that it needs to be worth beginning.
    pub min_ms: Option<u64>,
    /// It is left out where the first document is so much above the second, in standard deviations of the window's scores; none: never.
    pub gate_margin: Option<f64>,
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
            budget_ms: DEFAULT_BUDGET_MS,
            required: Vec::new(),
            routing: RawRouting::default(),
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
        self.check_required(path, problems);
        self.check_routing(path, problems);
        self.check_budget(path, problems);
    }

    /// No stage is given more than the one before it. One product of a rescorer is cheaper than those of all tokens, which are
    /// cheaper than to be read.
    fn check_windows(&self, path: &str, problems: &mut Problems) {
        let mut most = MAX_WINDOW.min(self.retrieve_depth);
        for (stage, raw) in self.raw_head() {
            let part = raw.build(stage);
            let path = format!("{path}.{}", stage.name());
            check_part(part, most, &path, problems);
            check_share(raw.share_of(stage), &path, problems);
            most = most.min(part.window);
        }
    }

    fn check_required(&self, path: &str, problems: &mut Problems) {
        let has = |name| self.stage_names().any(|stage| stage == name);
        for (place, required) in self.required.iter().enumerate() {
            problems.require(
                has(required.name()),
                format!("{path}.required[{place}]"),
                || format!("{} is no stage of this pipeline", required.name()),
            );
        }
    }

    fn check_routing(&self, path: &str, problems: &mut Problems) {
        let RawRouting {
            lexical_share,
            sparse_margin,
        } = self.routing;
        for (name, value) in [
            ("lexical_share", lexical_share),
            ("sparse_margin", sparse_margin),
        ] {
            problems.require(
                value.is_none_or(|value| value > 0.0 && value <= 1.0),
                format!("{path}.routing.{name}"),
                || "must be more than 0 and at most 1",
            );
        }
    }

    /// The minima of the stages, and what is kept back, fit into the budget.
    fn check_budget(&self, path: &str, problems: &mut Problems) {
        let budgets = 1..=u64::from(MAX_BUDGET_MS);
        problems.require(
            budgets.contains(&self.budget_ms),
            format!("{path}.budget_ms"),
            || format!("must be 1 to {MAX_BUDGET_MS}"),
        );
        let shortest = self.budget().shortest();
        problems.require(shortest <= self.time(), format!("{path}.budget_ms"), || {
            format!(
                "must be at least {}: the stages' min_ms, and what is kept back for the hits",
                shortest.as_nanos().div_ceil(1_000_000)
            )
        });
    }

    const fn time(&self) -> Duration {
        Duration::from_millis(self.budget_ms)
    }

    /// The stages that score, in the order of the funnel.
    fn stage_names(&self) -> impl Iterator<Item = &'static str> {
        let legs = self.stages.iter().map(|stage| stage.leg().name());
        legs.chain(self.raw_head().map(|(stage, _)| stage.name()))
    }

    /// The stages that score the head, in the order of the funnel.
    fn raw_head(&self) -> impl Iterator<Item = (HeadStage, RawHeadPart)> {
        let stages = [
            (RESCORE, self.rescore),
            (LATE_INTERACTION, self.late_interaction),
            (HeadStage::Rerank, self.rerank),
        ];
        let parts = stages.into_iter();
        parts.filter_map(|(stage, raw)| Some((stage, raw?)))
    }

    fn budget(&self) -> Budget {
        let head = self.raw_head().map(|(stage, raw)| raw.share_of(stage));
        Budget::new(
            [RETRIEVE, COMPLETE].into_iter().chain(head).collect(),
            KEPT_BACK,
        )
    }

    pub(super) fn build(self, name: String) -> Pipeline {
        let legs: Vec<Leg> = self.stages.iter().map(|stage| stage.leg()).collect();
        Pipeline {
            name,
            fusion: (legs.len() > 1).then(|| self.fusion.build()),
            head: self
                .raw_head()
                .map(|(stage, raw)| raw.build(stage))
                .collect(),
            time: self.time(),
            budget: self.budget(),
            required: self.required.iter().map(|stage| stage.name()).collect(),
            routing: self.routing.build(),
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
    problems.require(
        (1..=part.window).contains(&part.floor),
        format!("{path}.floor"),
        || "must be 1 to the window",
    );
    problems.require(
        part.gate_margin
            .is_none_or(|margin| margin > 0.0 && margin.is_finite()),
        format!("{path}.gate_margin"),
        || "must be more than 0",
    );
}

fn check_share(share: StageShare, path: &str, problems: &mut Problems) {
    problems.require(
        share.share > 0.0 && share.share <= MAX_SHARE,
        format!("{path}.share"),
        || format!("must be more than 0 and at most {MAX_SHARE}"),
    );
}

impl RawRouting {
    const fn build(self) -> Routing {
        Routing {
            lexical_share: self.lexical_share,
            sparse_margin: self.sparse_margin,
        }
    }
}

impl RawRequired {
    const fn name(self) -> &'static str {
        match self {
            Self::Sparse => Leg::Sparse.name(),
            Self::Dense => Leg::Dense.name(),
            Self::Rescore => RESCORE.name(),
            Self::LateInteraction => LATE_INTERACTION.name(),
            Self::Rerank => HeadStage::Rerank.name(),
        }
    }
}

impl RawHeadPart {
    /// The first `window` documents, with this weight.
    #[must_use]
    pub const fn new(window: u32, weight: f64) -> Self {
        Self {
            window: Some(window),
            weight: Some(weight),
            floor: None,
            share: None,
            min_ms: None,
            gate_margin: None,
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
            floor: self.floor.unwrap_or(default.floor),
            gate_margin: self.gate_margin,
            ..default
        }
    }

    /// Its part of the time.
    fn share_of(self, stage: HeadStage) -> StageShare {
        let default = default_share(stage);
        StageShare {
            share: self.share.unwrap_or(default.share),
            minimum: self.min_ms.map_or(default.minimum, Duration::from_millis),
        }
    }
}

/// Part of the time of a stage where nothing else is said. To read takes longer than all else.
const fn default_share(stage: HeadStage) -> StageShare {
    StageShare {
        share: match stage {
            HeadStage::Vectors(_) => 1.0,
            HeadStage::Rerank => 2.0,
        },
        minimum: Duration::from_millis(1),
    }
}

/// Window and weight of a stage where nothing else is said.
const fn default_part(stage: HeadStage) -> HeadPart {
    let (window, weight) = match stage {
        // What is beyond seldom comes into the first ten; the weight is as much as all before it.
        RESCORE => (100, 0.5),
        // The same window; MaxSim over the tokens of an encoder that was not trained for it adds to what is known, and replaces nothing.
        LATE_INTERACTION => (100, 0.2),
        // Where nDCG@10 over the number of documents is at its best, or all but; what the earlier stages knew counts for more.
        HeadStage::Rerank => (50, 0.3),
    };
    HeadPart {
        stage,
        window,
        weight,
        floor: 1,
        gate_margin: None,
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
