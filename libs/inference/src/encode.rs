//! The contract between those who need vectors and whatever makes them.
//!
//! The encoder service and the indexer know this trait only; behind it is an ONNX model, or a stand-in in a test.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use search_core::Criticality;

/// A boxed future that owns what it needs.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Turns texts into vectors.
pub trait TextEncoder: Send + Sync {
    /// What is behind it.
    fn info(&self) -> &EncoderInfo;

    /// Byte ranges of the text's tokens in order, without special tokens and without truncation.
    fn token_spans(&self, text: &str) -> Result<Vec<Range<usize>>, EncodeError>;

    /// The tokens of each text that have vectors, as the vocabulary writes them: parallel to the token vectors of [`Encoded`].
    fn tokens(
        &self,
        texts: Vec<String>,
        task: Task,
    ) -> BoxFuture<Result<Vec<Vec<String>>, EncodeError>>;

    /// Encodes all texts of a job, in their order. Dropping the future abandons the job: what has not been computed is
    /// not computed any more.
    fn encode(&self, job: EncodeJob) -> BoxFuture<Result<Encoded, EncodeError>>;
}

/// What an encoder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderInfo {
    /// Name from the bundle's description.
    pub name: String,
    /// Hex SHA-256 over the whole bundle.
    pub fingerprint: String,
    /// Width of the sentence vectors.
    pub dimensions: usize,
    /// Width of the token vectors; 0 where the model gives none.
    pub token_dimensions: usize,
    /// Tokens that the model reads of one text, special tokens included.
    pub max_tokens: usize,
    /// Widths that the model was trained for, ascending; empty where there is only the full one.
    pub matryoshka_dimensions: Vec<usize>,
}

/// What the texts of a job are: a bundle may put a different prompt in front of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Short texts that search.
    Query,
    /// Texts that are searched.
    Passage,
}

/// Who waits for a job. Interactive work is always started before bulk work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A person or a caller with a deadline.
    Interactive,
    /// An index build.
    Bulk,
}

/// Texts to encode together.
#[derive(Debug, Clone)]
pub struct EncodeJob {
    /// None of them may be empty.
    pub texts: Vec<String>,
    /// What the texts are.
    pub task: Task,
    /// Whether the token vectors are wanted too.
    pub with_token_vectors: bool,
    /// Who waits.
    pub priority: Priority,
    /// Whether it is refused before others are.
    pub criticality: Criticality,
    /// Work that has not started by then is dropped; what would not be done by then is refused.
    pub deadline: Option<Instant>,
}

/// The vectors of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Row-major [texts, dimensions], each of unit length.
    pub vectors: Vec<f32>,
    /// Per text, row-major [tokens that have vectors, token_dimensions], each of unit length. Present if asked for. A bundle may
    /// leave tokens of passages out, and may have vectors of masks behind short queries.
    pub token_vectors: Option<Vec<Vec<f32>>>,
    /// Tokens that were read per text, special tokens included. Whether token vectors were asked for changes nothing.
    pub tokens: Vec<u32>,
    /// How many texts were longer than the model reads.
    pub truncated_texts: u32,
    /// From the arrival of the job to the start of its first computation.
    pub queue: Duration,
    /// From the start of its first computation to the end of its last.
    pub compute: Duration,
    /// Time inside the model's runtime for the texts of this job, summed over threads. Texts that are computed together have
    /// equal shares, for they are padded to one length.
    pub model: Duration,
    /// Compute threads of the encoder.
    pub threads: usize,
}

/// Why a job gave no vectors.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EncodeError {
    /// A text that cannot be encoded.
    #[error("texts[{index}]: {reason}")]
    InvalidText {
        /// Its place in the job.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The bundle has no token vectors.
    #[error("with_token_vectors: bundle {bundle} has no token vectors")]
    NoTokenVectors {
        /// The bundle's name.
        bundle: String,
    },
    /// Too much work is waiting already.
    #[error(
        "the encoder's queue is full: {queued_texts} texts wait, {job_texts} more do not fit into {limit_texts}"
    )]
    QueueFull {
        /// Texts that wait or are being computed.
        queued_texts: usize,
        /// Texts of the refused job.
        job_texts: usize,
        /// The queue's bound.
        limit_texts: usize,
        /// When there would be places enough; none: never, for the job has more texts than the queue has places.
        retry_after: Option<Duration>,
    },
    /// The queue is longer than there is time.
    #[error("a compute thread is free after {wait:?}: too late for this deadline")]
    TooLate {
        /// Until a thread is free.
        wait: Duration,
        /// When there would be time enough; none: never, for the texts alone take more.
        retry_after: Option<Duration>,
    },
    /// The deadline passed before all of the job was computed.
    #[error("the deadline passed before the texts were encoded")]
    DeadlineExceeded,
    /// The model failed.
    #[error("the model failed")]
    Model(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The encoder is shutting down.
    #[error("the encoder has stopped")]
    Stopped,
}
