//! The indexer over a local store, against what its collections should hold.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod colbert;
mod grpc;
mod model;
mod runs;
mod stages;
mod support;
