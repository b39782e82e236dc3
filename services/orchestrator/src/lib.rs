//! The funnel. The rooms are the life of a query, in this order:
//!
//! [`grpc`] reads and checks the request · [`plan`] says which stages run, and how · [`placement`] says which snapshot, and which
//! replicas hold it, from what [`peers`] has asked them · [`funnel`] runs the stages · [`retrieve`] asks every shard of both
//! retrievers, encoding the query meanwhile · [`complete`] asks for the scores that are missing · [`fuse`] makes one score of them ·
//! [`rescore`] has the head scored again, by the vectors of a second encoder · [`respond`] groups passages by document and fetches what
//! is shown.
//!
//! Late interaction and reranking will stand between `fuse` and `respond` too: stages of a [`plan::Pipeline`], each one more room here,
//! whose scores of the head [`fuse::Ranking::rerank`] takes.

mod app;
mod clients;
mod complete;
mod config;
mod documents;
mod error;
mod funnel;
mod fuse;
mod grpc;
mod peers;
mod placement;
mod plan;
mod rescore;
mod respond;
mod retrieve;

pub use app::App;
pub use config::{Config, RawConfig, RawFusion, RawMethod, RawPipeline, RawRescore, RawStage};
pub use peers::Peers;
