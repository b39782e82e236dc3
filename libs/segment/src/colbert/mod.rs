//! The colbert part of a segment: int8 token vectors of every passage, for MaxSim.
//!
//! | file | content |
//! |---|---|
//! | `tokens.u8` | the passages' blocks of tokens, as [`vector_math::TokenLayout`] makes them |
//! | `offsets.u32` | by passage ordinal: its first block; at the end how many blocks there are |
//! | `positions.u16` | by block: which of the encoder's tokens its eight are, for explanations |
//!
//! All have the shape of the dense part's files: a head of 64 bytes, then rows that are mapped as they are. A row of the first
//! is a block, a multiple of 64 bytes, so that no block straddles a cache line more than it must.
//!
//! Not every token that the encoder gives a vector of is stored: pooling makes one of several, and one that lies wholly in the
//! dimensions that are cut off is left out. A position is a token's place among those that the encoder gave, from 0; of a pooled
//! token the place of the one nearest to the common vector. The last block is filled by repeating the last token, and so are its
//! positions: no two tokens of a passage have the same one, so that what is repeated is filling.
//!
//! How token vectors get there is [`TokenCoder`]'s: rotate and cut, pool if that is wanted, code. Queries take its first step.

mod coder;
mod part;
mod pooling;
mod writer;

#[cfg(test)]
mod tests;

pub use coder::{PackedTokens, ProjectedTokens, TokenCoder};
pub use part::ColbertPart;
pub use writer::ColbertWriter;

use vector_math::TokenLayout;

use crate::block::Magic;

const TOKENS_MAGIC: &Magic = b"fmtoken1";
const TOKENS: &str = "tokens.u8";
const OFFSETS_MAGIC: &Magic = b"fmtokof1";
const OFFSETS: &str = "offsets.u32";
const POSITIONS_MAGIC: &Magic = b"fmtokps1";
const POSITIONS: &str = "positions.u16";
/// Bytes of the positions of a block.
const POSITIONS_BYTES: usize = TokenLayout::BLOCK_TOKENS * size_of::<u16>();
