//! The calls to the stages: generated clients inside, domain types outside, and no trust in what a peer answers.

mod colbert;
mod dense;
mod encoder;
mod peer;
mod reranker;
mod sparse;

pub(crate) use colbert::{ColbertClient, Matched};
pub(crate) use dense::DenseClient;
pub(crate) use encoder::{EncoderClient, Task, Wish};
pub(crate) use reranker::{MAX_PASSAGE_BYTES, ReadPassage, RerankerClient, Reranking};
pub(crate) use sparse::SparseClient;

use crate::error::CallError;
use search_core::{Candidate, Deadline, Filter, RefusedCollection, Score, SnapshotId};
use search_proto::{common, convert};

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

/// A query as vectors of one bundle.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) vector: Vec<f32>,
    /// Those of its tokens, where they were asked for. What is wrong with them is nothing that the vector could not do without.
    pub(crate) tokens: Option<Result<QueryTokens, CallError>>,
    pub(crate) fingerprint: String,
    pub(crate) timing: Timing,
}

/// The vectors of a query's tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QueryTokens {
    /// Width of each; never 0.
    pub(crate) dimensions: u32,
    /// Row-major [tokens, dimensions], at least one token.
    pub(crate) vectors: Vec<f32>,
    pub(crate) fingerprint: String,
}

impl QueryTokens {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.vectors.len() / self.dimensions as usize
    }
}

/// What a token of the query matches best in a passage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Match {
    /// The passage's token: its place among those that the encoder gives vectors of.
    pub(crate) token: usize,
    pub(crate) cosine: f32,
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
    /// Of the first addresses; of all, unless the service may stop early.
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

/// The bundles that made the vectors of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprints {
    /// Of the vectors that the replica serves first. Empty: none.
    pub(crate) encoder: String,
    /// Of the vectors for rescoring. Empty: none.
    pub(crate) rescore: String,
    /// Of the token vectors. Empty: none.
    pub(crate) colbert: String,
}

/// A snapshot that a replica holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) snapshot: SnapshotId,
    /// Shards of the collection.
    pub(crate) shards: u32,
    /// Those that the replica serves; never empty, each less than `shards`.
    pub(crate) held_shards: Vec<u32>,
    pub(crate) fingerprints: Fingerprints,
    /// Tokens of a title that an encoder read in front of each passage, at most.
    pub(crate) title_tokens: u32,
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
