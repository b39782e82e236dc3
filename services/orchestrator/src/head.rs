//! What the stages share that score the head of a ranking again: which documents are in it, how long they may take, and how their
//! scores get into it.
//!
//! These stages add to an answer that is there already, and never fail it: what they could not do is in their reports, and what they did
//! not score keeps its score. A stage is given the time that the budget grants it when it begins, and as many documents as are expected
//! to be scored in it.

use crate::documents::PassageRef;
use crate::encode::EncodingBeside;
use crate::error::SearchError;
use crate::funnel::{BudgetStage, Ranked, Run, StageWatch};
use crate::plan::{HeadPart, HeadStage, VectorStage};
use crate::ranking::{LaterScores, Ranking};
use crate::vectors::Query;
use search_core::{Deadline, StageReason, StageStatus};
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
    fn part(&self) -> HeadPart {
        match self {
            Self::Vectors(part, ..) | Self::Rerank(part) => *part,
        }
    }

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

    /// Runs a stage of the head, unless the ranking is found not to need it.
    pub(crate) async fn run_head(self, position: usize, stage: Head<'a>, ranked: &mut Ranked) {
        let part = stage.part();
        if let Some(reason) = self.why_not_needed(part, ranked) {
            let mut watch = self.begin(part.stage.name());
            watch.lessen(StageStatus::Skipped, reason);
            if let Some(encoding) = stage.encoding() {
                ranked.report_encoding(encoding.left_out(reason));
            }
            ranked.reports.push(watch.end());
            return;
        }
        let grant = self.grant(BudgetStage::Head(position));
        match stage {
            Head::Vectors(part, stage, query) => {
                self.score_head(part, stage, query, grant, ranked).await;
            }
            Head::Rerank(part) => self.rerank(part, grant, ranked).await,
        }
    }

    fn why_not_needed(self, part: HeadPart, ranked: &Ranked) -> Option<StageReason> {
        if let Some(reason) = ranked.extent.is_without_head() {
            return Some(reason);
        }
        let threshold = self.plan.gate_margin(part)?;
        let margin = ranked.ranking.margin(part.window as usize)?;
        (margin >= threshold).then_some(StageReason::Gated)
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
