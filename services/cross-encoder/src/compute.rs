//! One compute thread: runs its model on one batch after the other.
//!
//! A model that has failed is asked at once whether a pair whose logit is known still gets it. While it does not, the service says
//! that it is not ready, and the thread asks again every second; it takes no work as long as another thread can.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use inference::{Pair, ScoreError, ScorePairs};

use crate::queue::{BATCH_TOKENS, BatchSize, Taken};
use crate::workers::{Shared, Work, calls_of};

/// The model's code panicked.
#[derive(Debug, thiserror::Error)]
#[error("the computation panicked")]
struct Panicked;

/// One compute thread.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    model: Box<dyn ScorePairs>,
    /// Whether the model failed when it was asked last.
    fails: bool,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, model: Box<dyn ScorePairs>) -> Self {
        Self {
            shared,
            model,
            fails: false,
        }
    }

    pub(crate) fn work(mut self) {
        loop {
            match self.shared.next(self.fails) {
                Work::Compute(batch) => self.compute(&batch),
                Work::Check => self.check(),
                Work::Stop => return,
            }
        }
    }

    fn compute(&mut self, batch: &[Taken]) {
        let started = Instant::now();
        let pairs: Vec<&Pair> = batch.iter().map(|taken| &taken.pair).collect();
        let result = caught(|| self.model.score(&pairs));
        let busy_time = started.elapsed();
        // Before anyone is answered: who sees the failure finds it in the health.
        match &result {
            Ok(logits) => {
                self.set_fails(false);
                note(batch, logits.model_time, busy_time);
            }
            Err(error) => {
                tracing::error!(%error, cause = cause_of(error), "a batch failed");
                self.check();
            }
        }
        self.shared.complete(batch, result, busy_time);
    }

    fn check(&mut self) {
        let checked = caught(|| self.model.check());
        if let Err(error) = &checked {
            tracing::error!(%error, cause = cause_of(error), "the model fails");
        }
        self.set_fails(checked.is_err());
    }

    fn set_fails(&mut self, fails: bool) {
        if std::mem::replace(&mut self.fails, fails) != fails {
            self.shared.set_failing(fails);
        }
    }
}

/// What the batcher is worth can be read from these: padding as a share of all tokens, tokens as a share of the limit, time inside the
/// runtime as a share of all time.
fn note(batch: &[Taken], model_time: Duration, busy_time: Duration) {
    let BatchSize {
        tokens,
        padding_tokens,
    } = BatchSize::of(batch);
    tracing::debug!(
        pairs = batch.len(),
        calls = calls_of(batch).len(),
        tokens,
        padding_tokens,
        limit_tokens = BATCH_TOKENS,
        model_us = search_core::micros(model_time),
        busy_us = search_core::micros(busy_time),
        "a batch is computed"
    );
}

fn caught<T>(run: impl FnOnce() -> Result<T, ScoreError>) -> Result<T, ScoreError> {
    let result = catch_unwind(AssertUnwindSafe(run));
    result.unwrap_or_else(|_| Err(ScoreError::Model(Arc::new(Panicked))))
}

fn cause_of(error: &ScoreError) -> String {
    let cause = std::error::Error::source(error);
    cause.map(ToString::to_string).unwrap_or_default()
}
