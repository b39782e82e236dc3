//! Retrieval metrics, BEIR folders, significance tests, latency percentiles.

pub mod beir;
pub mod latency;
pub mod metrics;
pub mod significance;
