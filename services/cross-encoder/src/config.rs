//! Settings of the service.

use std::num::NonZero;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};
use service_kit::Problems;

/// More threads than any machine has cores.
const MAX_COMPUTE_THREADS: usize = 1024;
/// More than any caller waits for.
const MAX_QUEUE_PASSAGES: usize = 1_000_000;

/// The section as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// Threads that compute, each with a session of its own; 0: one for each core.
    pub compute_threads: usize,
    /// Passages that may wait or be computed, of a long one each window; a call that does not fit is refused.
    pub queue_passages: usize,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            compute_threads: 0,
            // A hundred queries with 20 passages each: some tens of seconds of work for two cores, which no query waits for.
            queue_passages: 2000,
        }
    }
}

/// The checked section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    compute_threads: usize,
    pub(crate) queue_passages: usize,
}

impl Config {
    /// Threads that compute.
    #[must_use]
    pub fn compute_threads(&self) -> usize {
        self.compute_threads
    }
}

impl RawConfig {
    /// Notes every mistake; `path` is the section's name.
    pub fn validate(self, path: &str, problems: &mut Problems) -> Config {
        problems.require(
            self.compute_threads <= MAX_COMPUTE_THREADS,
            format!("{path}.compute_threads"),
            || format!("must be 0 (one for each core) to {MAX_COMPUTE_THREADS}"),
        );
        problems.require(
            (1..=MAX_QUEUE_PASSAGES).contains(&self.queue_passages),
            format!("{path}.queue_passages"),
            || format!("must be 1 to {MAX_QUEUE_PASSAGES}"),
        );
        self.unchecked()
    }

    fn unchecked(self) -> Config {
        let cores = || available_parallelism().map_or(1, NonZero::get);
        Config {
            compute_threads: match self.compute_threads {
                0 => cores(),
                threads => threads,
            },
            queue_passages: self.queue_passages,
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
    fn every_mistake_is_noted_with_its_path() {
        let mut problems = Problems::default();
        let config = RawConfig::default().validate("cross_encoder", &mut problems);
        assert!(problems.is_empty());
        assert!(config.compute_threads() > 0);
        RawConfig {
            compute_threads: usize::MAX,
            queue_passages: 0,
        }
        .validate("cross_encoder", &mut problems);
        let paths: Vec<_> = problems.iter().map(|problem| &*problem.path).collect();
        let expected = [
            "cross_encoder.compute_threads",
            "cross_encoder.queue_passages",
        ];
        assert_eq!(paths, expected);
    }
}
