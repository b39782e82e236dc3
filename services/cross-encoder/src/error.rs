//! What can go wrong with a call, and which kind of failure it is for the caller.

use std::time::Duration;

use inference::{CrossEncoderInfo, ScoreError};
use search_core::{ErrorKind, FieldError};
use service_kit::status::Pushback;

/// Why a call was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// Another bundle is served than the one that the caller expects.
    #[error("the caller expects the bundle {expected}, served is {served} ({name})")]
    OtherBundle {
        /// The fingerprint that the caller expects.
        expected: String,
        /// The one that is served.
        served: String,
        /// The name of the served bundle.
        name: String,
    },
    /// Too much work is waiting already.
    #[error(
        "the queue is full: {queued_passages} passages wait, {call_passages} more do not fit into {limit_passages}"
    )]
    QueueFull {
        /// Passages that wait or are being computed, of long ones each window.
        queued_passages: usize,
        /// Those of the refused call, as far as they were counted.
        call_passages: usize,
        /// The queue's bound.
        limit_passages: usize,
        /// When there will be room; none: never for so many.
        retry_after: Option<Duration>,
    },
    /// The queue is longer than there is time for a first score.
    #[error("a compute thread is free after {wait:?}: too late for this deadline")]
    TooLate {
        /// Until a thread is free.
        wait: Duration,
        /// When there would be time enough; none: never, for a first batch alone takes more.
        retry_after: Option<Duration>,
    },
    /// The deadline passed before any passage was scored.
    #[error("the deadline passed before any passage was scored")]
    DeadlineExceeded,
    /// The passages could not be read or scored.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// The service is shutting down.
    #[error("the cross-encoder has stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn other_bundle(expected: &str, served: &CrossEncoderInfo) -> Self {
        Self::OtherBundle {
            expected: expected.to_owned(),
            served: served.fingerprint.clone(),
            name: served.name.clone(),
        }
    }

    /// The kind, for the status.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_)
            | Self::Score(ScoreError::InvalidQuery { .. } | ScoreError::InvalidPassage { .. }) => {
                ErrorKind::InvalidArgument
            }
            Self::OtherBundle { .. } => ErrorKind::FailedPrecondition,
            Self::QueueFull { .. } | Self::TooLate { .. } => ErrorKind::ResourceExhausted,
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Self::Score(ScoreError::NotFinite { .. } | ScoreError::Model(_)) => ErrorKind::Internal,
            Self::Stopped => ErrorKind::Unavailable,
        }
    }

    /// The field of the request that is wrong, if it is one.
    #[must_use]
    pub fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Invalid(field) => vec![field.clone()],
            Self::Score(ScoreError::InvalidQuery { reason }) => {
                vec![FieldError::new("query", reason)]
            }
            Self::Score(ScoreError::InvalidPassage { index, reason }) => {
                vec![FieldError::new(format!("passages[{index}]"), reason)]
            }
            _ => Vec::new(),
        }
    }

    /// What a refusal for load says of trying again.
    #[must_use]
    pub fn pushback(&self) -> Option<Pushback> {
        let (Self::QueueFull { retry_after, .. } | Self::TooLate { retry_after, .. }) = self else {
            return None;
        };
        Some(retry_after.map_or(Pushback::Never, Pushback::After))
    }
}
