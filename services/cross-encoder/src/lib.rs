//! Reads a query and its passages together: the contract `finemesh.rerank.v1` over a cross-encoder.
//!
//! The way of a call: `grpc` checks it, [`app`] has it read into pairs and put into the `queue`, where the compute threads of
//! `workers` take batches of about one length from it, fairly among all calls; `scores` brings each batch back as it is computed.

pub mod app;
pub mod config;
pub mod error;
mod grpc;
mod queue;
mod scores;
mod workers;

pub use app::App;
pub use config::{Config, RawConfig};
pub use error::Error;
pub use workers::Stats;
