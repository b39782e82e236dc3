//! Architecture rules, contracts, end to end, faults, quality.
