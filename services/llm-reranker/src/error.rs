//! What can go wrong with a call, and which kind of failure it is for the caller.

use std::time::Duration;

use search_core::{ErrorKind, FieldError};

/// Why a call was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// Another model or prompt is served than the one that the caller expects.
    #[error("the caller expects {expected}, served is {served} ({model})")]
    OtherModel {
        /// The fingerprint that the caller expects.
        expected: String,
        /// The one that is served.
        served: String,
        /// The name of the served model.
        model: String,
    },
    /// The process has spent what it may in 24 hours.
    #[error("the language model's budget for 24 hours is spent (day_tokens, day_requests)")]
    Overspent {
        /// When there is a new one.
        retry_after: Duration,
    },
    /// The endpoint takes no more requests now.
    #[error("the endpoint takes no more requests now: it answers {status}")]
    Busy {
        /// Its HTTP status.
        status: u16,
        /// When it may take some again.
        retry_after: Duration,
    },
    /// The endpoint is out of order: broken connections, or HTTP statuses that say so, several times in a row.
    #[error("the endpoint cannot be used: {reason}")]
    Unavailable {
        /// What happened last.
        reason: String,
    },
    /// The endpoint does not take such requests: a wrong key, model or parameter, a prompt too long for the model.
    #[error("the endpoint refuses the request: it answers {status}{}", in_brackets(code.as_deref()))]
    Refused {
        /// Its HTTP status.
        status: u16,
        /// Its word for it.
        code: Option<String>,
    },
    /// What the endpoint answered is no chat completion.
    #[error("the endpoint's answer cannot be read: {reason}")]
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
    /// The model answered, but nothing that could be used: a refusal, say, or no probabilities where the method needs them.
    #[error("the model said nothing that could be used, about any of the passages: {wanted}")]
    NoUsableAnswer {
        /// What was asked for.
        wanted: &'static str,
    },
    /// The deadline passed before any passage was scored.
    #[error("the deadline passed before any passage was scored")]
    DeadlineExceeded,
}

fn in_brackets(code: Option<&str>) -> String {
    code.map(|code| format!(" ({code})")).unwrap_or_default()
}

impl Error {
    /// The kind, for the status.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::InvalidArgument,
            Self::OtherModel { .. } | Self::Refused { .. } => ErrorKind::FailedPrecondition,
            Self::Overspent { .. } | Self::Busy { .. } => ErrorKind::ResourceExhausted,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Unreadable { .. } | Self::NoUsableAnswer { .. } => ErrorKind::Internal,
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
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

    /// After which time the call may be tried again; none where trying again is of no use or needs no waiting.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overspent { retry_after } | Self::Busy { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether it says that the endpoint itself is out of order, rather than busy or at odds with one request.
    pub(crate) fn is_of_the_endpoint(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::Unreadable { .. }
                | Self::Refused {
                    status: 401 | 403 | 404,
                    ..
                }
        )
    }
}
