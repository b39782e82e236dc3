//! Settings of the service.

use serde::{Deserialize, Serialize};
use service_kit::Problems;

/// More than any query log repeats.
const MAX_CACHE_MIB: u64 = 65_536;

/// The section as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// Memory for the encodings of recent queries; 0: none is kept.
    pub query_cache_mib: u64,
}

impl Default for RawConfig {
    fn default() -> Self {
        // 35,000 queries of 384 dimensions; about 1,500 where the token vectors are kept too.
        Self {
            query_cache_mib: 64,
        }
    }
}

/// The checked section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) query_cache_bytes: u64,
}

impl RawConfig {
    /// Notes every mistake; `path` is the section's name.
    pub fn validate(self, path: &str, problems: &mut Problems) -> Config {
        problems.require(
            self.query_cache_mib <= MAX_CACHE_MIB,
            format!("{path}.query_cache_mib"),
            || format!("must be 0 (no cache) to {MAX_CACHE_MIB}"),
        );
        self.unchecked()
    }

    fn unchecked(self) -> Config {
        Config {
            query_cache_bytes: self.query_cache_mib.saturating_mul(1024 * 1024),
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
    fn a_mistake_is_noted_with_its_path() {
        let mut problems = Problems::default();
        RawConfig::default().validate("encoder", &mut problems);
        assert!(problems.is_empty());
        RawConfig {
            query_cache_mib: u64::MAX,
        }
        .validate("encoder", &mut problems);
        let paths: Vec<_> = problems
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(paths, ["encoder.query_cache_mib"]);
    }
}
