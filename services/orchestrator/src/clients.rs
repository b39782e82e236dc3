//! The calls to the stages: generated clients inside, domain types outside, and no trust in what a peer answers.

mod reranker;

pub(crate) use reranker::{ReadPassage, RerankerClient, Reranking};

use crate::error::{CallError, Service};
use search_core::{
    Address, Candidate, Deadline, ErrorKind, FieldError, Filter, RefusedCollection, Score,
    SnapshotId,
};
use search_proto::dense::dense_retriever_service_client::DenseRetrieverServiceClient;
use search_proto::encoder::encoder_service_client::EncoderServiceClient;
use search_proto::sparse::sparse_retriever_service_client::SparseRetrieverServiceClient;
use search_proto::{common, convert, dense, encoder, sparse};
use service_kit::status::{fields_of, kind_of};
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel, now, with_deadline};
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
    fn scored(&self, asked: usize, wire: &sparse::ScoreResponse) -> Result<Scored, CallError> {
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

/// One encoder.
#[derive(Clone, Debug)]
pub(crate) struct EncoderClient {
    peer: Peer,
    client: EncoderServiceClient<MeshChannel>,
}

impl EncoderClient {
    pub(crate) fn new(channel: MeshChannel) -> Self {
        Self {
            peer: Peer::new(Service::Encoder, &channel),
            client: EncoderServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// Fingerprints of the bundles that it serves.
    pub(crate) async fn bundles(
        &self,
        deadline: Option<Deadline>,
    ) -> Result<Vec<String>, CallError> {
        let request = with_deadline(encoder::DescribeRequest {}, deadline, now());
        let described = self
            .peer
            .answer(self.client.clone().describe(request).await)?;
        let bundles = described.bundles.into_iter();
        Ok(bundles.map(|bundle| bundle.fingerprint).collect())
    }

    /// Encodes one query with the bundle of this fingerprint; of none, with what the encoder serves first: the caller compares the
    /// fingerprint of what it gets.
    pub(crate) async fn encode(
        &self,
        text: String,
        fingerprint: &str,
        deadline: Option<Deadline>,
    ) -> Result<Encoded, CallError> {
        let request = encoder::EncodeRequest {
            texts: vec![text],
            task: encoder::Task::Query.into(),
            with_token_vectors: false,
            expected_fingerprint: fingerprint.to_owned(),
        };
        let answer = self
            .client
            .clone()
            .encode(with_deadline(request, deadline, now()))
            .await;
        let encoded = self.peer.answer(answer)?;
        check_vector(&encoded).map_err(|error| self.peer.malformed(&error))?;
        Ok(Encoded {
            vector: encoded.vectors,
            fingerprint: encoded.fingerprint,
            timing: Timing::from_wire(encoded.timing),
        })
    }
}

fn check_vector(encoded: &encoder::EncodeResponse) -> Result<(), FieldError> {
    let is_one_vector =
        !encoded.vectors.is_empty() && encoded.vectors.len() == encoded.dimensions as usize;
    if !is_one_vector {
        let message = format!(
            "has {} numbers for {} dimensions",
            encoded.vectors.len(),
            encoded.dimensions
        );
        return Err(FieldError::new("vectors", message));
    }
    if encoded.vectors.iter().any(|number| !number.is_finite()) {
        return Err(FieldError::new("vectors", "must be finite"));
    }
    Ok(())
}

/// One sparse retriever, which holds the stored documents too.
#[derive(Clone, Debug)]
pub(crate) struct SparseClient {
    peer: Peer,
    client: SparseRetrieverServiceClient<MeshChannel>,
}

impl SparseClient {
    pub(crate) fn new(channel: MeshChannel) -> Self {
        Self {
            peer: Peer::new(Service::SparseRetriever, &channel),
            client: SparseRetrieverServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    pub(crate) async fn describe(
        &self,
        deadline: Option<Deadline>,
    ) -> Result<Described, CallError> {
        let request = with_deadline(common::DescribeRequest {}, deadline, now());
        self.peer
            .described(self.client.clone().describe(request).await)
    }

    pub(crate) async fn search(
        &self,
        target: Target<'_>,
        query: &str,
        reach: Reach<'_>,
    ) -> Result<Found, CallError> {
        let request = sparse::SearchRequest {
            snapshot: target.snapshot(),
            query: query.to_owned(),
            limit: reach.limit,
            filter: reach.filter.map(convert::filter_to_wire),
            shard: target.shard,
        };
        let answer = self
            .client
            .clone()
            .search(with_deadline(request, target.deadline, now()))
            .await;
        let found = self.peer.answer(answer)?;
        Ok(Found {
            candidates: self.peer.candidates(found.candidates, reach)?,
            refused_segments: found.refused_segments,
            timing: Timing::from_wire(found.timing),
        })
    }

    pub(crate) async fn score(
        &self,
        target: Target<'_>,
        query: &str,
        addresses: &[Address],
    ) -> Result<Scored, CallError> {
        let request = sparse::ScoreRequest {
            snapshot: target.snapshot(),
            query: query.to_owned(),
            addresses: convert::addresses_to_wire(addresses),
            shard: target.shard,
        };
        let answer = self
            .client
            .clone()
            .score(with_deadline(request, target.deadline, now()))
            .await;
        let scored = self.peer.answer(answer)?;
        self.peer.scored(addresses.len(), &scored)
    }

    pub(crate) async fn fetch(
        &self,
        target: Target<'_>,
        addresses: &[Address],
        ids_only: bool,
    ) -> Result<Fetched, CallError> {
        let request = sparse::FetchRequest {
            snapshot: target.snapshot(),
            addresses: convert::addresses_to_wire(addresses),
            ids_only,
            shard: target.shard,
        };
        let answer = self
            .client
            .clone()
            .fetch(with_deadline(request, target.deadline, now()))
            .await;
        let fetched = self.peer.answer(answer)?;
        passages(fetched, addresses.len()).map_err(|error| self.peer.malformed(&error))
    }
}

/// One dense retriever.
#[derive(Clone, Debug)]
pub(crate) struct DenseClient {
    peer: Peer,
    client: DenseRetrieverServiceClient<MeshChannel>,
}

impl DenseClient {
    pub(crate) fn new(channel: MeshChannel) -> Self {
        Self {
            peer: Peer::new(Service::DenseRetriever, &channel),
            client: DenseRetrieverServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    pub(crate) async fn describe(
        &self,
        deadline: Option<Deadline>,
    ) -> Result<Described, CallError> {
        let request = with_deadline(common::DescribeRequest {}, deadline, now());
        self.peer
            .described(self.client.clone().describe(request).await)
    }

    pub(crate) async fn search(
        &self,
        target: Target<'_>,
        query: &Encoded,
        reach: Reach<'_>,
    ) -> Result<Found, CallError> {
        let request = dense::SearchRequest {
            snapshot: target.snapshot(),
            vector: query.vector.clone(),
            encoder_fingerprint: query.fingerprint.clone(),
            limit: reach.limit,
            // The collection's own.
            prefix_depth: 0,
            filter: reach.filter.map(convert::filter_to_wire),
            shard: target.shard,
        };
        let answer = self
            .client
            .clone()
            .search(with_deadline(request, target.deadline, now()))
            .await;
        let found = self.peer.answer(answer)?;
        Ok(Found {
            candidates: self.peer.candidates(found.candidates, reach)?,
            refused_segments: found.refused_segments,
            timing: Timing::from_wire(found.timing),
        })
    }

    pub(crate) async fn score(
        &self,
        target: Target<'_>,
        query: &Encoded,
        addresses: &[Address],
    ) -> Result<Scored, CallError> {
        let request = dense::ScoreRequest {
            snapshot: target.snapshot(),
            vector: query.vector.clone(),
            encoder_fingerprint: query.fingerprint.clone(),
            addresses: convert::addresses_to_wire(addresses),
            shard: target.shard,
        };
        let answer = self
            .client
            .clone()
            .score(with_deadline(request, target.deadline, now()))
            .await;
        let scored = self.peer.answer(answer)?;
        // A vector excludes nothing; otherwise the answers are alike.
        let scored = sparse::ScoreResponse {
            scores: scored.scores,
            excluded: Vec::new(),
            unknown: scored.unknown,
            timing: scored.timing,
        };
        self.peer.scored(addresses.len(), &scored)
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

fn passages(wire: sparse::FetchResponse, asked: usize) -> Result<Fetched, FieldError> {
    same_length("passages", wire.passages.len(), asked)?;
    let unknown = positions(&wire.unknown, asked, "unknown")?;
    let mut passages: Vec<_> = wire
        .passages
        .into_iter()
        .map(|passage| Some(passage_from_wire(passage)))
        .collect();
    for position in unknown {
        passages[position] = None;
    }
    Ok(Fetched {
        passages,
        timing: Timing::from_wire(wire.timing),
    })
}

fn passage_from_wire(wire: sparse::Passage) -> Passage {
    Passage {
        document_id: wire.document_id,
        title: wire.title,
        text: wire.text,
        metadata_json: wire.metadata_json,
        passage: wire.passage,
    }
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
