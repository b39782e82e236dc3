//! What a run tells while it works, and when it is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use segment::checksum::FileEntry;
use segment::manifest::Stage;
use tokio::sync::mpsc;

use crate::error::IndexError;

/// Invalid lines that are told one by one; all are counted.
const INVALID_LINES_TOLD: u64 = 1000;

/// What a run tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// How far a phase is.
    Progress(Progress),
    /// A line that was refused.
    Invalid(InvalidLine),
}

/// How far a phase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which one.
    pub phase: Phase,
    /// Documents when reading, passages afterwards.
    pub done: u64,
    /// The same in all; 0 while it is not known.
    pub total: u64,
}

/// The phases of a run, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Lines are checked; then the documents are cut into passages. Or stored documents are read.
    Read,
    /// Passages become vectors.
    Encode,
    /// Segments are written and uploaded.
    Build,
    /// Older versions are marked as deleted, statistics are counted, the manifest is written.
    Commit,
}

impl Phase {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Encode => "encode",
            Self::Build => "build",
            Self::Commit => "commit",
        }
    }
}

/// A line that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct InvalidLine {
    /// File name.
    pub file: Arc<str>,
    /// Line number, from 1.
    pub line: u64,
    /// What is wrong, with the field.
    pub reason: String,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// The snapshot that was committed; none if there was nothing to change.
    pub snapshot: Option<u64>,
    /// Documents that were indexed, or that stages were built of.
    pub documents: u64,
    /// Their passages.
    pub passages: u64,
    /// Documents that replaced an older one.
    pub replaced: u64,
    /// Lines that were left out.
    pub invalid: u64,
    /// Stages that the collection had, and has no more.
    pub left_out_stages: Vec<Stage>,
    /// Bytes written, by part of the segments.
    pub part_bytes: BTreeMap<String, u64>,
    /// Wall time by phase.
    pub times: Vec<(Phase, Duration)>,
    /// Time within [`Phase::Encode`] that a compute thread of the encoder spent inside the model's runtime for this run, on
    /// average over the threads; the rest it waited for the indexer, or worked for others.
    pub encode_model: Duration,
}

impl Summary {
    /// Counts the bytes of parts that were written.
    pub(crate) fn add_parts(&mut self, parts: &BTreeMap<String, Vec<FileEntry>>) {
        for (part, files) in parts {
            let bytes: u64 = files.iter().map(|file| file.bytes).sum();
            *self.part_bytes.entry(part.clone()).or_default() += bytes;
        }
    }

    /// The share of the encoding's wall time in which the compute threads were inside ONNX Runtime for this run. None if
    /// nothing was encoded.
    #[must_use]
    pub fn onnx_runtime_share(&self) -> Option<f64> {
        let (_, wall) = self
            .times
            .iter()
            .find(|(phase, wall)| *phase == Phase::Encode && !wall.is_zero())?;
        Some(self.encode_model.as_secs_f64() / wall.as_secs_f64())
    }
}

/// Adds up the wall time of the phases; a phase that runs again after a lost race is one line all the same.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    times: BTreeMap<Phase, Duration>,
}

impl Stopwatch {
    pub(crate) fn add(&mut self, phase: Phase, since: Instant) {
        *self.times.entry(phase).or_default() += since.elapsed();
    }

    pub(crate) fn into_times(self) -> Vec<(Phase, Duration)> {
        self.times.into_iter().collect()
    }
}

/// Where events go. When nobody listens any more, or the run's future was dropped, the run ends: its caller is gone.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<Event>,
    is_abandoned: Arc<AtomicBool>,
    /// Invalid lines so far.
    invalid: Arc<AtomicU64>,
}

/// Dropped together with the run's future; work on blocking threads, which no one can drop, sees it and ends.
#[derive(Debug)]
pub(crate) struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Events {
    pub(crate) fn new(sender: mpsc::Sender<Event>) -> (Self, AbandonOnDrop) {
        let is_abandoned = Arc::new(AtomicBool::new(false));
        (
            Self {
                sender,
                is_abandoned: Arc::clone(&is_abandoned),
                invalid: Arc::default(),
            },
            AbandonOnDrop(is_abandoned),
        )
    }

    pub(crate) async fn send(&self, event: Event) -> Result<(), IndexError> {
        self.sender
            .send(event)
            .await
            .map_err(|_| IndexError::Abandoned)
    }

    /// Tells of invalid lines, as long as there are not too many.
    pub(crate) async fn tell(&self, lines: Vec<InvalidLine>) -> Result<(), IndexError> {
        for line in lines {
            if self.invalid.fetch_add(1, Ordering::Relaxed) < INVALID_LINES_TOLD {
                self.send(Event::Invalid(line)).await?;
            }
        }
        Ok(())
    }

    /// Fails once nobody listens; for work on a blocking thread that would otherwise go on for nobody.
    pub(crate) fn check(&self) -> Result<(), IndexError> {
        let is_abandoned = self.sender.is_closed() || self.is_abandoned.load(Ordering::Relaxed);
        if is_abandoned {
            Err(IndexError::Abandoned)
        } else {
            Ok(())
        }
    }

    /// Progress that may be left out when the listener is slow: more will follow.
    pub(crate) fn offer(&self, phase: Phase, done: u64, total: u64) {
        // A full channel means that the listener has newer news to read than it can.
        let _ = self
            .sender
            .try_send(Event::Progress(Progress { phase, done, total }));
    }

    /// Progress that must arrive: the first and the last of a phase.
    pub(crate) async fn progress(
        &self,
        phase: Phase,
        done: u64,
        total: u64,
    ) -> Result<(), IndexError> {
        self.send(Event::Progress(Progress { phase, done, total }))
            .await
    }
}

/// Counts the units of a phase from several threads, and offers every step of about a thousandth.
#[derive(Debug)]
pub(crate) struct Counter {
    events: Events,
    phase: Phase,
    done: AtomicU64,
    total: u64,
    step: u64,
}

impl Counter {
    pub(crate) fn new(events: &Events, phase: Phase, total: u64) -> Self {
        let step = (total / 1000).clamp(1, 1024);
        Self {
            events: events.clone(),
            phase,
            done: AtomicU64::new(0),
            total,
            step,
        }
    }

    /// Counts, and fails once nobody listens.
    pub(crate) fn add(&self, units: u64) -> Result<(), IndexError> {
        let before = self.done.fetch_add(units, Ordering::Relaxed);
        let done = before + units;
        if before / self.step != done / self.step {
            self.events.check()?;
            self.events.offer(self.phase, done, self.total);
        }
        Ok(())
    }
}
