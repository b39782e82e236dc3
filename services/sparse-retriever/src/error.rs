//! What can go wrong with a request, and which kind of failure it is for the caller.

use search_core::{ErrorKind, FieldError, ScoreError};
use segment::SegmentError;
use segment::catalog::NotHeld;
use service_kit::compute::ComputeError;
use service_kit::status::Pushback;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// The replica does not have the snapshot, or not this shard of it.
    #[error(transparent)]
    NotHeld(#[from] NotHeld),
    /// The answer would be larger than a message may be.
    #[error("the passages have more than {limit_bytes} bytes; fetch fewer at a time")]
    AnswerTooLarge {
        /// Most bytes of an answer.
        limit_bytes: usize,
    },
    /// A score that is no number: the statistics are wrong.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// Stored data could not be read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The inverted index failed.
    #[error("inverted index: {0}")]
    Index(#[from] tantivy::TantivyError),
    /// The work was refused, came too late, lost its caller or panicked.
    #[error(transparent)]
    Compute(#[from] ComputeError),
}

impl Error {
    /// The kind, for the status.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::InvalidArgument,
            Self::NotHeld(not_held) => not_held.kind(),
            Self::AnswerTooLarge { .. } => ErrorKind::ResourceExhausted,
            Self::Segment(error) => error.kind(),
            Self::Score(_) | Self::Index(_) => ErrorKind::Internal,
            Self::Compute(error) => error.kind(),
        }
    }

    /// What a refusal for load says of trying again.
    #[must_use]
    pub fn pushback(&self) -> Option<Pushback> {
        match self {
            Self::Compute(error) => error.pushback(),
            _ => None,
        }
    }

    /// The field of the request that is wrong, if it is one. By it a caller tells an answer that is too large from too much load.
    #[must_use]
    pub fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Invalid(field) => vec![field.clone()],
            Self::AnswerTooLarge { .. } => {
                vec![FieldError::new("addresses", "are too many for one answer")]
            }
            _ => Vec::new(),
        }
    }
}
