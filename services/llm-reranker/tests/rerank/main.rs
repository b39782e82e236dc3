//! The service through its pipes, over an endpoint that is scripted, in virtual time.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod endpoint;
mod limits;
mod listwise;
mod misbehaviour;
mod pointwise;
mod service;
