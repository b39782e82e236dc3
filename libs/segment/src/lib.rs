//! What is on disk: manifests, segments, checksums, attributes and filters.
//!
//! A collection is a chain of numbered [manifests](manifest); each lists immutable segments; a segment is a set of
//! *parts* (documents, attributes, sparse, dense, rescore, colbert), each a few files with the same passage ordinals. The
//! [store] commits manifests atomically and hands out verified local files; the [catalog] keeps the newest
//! snapshots of every collection open for a service.

pub mod attributes;
pub mod bitmap;
pub mod catalog;
pub mod checksum;
pub mod cleanup;
pub mod colbert;
pub mod dense;
pub mod documents;
pub mod error;
pub mod filter;
pub mod manifest;
pub mod mapped;
pub mod sparse;
pub mod store;

mod block;
#[cfg(test)]
mod fixture;
mod layout;

pub use error::SegmentError;

/// The text of a passage that the stages index: its document's title in front, a single space between.
#[must_use]
pub fn index_text(title: &str, text: &str) -> String {
    match title {
        "" => text.to_owned(),
        title => format!("{title} {text}"),
    }
}
