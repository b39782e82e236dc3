//! The calls to the stages: generated clients inside, domain types outside, and no trust in what a peer answers.

mod dense;
mod encoder;
mod reranker;
mod sparse;

pub(crate) use dense::DenseClient;
pub(crate) use encoder::EncoderClient;
pub(crate) use reranker::{ReadPassage, RerankerClient, Reranking};
pub(crate) use sparse::SparseClient;

use crate::error::{CallError, Service};
use search_core::{
    Candidate, Deadline, ErrorKind, FieldError, Filter, RefusedCollection, Score, SnapshotId,
};
use search_proto::{common, convert};
use service_kit::MeshChannel;
use service_kit::status::{fields_of, kind_of};
use tonic::{Response, Status};

/// Most shards of a collection; the contract's limit.
const MAX_SHARDS: u32 = 1024;

/// Where a call spent its time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) queue_us: u64,
    pub(crate) compute_us: u64,
}

impl Timing {
    fn from_wire(wire: Option<common::Timing>) -> Self {
        let wire = wire.unwrap_or_default();
        Self {
            queue_us: wire.queue_us,
            compute_us: wire.compute_us,
        }
    }
}

/// A query as a vector.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) vector: Vec<f32>,
    pub(crate) fingerprint: String,
    pub(crate) timing: Timing,
}

/// The best passages of one shard.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) refused_segments: u32,
    pub(crate) timing: Timing,
}

/// Scores of passages that were asked for.
#[derive(Clone, Debug)]
pub(crate) struct Scored {
    /// Parallel to the addresses.
    pub(crate) scores: Vec<Score>,
    /// Positions of passages that the query excludes.
    pub(crate) excluded: Vec<usize>,
    /// Positions of passages that the peer does not have.
    pub(crate) unknown: Vec<usize>,
    pub(crate) timing: Timing,
}

/// Stored passages; `None` where the peer has none.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) passages: Vec<Option<Passage>>,
    pub(crate) timing: Timing,
}

/// One stored passage and its document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passage {
    pub(crate) document_id: String,
    pub(crate) title: String,
    pub(crate) text: String,
    pub(crate) metadata_json: String,
    pub(crate) passage: u32,
}

impl Passage {
    /// Bytes of its strings, which are nearly all of it.
    pub(crate) fn bytes(&self) -> usize {
        self.document_id.len() + self.title.len() + self.text.len() + self.metadata_json.len()
    }
}

/// A snapshot that a replica holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) snapshot: SnapshotId,
    /// Shards of the collection.
    pub(crate) shards: u32,
    /// Those that the replica serves; never empty, each less than `shards`.
    pub(crate) held_shards: Vec<u32>,
    /// Empty: no vectors.
    pub(crate) encoder_fingerprint: String,
    /// Empty: no vectors for rescoring.
    pub(crate) rescore_fingerprint: String,
    pub(crate) passages: u64,
}

/// What a replica says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) held: Vec<Held>,
    /// Collections that it has found but cannot serve.
    pub(crate) refused: Vec<RefusedCollection>,
}

/// What every call of one stage to one shard says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) snapshot: &'a SnapshotId,
    pub(crate) shard: u32,
    pub(crate) deadline: Option<Deadline>,
}

impl Target<'_> {
    fn snapshot(&self) -> Option<common::Snapshot> {
        Some(convert::snapshot_to_wire(self.snapshot))
    }
}

/// How much a search is to find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    pub(crate) limit: u32,
    pub(crate) filter: Option<&'a Filter>,
}

/// A peer, for the errors that name it.
#[derive(Clone, Debug)]
struct Peer {
    service: Service,
    name: String,
}

impl Peer {
    fn new(service: Service, channel: &MeshChannel) -> Self {
        Self {
            service,
            name: channel.name().to_owned(),
        }
    }

    fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, CallError> {
        self.message(answer.map(Response::into_inner))
    }

    fn message<T>(&self, message: Result<T, Status>) -> Result<T, CallError> {
        message.map_err(|status| CallError {
            service: self.service,
            replica: self.name.clone(),
            kind: kind_of(&status),
            message: status.message().to_owned(),
            fields: fields_of(&status),
        })
    }

    fn described(
        &self,
        answer: Result<Response<common::DescribeResponse>, Status>,
    ) -> Result<Described, CallError> {
        let described = self.answer(answer)?;
        Ok(Described {
            held: self.rightly(described.snapshots, held_snapshot),
            refused: self.rightly(
                described.refused_collections,
                convert::refused_collection_from_wire,
            ),
        })
    }

    /// What a replica says of itself; an entry that breaks the contract is left out, and logged.
    fn rightly<W, T>(&self, wire: Vec<W>, read: impl Fn(W) -> Result<T, FieldError>) -> Vec<T> {
        let warn = |error: FieldError| tracing::warn!(peer = self.name, %error, "a replica describes itself wrongly");
        wire.into_iter()
            .filter_map(|entry| read(entry).map_err(warn).ok())
            .collect()
    }

    /// What a retriever says about as many passages as were asked for.
    fn scored(
        &self,
        asked: usize,
        wire: &search_proto::sparse::ScoreResponse,
    ) -> Result<Scored, CallError> {
        let scored = scores(&wire.scores, asked).and_then(|scores| {
            Ok(Scored {
                scores,
                excluded: positions(&wire.excluded, asked, "excluded")?,
                unknown: positions(&wire.unknown, asked, "unknown")?,
                timing: Timing::from_wire(wire.timing),
            })
        });
        scored.map_err(|error| self.malformed(&error))
    }

    /// What a retriever found, no more than was asked for.
    fn candidates(
        &self,
        wire: Option<common::Candidates>,
        reach: Reach<'_>,
    ) -> Result<Vec<Candidate>, CallError> {
        at_most(wire, reach).map_err(|error| self.malformed(&error))
    }

    /// The peer's answer breaks the contract.
    fn malformed(&self, error: &FieldError) -> CallError {
        CallError {
            service: self.service,
            replica: self.name.clone(),
            kind: ErrorKind::Internal,
            message: format!("gave an invalid answer: {error}"),
            fields: Vec::new(),
        }
    }
}

fn at_most(
    wire: Option<common::Candidates>,
    reach: Reach<'_>,
) -> Result<Vec<Candidate>, FieldError> {
    let wire = wire.unwrap_or_default();
    if wire.addresses.len() > reach.limit as usize {
        let message = format!(
            "has {} passages where {} were asked for",
            wire.addresses.len(),
            reach.limit
        );
        return Err(FieldError::new("candidates", message));
    }
    convert::candidates_from_wire(&wire).map_err(|error| error.inside("candidates"))
}

fn scores(wire: &[f32], asked: usize) -> Result<Vec<Score>, FieldError> {
    same_length("scores", wire.len(), asked)?;
    convert::scores_from_wire(wire)
}
fn same_length(path: &str, found: usize, asked: usize) -> Result<(), FieldError> {
    if found == asked {
        return Ok(());
    }
    Err(FieldError::new(
        path,
        format!("has {found} entries where {asked} were asked for"),
    ))
}

fn positions(wire: &[u32], asked: usize, path: &str) -> Result<Vec<usize>, FieldError> {
    let positions = wire.iter().map(|position| *position as usize);
    let position = |position| {
        let message = || format!("{position} is no position of {asked} addresses");
        if position < asked {
            Ok(position)
        } else {
            Err(FieldError::new(path, message()))
        }
    };
    positions.map(position).collect()
}

fn held_snapshot(wire: common::HeldSnapshot) -> Result<Held, FieldError> {
    let snapshot = convert::snapshot_from_wire(wire.snapshot.as_ref())?;
    let shards = wire.shards;
    if !(1..=MAX_SHARDS).contains(&shards) {
        return Err(FieldError::new(
            "shards",
            format!("is {shards}; 1 to {MAX_SHARDS} are allowed"),
        ));
    }
    let is_wrong =
        wire.held_shards.is_empty() || wire.held_shards.iter().any(|shard| *shard >= shards);
    if is_wrong {
        return Err(FieldError::new(
            "held_shards",
            format!("must be shards of {shards}"),
        ));
    }
    Ok(Held {
        snapshot,
        shards,
        held_shards: wire.held_shards,
        encoder_fingerprint: wire.encoder_fingerprint,
        rescore_fingerprint: wire.rescore_fingerprint,
        passages: wire.passages,
    })
}
