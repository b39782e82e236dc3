//! What comes back to a caller: batches of scored passages, until all are scored, the time is over, or something fails.

use std::collections::BTreeMap;
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
    /// Tokens that were read of query and passage, in all windows.
    pub(crate) tokens: usize,
    /// Only the beginning of query or passage was read.
    pub(crate) is_truncated: bool,
}

/// What the model said of a passage, or of a window over it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ScoredWindow {
    /// The passage's place among those of the call.
    pub(crate) passage: usize,
    /// Finite.
    pub(crate) logit: f32,
    /// Tokens that were read.
    pub(crate) tokens: usize,
    /// The end of the query is in no window, or the end of the passage.
    pub(crate) is_truncated: bool,
}

/// The passages of a call whose scores one batch has brought, or completed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScoredBatch {
    /// In the order of the call; at least one.
    pub(crate) passages: Vec<ScoredPassage>,
    /// Counted from 0 within the call; a batch that completes no passage is counted, and brings nothing.
    pub(crate) number: u32,
    /// Passages of the call that have no score yet.
    pub(crate) unscored: usize,
    /// Since the batch that was brought before: time in which nothing was computed for the call.
    pub(crate) queue: Duration,
    /// Likewise: time in which something was.
    pub(crate) compute: Duration,
}

/// A call as the compute threads see it.
pub(crate) struct Caller {
    batches: UnboundedSender<Result<ScoredBatch, Error>>,
    /// Those whose scores have been brought are gone.
    unscored: BTreeMap<usize, Reading>,
    /// Of all passages, as far as they are known: one of a passage that is not read yet.
    windows: usize,
    taken_windows: usize,
    scored_windows: usize,
    next_number: u32,
    clock: Clock,
}

/// How far a passage is read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    unscored_windows: usize,
    best_logit: f32,
    tokens: usize,
}

impl Reading {
    /// Of a passage of so many windows.
    fn of(windows: usize) -> Self {
        Self {
            unscored_windows: windows,
            best_logit: f32::NEG_INFINITY,
            tokens: 0,
        }
    }

    fn add(&mut self, window: ScoredWindow) {
        self.unscored_windows -= 1;
        self.best_logit = self.best_logit.max(window.logit);
        self.tokens += window.tokens;
    }
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
            unscored: (0..passages).map(|index| (index, Reading::of(1))).collect(),
            windows: passages,
            taken_windows: 0,
            scored_windows: 0,
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

    /// Windows of all passages, as far as they are known.
    pub(crate) fn windows(&self) -> usize {
        self.windows
    }

    /// Those that have no score yet.
    pub(crate) fn unscored_windows(&self) -> usize {
        self.windows - self.scored_windows
    }

    /// Those that no thread has taken.
    pub(crate) fn uncomputed_windows(&self) -> usize {
        self.windows - self.taken_windows
    }

    /// Passages that have no score yet.
    pub(crate) fn unscored(&self) -> usize {
        self.unscored.len()
    }

    /// A passage turns out to have so many windows, at least one.
    pub(crate) fn read(&mut self, passage: usize, windows: usize) {
        self.unscored.insert(passage, Reading::of(windows));
        self.windows += windows - 1;
    }

    /// A thread has taken so many windows. Returns how long the first of them waited, when it is taken.
    pub(crate) fn begin(&mut self, windows: usize) -> Option<Duration> {
        let is_first = self.taken_windows == 0;
        self.taken_windows += windows;
        self.clock.read();
        self.clock.batches_in_flight += 1;
        is_first.then_some(self.clock.queue)
    }

    /// They are scored.
    pub(crate) fn complete(&mut self, windows: &[ScoredWindow]) {
        self.scored_windows += windows.len();
        let completed = windows.iter().filter_map(|window| self.add(*window));
        let mut passages: Vec<ScoredPassage> = completed.collect();
        passages.sort_by_key(|passage| passage.index);
        self.clock.read();
        self.clock.batches_in_flight -= 1;
        let number = self.next_number;
        self.next_number += 1;
        if passages.is_empty() {
            return;
        }
        let batch = ScoredBatch {
            passages,
            number,
            unscored: self.unscored(),
            queue: std::mem::take(&mut self.clock.queue),
            compute: std::mem::take(&mut self.clock.compute),
        };
        // An error says that the caller has gone: it leaves the queue on its own.
        let _ = self.batches.send(Ok(batch));
    }

    /// The passage, where this is its last window.
    fn add(&mut self, window: ScoredWindow) -> Option<ScoredPassage> {
        let reading = self.unscored.get_mut(&window.passage)?;
        reading.add(window);
        if reading.unscored_windows > 0 {
            return None;
        }
        let &mut Reading {
            best_logit, tokens, ..
        } = reading;
        self.unscored.remove(&window.passage);
        Some(ScoredPassage {
            index: window.passage,
            logit: best_logit,
            tokens,
            is_truncated: window.is_truncated,
        })
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
    /// Those that brought nothing counted in.
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
        self.batches = batch.number + 1;
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
