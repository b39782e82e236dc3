//! The colbert part of a segment: int8 token vectors of every passage, for MaxSim.
//!
//! | file | content |
//! |---|---|
//! | `tokens.u8` | the passages' blocks of tokens, as [`vector_math::TokenLayout`] makes them |
//! | `offsets.u32` | by passage ordinal: its first block; at the end how many blocks there are |
//!
//! Both have the shape of the dense part's files: a head of 64 bytes, then rows that are mapped as they are. A row of the first
//! is a block, a multiple of 64 bytes, so that no block straddles a cache line more than it must.
//!
//! How token vectors get there is [`TokenCoder`]'s: rotate and cut, pool if that is wanted, code. Queries take its first step.

mod coder;
mod part;
mod pooling;
mod writer;

#[cfg(test)]
mod tests;

pub use coder::TokenCoder;
pub use part::ColbertPart;
pub use writer::ColbertWriter;

use crate::block::Magic;

const TOKENS_MAGIC: &Magic = b"fmtoken1";
const TOKENS: &str = "tokens.u8";
const OFFSETS_MAGIC: &Magic = b"fmtokof1";
const OFFSETS: &str = "offsets.u32";
