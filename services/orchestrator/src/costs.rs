//! What the stages of the head cost in this mesh: learnt from every answer, and asked before a stage is given its candidates.

use crate::metrics::CostGauge;
use crate::plan::{HeadStage, VectorStage};
use search_core::{CostModel, CostPrior, Deadline};
use service_kit::now;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Tokens of a text that a model reads at most, for the estimate: longer ones are cut.
const MOST_TOKENS: usize = 512;
/// Bytes of a token of running text, about.
const TOKEN_BYTES: usize = 4;

/// One estimate for each stage, over all pipelines: the services are the same ones.
#[derive(Debug)]
pub(crate) struct Costs {
    /// Items are passages.
    rescore: StageCost,
    /// Items are passages.
    late_interaction: StageCost,
    /// Items are tokens, by [`tokens_of_pair`].
    rerank: StageCost,
}

/// The running estimate of one stage.
#[derive(Debug)]
pub(crate) struct StageCost {
    model: Mutex<CostModel>,
    gauge: CostGauge,
}

/// What is reckoned with as long as nothing is learnt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PriorCosts {
    pub(crate) rescore: CostPrior,
    pub(crate) late_interaction: CostPrior,
    pub(crate) rerank: CostPrior,
}

impl Costs {
    pub(crate) fn new(prior: PriorCosts) -> Self {
        let vectors = |stage, prior| StageCost::new(HeadStage::Vectors(stage), prior);
        Self {
            rescore: vectors(VectorStage::Rescore, prior.rescore),
            late_interaction: vectors(VectorStage::LateInteraction, prior.late_interaction),
            rerank: StageCost::new(HeadStage::Rerank, prior.rerank),
        }
    }

    pub(crate) const fn of(&self, stage: HeadStage) -> &StageCost {
        match stage {
            HeadStage::Vectors(VectorStage::Rescore) => &self.rescore,
            HeadStage::Vectors(VectorStage::LateInteraction) => &self.late_interaction,
            HeadStage::Rerank => &self.rerank,
        }
    }
}

impl StageCost {
    fn new(stage: HeadStage, prior: CostPrior) -> Self {
        let gauge = CostGauge::new(stage);
        gauge.set(prior.fixed, prior.per_item);
        Self {
            model: Mutex::new(CostModel::new(prior)),
            gauge,
        }
    }

    /// Items that are expected to be done from now to then; without a limit all of them.
    pub(crate) fn fitting(&self, deadline: Option<Deadline>) -> f64 {
        let time_left = |deadline: Deadline| deadline.remaining(now()).unwrap_or_default();
        let fitting = |deadline| self.model().fitting(time_left(deadline));
        deadline.map_or(f64::INFINITY, fitting)
    }

    pub(crate) fn expected(&self, items: f64) -> Duration {
        self.model().expected(items)
    }

    pub(crate) fn observe(&self, items: f64, took: Duration) {
        let mut model = self.model();
        model.observe(items, took);
        let (fixed, of_one) = (model.expected(0.0), model.expected(1.0));
        drop(model);
        self.gauge.set(fixed, of_one.saturating_sub(fixed));
    }

    /// Learns of items that were not all done when this time was up: they would have taken longer, so it only counts where that is news.
    pub(crate) fn observe_broken_off(&self, items: f64, took: Duration) {
        if took > self.expected(items) {
            self.observe(items, took);
        }
    }

    /// Held for some arithmetic, once or twice a stage.
    fn model(&self) -> MutexGuard<'_, CostModel> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens of query and passage together, about.
pub(crate) fn tokens_of_pair(query: &str, passage: &str) -> f64 {
    let bytes = query.len().saturating_add(passage.len());
    (bytes / TOKEN_BYTES).clamp(1, MOST_TOKENS) as f64
}

/// How many of the first items are within this cost, at least `floor` where there are as many.
pub(crate) fn first_within(
    costs: impl IntoIterator<Item = f64>,
    limit: f64,
    floor: usize,
) -> usize {
    let mut spent = 0.0;
    let costs = costs.into_iter().enumerate();
    let within = costs.take_while(|(place, cost)| {
        spent += cost;
        spent <= limit || *place < floor
    });
    within.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_broken_off_counts_where_it_is_news() {
        let prior = CostPrior {
            fixed: Duration::from_millis(1),
            per_item: Duration::from_micros(100),
        };
        let cost = StageCost::new(HeadStage::Rerank, prior);
        let expected = cost.expected(50.0);
        cost.observe_broken_off(50.0, expected / 2);
        assert_eq!(cost.expected(50.0), expected);
        cost.observe_broken_off(50.0, 4 * expected);
        assert!(cost.expected(50.0) > expected);
    }

    #[test]
    fn the_first_that_fit_are_taken_and_the_floor_in_any_case() {
        let costs = [3.0, 4.0, 5.0, 1.0];
        for (limit, floor, expected) in [
            (0.0, 0, 0),
            (0.0, 2, 2),
            (6.9, 1, 1),
            (7.0, 1, 2),
            (12.5, 1, 3),
            (f64::INFINITY, 1, 4),
            (0.0, 9, 4),
        ] {
            assert_eq!(
                first_within(costs, limit, floor),
                expected,
                "{limit} {floor}"
            );
        }
    }
}
