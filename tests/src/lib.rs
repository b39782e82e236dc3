//! Tests that need more than one crate: architecture rules, contracts, end to end, faults, tracing, quality.
