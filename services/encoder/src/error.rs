//! What can go wrong with a request, and which kind of failure it is for the caller.

use inference::{EncodeError, EncoderInfo};
use search_core::{ErrorKind, FieldError};
use service_kit::status::Pushback;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// Other bundles are served than the one that the caller's vectors come from.
    #[error("the caller expects the encoder bundle {expected}, served is {served}")]
    OtherBundle {
        /// The fingerprint that the caller expects.
        expected: String,
        /// Fingerprints and names that are served.
        served: String,
    },
    /// The encoder did not encode.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl Error {
    pub(crate) fn other_bundle<'a>(
        expected: &str,
        served: impl Iterator<Item = &'a EncoderInfo>,
    ) -> Self {
        let named = served.map(|info| format!("{} ({})", info.fingerprint, info.name));
        Self::OtherBundle {
            expected: expected.to_owned(),
            served: named.collect::<Vec<_>>().join(" and "),
        }
    }

    /// The kind, for the status.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::InvalidArgument,
            Self::OtherBundle { .. } => ErrorKind::FailedPrecondition,
            Self::Encode(error) => kind_of(error),
        }
    }

    /// The field of the request that is wrong, if it is one.
    #[must_use]
    pub fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Invalid(field) => vec![field.clone()],
            Self::Encode(EncodeError::InvalidText { index, reason }) => {
                vec![FieldError::new(format!("texts[{index}]"), reason)]
            }
            Self::Encode(EncodeError::NoTokenVectors { bundle }) => {
                let message = format!("bundle {bundle} has no token vectors");
                vec![FieldError::new("with_token_vectors", message)]
            }
            Self::OtherBundle { .. } | Self::Encode(_) => Vec::new(),
        }
    }

    /// What a refusal for load says of trying again.
    #[must_use]
    pub fn pushback(&self) -> Option<Pushback> {
        let Self::Encode(
            EncodeError::QueueFull { retry_after, .. } | EncodeError::TooLate { retry_after, .. },
        ) = self
        else {
            return None;
        };
        Some(retry_after.map_or(Pushback::Never, Pushback::After))
    }
}

fn kind_of(error: &EncodeError) -> ErrorKind {
    match error {
        EncodeError::InvalidText { .. } | EncodeError::NoTokenVectors { .. } => {
            ErrorKind::InvalidArgument
        }
        EncodeError::QueueFull { .. } | EncodeError::TooLate { .. } => ErrorKind::ResourceExhausted,
        EncodeError::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        EncodeError::Stopped => ErrorKind::Unavailable,
        EncodeError::Model(_) => ErrorKind::Internal,
    }
}
