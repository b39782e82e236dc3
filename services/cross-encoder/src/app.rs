//! The service: a cross-encoder that has passed its golden check, and the threads that compute.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use inference::{CrossEncoder, CrossEncoderInfo, ReadPairs, ScoreError, ScorePairs};
use search_core::Deadline;
use service_kit::{Readiness, criticality};

use crate::config::Config;
use crate::error::Error;
use crate::queue::CallId;
use crate::scores::{Caller, Progress, Scores};
use crate::workers::{Shared, Stats, Workers};

/// What was scored is answered this much before the deadline: on a machine whose cores all compute a timer is some milliseconds
/// late, the answer has a way to go, and the server ends the call at
/// the deadline.
const ANSWER_MARGIN: Duration = Duration::from_millis(5);
/// Passages that are read before the first are computed.
const FIRST_READ: usize = 8;
/// Passages that are read at a time, then.
const NEXT_READ: usize = 32;

/// The cross-encoder service. Dropped, it waits for the batches that are being computed.
pub struct App {
    reader: Arc<dyn ReadPairs>,
    workers: Workers,
}

/// What to score.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) query: String,
    pub(crate) passages: Vec<String>,
    /// In which a passage is read that is too long for the model, at most. At least 1.
    pub(crate) max_windows: usize,
    pub(crate) deadline: Option<Deadline>,
}

impl App {
    /// A service over a cross-encoder, with a compute thread for each of its sessions. It is ready at once.
    #[must_use]
    pub fn start(config: &Config, encoder: CrossEncoder) -> Arc<Self> {
        let (reader, scorers) = encoder.into_parts();
        Self::start_with(config, reader, scorers)
    }

    /// The same over its parts: what reads pairs, and a scorer for each compute thread.
    #[must_use]
    pub fn start_with(
        config: &Config,
        reader: Arc<dyn ReadPairs>,
        scorers: Vec<Box<dyn ScorePairs>>,
    ) -> Arc<Self> {
        let CrossEncoderInfo {
            name, fingerprint, ..
        } = reader.info();
        tracing::info!(name, fingerprint, threads = scorers.len(), "serving");
        Arc::new(Self {
            workers: Workers::start(scorers, config.queue_passages),
            reader,
        })
    }

    /// Whether passages can be scored.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        self.workers.shared().readiness()
    }

    /// What the compute threads have done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.workers.shared().stats()
    }

    pub(crate) fn info(&self) -> &CrossEncoderInfo {
        self.reader.info()
    }

    /// Lets a call in and has it read. Must be called inside the runtime.
    pub(crate) fn score(&self, request: Request, span: tracing::Span) -> Result<Scores, Error> {
        let Request {
            query,
            passages,
            max_windows,
            deadline,
        } = request;
        let (caller, batches) = Caller::new(passages.len(), Instant::now());
        let shared = Arc::clone(self.workers.shared());
        let until = deadline.and_then(|deadline| deadline.instant().checked_sub(ANSWER_MARGIN));
        let call = shared.enter(caller, until, criticality::current())?;
        let progress = Progress::of(passages.len());
        let reading = Reading {
            reader: Arc::clone(&self.reader),
            shared: Arc::clone(&shared),
            call,
            query,
            passages,
            max_windows,
        };
        tokio::task::spawn_blocking(move || reading.run());
        Ok(Scores {
            shared,
            call,
            batches,
            until,
            progress,
            span,
        })
    }
}

/// Reads a call's passages into the queue.
struct Reading {
    reader: Arc<dyn ReadPairs>,
    shared: Arc<Shared>,
    call: CallId,
    query: String,
    passages: Vec<String>,
    max_windows: usize,
}

/// The reader's code panicked.
#[derive(Debug, thiserror::Error)]
#[error("reading panicked")]
struct Panicked;

impl Reading {
    fn run(self) {
        let read = catch_unwind(AssertUnwindSafe(|| self.read()));
        let read = read.unwrap_or_else(|_| Err(ScoreError::Model(Arc::new(Panicked))));
        if let Err(error) = read {
            self.shared.fail(self.call, error.into());
        }
    }

    /// The first passages are computed while the others are read. Stops when the call has left.
    fn read(&self) -> Result<(), ScoreError> {
        let (mut start, mut count) = (0, FIRST_READ);
        while start < self.passages.len() {
            let end = self.passages.len().min(start + count);
            let (query, passages) = (&self.query, &self.passages[start..end]);
            let read = self.reader.read(query, passages, self.max_windows);
            let read = read.map_err(|error| moved(error, start))?;
            if !self.shared.push(self.call, (start..end).zip(read)) {
                return Ok(());
            }
            (start, count) = (end, NEXT_READ);
        }
        Ok(())
    }
}

/// The error as seen from the start of all passages.
fn moved(error: ScoreError, start: usize) -> ScoreError {
    match error {
        ScoreError::InvalidPassage { index, reason } => ScoreError::InvalidPassage {
            index: start + index,
            reason,
        },
        other => other,
    }
}
