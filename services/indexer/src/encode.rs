//! Passages become vectors.
//!
//! The passages of a large window are sorted by length and encoded in jobs of nearly equal lengths, so that no batch has
//! padding; several jobs are always on their way, so that no compute thread waits for the next. What comes back goes to the
//! vector spool, row by row, and the token vectors of the same forward pass to their sink.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use inference::{EncodeError, EncodeJob, Encoded, EncoderInfo, Priority, Task, TextEncoder};
use search_core::Criticality;
use segment::index_text;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::documents::RunDocuments;
use crate::error::IndexError;
use crate::passages::Passages;
use crate::progress::Counter;
use crate::spool::VectorSpool;
use crate::tokens::{TokenFault, TokenSink};

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

/// What makes a collection's vectors.
#[derive(Clone)]
pub struct Encoders {
    /// Makes the vectors that are searched; passages are cut by its tokens.
    pub first: Arc<dyn TextEncoder>,
    /// Makes the vectors for rescoring. Of a passage that is longer than it reads, it reads the beginning.
    pub rescorer: Option<Arc<dyn TextEncoder>>,
}

impl Encoders {
    pub(crate) fn info(&self) -> EncoderInfos<'_> {
        EncoderInfos {
            first: self.first.info(),
            rescorer: self.rescorer.as_ref().map(|rescorer| rescorer.info()),
        }
    }
}

/// What the encoders are.
#[derive(Clone, Copy)]
pub(crate) struct EncoderInfos<'a> {
    pub(crate) first: &'a EncoderInfo,
    pub(crate) rescorer: Option<&'a EncoderInfo>,
}

impl From<Arc<dyn TextEncoder>> for Encoders {
    fn from(first: Arc<dyn TextEncoder>) -> Self {
        Self {
            first,
            rescorer: None,
        }
    }
}

/// What an encoding run works on.
pub(crate) struct Encoding {
    pub(crate) documents: Arc<RunDocuments>,
    pub(crate) passages: Arc<Passages>,
    /// The passages to encode, each once.
    pub(crate) rows: Vec<u64>,
    pub(crate) encoder: Arc<dyn TextEncoder>,
    /// Where sentence vectors go, if they are wanted.
    pub(crate) vectors: Option<Arc<VectorSpool>>,
    /// Where token vectors go, if they are wanted.
    pub(crate) tokens: Option<TokenSink>,
    pub(crate) counter: Arc<Counter>,
    /// Whether a document that the encoder refuses is left out; otherwise it ends the run.
    pub(crate) skip_invalid: bool,
}

struct Job {
    rows: Vec<u64>,
    texts: Vec<String>,
}

/// What an encoding run took.
#[derive(Default)]
pub(crate) struct EncodeCost {
    /// Time in the model's runtime, on average over the encoder's threads.
    pub(crate) model: Duration,
    /// Passages that are longer than the encoder reads.
    pub(crate) truncated: u64,
}

/// Encodes passages.
pub(crate) async fn encode_passages(encoding: Encoding) -> Result<EncodeCost, IndexError> {
    let encoding = Arc::new(encoding);
    let (sender, receiver) = mpsc::channel(JOBS_AHEAD);
    let source = Arc::clone(&encoding);
    let reader = tokio::task::spawn_blocking(move || read_jobs(&source, &sender));
    let mut finished = ReceiverStream::new(receiver)
        .map(|job| run_job(Arc::clone(&encoding), job))
        .buffer_unordered(JOBS_IN_FLIGHT);
    let mut cost = EncodeCost::default();
    while let Some(outcome) = finished.next().await {
        let job = outcome?;
        cost.model += job.model;
        cost.truncated += job.truncated;
    }
    reader.await??;
    Ok(cost)
}

/// Sends all jobs, until nobody takes them any more.
fn read_jobs(encoding: &Encoding, sender: &mpsc::Sender<Job>) -> Result<(), IndexError> {
    let mut rows = encoding.rows.clone();
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
    let title = &title[..encoding.passages.title_bytes(document)];
    Ok(index_text(title, &passage))
}

async fn run_job(encoding: Arc<Encoding>, mut job: Job) -> Result<EncodeCost, IndexError> {
    let rows = job.rows.len() as u64;
    let encoded = loop {
        match encode(&encoding, &job).await {
            Ok(encoded) => break encoded,
            Err(EncodeError::InvalidText { index, reason }) if index < job.texts.len() => {
                refuse(&encoding, &mut job, index, reason)?;
            }
            Err(source) => return Err(IndexError::Encoder(source)),
        }
    };
    let cost = EncodeCost {
        model: encoded.model / u32::try_from(encoded.threads).unwrap_or(u32::MAX).max(1),
        truncated: encoded.truncated_texts.into(),
    };
    let writer = Arc::clone(&encoding);
    tokio::task::spawn_blocking(move || write_vectors(&writer, &job, &encoded)).await??;
    encoding.counter.add(rows)?;
    Ok(cost)
}

/// Takes a text that the encoder refuses out of the job, and its document out of the run. The row stays empty.
fn refuse(
    encoding: &Encoding,
    job: &mut Job,
    index: usize,
    reason: String,
) -> Result<(), IndexError> {
    job.texts.remove(index);
    let row = job.rows.remove(index);
    refuse_row(encoding, row, format!("text: cannot be encoded: {reason}"))
}

async fn encode(encoding: &Encoding, job: &Job) -> Result<Encoded, EncodeError> {
    let mut attempts = 1;
    loop {
        let job = EncodeJob {
            texts: job.texts.clone(),
            task: Task::Passage,
            with_token_vectors: encoding.tokens.is_some(),
            priority: Priority::Bulk,
            // It waits behind all queries as it is.
            criticality: Criticality::Critical,
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
    if let Some(spool) = &encoding.vectors {
        for (row, vector) in job.rows.iter().zip(vectors) {
            write_vector(encoding, spool, *row, vector)?;
        }
    }
    match &encoding.tokens {
        Some(sink) => write_tokens(encoding, sink, job, encoded),
        None => Ok(()),
    }
}

fn write_vector(
    encoding: &Encoding,
    spool: &VectorSpool,
    row: u64,
    vector: &[f32],
) -> Result<(), IndexError> {
    if !has_direction(vector) {
        let reason = "text: the encoder gives no vector with a direction for it";
        return refuse_row(encoding, row, reason.to_owned());
    }
    let written = spool.write(row, vector);
    written.map_err(IndexError::spool(encoding.documents.directory()))
}

fn write_tokens(
    encoding: &Encoding,
    sink: &TokenSink,
    job: &Job,
    encoded: &Encoded,
) -> Result<(), IndexError> {
    let dimensions = encoding.encoder.info().token_dimensions;
    let tokens = encoded.token_vectors.as_deref().unwrap_or_default();
    let is_whole = |values: &Vec<f32>| values.len().is_multiple_of(dimensions);
    if tokens.len() != job.rows.len() || !tokens.iter().all(is_whole) {
        return Err(IndexError::EncoderShape {
            texts: job.rows.len(),
            dimensions,
            values: tokens.iter().map(Vec::len).sum(),
        });
    }
    for (row, tokens) in job.rows.iter().zip(tokens) {
        match sink.take(*row, tokens) {
            Ok(()) => {}
            Err(TokenFault::Vectors(error)) => {
                let reason = format!("text: the encoder gives token vectors of no use: {error}");
                refuse_row(encoding, *row, reason)?;
            }
            Err(TokenFault::Spool(error)) => {
                return Err(IndexError::spool(encoding.documents.directory())(error));
            }
        }
    }
    Ok(())
}

/// Takes the document of a row out of the run.
fn refuse_row(encoding: &Encoding, row: u64, reason: String) -> Result<(), IndexError> {
    let document = encoding.passages.document_of(row);
    encoding
        .documents
        .refuse(document, reason, encoding.skip_invalid)
}

/// What can be normalised, whatever the rotation.
fn has_direction(vector: &[f32]) -> bool {
    let norm = vector.iter().map(|value| value * value).sum::<f32>();
    norm.is_normal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_has_a_direction_if_it_can_be_normalised() {
        assert!(has_direction(&[0.0, -1.0]));
        for none in [
            [0.0, 0.0],
            [f32::NAN, 1.0],
            [f32::INFINITY, 1.0],
            [f32::MAX, 1.0],
        ] {
            assert!(!has_direction(&none), "{none:?}");
        }
    }
}
