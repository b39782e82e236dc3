//! How fast the threads are, learnt, and what they are at: whether a call that comes gets a first score in its time.
//!
//! Scores are worth having one by one, so a call needs no time for all of its passages, only for the first batch.

use std::time::Duration;

use search_core::Criticality;
use search_core::admission::{Load, Newcomer, QueueCost, TooLate, Workshop};

use crate::queue::{BATCH_TOKENS, BatchSize, WORTHWHILE_PADDING_TOKENS};

/// What is being computed, and what a token costs.
pub(crate) struct Pace {
    cost: QueueCost,
    batches: usize,
    tokens: usize,
}

impl Pace {
    /// Nothing is known yet of these threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            cost: QueueCost::new(Workshop {
                threads,
                batch_items: BATCH_TOKENS as f64,
                fixed_items: WORTHWHILE_PADDING_TOKENS as f64,
            }),
            batches: 0,
            tokens: 0,
        }
    }

    /// Lets a call in that so many tokens are computed before.
    pub(crate) fn admit(
        &self,
        tokens_before: usize,
        time_left: Option<Duration>,
        criticality: Criticality,
    ) -> Result<(), TooLate> {
        let load = Load {
            waiting_items: tokens_before as f64,
            computing_items: self.tokens as f64,
            computing_batches: self.batches,
        };
        let newcomer = Newcomer {
            items: BATCH_TOKENS as f64,
            time_left,
            criticality,
        };
        self.cost.admit(load, newcomer)
    }

    /// A thread has taken a batch; none where it is empty.
    pub(crate) fn begin(&mut self, size: BatchSize) {
        if size.tokens > 0 {
            self.batches += 1;
            self.tokens += size.tokens;
        }
    }

    /// It is done. None: it failed, and nothing is learnt.
    pub(crate) fn end(&mut self, size: BatchSize, took: Option<Duration>) {
        self.batches -= 1;
        self.tokens -= size.tokens;
        if let Some(took) = took {
            self.cost.observe(size.tokens as f64, took);
        }
    }
}
