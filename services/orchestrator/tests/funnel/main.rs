//! The funnel over scripted peers: what an answer is, whatever the sharding, and what it says when something is wrong.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod answers;
mod budgets;
mod chaos;
mod explaining;
mod fakes;
mod faults;
mod late_interaction;
mod late_interaction_faults;
mod requests;
mod reranker;
mod reranking;
mod reranking_faults;
mod rescoring;
mod routing;
mod scaling;
mod scorer;
mod sharding;
mod streaming;
