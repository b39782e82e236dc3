//! Retrieval metrics, BEIR folders, significance tests, latency percentiles, open loads, fitted weights.

pub mod beir;
pub mod latency;
pub mod load;
pub mod metrics;
pub mod significance;
pub mod tuning;
