//! Settings of a service that holds shards of what is stored, and computes on threads of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use search_core::ShardSelection;
use serde::{Deserialize, Serialize};

use crate::Problems;

/// Longer than this, a replica would not be taken for one that follows its collections.
const MAX_REFRESH_INTERVAL_MS: u64 = 600_000;
/// As many threads as most machines have cores, and as many as an index has to make room for.
pub const MAX_COMPUTE_THREADS: usize = 256;
/// Most shards that a collection can have.
const MAX_SHARDS: u32 = 1024;
/// A thousand waiting requests of some milliseconds are seconds already.
const MAX_QUEUE: usize = 65_536;

/// The section as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawReplicaConfig {
    /// The shards to serve; empty: all.
    pub shards: Vec<u32>,
    /// Of each collection the shard of this number modulo the number of its shards is served; none: what `shards` says.
    pub ordinal: Option<u32>,
    /// Requests that are computed at once; 0: one for each core.
    pub compute_threads: usize,
    /// Requests that may wait for a compute thread; more are refused.
    pub compute_queue: usize,
    /// How often new snapshots are looked for.
    pub refresh_interval_ms: u64,
}

impl Default for RawReplicaConfig {
    fn default() -> Self {
        Self {
            shards: Vec::new(),
            ordinal: None,
            compute_threads: 0,
            // At a few milliseconds each on a few threads, what waits longer than this is late anyway.
            compute_queue: 256,
            refresh_interval_ms: 500,
        }
    }
}

/// The checked section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// The shards to serve.
    pub shards: ShardSelection,
    /// Requests that are computed at once, and threads for them.
    pub compute_threads: usize,
    /// Requests that may wait for a compute thread.
    pub compute_queue: usize,
    /// How often new snapshots are looked for.
    pub refresh_interval: Duration,
}

impl RawReplicaConfig {
    /// Notes every mistake; `path` is the section's name.
    pub fn validate(self, path: &str, problems: &mut Problems) -> ReplicaConfig {
        let field = |name: &str| format!("{path}.{name}");
        let distinct: BTreeSet<u32> = self.shards.iter().copied().collect();
        let shards_are_right =
            distinct.len() == self.shards.len() && distinct.iter().all(|shard| *shard < MAX_SHARDS);
        problems.require(shards_are_right, field("shards"), || {
            format!("must be different numbers, each less than {MAX_SHARDS}")
        });
        problems.require(
            self.ordinal.is_none() || self.shards.is_empty(),
            field("ordinal"),
            || "says which shards are served, and `shards` does; give one of them",
        );
        problems.require(
            self.compute_threads <= MAX_COMPUTE_THREADS,
            field("compute_threads"),
            || format!("must be 0 (one for each core) to {MAX_COMPUTE_THREADS}"),
        );
        problems.require(
            self.compute_queue <= MAX_QUEUE,
            field("compute_queue"),
            || format!("must be 0 to {MAX_QUEUE}"),
        );
        let interval = 1..=MAX_REFRESH_INTERVAL_MS;
        problems.require(
            interval.contains(&self.refresh_interval_ms),
            field("refresh_interval_ms"),
            || format!("must be 1 to {MAX_REFRESH_INTERVAL_MS}"),
        );
        self.unchecked()
    }

    fn unchecked(self) -> ReplicaConfig {
        let threads = match self.compute_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let only = BTreeSet::from_iter(self.shards);
        let shards = match self.ordinal {
            Some(ordinal) => ShardSelection::Ordinal(ordinal),
            None if only.is_empty() => ShardSelection::All,
            None => ShardSelection::Only(only),
        };
        ReplicaConfig {
            shards,
            compute_threads: threads.min(MAX_COMPUTE_THREADS),
            compute_queue: self.compute_queue,
            refresh_interval: Duration::from_millis(self.refresh_interval_ms),
        }
    }
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        RawReplicaConfig::default().unchecked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_noted() {
        let mut problems = Problems::default();
        let raw = RawReplicaConfig {
            shards: vec![1, 1],
            ordinal: Some(0),
            compute_threads: 5000,
            compute_queue: 100_000,
            refresh_interval_ms: 0,
        };
        raw.validate("replica", &mut problems);
        let paths: Vec<_> = problems
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "replica.shards",
                "replica.ordinal",
                "replica.compute_threads",
                "replica.compute_queue",
                "replica.refresh_interval_ms"
            ]
        );
    }

    #[test]
    fn defaults_are_right() {
        let mut problems = Problems::default();
        assert_eq!(
            RawReplicaConfig::default().validate("replica", &mut problems),
            ReplicaConfig::default()
        );
        assert!(problems.is_empty());
    }
}
