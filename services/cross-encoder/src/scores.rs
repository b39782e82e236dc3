//! What comes back to a caller: batches of scored passages, until all are scored, the time is over, or something fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::Error;
use crate::queue::CallId;
use crate::workers::{Leaving, Shared};

/// A passage with its score.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScoredPassage {
    /// Its place among the passages of the call.
    pub(crate) index: usize,
    /// Finite.
    pub(crate) logit: f32,
    /// Tokens that were read of query and passage.
    pub(crate) tokens: usize,
    /// Only the beginning of query or passage was read.
    pub(crate) is_truncated: bool,
}

/// What was scored for a call in one batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScoredBatch {
    /// In the order of the call.
    pub(crate) passages: Vec<ScoredPassage>,
    /// Counted from 0 within the call.
    pub(crate) number: u32,
    /// Passages of the call that have no score yet.
    pub(crate) unscored: usize,
    /// Since the batch before it: time in which nothing was computed for the call.
    pub(crate) queue: Duration,
    /// Since the batch before it: time in which something was.
    pub(crate) compute: Duration,
}

/// A call as the compute threads see it.
pub(crate) struct Caller {
    batches: UnboundedSender<Result<ScoredBatch, Error>>,
    passages: usize,
    taken: usize,
    scored: usize,
    next_number: u32,
    clock: Clock,
}

/// Parts time into waiting and computing.
struct Clock {
    /// When it was read last.
    since: Instant,
    batches_in_flight: usize,
    queue: Duration,
    compute: Duration,
}

impl Caller {
    /// A call of so many passages, and where its batches arrive.
    pub(crate) fn new(passages: usize, arrived: Instant) -> (Self, Batches) {
        let (sender, receiver) = unbounded_channel();
        let caller = Self {
            batches: sender,
            passages,
            taken: 0,
            scored: 0,
            next_number: 0,
            clock: Clock {
                since: arrived,
                batches_in_flight: 0,
                queue: Duration::ZERO,
                compute: Duration::ZERO,
            },
        };
        (caller, receiver)
    }

    pub(crate) fn passages(&self) -> usize {
        self.passages
    }

    pub(crate) fn unscored(&self) -> usize {
        self.passages - self.scored
    }

    /// Passages that no thread has taken.
    pub(crate) fn uncomputed(&self) -> usize {
        self.passages - self.taken
    }

    /// A thread has taken so many of its passages.
    pub(crate) fn begin(&mut self, passages: usize) {
        self.taken += passages;
        self.clock.read();
        self.clock.batches_in_flight += 1;
    }

    /// They are scored.
    pub(crate) fn complete(&mut self, mut passages: Vec<ScoredPassage>) {
        passages.sort_by_key(|passage| passage.index);
        self.scored += passages.len();
        self.clock.read();
        self.clock.batches_in_flight -= 1;
        let batch = ScoredBatch {
            passages,
            number: self.next_number,
            unscored: self.unscored(),
            queue: std::mem::take(&mut self.clock.queue),
            compute: std::mem::take(&mut self.clock.compute),
        };
        self.next_number += 1;
        // An error says that the caller has gone: it leaves the queue on its own.
        let _ = self.batches.send(Ok(batch));
    }

    /// Ends the call.
    pub(crate) fn fail(self, error: Error) {
        // As above.
        let _ = self.batches.send(Err(error));
    }
}

impl Clock {
    fn read(&mut self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.since);
        if self.batches_in_flight > 0 {
            self.compute += passed;
        } else {
            self.queue += passed;
        }
        self.since = now;
    }
}

/// Where the batches of a call arrive. It ends when all are scored or the call has left.
pub(crate) type Batches = UnboundedReceiver<Result<ScoredBatch, Error>>;

/// The scores of one call as they come. Dropped, the call is abandoned: what waits is not computed.
pub(crate) struct Scores {
    pub(crate) shared: Arc<Shared>,
    pub(crate) call: CallId,
    pub(crate) batches: Batches,
    /// When the caller must have what there is.
    pub(crate) until: Option<Instant>,
    pub(crate) progress: Progress,
    /// Told at the end what was done.
    pub(crate) span: tracing::Span,
}

/// What a caller has got so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) batches: u32,
    pub(crate) tokens: usize,
    pub(crate) unscored: usize,
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
    has_ended: bool,
    is_late: bool,
}

impl Progress {
    pub(crate) fn of(passages: usize) -> Self {
        Self {
            batches: 0,
            tokens: 0,
            unscored: passages,
            queue: Duration::ZERO,
            compute: Duration::ZERO,
            has_ended: false,
            is_late: false,
        }
    }

    fn add(&mut self, batch: &ScoredBatch) {
        self.batches += 1;
        self.tokens += batch
            .passages
            .iter()
            .map(|passage| passage.tokens)
            .sum::<usize>();
        self.unscored = batch.unscored;
        self.queue += batch.queue;
        self.compute += batch.compute;
        self.has_ended = batch.unscored == 0;
    }
}

impl Scores {
    /// The next batch. None: all are scored, or the time is over and something was. An error is the last that comes.
    pub(crate) async fn next(&mut self) -> Option<Result<ScoredBatch, Error>> {
        if self.progress.has_ended {
            return None;
        }
        match self.in_time().await {
            Some(Ok(batch)) => {
                self.progress.add(&batch);
                Some(Ok(batch))
            }
            Some(Err(error)) => {
                self.progress.has_ended = true;
                Some(Err(error))
            }
            None => {
                (self.progress.has_ended, self.progress.is_late) = (true, true);
                (self.progress.batches == 0).then_some(Err(Error::DeadlineExceeded))
            }
        }
    }

    /// What arrives. None: the time is over.
    async fn in_time(&mut self) -> Option<Result<ScoredBatch, Error>> {
        let Some(until) = self.until else {
            return self.batches.recv().await;
        };
        tokio::select! {
            biased;
            batch = self.batches.recv() => batch,
            () = tokio::time::sleep_until(until.into()) => None,
        }
    }
}

impl Drop for Scores {
    fn drop(&mut self) {
        let why = if self.progress.is_late {
            Leaving::Expired
        } else {
            Leaving::Abandoned
        };
        self.shared.leave(self.call, why);
        let Progress {
            batches,
            tokens,
            unscored,
            queue,
            compute,
            ..
        } = self.progress;
        self.span.record("batches", batches);
        self.span.record("tokens", tokens);
        self.span.record("unscored", unscored);
        self.span.record("queue_us", search_core::micros(queue));
        self.span.record("compute_us", search_core::micros(compute));
    }
}
