//! Passages become vectors.
//!
//! The passages of a large window are sorted by length and encoded in jobs of nearly equal lengths, so that no batch has
//! padding; several jobs are always on their way, so that no compute thread waits for the next. What comes back goes to the
//! vector spool, row by row.

use std::sync::Arc;
use std::time::Duration;

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

/// Encodes all passages; returns the encoder's compute time, summed over the jobs.
pub(crate) async fn encode_passages(encoding: Encoding) -> Result<Duration, IndexError> {
    let encoding = Arc::new(encoding);
    let (sender, receiver) = mpsc::channel(JOBS_AHEAD);
    let source = Arc::clone(&encoding);
    let reader = tokio::task::spawn_blocking(move || read_jobs(&source, &sender));
    let mut finished = ReceiverStream::new(receiver)
        .map(|job| run_job(Arc::clone(&encoding), job))
        .buffer_unordered(JOBS_IN_FLIGHT);
    let mut compute = Duration::ZERO;
    while let Some(outcome) = finished.next().await {
        compute += outcome?;
    }
    reader.await??;
    Ok(compute)
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

async fn run_job(encoding: Arc<Encoding>, job: Job) -> Result<Duration, IndexError> {
    let encoded = match encode(&encoding, &job).await {
        Ok(encoded) => encoded,
        Err(source) => return Err(encode_error(&encoding, &job, source)),
    };
    let compute = encoded.compute;
    let rows = job.rows.len() as u64;
    let writer = Arc::clone(&encoding);
    tokio::task::spawn_blocking(move || write_vectors(&writer, &job, &encoded)).await??;
    encoding.counter.add(rows)?;
    Ok(compute)
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
