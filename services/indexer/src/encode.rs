//! Passages become vectors.
//!
//! The passages of a large window are sorted by length and encoded in jobs of nearly equal lengths, so that no batch has
//! padding; several jobs are always on their way, so that no compute thread waits for the next. What comes back goes to the
//! vector spool, row by row.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use inference::{EncodeError, EncodeJob, Encoded, Priority, Task, TextEncoder};
use segment::index_text;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::documents::RunDocuments;
use crate::error::IndexError;
use crate::passages::Passages;
use crate::progress::Counter;
use crate::spool::VectorSpool;

/// Passages that are sorted together: enough of every length to fill jobs with, few enough for a steady progress bar.
const WINDOW_PASSAGES: usize = 8192;
/// Tokens of a job: a batch or two of the encoder's.
const JOB_TOKENS: u32 = 8192;
/// Texts of a job at most, however short.
const JOB_TEXTS: usize = 128;
/// Jobs in the encoder at once: every compute thread has a next one waiting.
const JOBS_IN_FLIGHT: usize = 8;
/// Jobs whose texts are read ahead of that.
const JOBS_AHEAD: usize = 4;
/// How often a full queue of the encoder is tried again, and how long a try is apart: queries come first, but a minute
/// without any room is an overload that the caller should know of.
const QUEUE_ATTEMPTS: u32 = 600;
const QUEUE_PAUSE: Duration = Duration::from_millis(100);

/// What an encoding run works on.
pub(crate) struct Encoding {
    pub(crate) documents: Arc<RunDocuments>,
    pub(crate) passages: Arc<Passages>,
    pub(crate) encoder: Arc<dyn TextEncoder>,
    pub(crate) vectors: Arc<VectorSpool>,
    pub(crate) counter: Counter,
}

struct Job {
    rows: Vec<u64>,
    texts: Vec<String>,
}

/// Encodes all passages; returns the wall time in which the encoder computed.
pub(crate) async fn encode_passages(encoding: Encoding) -> Result<Duration, IndexError> {
    let encoding = Arc::new(encoding);
    let (sender, receiver) = mpsc::channel(JOBS_AHEAD);
    let source = Arc::clone(&encoding);
    let reader = tokio::task::spawn_blocking(move || read_jobs(&source, &sender));
    let mut finished = ReceiverStream::new(receiver)
        .map(|job| run_job(Arc::clone(&encoding), job))
        .buffer_unordered(JOBS_IN_FLIGHT);
    let begin = Instant::now();
    let mut computed = Vec::new();
    while let Some(outcome) = finished.next().await {
        let interval = outcome?;
        computed.push(
            interval.start.saturating_duration_since(begin)
                ..interval.end.saturating_duration_since(begin),
        );
    }
    reader.await??;
    Ok(covered(computed))
}

/// The time that lies in at least one of the intervals: jobs run side by side.
fn covered(mut intervals: Vec<Range<Duration>>) -> Duration {
    intervals.sort_by_key(|interval| interval.start);
    let (mut covered, mut end) = (Duration::ZERO, Duration::ZERO);
    for interval in intervals {
        covered += interval.end.saturating_sub(interval.start.max(end));
        end = end.max(interval.end);
    }
    covered
}

/// Sends all jobs, until nobody takes them any more.
fn read_jobs(encoding: &Encoding, sender: &mpsc::Sender<Job>) -> Result<(), IndexError> {
    let mut rows: Vec<u64> = (0..encoding.passages.len()).collect();
    for window in rows.chunks_mut(WINDOW_PASSAGES) {
        // The longest first: a memory limit shows at the start, and the last jobs of a run are short ones.
        window.sort_by_key(|row| std::cmp::Reverse(encoding.passages.tokens(*row)));
        for rows in job_rows(window, &encoding.passages) {
            let texts = rows
                .iter()
                .map(|row| read_text(encoding, *row))
                .collect::<Result<_, _>>()?;
            if sender
                .blocking_send(Job {
                    rows: rows.to_vec(),
                    texts,
                })
                .is_err()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Cuts rows that are sorted by length into jobs.
fn job_rows<'a>(mut rows: &'a [u64], passages: &Passages) -> impl Iterator<Item = &'a [u64]> {
    std::iter::from_fn(move || {
        let longest_tokens = passages.tokens(*rows.first()?).max(1);
        let texts = ((JOB_TOKENS / longest_tokens) as usize)
            .clamp(1, JOB_TEXTS)
            .min(rows.len());
        let (job, rest) = rows.split_at(texts);
        rows = rest;
        Some(job)
    })
}

fn read_text(encoding: &Encoding, row: u64) -> Result<String, IndexError> {
    let document = encoding.passages.document_of(row);
    let (title, passage) = encoding
        .documents
        .read_passage(document, encoding.passages.span(row))?;
    Ok(index_text(&title, &passage))
}

/// Returns when the job was computed.
async fn run_job(encoding: Arc<Encoding>, job: Job) -> Result<Range<Instant>, IndexError> {
    let encoded = match encode(&encoding, &job).await {
        Ok(encoded) => encoded,
        Err(source) => return Err(encode_error(&encoding, &job, source)),
    };
    let end = Instant::now();
    let begin = end.checked_sub(encoded.compute).unwrap_or(end);
    let rows = job.rows.len() as u64;
    let writer = Arc::clone(&encoding);
    tokio::task::spawn_blocking(move || write_vectors(&writer, &job, &encoded)).await??;
    encoding.counter.add(rows)?;
    Ok(begin..end)
}

async fn encode(encoding: &Encoding, job: &Job) -> Result<Encoded, EncodeError> {
    let mut attempts = 1;
    loop {
        let job = EncodeJob {
            texts: job.texts.clone(),
            task: Task::Passage,
            with_token_vectors: false,
            priority: Priority::Bulk,
            deadline: None,
        };
        match encoding.encoder.encode(job).await {
            Err(EncodeError::QueueFull { .. }) if attempts < QUEUE_ATTEMPTS => {
                attempts += 1;
                tokio::time::sleep(QUEUE_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

fn write_vectors(encoding: &Encoding, job: &Job, encoded: &Encoded) -> Result<(), IndexError> {
    let dimensions = encoding.encoder.info().dimensions;
    let vectors = encoded.vectors.chunks_exact(dimensions);
    if vectors.len() != job.rows.len() || !vectors.remainder().is_empty() {
        return Err(IndexError::EncoderShape {
            texts: job.rows.len(),
            dimensions,
            values: encoded.vectors.len(),
        });
    }
    let write = |(row, vector): (&u64, &[f32])| encoding.vectors.write(*row, vector);
    job.rows
        .iter()
        .zip(vectors)
        .try_for_each(write)
        .map_err(IndexError::spool(encoding.documents.directory()))
}

fn encode_error(encoding: &Encoding, job: &Job, source: EncodeError) -> IndexError {
    let EncodeError::InvalidText { index, .. } = source else {
        return IndexError::Encoder(source);
    };
    let row = job
        .rows
        .get(index)
        .or(job.rows.first())
        .copied()
        .unwrap_or_default();
    let document = encoding.passages.document_of(row);
    IndexError::Encode {
        document: encoding.documents.name(document),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_several_intervals_counts_once() {
        let ms = Duration::from_millis;
        let intervals = vec![
            ms(50)..ms(60),
            ms(0)..ms(10),
            ms(5)..ms(20),
            ms(6)..ms(7),
            ms(20)..ms(25),
        ];
        assert_eq!(covered(intervals), ms(35));
        assert_eq!(covered(Vec::new()), Duration::ZERO);
    }
}
