//! How much of its pipeline a request runs.

use crate::plan::{Leg, Pipeline, Request, RoutingWish};
use search_core::StageReason;

/// What is run, and why not the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// The retrieval, and no stage of the head.
    WithoutHead(StageReason),
    /// The sparse leg's list is the answer, and no other stage is begun.
    SparseAlone(StageReason),
}

impl Extent {
    /// Why no other leg than the sparse one is run, where it is so.
    pub(crate) const fn is_sparse_alone(self) -> Option<StageReason> {
        match self {
            Self::SparseAlone(reason) => Some(reason),
            Self::Whole | Self::WithoutHead(_) => None,
        }
    }

    /// Why the stages of the head are not run, where it is so.
    pub(crate) const fn is_without_head(self) -> Option<StageReason> {
        match self {
            Self::WithoutHead(reason) | Self::SparseAlone(reason) => Some(reason),
            Self::Whole => None,
        }
    }
}

/// What an overloaded mesh may do for a request instead of refusing it, the most first. Whoever wants all stages, or all shards of them,
/// is refused.
pub(crate) fn of_overloaded(pipeline: &Pipeline, request: &Request) -> Vec<Extent> {
    let requires_head = pipeline
        .head
        .iter()
        .any(|part| pipeline.requires(part.stage.name()));
    let wants_all = request.require_full_coverage || request.routing == RoutingWish::AllStages;
    if requires_head || wants_all {
        return Vec::new();
    }
    let legs = &pipeline.retrieve.legs;
    let has_head = !pipeline.head.is_empty();
    let may_be_alone =
        legs.len() > 1 && legs.contains(&Leg::Sparse) && !pipeline.requires(Leg::Dense.name());
    let without_head = has_head.then_some(Extent::WithoutHead(StageReason::Overloaded));
    let sparse_alone = may_be_alone.then_some(Extent::SparseAlone(StageReason::Overloaded));
    without_head.into_iter().chain(sparse_alone).collect()
}
