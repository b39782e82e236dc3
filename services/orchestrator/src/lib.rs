//! The funnel. The rooms are the life of a query, in this order:
//!
//! [`grpc`] reads and checks the request · [`plan`] says which stages run, and how · [`admission`] for how much of them ([`extent`]) there is time ·
//! [`placement`] says which snapshot, and which replicas hold it, from what [`peers`] has asked them · [`funnel`] runs the stages ·
//! [`encode`] makes vectors of the query, and [`retrieve`] asks every shard of both retrievers meanwhile · [`complete`] asks for the
//! scores that are missing · [`fuse`] makes one score of them · [`rescore`] has the head scored again, by the vectors of a second
//! encoder · [`late_interaction`] by those of its tokens · [`rerank`] has it read, by a cross-encoder · [`respond`] groups passages
//! by document and fetches what is shown · [`explain`] says which [`tokens`] matched.
//!
//! What goes from the fusion to the answer is a [`ranking`]. Stages between them are the head of a [`plan::Pipeline`], each one room
//! here, and share what is in [`head`], two of them [`vectors`] too. Each gets as many documents as fit into its share of the time, by
//! its [`costs`]; [`ranking::Ranking::rerank`] takes their scores. Scores of given
//! passages come from the shards by [`scores`], their texts by [`documents`]. Every call goes to one of several [`replicas`].

mod admission;
mod app;
mod clients;
mod complete;
mod config;
mod costs;
mod documents;
mod encode;
mod error;
mod explain;
mod extent;
mod funnel;
mod fuse;
mod grpc;
mod head;
mod late_interaction;
mod metrics;
mod peers;
mod placement;
mod plan;
mod ranking;
mod replicas;
mod rerank;
mod rescore;
mod respond;
mod retrieve;
mod scores;
mod tokens;
mod vectors;

pub use app::App;
pub use config::{
    Config, RawConfig, RawCost, RawFusion, RawHeadPart, RawMethod, RawPipeline, RawPriorCosts,
    RawRequired, RawRouting, RawStage,
};
pub use peers::Peers;
