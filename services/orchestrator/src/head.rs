//! What the stages share that score the head of a ranking again: which documents are in it, how long they may take, and how their
//! scores get into it.
//!
//! These stages add to an answer that is there already, and never fail it: what they could not do is in their reports, and what they did
//! not score keeps its score. Of the time that is left when it begins a stage takes a part: others come after it, and the hits have to be
//! fetched, too.

use crate::documents::PassageRef;
use crate::encode::EncodingBeside;
use crate::error::SearchError;
use crate::funnel::{Run, StageWatch};
use crate::plan::{HeadPart, HeadStage, VectorStage};
use crate::ranking::{LaterScores, Ranking};
use crate::vectors::Query;
use search_core::{Deadline, StageReason};
use service_kit::now;
use std::time::Duration;

/// A service that keeps the deadline ends its call so much before it, at most.
const ENDS_BEFORE: Duration = Duration::from_millis(20);

/// A stage of the head, ready to run.
pub(crate) enum Head<'a> {
    Vectors(HeadPart, VectorStage, Query<'a>),
    Rerank(HeadPart),
}

impl<'a> Head<'a> {
    /// What is to run beside the retrieval.
    pub(crate) fn encoding(&self) -> Option<EncodingBeside<'a>> {
        match self {
            Self::Vectors(_, _, Query::Apart(encoding)) => Some(encoding.clone()),
            Self::Vectors(..) | Self::Rerank(_) => None,
        }
    }
}

impl<'a> Run<'a> {
    /// The stages of the head, in the order of the funnel.
    pub(crate) fn head(self) -> Vec<Head<'a>> {
        let parts = self.plan.pipeline.head.iter().copied();
        let head = parts.map(|part| match part.stage {
            HeadStage::Vectors(stage) => Head::Vectors(part, stage, self.query_for(stage)),
            HeadStage::Rerank => Head::Rerank(part),
        });
        head.collect()
    }

    /// The deadline of a stage that may take this part of the time that is left. The rest is for what comes after it.
    pub(crate) fn part_of_time_left(
        self,
        part: impl FnOnce(Duration) -> Duration,
    ) -> Option<Deadline> {
        let (deadline, now) = (self.plan.request.deadline?, now());
        let left = deadline.remaining(now).unwrap_or_default();
        Deadline::after(now, part(left))
    }

    /// Which of equal documents are in the head is decided by their ids, as everywhere.
    pub(crate) async fn settle_ties(
        self,
        ranking: &mut Ranking,
        window: usize,
    ) -> Result<(), SearchError> {
        let ties = ranking.ties_across(window);
        if ties.is_empty() {
            return Ok(());
        }
        let passages: Vec<PassageRef> = ties.clone().map(|place| ranking.passage(place)).collect();
        let order = self.order_by_document_id(&passages).await?;
        let places: Vec<usize> = order
            .into_iter()
            .map(|position| ties.start + position)
            .collect();
        ranking.reorder(ties.start, &places);
        Ok(())
    }
}

/// Puts a stage's scores into the ranking, and what came of it into its report. Returns how many documents were scored.
pub(crate) fn merge_head(
    window: usize,
    said: LaterScores,
    ranking: &mut Ranking,
    watch: &mut StageWatch,
) -> usize {
    let scored = ranking.rerank(window, said);
    watch.report.candidates_out = scored as u64;
    if scored == 0 && watch.report.reason.is_some() {
        watch.fail();
    }
    scored
}

/// Why a call ended of its own accord before all was scored.
pub(crate) fn why_it_ended(deadline: Option<Deadline>) -> StageReason {
    let is_far = |deadline: Deadline| deadline.remaining(now()) > Some(ENDS_BEFORE);
    if deadline.is_none_or(is_far) {
        StageReason::Fault
    } else {
        StageReason::Deadline
    }
}
