//! What one stage did for one answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration in whole microseconds.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageStatus {
    /// It did all that it was asked to.
    Complete,
    /// It did a part.
    Partial,
    /// It was left out.
    Skipped,
    /// It failed.
    Failed,
}

impl StageStatus {
    /// Its name, as in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

/// Why a stage did less than it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageReason {
    /// The time was spent.
    Deadline,
    /// The service refused for load.
    Overloaded,
    /// No replica could be reached.
    Unavailable,
    /// A shard did not answer.
    ShardMissing,
    /// No replica had the snapshot.
    SnapshotMissing,
    /// The query was encoded with another model than the index.
    ModelMismatch,
    /// A segment was refused when loaded.
    DamagedSegment,
    /// The retrievers' depth was spent before the page was full: more documents may match.
    Depth,
    /// The texts are more than a message holds, or than was indexed of them.
    Size,
    /// The collection was built without what the stage reads.
    NotIndexed,
    /// The mesh has no service for the stage.
    NotConfigured,
    /// The service failed, or gave an answer that breaks the contract.
    Fault,
    /// The query was found not to need it.
    Routed,
    /// The head of the ranking was found to be decided without it.
    Gated,
}

impl StageReason {
    /// Its name, as in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::ShardMissing => "shard_missing",
            Self::SnapshotMissing => "snapshot_missing",
            Self::ModelMismatch => "model_mismatch",
            Self::DamagedSegment => "damaged_segment",
            Self::Depth => "depth",
            Self::Size => "size",
            Self::NotIndexed => "not_indexed",
            Self::NotConfigured => "not_configured",
            Self::Fault => "fault",
            Self::Routed => "routed",
            Self::Gated => "gated",
        }
    }

    /// Whether it is a decision: the stage is left out of a whole answer, and nothing is missing.
    pub const fn is_decision(self) -> bool {
        matches!(self, Self::Routed | Self::Gated)
    }
}

/// What one stage did for one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// Name of the stage.
    pub stage: String,
    /// How it ended.
    pub status: StageStatus,
    /// Why it did less than it was asked to; none when complete.
    pub reason: Option<StageReason>,
    /// Candidates given to it.
    pub candidates_in: u64,
    /// Candidates that it gave on.
    pub candidates_out: u64,
    /// Shards asked; 0 when the stage has none.
    pub shards_asked: u32,
    /// Shards that answered.
    pub shards_answered: u32,
    /// Longest wait for a compute thread among the calls, microseconds.
    pub queue_us: u64,
    /// Longest computing time among the calls, microseconds.
    pub compute_us: u64,
    /// From the stage's start to its end, microseconds.
    pub wall_us: u64,
    /// From the request's arrival to the stage's start, microseconds.
    pub start_us: u64,
    /// Time that the stage was given, microseconds; 0 where it was given no limit of its own.
    pub granted_us: u64,
    /// What it was expected to take for the candidates that it was given, microseconds; 0 where its cost is not learnt.
    pub expected_us: u64,
}

impl StageReport {
    /// A complete stage that did nothing yet.
    pub fn complete(stage: impl Into<String>) -> Self {
        Self {
            stage: stage.into(),
            status: StageStatus::Complete,
            reason: None,
            candidates_in: 0,
            candidates_out: 0,
            shards_asked: 0,
            shards_answered: 0,
            queue_us: 0,
            compute_us: 0,
            wall_us: 0,
            start_us: 0,
            granted_us: 0,
            expected_us: 0,
        }
    }

    /// Whether the answer is less than was asked for because of this stage.
    pub fn is_degraded(&self) -> bool {
        let is_trouble = |reason: StageReason| !reason.is_decision();
        self.status != StageStatus::Complete && self.reason.is_some_and(is_trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_snake_case() {
        let mut report = StageReport::complete("sparse");
        assert!(!report.is_degraded());
        report.status = StageStatus::Partial;
        report.reason = Some(StageReason::DamagedSegment);
        assert!(report.is_degraded());
        report.reason = Some(StageReason::Routed);
        assert!(!report.is_degraded());
        report.reason = Some(StageReason::DamagedSegment);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["status"], &json["reason"]),
            (&"partial".into(), &"damaged_segment".into())
        );
    }
}
