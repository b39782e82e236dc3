//! The closed list of what can go wrong, as the caller sees it, and errors that name a field.

use std::fmt;

/// Whose fault an error is and what can be done: one status code each, by one table at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong and always will be.
    InvalidArgument,
    /// What the request names does not exist.
    NotFound,
    /// The request is right, but the state does not fit it: another model, a retired snapshot.
    FailedPrecondition,
    /// Refused for load, or over a limit.
    ResourceExhausted,
    /// No peer could be reached, or one is not ready.
    Unavailable,
    /// Too late.
    DeadlineExceeded,
    /// The caller is gone.
    Cancelled,
    /// Stored data is damaged.
    DataLoss,
    /// The peer does not know the call.
    Unimplemented,
    /// Our own fault.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed at once on another replica. Overload is not: a retry would add to it.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Unavailable => true,
            Self::InvalidArgument
            | Self::NotFound
            | Self::FailedPrecondition
            | Self::ResourceExhausted
            | Self::DeadlineExceeded
            | Self::Cancelled
            | Self::DataLoss
            | Self::Unimplemented
            | Self::Internal => false,
        }
    }

    /// A short name for logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::FailedPrecondition => "failed_precondition",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::DataLoss => "data_loss",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// Path of the field in the request, as in `filter.all_of.filters[2].range.lower`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    /// An error of this field.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }

    /// The same error seen from the message that holds this one in `field`.
    #[must_use]
    pub fn inside(self, field: &str) -> Self {
        let path = if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{field}.{}", self.path)
        };
        Self {
            path,
            message: self.message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_error_says_where() {
        let error = FieldError::new("range.lower", "must be finite").inside("filter");
        assert_eq!(error.to_string(), "filter.range.lower: must be finite");
        assert_eq!(
            FieldError::new("", "is missing")
                .inside("snapshot")
                .to_string(),
            "snapshot: is missing"
        );
    }
}
