//! What the stages share that score the head of a ranking again: which documents are in it, and how long they may take.

use crate::documents::PassageRef;
use crate::error::SearchError;
use crate::funnel::Run;
use crate::ranking::Ranking;
use search_core::Deadline;
use service_kit::now;
use std::time::Duration;

impl Run<'_> {
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
