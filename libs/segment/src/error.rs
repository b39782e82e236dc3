//! What can go wrong with files, and which kind of failure it is for a caller.

use std::path::{Path, PathBuf};

use search_core::error::ErrorKind;

/// A failure of this crate. Its message includes that of its cause.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// A file is not what its manifest says, or its content contradicts itself. Never served.
    #[error("{file}: {reason}")]
    Damaged {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that was asked for by name does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// Its name.
        what: String,
    },
    /// A writer was given something that it cannot store.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The object store failed.
    #[error("object store: {what}: {source}")]
    Store {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: object_store::Error,
    },
    /// The local file system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// An engine underneath failed.
    #[error("{engine}: {source}")]
    Engine {
        /// The engine.
        engine: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A background task was stopped or panicked.
    #[error("background task: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl SegmentError {
    /// A damaged file.
    pub fn damaged(file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged {
            file: file.into(),
            reason: reason.into(),
        }
    }

    /// Something that cannot be stored.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid {
            reason: reason.into(),
        }
    }

    /// For `map_err`: a failure of the local file system at `path`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    /// For `map_err`: a failure of the object store at `what`; a missing object is [`SegmentError::NotFound`].
    pub(crate) fn store(what: impl Into<String>) -> impl FnOnce(object_store::Error) -> Self {
        let what = what.into();
        move |source| match source {
            object_store::Error::NotFound { .. } => Self::NotFound { what },
            source => Self::Store { what, source },
        }
    }

    /// Which kind of failure this is for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Damaged { .. } => ErrorKind::DataLoss,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::Store { .. } => ErrorKind::Unavailable,
            Self::Io { .. } | Self::Engine { .. } | Self::Task(_) => ErrorKind::Internal,
        }
    }
}
