//! Settings of the indexer: what a new collection gets if its creator does not say otherwise, and the bounds of a run.

use std::path::PathBuf;

use segment::manifest::TOKEN_POOLING;
use serde::{Deserialize, Serialize};
use service_kit::config::Problems;

/// Allowed lengths of a passage; the contract's range.
pub(crate) const PASSAGE_TOKENS: std::ops::RangeInclusive<u32> = 16..=8192;

/// The section as it stands in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// Tokens that are encoded together for one passage: special tokens, title and text.
    pub passage_tokens: u32,
    /// Tokens that neighbouring passages share.
    pub overlap_tokens: u32,
    /// Dimensions to store; 0: all that the model has.
    pub dimensions: u32,
    /// Dimensions of the prefix that the first pass of a dense search reads.
    pub prefix_dimensions: u32,
    /// Passages that the first pass hands to the second.
    pub prefix_depth: u32,
    /// Passages that the rotation is fitted on; and token vectors, where there is a colbert stage.
    pub rotation_sample: u32,
    /// Segments with at least this many passages get an HNSW graph.
    pub graph_min_passages: u32,
    /// Token vectors of a passage that become one, 1 to 3; 1: each is kept.
    pub colbert_pooling: u32,
    /// Passages of a segment at most.
    pub max_segment_passages: u32,
    /// Runs that are worked on at once; more are refused.
    pub max_concurrent_runs: u32,
    /// Folder for a run's temporary files; empty: the system's.
    pub temporary_folder: PathBuf,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            // What all-MiniLM-L6-v2 was trained with.
            passage_tokens: 256,
            // An eighth: a sentence that is cut by one passage is whole in its neighbour.
            overlap_tokens: 32,
            dimensions: 0,
            // Measured on 35,000 arXiv abstracts: 64 → 2000 → full width keeps .994 of the exact f32 top 10 and .995 of the
            // top 100, where a depth of 1000 keeps .993 and .990 (the example `prefix_recall` of the dense retriever).
            prefix_dimensions: 64,
            prefix_depth: 2000,
            // Fifty samples for each dimension of a 384-wide model; 31 MB of vectors while the rotation is fitted.
            rotation_sample: 20_000,
            // Below this an exact scan of the prefixes takes less time than the graph and finds more.
            graph_min_passages: 262_144,
            colbert_pooling: 1,
            // Twice the smallest segment with a graph, so that large collections have segments between the two. Its codes are
            // 200 MB at 384 dimensions, and what is built in memory fits into a small machine's.
            max_segment_passages: 524_288,
            // They share the encoder, so that more of them are not done sooner.
            max_concurrent_runs: 2,
            temporary_folder: PathBuf::new(),
        }
    }
}

/// The checked section.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub(crate) passage_tokens: u32,
    pub(crate) overlap_tokens: u32,
    pub(crate) dimensions: Option<u32>,
    pub(crate) prefix_dimensions: u32,
    pub(crate) prefix_depth: u32,
    pub(crate) rotation_sample: u32,
    pub(crate) graph_min_passages: u32,
    pub(crate) colbert_pooling: u32,
    pub(crate) max_segment_passages: u64,
    pub(crate) max_concurrent_runs: usize,
    pub(crate) temporary_folder: PathBuf,
}

impl RawConfig {
    /// Notes every mistake; `path` is the section's name.
    pub fn validate(self, path: &str, problems: &mut Problems) -> Config {
        let mut check = |field: &str, is_right: bool, message: &str| {
            if !is_right {
                problems.add(format!("{path}.{field}"), message);
            }
        };
        check(
            "passage_tokens",
            PASSAGE_TOKENS.contains(&self.passage_tokens),
            "must be 16 to 8192",
        );
        check(
            "overlap_tokens",
            self.overlap_tokens < self.passage_tokens / 2,
            "must be less than half of passage_tokens",
        );
        check(
            "dimensions",
            self.dimensions <= 65_536,
            "must be 0 (all) to 65536",
        );
        check(
            "prefix_dimensions",
            (1..=65_536).contains(&self.prefix_dimensions),
            "must be 1 to 65536",
        );
        check(
            "prefix_depth",
            (1..=1_000_000).contains(&self.prefix_depth),
            "must be 1 to 1000000",
        );
        check(
            "rotation_sample",
            (1..=1_000_000).contains(&self.rotation_sample),
            "must be 1 to 1000000",
        );
        check(
            "graph_min_passages",
            self.graph_min_passages >= 1,
            "must be at least 1",
        );
        check(
            "colbert_pooling",
            TOKEN_POOLING.contains(&self.colbert_pooling),
            "must be 1 to 3",
        );
        let segment_range = 1..=16_777_216;
        check(
            "max_segment_passages",
            segment_range.contains(&self.max_segment_passages),
            "must be 1 to 16777216",
        );
        check(
            "max_concurrent_runs",
            (1..=64).contains(&self.max_concurrent_runs),
            "must be 1 to 64",
        );
        self.unchecked()
    }

    fn unchecked(self) -> Config {
        let is_default_folder = self.temporary_folder.as_os_str().is_empty();
        Config {
            passage_tokens: self.passage_tokens,
            overlap_tokens: self.overlap_tokens,
            dimensions: (self.dimensions > 0).then_some(self.dimensions),
            prefix_dimensions: self.prefix_dimensions,
            prefix_depth: self.prefix_depth,
            rotation_sample: self.rotation_sample,
            graph_min_passages: self.graph_min_passages,
            colbert_pooling: self.colbert_pooling,
            max_segment_passages: u64::from(self.max_segment_passages),
            max_concurrent_runs: self.max_concurrent_runs as usize,
            temporary_folder: if is_default_folder {
                std::env::temp_dir()
            } else {
                self.temporary_folder
            },
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        RawConfig::default().unchecked()
    }
}
