//! What a replica announces of the snapshots that it serves, and of what it cannot serve.

use crate::CollectionName;

/// A snapshot that a replica serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSnapshot {
    /// The collection.
    pub collection: CollectionName,
    /// Manifest number.
    pub number: u64,
    /// Shards of the collection.
    pub shards: u32,
    /// The shards that are served, ascending. Never empty.
    pub held_shards: Vec<u32>,
    /// Fingerprint of the bundle of the vectors: of the token vectors where it is these that the replica holds. Empty: no vectors.
    pub encoder_fingerprint: String,
    /// Fingerprint of the second bundle, whose vectors rescore. Empty: none.
    pub rescore_fingerprint: String,
    /// Fingerprint of the bundle of the token vectors. Empty: none.
    pub colbert_fingerprint: String,
    /// Tokens of a title that an encoder reads in front of each passage, at most.
    pub title_tokens: u32,
    /// Live passages of the served segments.
    pub passages: u64,
    /// Segments that were refused.
    pub refused: Vec<RefusedSegment>,
}

/// A segment that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSegment {
    /// Segment number.
    pub segment: u32,
    /// The shard that it belongs to.
    pub shard: u32,
    /// What is wrong with it: names the file.
    pub reason: String,
}

/// A collection of which no snapshot could be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCollection {
    /// The collection.
    pub collection: CollectionName,
    /// What is wrong with it: names the file.
    pub reason: String,
    /// The storage failed, which may pass; otherwise a file is damaged or missing.
    pub may_pass: bool,
}
