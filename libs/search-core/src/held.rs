//! What a replica announces of the snapshots that it serves, and of what it cannot serve.

use crate::CollectionName;
use std::collections::BTreeSet;

/// The shards that a replica serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ShardSelection {
    /// All of every collection.
    #[default]
    All,
    /// These; collections that have none of them are not held.
    Only(BTreeSet<u32>),
    /// Of each collection one: this ordinal modulo the number of its shards. Replicas that are counted from 0 hold every shard of every
    /// layout, if they are no fewer than its shards.
    Ordinal(u32),
}

impl ShardSelection {
    /// The selected ones of `shards` shards, ascending.
    #[must_use]
    pub fn of(&self, shards: u32) -> Vec<u32> {
        match self {
            Self::All => (0..shards).collect(),
            Self::Only(only) => only.range(..shards).copied().collect(),
            Self::Ordinal(ordinal) => ordinal.checked_rem(shards).into_iter().collect(),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_one_shard_of_every_layout() {
        let of = |ordinal, shards| ShardSelection::Ordinal(ordinal).of(shards);
        assert_eq!((of(5, 2), of(5, 3), of(5, 1)), (vec![1], vec![2], vec![0]));
        assert_eq!(of(5, 0), Vec::<u32>::new());
    }

    #[test]
    fn what_a_collection_does_not_have_is_not_selected() {
        assert_eq!(ShardSelection::Only([5, 1].into()).of(2), [1]);
        assert_eq!(ShardSelection::All.of(3), [0, 1, 2]);
    }
}
