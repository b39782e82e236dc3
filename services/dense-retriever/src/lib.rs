//! Dense retrieval over the shards of a collection: prefix scan or HNSW, then full width.
//!
//! The way of a search: [`app`] finds the snapshot and codes the query, `compute` waits for a thread, `search` chooses
//! candidates in every segment and scores them at full width, `score` answers for given passages.

pub mod app;
pub mod config;
pub mod error;
mod grpc;
mod loader;
mod score;
pub mod search;

pub use app::App;
pub use config::{Config, RawConfig};
pub use error::Error;

/// The name of the stage and of its part of a segment.
pub const STAGE: &str = "dense";
