//! Retrieval metrics, BEIR folders, significance tests, latency percentiles, open loads, fitted weights and thresholds.

pub mod beir;
pub mod latency;
pub mod load;
pub mod metrics;
pub mod significance;
pub mod thresholds;
pub mod tuning;
