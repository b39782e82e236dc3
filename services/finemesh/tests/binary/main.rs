//! The built binary as a user meets it: real processes, real models, real collections.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bench;
mod cli;
mod colbert_scorer;
mod cross_encoder;
mod judged;
mod llm_reranker;
mod models;
mod process;
mod quality;
mod rescoring;
mod security;
mod tune;
