//! One peer: how it is called, and what is checked of its answers whichever service it is.

use super::{Described, Fingerprints, Found, Held, Reach, Scored, Timing};
use crate::error::{CallError, Service};
use search_core::{Candidate, Deadline, ErrorKind, FieldError, Score};
use search_proto::{common, convert};
use service_kit::status::{fields_of, kind_of, pushback_of};
use service_kit::{MeshChannel, now, with_deadline};
use tonic::{Request, Response, Status};

/// Most shards of a collection; the contract's limit.
const MAX_SHARDS: u32 = 1024;

/// A peer, for the errors that name it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    service: Service,
    name: String,
}

/// Scores as they came, of whichever service.
pub(super) struct WireScores {
    pub(super) scores: Vec<f32>,
    pub(super) excluded: Vec<u32>,
    pub(super) unknown: Vec<u32>,
    pub(super) timing: Option<common::Timing>,
}

/// How many scores there are to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    /// One for each passage.
    All(usize),
    /// Those of the first passages; of all but when the time is up.
    AtMost(usize),
}

impl Peer {
    pub(super) fn new(service: Service, channel: &MeshChannel) -> Self {
        Self {
            service,
            name: channel.name().to_owned(),
        }
    }

    /// Sends a request with its deadline.
    pub(super) async fn ask<Question, Answer, Sent>(
        &self,
        question: Question,
        deadline: Option<Deadline>,
        send: impl FnOnce(Request<Question>) -> Sent,
    ) -> Result<Answer, CallError>
    where
        Sent: Future<Output = Result<Response<Answer>, Status>>,
    {
        let answer = send(with_deadline(question, deadline, now())).await;
        self.message(answer.map(Response::into_inner))
    }

    /// A message, of an answer that is one or of a stream.
    pub(super) fn message<T>(&self, message: Result<T, Status>) -> Result<T, CallError> {
        message.map_err(|status| CallError {
            service: self.service,
            replica: self.name.clone(),
            kind: kind_of(&status),
            message: status.message().to_owned(),
            fields: fields_of(&status),
            pushback: pushback_of(&status),
        })
    }

    /// What a replica says of itself.
    pub(super) fn described(&self, wire: common::DescribeResponse) -> Described {
        Described {
            held: self.rightly(wire.snapshots, held_snapshot),
            refused: self.rightly(
                wire.refused_collections,
                convert::refused_collection_from_wire,
            ),
        }
    }

    /// An entry that breaks the contract is left out, and logged.
    fn rightly<W, T>(&self, wire: Vec<W>, read: impl Fn(W) -> Result<T, FieldError>) -> Vec<T> {
        let warn = |error: FieldError| tracing::warn!(peer = self.name, %error, "a replica describes itself wrongly");
        wire.into_iter()
            .filter_map(|entry| read(entry).map_err(warn).ok())
            .collect()
    }

    /// What a service says about given passages.
    pub(super) fn scored(
        &self,
        expected: Expected,
        wire: &WireScores,
    ) -> Result<Scored, CallError> {
        self.checked(scored(expected, wire))
    }

    /// What a retriever found, no more than was asked for.
    pub(super) fn found(
        &self,
        reach: Reach<'_>,
        candidates: Option<common::Candidates>,
        refused_segments: u32,
        timing: Option<common::Timing>,
    ) -> Result<Found, CallError> {
        Ok(Found {
            candidates: self.checked(at_most(candidates, reach))?,
            refused_segments,
            timing: Timing::from_wire(timing),
        })
    }

    /// What was read of an answer; the peer's fault where it breaks the contract.
    pub(super) fn checked<T>(&self, read: Result<T, FieldError>) -> Result<T, CallError> {
        read.map_err(|error| CallError {
            service: self.service,
            replica: self.name.clone(),
            kind: ErrorKind::Internal,
            message: format!("gave an invalid answer: {error}"),
            fields: Vec::new(),
            pushback: None,
        })
    }
}

impl Expected {
    const fn asked(self) -> usize {
        match self {
            Self::All(asked) | Self::AtMost(asked) => asked,
        }
    }

    fn check(self, found: usize) -> Result<(), FieldError> {
        match self {
            Self::AtMost(asked) if found < asked => Ok(()),
            Self::All(asked) | Self::AtMost(asked) => same_length("scores", found, asked),
        }
    }
}

fn scored(expected: Expected, wire: &WireScores) -> Result<Scored, FieldError> {
    expected.check(wire.scores.len())?;
    let scores: Vec<Score> = convert::scores_from_wire(&wire.scores)?;
    Ok(Scored {
        scores,
        excluded: positions(&wire.excluded, expected.asked(), "excluded")?,
        unknown: positions(&wire.unknown, expected.asked(), "unknown")?,
        timing: Timing::from_wire(wire.timing),
    })
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

pub(super) fn same_length(path: &str, found: usize, asked: usize) -> Result<(), FieldError> {
    if found == asked {
        return Ok(());
    }
    Err(FieldError::new(
        path,
        format!("has {found} entries where {asked} were asked for"),
    ))
}

pub(super) fn positions(wire: &[u32], asked: usize, path: &str) -> Result<Vec<usize>, FieldError> {
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
        fingerprints: Fingerprints {
            encoder: wire.encoder_fingerprint,
            rescore: wire.rescore_fingerprint,
            colbert: wire.colbert_fingerprint,
        },
        title_tokens: wire.title_tokens,
        passages: wire.passages,
    })
}
