//! Reads a query and its passages together: the contract `finemesh.rerank.v1` over a cross-encoder.
//!
//! The way of a call: `grpc` checks it, [`app`] has it read into pairs and put into the `queue`; there the threads of `compute`, over what
//! `workers` shares among them, take batches of about one length, fairly among all calls; `scores` brings each batch back.

pub mod app;
mod compute;
pub mod config;
pub mod error;
mod grpc;
mod pace;
mod queue;
mod scores;
mod workers;

pub use app::App;
pub use config::{Config, RawConfig};
pub use error::Error;
pub use workers::Stats;
