//! Late interaction over the shards of a collection: MaxSim (ColBERT, Khattab and Zaharia, 2020) over int8 token vectors.
//!
//! The way of a request for scores: [`app`] finds the snapshot and waits for a thread, `query` codes the query's tokens, `score` scores
//! passages in the order given until the time is over, `matches` says which token matched which. `texts` scores what is not indexed, with
//! token vectors that `clients` gets from an encoder.

pub mod app;
mod clients;
pub mod error;
mod grpc;
mod loader;
mod matches;
mod query;
mod score;
mod texts;

pub use app::App;
pub use error::Error;
pub use service_kit::replica::{RawReplicaConfig as RawConfig, ReplicaConfig as Config};
