//! What can go wrong with a change of a collection.

use std::io;
use std::path::Path;

use inference::EncodeError;
use search_core::{ErrorKind, FieldError};
use segment::SegmentError;
use segment::attributes::AttributeError;
use vector_math::VectorError;

use crate::progress::InvalidLine;
use crate::source::SourceError;

/// Why a collection was not changed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A request that is wrong in itself.
    #[error("{}", join(.0))]
    InvalidArgument(Vec<FieldError>),
    /// A setting that the collection was not built with.
    #[error(
        "{field}: collection {collection} was built with {stored}, but {requested} was asked for"
    )]
    SettingDiffers {
        /// Which setting.
        field: &'static str,
        /// Whose.
        collection: String,
        /// What it has.
        stored: String,
        /// What was asked for.
        requested: String,
    },
    /// The encoder is another one than the collection's.
    #[error(
        "collection {collection} was built with {role} {stored}, but this indexer runs {role} {current}"
    )]
    EncoderDiffers {
        /// Which of the encoders.
        role: &'static str,
        /// Whose.
        collection: String,
        /// Fingerprint in the manifest.
        stored: String,
        /// Fingerprint of the one here, or that there is none.
        current: String,
    },
    /// The collection does not exist.
    #[error("collection {collection} does not exist")]
    UnknownCollection {
        /// Its name.
        collection: String,
    },
    /// Some lines are wrong, and they were not to be left out.
    #[error("{count} invalid line{}, nothing was written; the first is {first}", if *.count == 1 { "" } else { "s" })]
    InvalidLines {
        /// How many.
        count: u64,
        /// The first of them.
        first: InvalidLine,
    },
    /// A stored document of which a stage cannot be built.
    #[error("{document}: {reason}; nothing was written")]
    StoredDocument {
        /// Which, and in which segment.
        document: String,
        /// Why.
        reason: String,
    },
    /// A document whose metadata does not fit those of documents that came meanwhile.
    #[error("{document} does not fit the documents that others have indexed meanwhile")]
    Metadata {
        /// Which, and where it was read.
        document: String,
        /// Why.
        #[source]
        source: AttributeError,
    },
    /// A source that cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The encoder failed.
    #[error("the passages cannot be encoded")]
    Encoder(#[source] EncodeError),
    /// The encoder gave a vector that is none.
    #[error("the vector of {document} cannot be used")]
    Vector {
        /// Which, and where it was read.
        document: String,
        /// Why.
        #[source]
        source: VectorError,
    },
    /// The encoder gave too few or too many numbers.
    #[error("the encoder gave {values} numbers for {texts} texts of {dimensions} dimensions")]
    EncoderShape {
        /// Texts of the job.
        texts: usize,
        /// Dimensions that the encoder says it has.
        dimensions: usize,
        /// Numbers that came.
        values: usize,
    },
    /// The rotation cannot be fitted.
    #[error("the rotation cannot be fitted on the sample")]
    Rotation(#[source] VectorError),
    /// The collection's storage.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The run's temporary files.
    #[error("the run's temporary files in {directory}")]
    Spool {
        /// Where they are.
        directory: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Other writers were faster, again and again.
    #[error(
        "collection {collection} was changed by others {attempts} times meanwhile; run it again"
    )]
    Contended {
        /// Its name.
        collection: String,
        /// How often a commit was tried.
        attempts: u32,
    },
    /// More runs than this indexer works on at once.
    #[error("{limit} runs are in progress already")]
    TooManyRuns {
        /// The bound.
        limit: usize,
    },
    /// The caller's stream of lines broke off.
    #[error("the stream of lines broke off")]
    Stream(#[source] Box<tonic::Status>),
    /// The caller is gone, so nobody wants the result.
    #[error("the caller is gone; nothing was committed")]
    Abandoned,
    /// A part of the run panicked.
    #[error("a part of the run ended unexpectedly")]
    Panicked(#[from] tokio::task::JoinError),
}

impl IndexError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidArgument(_)
            | Self::InvalidLines { .. }
            | Self::Metadata { .. }
            | Self::Source(_) => ErrorKind::InvalidArgument,
            Self::SettingDiffers { .. }
            | Self::EncoderDiffers { .. }
            | Self::StoredDocument { .. } => ErrorKind::FailedPrecondition,
            Self::UnknownCollection { .. } => ErrorKind::NotFound,
            Self::Encoder(source) => kind_of_encode_error(source),
            Self::Segment(error) => error.kind(),
            Self::Contended { .. } => ErrorKind::Unavailable,
            Self::TooManyRuns { .. } => ErrorKind::ResourceExhausted,
            Self::Stream(status) => service_kit::status::kind_of(status),
            Self::Abandoned => ErrorKind::Cancelled,
            Self::EncoderShape { .. }
            | Self::Vector { .. }
            | Self::Rotation(_)
            | Self::Spool { .. }
            | Self::Panicked(_) => ErrorKind::Internal,
        }
    }

    /// The fields that are wrong, if it is about fields.
    pub fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::InvalidArgument(fields) => fields.clone(),
            Self::SettingDiffers { field, .. } => vec![FieldError::new(*field, self.to_string())],
            Self::UnknownCollection { .. } => vec![FieldError::new("collection", self.to_string())],
            _ => Vec::new(),
        }
    }

    /// For `map_err`: the temporary files in `directory` failed.
    pub(crate) fn spool(directory: &Path) -> impl FnOnce(io::Error) -> Self {
        let directory = directory.display().to_string();
        move |source| Self::Spool { directory, source }
    }

    /// One wrong field.
    pub(crate) fn invalid(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidArgument(vec![FieldError::new(path, message)])
    }
}

fn kind_of_encode_error(error: &EncodeError) -> ErrorKind {
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

fn join(fields: &[FieldError]) -> String {
    let messages: Vec<String> = fields.iter().map(FieldError::to_string).collect();
    messages.join("; ")
}
