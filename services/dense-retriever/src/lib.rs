//! Dense retrieval over the shards of a collection: prefix scan or HNSW, then full width.
//!
//! The way of a search: [`app`] finds the snapshot and codes the query, `compute` waits for a thread, `search` chooses
//! candidates in every segment and scores them at full width, `score` answers for given passages: by the vectors that are searched, or
//! by those of a second encoder where the collection has them.

pub mod app;
pub mod error;
mod grpc;
mod loader;
mod score;
pub mod search;

use segment::dense::MAX_CONCURRENT_SEARCHES;
use service_kit::replica::MAX_COMPUTE_THREADS;

pub use app::App;
pub use error::Error;
pub use service_kit::replica::{RawReplicaConfig as RawConfig, ReplicaConfig as Config};

/// The name of the stage and of its part of a segment.
pub const STAGE: &str = "dense";

// Graphs make room for so many threads.
const _: () = assert!(MAX_COMPUTE_THREADS <= MAX_CONCURRENT_SEARCHES);
