//! MaxSim over int8 token vectors: late interaction as ColBERT (Khattab and Zaharia, 2020) scores it.
//!
//! The score of a passage is the sum over the query's tokens of the largest cosine with any of the passage's tokens.
//!
//! # Codes
//! A passage token of norm 1 is stored as `round(127 · value)`, so that nothing but codes is stored and none is cut off.
//! A query token has a scale of its own. Two bounds make sums of 16 bits exact:
//!
//! - The norm of a passage token's codes times that of a query token's is at most 32,767. By Cauchy and Schwarz every
//!   dot product, and every part of one, fits 16 bits then. Rounding adds √dimensions / 2 to a norm at most: passages
//!   stay below `127 + √dimensions / 2`, and queries are scaled by what that leaves.
//! - A query's codes lie in −63..=63, so that `maddubs` doesn't saturate: 255 · 63 · 2 = 32,130.
//!
//! This keeps about 7 bits: a cosine is off by .0027, as a standard deviation, whatever the dimensions. More would
//! need sums of 32 bits, which only VNNI has for nothing: with AVX2, 7 bits whatever the norms cost 1.2 times as much, 8
//! bits for passages 1.35 times, and a scale per token, which both would need, comes on top.
//!
//! How codes lie in memory is said at [`TokenLayout`].

mod layout;
mod query;
mod rows;

pub use layout::TokenLayout;
pub use query::TokenQuery;
pub use rows::{TokenMatch, TokenPassage, TokenRows};

/// Largest product of the norms of a passage token's and a query token's codes.
pub(crate) const MAX_NORMS: f64 = i16::MAX as f64;

/// The largest code of a query; its negative is the smallest.
pub(crate) const MAX_QUERY_CODE: i8 = 63;
