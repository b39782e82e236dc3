//! The service through its pipes, over a reader and models that are scripted.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
mod faults;
mod scripted;
mod stopping;
