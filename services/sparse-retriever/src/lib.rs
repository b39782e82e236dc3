//! BM25 over the shards of a collection, and the document store.
//!
//! The way of a search: [`app`] finds the snapshot and waits for a compute thread (`compute`), `query` turns the text into
//! weighted clauses of the inverted index, `search` finds the best passages of each segment and merges them, `score` gives
//! every score its one canonical value, and `fetch` reads the texts of those that were chosen in the end.

pub mod app;
pub mod error;
mod fetch;
#[cfg(test)]
mod fixture;
mod grpc;
mod loader;
mod margin;
mod pace;
pub mod query;
mod score;
pub mod search;
pub mod statistics;

pub use app::App;
pub use error::Error;
pub use service_kit::replica::{RawReplicaConfig as RawConfig, ReplicaConfig as Config};

/// The name of the stage, of its part of a segment, and of its section in the configuration.
pub const STAGE: &str = "sparse";
