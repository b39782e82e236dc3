//! The service over its wire contract, with a collection that the indexer has made.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
mod encoders;
mod matches;
mod refusals;
mod support;
mod texts;
