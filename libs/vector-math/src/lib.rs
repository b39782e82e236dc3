//! The arithmetic of dense retrieval and late interaction, in one place for indexing, querying and training export alike.
//!
//! A vector goes through four steps, always in this order ([`VectorCoder`]): **rotate** (a PCA of the
//! collection, for models that weren't trained with Matryoshka), **truncate** to the stored
//! dimensions, **renormalise**, **quantise** to int8. What is stored of a passage:
//!
//! | | |
//! |---|---|
//! | prefix codes | the first dimensions, scanned for every query |
//! | rest codes | the other dimensions, read for the best of the scan only |
//! | two scales | one per block: the decoded passage has norm 1 |
//! | inverse prefix norm | so that the prefix alone gives a cosine |
//!
//! Dot products are integers and exact, so that a score has the same bits on every machine and with
//! every [`Backend`]. The few floating-point steps around them use only operations that IEEE 754
//! rounds in one way, in a fixed order.
//!
//! Two things keep int8 close to the floats (SciFact, 384 dimensions: .984 of the exact top 10
//! without them, .995 with them): the rotation spreads the energy evenly within each block, so that no
//! code range is wasted on one dominant component; and the query keeps a second code of 8 bits for what
//! the first one rounds away. Both are free for the scan.
//!
//! Late interaction has codes of its own, one vector per token ([`TokenLayout`]), and sums of largest cosines
//! ([`TokenRows`], MaxSim).

mod bytes;
mod coder;
mod error;
mod kernels;
mod max_sim;
mod packed;
mod quantize;
mod rotation;
mod rows;
#[cfg(test)]
mod shared_vectors;
mod top_rows;

pub use bytes::{codes_as_bytes, codes_from_bytes, floats_as_bytes, floats_from_bytes};
pub use coder::{CodedQuery, CodedVector, VectorCoder};
pub use error::VectorError;
pub use kernels::{Backend, Kernels, dot_i8, dot_rows};
pub use max_sim::{TokenLayout, TokenMatch, TokenPassage, TokenQuery, TokenRows};
pub use packed::PackedLayout;
pub use quantize::{normalize, quantize};
pub use rotation::Rotation;
pub use rows::CodedRows;
pub use top_rows::TopRows;

/// The widest vector: far below the 133,000 dimensions at which 127 · 127 · n would leave an `i32`.
pub const MAX_DIMENSIONS: usize = 4096;

/// The largest code; −127 is the smallest. −128 is never written, so that |code| fits 7 bits and two
/// products of `maddubs` (2 · 127 · 127 = 32,258) fit an `i16`.
pub const MAX_CODE: i8 = 127;
