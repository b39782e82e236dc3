//! Turns text into vectors: the contract `finemesh.encoder.v1` over any text encoder.
//!
//! The way of a request: `grpc` checks it, [`app`] answers what the `cache` of query encodings holds and lets the encoder
//! batch the rest, which it drops when the deadline has passed or the caller has gone.

pub mod app;
mod cache;
pub mod config;
pub mod error;
mod grpc;

pub use app::App;
pub use config::{Config, RawConfig};
pub use error::Error;
