//! What can go wrong with a request, and which kind of failure it is for the caller.

use search_core::{CollectionName, ErrorKind, FieldError};
use segment::catalog::NotHeld;
use service_kit::compute::ComputeError;
use service_kit::status::Pushback;
use vector_math::VectorError;

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
        /// Fingerprint that the segments were built with.
        passages: String,
    },
    /// Stored token vectors do not fit the collection's settings.
    #[error("token vectors cannot be scored")]
    Vectors(#[from] VectorError),
    /// Texts are to be scored, and nothing makes token vectors of them.
    #[error("texts cannot be scored: no encoder is configured (peers.encoder)")]
    NoEncoder,
    /// The encoder serves other bundles than the one that the caller expects.
    #[error("the caller expects the encoder bundle {expected}, {encoder} serves {served}")]
    OtherBundle {
        /// The fingerprint that the caller expects.
        expected: String,
        /// The encoder's address.
        encoder: String,
        /// Fingerprints and names of what it serves.
        served: String,
    },
    /// No bundle that is meant gives token vectors.
    #[error("texts cannot be scored: {encoder} gives no token vectors with {bundles}")]
    NoTokenVectors {
        /// The encoder's address.
        encoder: String,
        /// Fingerprints and names of the bundles that could be meant.
        bundles: String,
    },
    /// The encoder did not answer as it should.
    #[error("encoder at {encoder}: {message}")]
    Encoder {
        /// Its address.
        encoder: String,
        /// What kind of failure it is.
        kind: ErrorKind,
        /// What it said, or what is wrong with what it said.
        message: String,
        /// What it said of trying again.
        pushback: Option<Pushback>,
    },
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
            Self::OtherEncoder { .. }
            | Self::NoEncoder
            | Self::OtherBundle { .. }
            | Self::NoTokenVectors { .. } => ErrorKind::FailedPrecondition,
            Self::Vectors(_) => ErrorKind::DataLoss,
            Self::Encoder { kind, .. } => *kind,
            Self::Compute(error) => error.kind(),
        }
    }

    /// What a refusal for load says of trying again.
    #[must_use]
    pub fn pushback(&self) -> Option<Pushback> {
        match self {
            Self::Compute(error) => error.pushback(),
            Self::Encoder { pushback, .. } => *pushback,
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
