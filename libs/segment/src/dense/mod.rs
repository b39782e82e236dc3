//! The dense part of a segment: int8 vectors, and for large segments a graph over them.
//!
//! | file | content, by passage ordinal |
//! |---|---|
//! | `prefix.i8` | the codes of the first dimensions |
//! | `rest.i8` | the codes of the others |
//! | `scales.f32` | two scales: of the prefix codes, of the rest |
//! | `prefix_norms.f32` | one over the norm of the prefix codes |
//! | `graph.usearch` | HNSW over the whole vectors; in large segments only |
//!
//! A passage that was deleted before the part was built has a row of zeros, and no node of the graph.
//!
//! The first four have one shape: a head of 64 bytes that says what the file is, then rows that are mapped as
//! they are. All integers are little-endian. Prefixes lie apart, so that the first scan of a query reads
//! nothing else.
//!
//! The rescore part, vectors of a second encoder that are only ever scored, has the same files: its prefix is the whole vector
//! ([`crate::manifest::DenseSettings::scored_only`]).

mod graph;
mod part;
mod writer;

#[cfg(test)]
mod tests;

pub use graph::{Graph, MAX_CONCURRENT_SEARCHES};
pub use part::DensePart;
pub use writer::DenseWriter;

use crate::block::Magic;

/// Of all files but the graph.
const MAGIC: &Magic = b"fmdense1";
const PREFIX: &str = "prefix.i8";
const REST: &str = "rest.i8";
const SCALES: &str = "scales.f32";
const PREFIX_NORMS: &str = "prefix_norms.f32";
const GRAPH: &str = "graph.usearch";

/// Scales of a row: of its prefix, of its rest.
const SCALES_PER_ROW: usize = 2;
