//! What can go wrong with a request, and which kind of failure it is for the caller.

use search_core::{CollectionName, ErrorKind, FieldError, ScoreError};
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
    /// The query was encoded by another model than the passages.
    #[error("the query was encoded with {query}, the passages of {collection} with {passages}")]
    OtherEncoder {
        /// The collection.
        collection: CollectionName,
        /// Fingerprint that came with the query.
        query: String,
        /// Fingerprints that the segments were built with and that the call could mean.
        passages: String,
    },
    /// A score that is no number: the vectors are damaged in a way that no checksum saw.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// Stored data could not be read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
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
            Self::OtherEncoder { .. } => ErrorKind::FailedPrecondition,
            Self::Segment(error) => error.kind(),
            Self::Score(_) => ErrorKind::DataLoss,
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

    /// The field of the request that is wrong, if it is one.
    #[must_use]
    pub fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Invalid(field) => vec![field.clone()],
            _ => Vec::new(),
        }
    }
}
