//! How long the legs are waited for: until all of them have answered, the query turns out to need no more, or the time of the stage is up
//! and there is something to go on with.

use super::{EndedEncoding, LegAnswer, LegList, ScoredPassage};
use crate::error::SearchError;
use crate::extent::Extent;
use crate::funnel::{BudgetStage, Run, within};
use crate::plan::Leg;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use search_core::routing::margin_by_first;
use search_core::{Score, StageReason, StageReport};
use std::sync::OnceLock;

/// What has been said so far, by the places of the legs.
pub(super) struct Gathered {
    pub(super) answers: Vec<Option<LegAnswer>>,
    pub(super) extent: Extent,
}

impl Gathered {
    fn lists(&self) -> impl Iterator<Item = &LegList> {
        let answers = self.answers.iter().flatten();
        answers.filter_map(|answer| answer.outcome.as_ref().ok())
    }
}

impl LegList {
    /// How much the first document's score is above the second's, by the first: 0 to 1. None where nothing was found; 1 where there is
    /// no second.
    fn margin(&self) -> Option<f64> {
        let score = |scored: &ScoredPassage| scored.score;
        let first = self.passages.iter().max_by_key(|scored| score(scored))?;
        let others = self.passages.iter();
        let others = others.filter(|scored| scored.passage.document != first.passage.document);
        let second = others.map(score).max();
        let number = |score: Score| f64::from(score.get());
        margin_by_first(number(first.score), second.map(number))
    }
}

impl Run<'_> {
    /// What the legs say, until the query turns out to need no more of them, or the time of the stage is up and there is something to
    /// go on with. As long as there is not, the legs have all the time that the answer can spare.
    pub(super) async fn gather(
        self,
        encoding: &OnceLock<EndedEncoding>,
    ) -> Result<Gathered, SearchError> {
        let patience = self.grant(BudgetStage::Retrieve).deadline();
        let extent = self.plan.extent;
        let legs = self.plan.legs().iter().enumerate();
        let mut waiting: FuturesUnordered<_> = legs
            .filter(|(_, leg)| extent.is_sparse_alone().is_none() || **leg == Leg::Sparse)
            .map(|(place, leg)| async move { (place, self.leg(*leg, patience, encoding).await) })
            .collect();
        let mut gathered = Gathered {
            answers: self.plan.legs().iter().map(|_| None).collect(),
            extent,
        };
        loop {
            let patience = patience.filter(|_| self.can_go_on_with(&gathered));
            let Ok(Some((place, answer))) =
                within(patience, async { Ok(waiting.next().await) }).await
            else {
                return Ok(gathered);
            };
            let answer = answer?;
            if self.is_decided_by(&answer) {
                gathered.extent = Extent::SparseAlone(StageReason::Routed);
            }
            gathered.answers[place] = Some(answer);
            if gathered.extent.is_sparse_alone().is_some() {
                return Ok(gathered);
            }
        }
    }

    /// Whether there is a list, and every leg without which there is no answer has said what it has to say.
    fn can_go_on_with(self, gathered: &Gathered) -> bool {
        let mut answers = self.plan.legs().iter().zip(&gathered.answers);
        let has_list = gathered.lists().next().is_some();
        has_list && answers.all(|(leg, answer)| answer.is_some() || !self.is_required(*leg))
    }

    /// Whether the sparse leg's list is whole, and clear enough to be the answer.
    fn is_decided_by(self, answer: &LegAnswer) -> bool {
        let is_whole = !answer.reports.iter().any(StageReport::is_degraded);
        let may_be_alone = is_whole && self.plan.legs().len() > 1;
        let list = answer.outcome.as_ref().ok();
        let list = list.filter(|list| list.leg == Leg::Sparse && may_be_alone);
        let margin = list.and_then(LegList::margin);
        let threshold = self.plan.sparse_margin();
        margin
            .zip(threshold)
            .is_some_and(|(margin, threshold)| margin >= threshold)
    }
}
