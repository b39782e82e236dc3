//! Settings of the service.

use std::time::Duration;

use segment::dense::MAX_CONCURRENT_SEARCHES;
use serde::{Deserialize, Serialize};
use service_kit::Problems;

/// Longer than this, a replica would not be taken for one that follows its collections.
const MAX_REFRESH_INTERVAL_MS: u64 = 600_000;
/// A thousand waiting searches of a millisecond are a second already.
const MAX_QUEUE: usize = 65_536;

/// The section as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// The shards to serve; empty: all.
    pub shards: Vec<u32>,
    /// Threads that compute; 0: one for each core.
    pub compute_threads: usize,
    /// Requests that may wait for a compute thread; more are refused.
    pub compute_queue: usize,
    /// How often new snapshots are looked for.
    pub refresh_interval_ms: u64,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            shards: Vec::new(),
            compute_threads: 0,
            // At a millisecond each on a few threads, what waits longer than this is late anyway.
            compute_queue: 256,
            refresh_interval_ms: 500,
        }
    }
}

/// The checked section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) shards: Vec<u32>,
    pub(crate) compute_threads: usize,
    pub(crate) compute_queue: usize,
    pub(crate) refresh_interval: Duration,
}

impl RawConfig {
    /// Notes every mistake; `path` is the section's name.
    pub fn validate(self, path: &str, problems: &mut Problems) -> Config {
        let field = |name: &str| format!("{path}.{name}");
        problems.require(
            self.compute_threads <= MAX_CONCURRENT_SEARCHES,
            field("compute_threads"),
            || format!("must be 0 (one for each core) to {MAX_CONCURRENT_SEARCHES}"),
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

    fn unchecked(self) -> Config {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if self.compute_threads == 0 {
            cores
        } else {
            self.compute_threads
        };
        Config {
            shards: self.shards,
            compute_threads: threads.min(MAX_CONCURRENT_SEARCHES),
            compute_queue: self.compute_queue,
            refresh_interval: Duration::from_millis(self.refresh_interval_ms),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        RawConfig::default().unchecked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_noted() {
        let mut problems = Problems::default();
        let raw = RawConfig {
            compute_threads: 5000,
            compute_queue: 100_000,
            refresh_interval_ms: 0,
            ..RawConfig::default()
        };
        raw.validate("dense", &mut problems);
        let paths: Vec<_> = problems
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "dense.compute_threads",
                "dense.compute_queue",
                "dense.refresh_interval_ms"
            ]
        );
    }

    #[test]
    fn defaults_are_right() {
        let mut problems = Problems::default();
        assert_eq!(
            RawConfig::default().validate("dense", &mut problems),
            Config::default()
        );
        assert!(problems.is_empty());
    }
}
