//! What can go wrong with a search. Becomes a status in `grpc.rs`, by the one table of `service-kit`.

use search_core::admission::TooLate;
use search_core::{CollectionName, ErrorKind, FieldError, RefusedCollection, StageReason};
use service_kit::status::Pushback;

/// Why a search has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SearchError {
    /// A field of the request is wrong.
    #[error("{0}")]
    Invalid(FieldError),
    /// The request names a pipeline that is not configured.
    #[error("pipeline: {name:?} is not one of {known}")]
    UnknownPipeline { name: String, known: String },
    /// No snapshot can answer.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The query was encoded with another model than the index.
    #[error(
        "collection {collection} was indexed with the encoder {index}, but queries are encoded with {encoder}"
    )]
    ModelMismatch {
        collection: CollectionName,
        index: String,
        encoder: String,
    },
    /// A peer did not answer as it should.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The time is spent.
    #[error("the deadline has passed")]
    DeadlineExceeded,
    /// Too many answers are on their way.
    #[error("an answer would wait {:?} for those before it: too late for this deadline", .0.wait)]
    Busy(TooLate),
    /// The answer would lack a stage that the pipeline requires.
    #[error("the pipeline requires the stage {stage}: {}", reason.as_str())]
    RequiredStage { stage: String, reason: StageReason },
    /// The answer would lack shards, and the request wants none to be missing.
    #[error(
        "full coverage is required, and {answered} of {asked} shards answered the stage {stage}: {}",
        reason.as_str()
    )]
    Coverage {
        stage: String,
        asked: u32,
        answered: u32,
        reason: StageReason,
    },
}

/// The status of an answer that had to have what it lacks for this reason.
fn kind_of(reason: StageReason) -> ErrorKind {
    match reason {
        StageReason::Deadline => ErrorKind::DeadlineExceeded,
        StageReason::Overloaded | StageReason::Size => ErrorKind::ResourceExhausted,
        StageReason::ModelMismatch | StageReason::NotIndexed | StageReason::NotConfigured => {
            ErrorKind::FailedPrecondition
        }
        StageReason::DamagedSegment => ErrorKind::DataLoss,
        StageReason::Fault => ErrorKind::Internal,
        StageReason::Unavailable
        | StageReason::ShardMissing
        | StageReason::SnapshotMissing
        | StageReason::Depth
        | StageReason::Routed
        | StageReason::Gated => ErrorKind::Unavailable,
    }
}

impl SearchError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::InvalidArgument,
            Self::UnknownPipeline { .. } => ErrorKind::NotFound,
            Self::Place(error) => error.kind(),
            Self::ModelMismatch { .. } => ErrorKind::FailedPrecondition,
            Self::Call(error) => error.kind,
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Self::Busy(_) => ErrorKind::ResourceExhausted,
            Self::RequiredStage { reason, .. } | Self::Coverage { reason, .. } => kind_of(*reason),
        }
    }

    /// The fields of the request that the error is about.
    pub(crate) fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Invalid(field) => vec![field.clone()],
            Self::UnknownPipeline { .. } => vec![FieldError::new("pipeline", "is not configured")],
            Self::Place(PlaceError::UnknownCollection(_)) => {
                vec![FieldError::new("collection", "does not exist")]
            }
            Self::Call(error) => error.fields.clone(),
            Self::Place(_)
            | Self::ModelMismatch { .. }
            | Self::DeadlineExceeded
            | Self::Busy(_)
            | Self::RequiredStage { .. }
            | Self::Coverage { .. } => Vec::new(),
        }
    }

    /// What it says of trying again.
    pub(crate) fn pushback(&self) -> Option<Pushback> {
        match self {
            Self::Busy(late) => late.fits_after.map(Pushback::After),
            Self::Call(error) => error.pushback,
            _ => None,
        }
    }

    /// Whether the snapshot may have been retired between asking who holds it and searching it.
    pub(crate) fn is_stale_snapshot(&self) -> bool {
        let kinds = [ErrorKind::FailedPrecondition, ErrorKind::NotFound];
        matches!(self, Self::Call(error) if error.service.is_retriever() && kinds.contains(&error.kind))
    }

    /// Whether an answer without this stage is better than none: the fault is the stage's.
    pub(crate) fn may_degrade(&self) -> bool {
        match self.kind() {
            ErrorKind::Unavailable
            | ErrorKind::ResourceExhausted
            | ErrorKind::DataLoss
            | ErrorKind::Cancelled
            | ErrorKind::Unimplemented
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Internal => true,
            ErrorKind::InvalidArgument | ErrorKind::NotFound | ErrorKind::FailedPrecondition => {
                false
            }
        }
    }

    /// The word for it in a stage report.
    pub(crate) fn reason(&self) -> StageReason {
        match (self, self.kind()) {
            (Self::Place(error), _) => error.reason(),
            (Self::ModelMismatch { .. }, _) => StageReason::ModelMismatch,
            (Self::RequiredStage { reason, .. } | Self::Coverage { reason, .. }, _) => *reason,
            (_, ErrorKind::DeadlineExceeded) => StageReason::Deadline,
            (_, ErrorKind::ResourceExhausted) => StageReason::Overloaded,
            (_, ErrorKind::Unavailable) => StageReason::Unavailable,
            (Self::Call(error), kind) if error.service.is_of_models() => reason_of_model(kind),
            (_, ErrorKind::DataLoss) => StageReason::DamagedSegment,
            (_, ErrorKind::FailedPrecondition | ErrorKind::NotFound) => {
                StageReason::SnapshotMissing
            }
            (Self::Call(error), _) if error.service == Service::ColbertScorer => StageReason::Fault,
            _ => StageReason::ShardMissing,
        }
    }

    /// The word for a shard that was lost while others answered: that is other news than a service that is gone.
    pub(crate) fn reason_of_shard(&self) -> StageReason {
        match self.reason() {
            StageReason::Unavailable => StageReason::ShardMissing,
            reason => reason,
        }
    }
}

/// Of a service that holds neither shards nor snapshots. A precondition that fails is the bundle: it serves others than a moment ago.
fn reason_of_model(kind: ErrorKind) -> StageReason {
    match kind {
        ErrorKind::FailedPrecondition => StageReason::ModelMismatch,
        _ => StageReason::Fault,
    }
}

/// A service that the orchestrator calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Encoder,
    SparseRetriever,
    DenseRetriever,
    ColbertScorer,
    CrossEncoder,
}

impl Service {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::SparseRetriever => "sparse-retriever",
            Self::DenseRetriever => "dense-retriever",
            Self::ColbertScorer => "colbert-scorer",
            Self::CrossEncoder => "cross-encoder",
        }
    }

    /// Knows models, and no collections.
    const fn is_of_models(self) -> bool {
        matches!(self, Self::Encoder | Self::CrossEncoder)
    }

    const fn is_retriever(self) -> bool {
        matches!(self, Self::SparseRetriever | Self::DenseRetriever)
    }
}

/// A call to a peer that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} at {replica}: {message}", service.name())]
pub(crate) struct CallError {
    pub(crate) service: Service,
    pub(crate) replica: String,
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    pub(crate) fields: Vec<FieldError>,
    /// What it said of trying again.
    pub(crate) pushback: Option<Pushback>,
}

impl CallError {
    /// There is no replica to call.
    pub(crate) fn nobody(service: Service) -> Self {
        Self {
            service,
            replica: "no address".to_owned(),
            kind: ErrorKind::Unavailable,
            message: "no replica holds what is asked for".to_owned(),
            fields: Vec::new(),
            pushback: None,
        }
    }

    /// It is not waited for any longer.
    pub(crate) fn late(service: Service) -> Self {
        Self {
            replica: "a shard".to_owned(),
            kind: ErrorKind::DeadlineExceeded,
            message: "its share of the time is over".to_owned(),
            ..Self::nobody(service)
        }
    }

    /// The answer would not fit into a message; a service that refuses for load names no field.
    pub(crate) fn is_too_large(&self) -> bool {
        self.kind == ErrorKind::ResourceExhausted
            && self.fields.iter().any(|field| field.path == "addresses")
    }
}

/// Why no replica set can answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("collection: {0} does not exist")]
    UnknownCollection(CollectionName),
    #[error("collection {} cannot be served: {}", .0.collection, .0.reason)]
    Refused(RefusedCollection),
    #[error("no {} can be reached", .0.name())]
    NoReplica(Service),
    #[error("no snapshot of collection {0} is held by every stage")]
    NoCommonSnapshot(CollectionName),
    #[error(
        "collection {0} was indexed without vectors; use a pipeline that needs none, as `sparse`"
    )]
    NoVectors(CollectionName),
}

impl PlaceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownCollection(_) => ErrorKind::NotFound,
            Self::Refused(refused) if refused.may_pass => ErrorKind::Unavailable,
            Self::Refused(_) => ErrorKind::DataLoss,
            Self::NoReplica(_) | Self::NoCommonSnapshot(_) => ErrorKind::Unavailable,
            Self::NoVectors(_) => ErrorKind::FailedPrecondition,
        }
    }

    pub(crate) fn reason(&self) -> StageReason {
        match self {
            Self::NoReplica(_) => StageReason::Unavailable,
            Self::Refused(refused) if !refused.may_pass => StageReason::DamagedSegment,
            Self::UnknownCollection(_) | Self::Refused(_) | Self::NoCommonSnapshot(_) => {
                StageReason::SnapshotMissing
            }
            Self::NoVectors(_) => StageReason::NotIndexed,
        }
    }
}
