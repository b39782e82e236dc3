//! The funnel. The rooms are the life of a query, in this order:
//!
//! [`grpc`] reads and checks the request · [`plan`] says which stages run, and how · [`placement`] says which snapshot, and which
//! replicas hold it, from what [`peers`] has asked them · [`funnel`] runs the stages · [`retrieve`] asks every shard of both
//! retrievers, encoding the query meanwhile · [`complete`] asks for the scores that are missing · [`fuse`] makes one score of them ·
//! [`rescore`] has the head scored again, by the vectors of a second encoder · [`rerank`] has it read, by a cross-encoder · [`respond`]
//! groups passages by document and fetches what is shown.
//!
//! What goes from the fusion to the answer is a [`ranking`]. Stages between them are stages of a [`plan::Pipeline`], each one room
//! here, and share what is in [`head`]; [`ranking::Ranking::rerank`] takes their scores. Late interaction will be one of them.

mod app;
mod clients;
mod complete;
mod config;
mod documents;
mod error;
mod funnel;
mod fuse;
mod grpc;
mod head;
mod peers;
mod placement;
mod plan;
mod ranking;
mod rerank;
mod rescore;
mod respond;
mod retrieve;

pub use app::App;
pub use config::{
    Config, RawConfig, RawFusion, RawMethod, RawPipeline, RawRerank, RawRescore, RawStage,
};
pub use peers::Peers;
