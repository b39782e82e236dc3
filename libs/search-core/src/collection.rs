//! Collection names, and which shard a document belongs to.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Longest name, in bytes. Names are folders of the object store.
const MAX_NAME_BYTES: usize = 128;

/// 1 to 128 of `a-z 0-9 _ -`, the first a letter or a digit. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CollectionName(Arc<str>);

/// A name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a collection name is 1 to 128 of a-z, 0-9, _ and -, and starts with a letter or a digit")]
pub struct CollectionNameError;

impl CollectionName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for CollectionName {
    type Error = CollectionNameError;

    fn try_from(name: &str) -> Result<Self, CollectionNameError> {
        if is_valid(name) {
            Ok(Self(name.into()))
        } else {
            Err(CollectionNameError)
        }
    }
}

impl TryFrom<String> for CollectionName {
    type Error = CollectionNameError;

    fn try_from(name: String) -> Result<Self, CollectionNameError> {
        Self::try_from(name.as_str())
    }
}

impl std::str::FromStr for CollectionName {
    type Err = CollectionNameError;

    fn from_str(name: &str) -> Result<Self, CollectionNameError> {
        Self::try_from(name)
    }
}

impl From<CollectionName> for String {
    fn from(name: CollectionName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl AsRef<str> for CollectionName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Names one immutable state of one collection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    /// The collection.
    pub collection: CollectionName,
    /// Manifest number, from 1.
    pub number: u64,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.collection, self.number)
    }
}

fn is_valid(name: &str) -> bool {
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
    };
    let starts_well = name
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric);
    starts_well && name.len() <= MAX_NAME_BYTES && name.bytes().all(allowed)
}

/// The shard of a document: a hash of its id alone, stable for ever, since collections are built with it. Less than
/// `shards`; 0 when there are none.
pub fn shard_of(document_id: &str, shards: u32) -> u32 {
    let hash = xxh3_64(document_id.as_bytes());
    let remainder = hash.checked_rem(u64::from(shards)).unwrap_or(0);
    u32::try_from(remainder).expect("a remainder is less than its u32 divisor")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_good_names_and_refuses_bad_ones() {
        for name in ["a", "0", "sci-fact_2", &"x".repeat(128)] {
            assert_eq!(CollectionName::try_from(name).unwrap().as_str(), name);
        }
        for name in [
            "",
            "-a",
            "_a",
            "A",
            "a b",
            "a/b",
            "..",
            "é",
            &"x".repeat(129),
        ] {
            assert!(CollectionName::try_from(name).is_err(), "{name}");
        }
    }

    #[test]
    fn json_is_checked_too() {
        let name: CollectionName = serde_json::from_str("\"scifact\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"scifact\"");
        assert!(serde_json::from_str::<CollectionName>("\"../etc\"").is_err());
    }

    /// Collections on disk depend on these numbers: they never change.
    #[test]
    fn sharding_is_stable() {
        let ids = ["", "1", "4983", "doc-17", "ä"];
        assert_eq!(ids.map(|id| shard_of(id, 4)), [2, 0, 2, 3, 0]);
        assert_eq!(ids.map(|id| shard_of(id, 1)), [0; 5]);
        assert_eq!(shard_of("1", 0), 0);
    }

    proptest! {
        #[test]
        fn every_document_has_a_shard(id: String, shards in 1_u32..2000) {
            prop_assert!(shard_of(&id, shards) < shards);
        }
    }
}
