//! What every room of the mesh speaks of: addresses, scores, top-k, queries, filters, fusion, error kinds, stage
//! reports, deadlines. Pure: no clock, no runtime, no wire, no engine. Time is always an argument, so that
//! everything here is tested in virtual time.

pub mod address;
pub mod admission;
pub mod budget;
pub mod collection;
pub mod cost;
pub mod criticality;
pub mod deadline;
pub mod error;
pub mod filter;
pub mod filter_grammar;
pub mod fusion;
pub mod held;
pub mod latency_curve;
pub mod query;
pub mod report;
pub mod rerank;
pub mod routing;
pub mod score;

pub use address::Address;
pub use budget::{Budget, Grant, StageShare};
pub use collection::{CollectionName, CollectionNameError, SnapshotId, shard_of};
pub use cost::{CostModel, CostPrior};
pub use criticality::Criticality;
pub use deadline::Deadline;
pub use error::{ErrorKind, FieldError};
pub use filter::{Bound, Filter, Value};
pub use held::{HeldSnapshot, RefusedCollection, RefusedSegment, ShardSelection};
pub use latency_curve::LatencyCurve;
pub use query::{Clause, Occur, ParsedQuery, QueryError};
pub use report::{StageReason, StageReport, StageStatus, micros};
pub use score::{Candidate, Score, ScoreError, best_first};
