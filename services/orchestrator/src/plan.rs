//! What a request runs: a pipeline, with what the request says otherwise.

use crate::error::SearchError;
use crate::extent::{Extent, of_overloaded};
use crate::placement::Wants;
use search_core::fusion::Method;
use search_core::routing::lexical_share;
use search_core::{Budget, CollectionName, Deadline, FieldError, Filter, ParsedQuery, StageReason};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most passages that one shard can be asked for, and so the deepest pool of one retriever.
pub(crate) const MAX_DEPTH: u32 = 10_000;
/// Passages that each leg gives on for every document of the page and before it, at least: documents have several passages.
const PASSAGES_PER_DOCUMENT: usize = 4;
/// RRF's rank constant in its paper.
pub(crate) const DEFAULT_RANK_CONSTANT: u32 = 60;
/// The weight of the dense score where nothing else is said: the best of a grid over SciFact's training queries, and the
/// best fixed one over a dozen other collections.
pub(crate) const DEFAULT_ALPHA: f64 = 0.6;
/// The weight of the dense score where a request turns to ranks, whose paper has no weights.
const EQUAL_ALPHA: f64 = 0.5;

/// A way of scoring passages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Leg {
    /// BM25.
    Sparse,
    /// Cosine similarity of vectors.
    Dense,
}

impl Leg {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sparse => "sparse",
            Self::Dense => "dense",
        }
    }
}

/// A stage that scores the head of the ranking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadStage {
    /// By vectors, shard by shard.
    Vectors(VectorStage),
    /// By a cross-encoder, which reads it.
    Rerank,
}

/// Which vectors score the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VectorStage {
    /// Those of a second encoder: one product a passage.
    Rescore,
    /// Those of tokens: each of the query's with each of the passage's.
    LateInteraction,
}

impl HeadStage {
    /// In reports, trails and settings.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Vectors(stage) => stage.name(),
            Self::Rerank => "rerank",
        }
    }
}

impl VectorStage {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rescore => "rescore",
            Self::LateInteraction => "late_interaction",
        }
    }

    /// The stage that makes its query, where that does not come with another one's.
    pub(crate) const fn encode_name(self) -> &'static str {
        match self {
            Self::Rescore => "encode_rescore",
            Self::LateInteraction => "encode_late_interaction",
        }
    }
}

/// The first stage.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Retrieve {
    /// Never empty, no leg twice.
    pub(crate) legs: Vec<Leg>,
    /// Passages that each leg gives on.
    pub(crate) depth: u32,
}

/// How scores become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fusion {
    pub(crate) method: Method,
    /// Weight of the dense score; the sparse one has the rest.
    pub(crate) alpha: f64,
}

impl Fusion {
    pub(crate) fn weight(self, leg: Leg) -> f64 {
        match leg {
            Leg::Dense => self.alpha,
            Leg::Sparse => 1.0 - self.alpha,
        }
    }
}

/// A later stage's part in the scores of the head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HeadPart {
    pub(crate) stage: HeadStage,
    /// Documents that it scores: the first ones.
    pub(crate) window: u32,
    /// Its weight, more than 0; 1 replaces the earlier score.
    pub(crate) weight: f64,
    /// Documents that it is given even where fewer are expected to be done in time.
    pub(crate) floor: u32,
    /// It is left out where the first document is so much above the second, in standard deviations of the window's scores.
    pub(crate) gate_margin: Option<f64>,
}

/// What runs, in the order of the funnel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pipeline {
    pub(crate) name: String,
    /// Every shard of each leg gives its best passages.
    pub(crate) retrieve: Retrieve,
    /// The legs' scores become one. None: those of the one leg are the answer's.
    pub(crate) fusion: Option<Fusion>,
    /// The head is scored again: the dearer the stage, the later it is, and the fewer documents it gets.
    pub(crate) head: Vec<HeadPart>,
    /// For the whole answer.
    pub(crate) time: Duration,
    /// How the time is divided: over the retrieval, the completion, and the stages of the head.
    pub(crate) budget: Budget,
    /// Names of the stages without which there is no answer.
    pub(crate) required: Vec<&'static str>,
    /// When the sparse leg is enough.
    pub(crate) routing: Routing,
}

/// When a query of a pipeline with both legs is answered by the sparse one alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Routing {
    /// Where so much of the query, 0 to 1, is quoted or looks like identifiers. None: never.
    pub(crate) lexical_share: Option<f64>,
    /// Where the sparse leg's first score is so much above its second, by the first. None: never.
    pub(crate) sparse_margin: Option<f64>,
}

impl Pipeline {
    pub(crate) fn requires(&self, stage: &str) -> bool {
        self.required.contains(&stage)
    }

    /// Stages that score.
    fn stage_count(&self) -> usize {
        self.retrieve.legs.len() + self.head.len()
    }

    /// The stages that score the head by vectors.
    pub(crate) fn vector_stages(&self) -> impl Iterator<Item = VectorStage> {
        self.head.iter().filter_map(|part| match part.stage {
            HeadStage::Vectors(stage) => Some(stage),
            HeadStage::Rerank => None,
        })
    }

    /// What it takes to run it.
    pub(crate) fn wants(&self) -> Wants<'_> {
        let has = |wanted| self.vector_stages().any(|stage| stage == wanted);
        Wants {
            legs: &self.retrieve.legs,
            rescores: has(VectorStage::Rescore),
            matches_tokens: has(VectorStage::LateInteraction),
        }
    }

    /// The stages as reports name them, in the order of the funnel.
    pub(crate) fn stage_names(&self) -> Vec<&'static str> {
        let legs = &self.retrieve.legs;
        let encodes = legs.contains(&Leg::Dense);
        // Token vectors come with the retrieval's vector, where there is one.
        let comes_along = |stage: &VectorStage| encodes && *stage == VectorStage::LateInteraction;
        let encoded_apart = self.vector_stages().filter(|stage| !comes_along(stage));
        let mut names = Vec::new();
        names.extend(encodes.then_some(crate::encode::ENCODE_STAGE));
        names.extend(encoded_apart.map(VectorStage::encode_name));
        names.extend(legs.iter().map(|leg| leg.name()));
        if self.fusion.is_some() {
            names.extend(["complete", "fuse"]);
        }
        names.extend(self.head.iter().map(|part| part.stage.name()));
        names.push("fetch");
        names
    }
}

/// The pipelines that are configured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pipelines {
    pub(crate) by_name: BTreeMap<String, Arc<Pipeline>>,
    pub(crate) default: String,
}

impl Pipelines {
    fn get(&self, name: &str) -> Result<&Arc<Pipeline>, SearchError> {
        let name = if name.is_empty() { &self.default } else { name };
        self.by_name
            .get(name)
            .ok_or_else(|| SearchError::UnknownPipeline {
                name: name.to_owned(),
                known: self.by_name.keys().cloned().collect::<Vec<_>>().join(", "),
            })
    }

    /// The default one first.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Arc<Pipeline>> {
        let default = self.by_name.get(&self.default);
        let others = self
            .by_name
            .iter()
            .filter(|(name, _)| **name != self.default);
        default
            .into_iter()
            .chain(others.map(|(_, pipeline)| pipeline))
    }
}

/// A checked request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) collection: CollectionName,
    /// As it was written, for the sparse retriever.
    pub(crate) query: String,
    pub(crate) parsed: ParsedQuery,
    pub(crate) k: usize,
    pub(crate) offset: usize,
    /// Empty: the default.
    pub(crate) pipeline: String,
    pub(crate) filter: Option<Filter>,
    pub(crate) fusion: FusionOverride,
    pub(crate) explain: bool,
    pub(crate) require_full_coverage: bool,
    pub(crate) routing: RoutingWish,
    pub(crate) arrival: Instant,
    pub(crate) deadline: Option<Deadline>,
}

impl Request {
    /// Documents up to the end of the page.
    pub(crate) const fn page_end(&self) -> usize {
        self.offset + self.k
    }
}

/// What a request says otherwise than the pipeline. Values are in their ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct FusionOverride {
    pub(crate) method: Option<MethodName>,
    pub(crate) alpha: Option<f64>,
    pub(crate) rank_constant: Option<u32>,
}

/// What a request says about stages that may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RoutingWish {
    /// As the pipeline has it.
    #[default]
    OfPipeline,
    AllStages,
    SparseOnly,
}

/// A method without its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MethodName {
    MinMax,
    ZScore,
    Rrf,
    Dbsf,
}

impl MethodName {
    pub(crate) const fn with(self, rank_constant: u32) -> Method {
        match self {
            Self::MinMax => Method::MinMax,
            Self::ZScore => Method::ZScore,
            Self::Rrf => Method::Rrf { rank_constant },
            Self::Dbsf => Method::Dbsf,
        }
    }

    const fn of(method: Method) -> Self {
        match method {
            Method::MinMax => Self::MinMax,
            Method::ZScore => Self::ZScore,
            Method::Rrf { .. } => Self::Rrf,
            Method::Dbsf => Self::Dbsf,
        }
    }
}

/// What runs for one request.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) request: Request,
    pub(crate) pipeline: Arc<Pipeline>,
    /// Passages that each leg gives on: the pipeline's depth, or more where the page lies deeper.
    pub(crate) depth: usize,
    /// The pipeline's, as the request changes it.
    pub(crate) fusion: Option<Fusion>,
    /// How much of the pipeline is run.
    pub(crate) extent: Extent,
}

impl Plan {
    pub(crate) fn new(mut request: Request, pipelines: &Pipelines) -> Result<Self, SearchError> {
        let pipeline = Arc::clone(pipelines.get(&request.pipeline)?);
        let of_pipeline = Deadline::after(request.arrival, pipeline.time);
        request.deadline = Deadline::earliest(request.deadline, of_pipeline);
        let fusion = resolve_fusion(&pipeline, request.fusion).map_err(SearchError::Invalid)?;
        let depth = pipeline.retrieve.depth as usize;
        let depth = depth.max(PASSAGES_PER_DOCUMENT * request.page_end());
        Ok(Self {
            depth: depth.min(MAX_DEPTH as usize),
            extent: match is_routed(&request, &pipeline) {
                true => Extent::SparseAlone(StageReason::Routed),
                false => Extent::Whole,
            },
            fusion,
            pipeline,
            request,
        })
    }

    /// When the last stage has to have ended: what is left then is for the steps behind it.
    pub(crate) fn end_of_stages(&self, now: Instant) -> Option<Deadline> {
        let deadline = self.request.deadline?;
        Some(self.pipeline.budget.end_of_stages(now, deadline))
    }

    /// What an overloaded mesh may run instead of what is planned, the most first.
    pub(crate) fn lesser_extents(&self) -> Vec<Extent> {
        match self.extent {
            Extent::Whole => of_overloaded(&self.pipeline, &self.request),
            Extent::WithoutHead(_) | Extent::SparseAlone(_) => Vec::new(),
        }
    }

    /// At which margin of its first score the sparse leg is enough.
    pub(crate) fn sparse_margin(&self) -> Option<f64> {
        let is_open = self.request.routing == RoutingWish::OfPipeline;
        self.pipeline.routing.sparse_margin.filter(|_| is_open)
    }

    /// At which margin of the first document a stage of the head is left out.
    pub(crate) fn gate_margin(&self, part: HeadPart) -> Option<f64> {
        let is_open = self.request.routing == RoutingWish::OfPipeline;
        part.gate_margin.filter(|_| is_open)
    }

    /// What it takes to run it.
    pub(crate) fn wants(&self) -> Wants<'_> {
        self.pipeline.wants()
    }

    pub(crate) fn legs(&self) -> &[Leg] {
        &self.pipeline.retrieve.legs
    }

    pub(crate) fn has(&self, leg: Leg) -> bool {
        self.legs().contains(&leg)
    }
}

/// Whether the sparse leg alone answers, by what is known before it is asked.
fn is_routed(request: &Request, pipeline: &Pipeline) -> bool {
    if pipeline.stage_count() < 2 || !pipeline.retrieve.legs.contains(&Leg::Sparse) {
        return false;
    }
    let is_lexical = |share: f64| lexical_share(&request.parsed) >= share;
    match request.routing {
        RoutingWish::AllStages => false,
        RoutingWish::SparseOnly => true,
        RoutingWish::OfPipeline => pipeline.routing.lexical_share.is_some_and(is_lexical),
    }
}

/// The pipeline's fusion with the request's changes. A method that the request chooses keeps the pipeline's alpha, except
/// that RRF, whose ranks are no scores, starts from equal weights.
fn resolve_fusion(
    pipeline: &Pipeline,
    changes: FusionOverride,
) -> Result<Option<Fusion>, FieldError> {
    let Some(fusion) = pipeline.fusion else {
        return refuse_changes(pipeline, changes).map(|()| None);
    };
    let old = MethodName::of(fusion.method);
    let new = changes.method.unwrap_or(old);
    if changes.rank_constant.is_some() && new != MethodName::Rrf {
        let message = "is for reciprocal rank fusion only";
        return Err(FieldError::new("fusion.rank_constant", message));
    }
    let starts_equal = new == MethodName::Rrf && old != MethodName::Rrf;
    let inherited_alpha = if starts_equal {
        EQUAL_ALPHA
    } else {
        fusion.alpha
    };
    let inherited_constant = match fusion.method {
        Method::Rrf { rank_constant } => rank_constant,
        Method::MinMax | Method::ZScore | Method::Dbsf => DEFAULT_RANK_CONSTANT,
    };
    Ok(Some(Fusion {
        method: new.with(changes.rank_constant.unwrap_or(inherited_constant)),
        alpha: changes.alpha.unwrap_or(inherited_alpha),
    }))
}

fn refuse_changes(pipeline: &Pipeline, changes: FusionOverride) -> Result<(), FieldError> {
    if changes == FusionOverride::default() {
        return Ok(());
    }
    let message = format!("the pipeline {:?} has nothing to fuse", pipeline.name);
    Err(FieldError::new("fusion", message))
}

#[cfg(test)]
mod tests;
