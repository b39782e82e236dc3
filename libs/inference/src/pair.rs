//! The contract between whoever ranks passages for a query and a cross-encoder: one reads pairs into tokens, wherever the call
//! arrives; the other gives batches of them their logits, on a compute thread.
//!
//! The cross-encoder service knows these traits only; behind them is an ONNX model, or a stand-in in a test.

use std::sync::Arc;
use std::time::Duration;

use crate::graph::ModelError;
use crate::tokenizer::TokenIds;

/// Reads pairs.
pub trait ReadPairs: Send + Sync + 'static {
    /// What is behind it.
    fn info(&self) -> &CrossEncoderInfo;

    /// The query with each of the passages, in their order: one pair where the model reads the passage at once, otherwise one for
    /// each window over it, up to `max_windows` (at least 1), behind which nothing is read. The query must have a token; a passage
    /// without any is read.
    fn read(
        &self,
        query: &str,
        passages: &[String],
        max_windows: usize,
    ) -> Result<Vec<Vec<Pair>>, ScoreError>;
}

/// Gives pairs their logits. It computes on the thread that calls it and on no other.
pub trait ScorePairs: Send + 'static {
    /// One logit for each pair, in their order, as the model gives it: NaN too. Never called without pairs.
    fn score(&mut self, pairs: &[&Pair]) -> Result<PairLogits, ScoreError>;

    /// Whether a pair whose logit is known still gets it.
    fn check(&mut self) -> Result<(), ScoreError>;
}

/// A query and a passage, or a window over it, as the model reads them together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair(pub(crate) TokenIds);

impl Pair {
    /// A pair of these token ids, with a segment id for each. `truncated`: of one of the texts the end is in no pair.
    #[must_use]
    pub fn new(ids: Vec<u32>, segment_ids: Vec<u32>, truncated: bool) -> Self {
        Self(TokenIds {
            ids,
            type_ids: segment_ids,
            truncated,
            ..TokenIds::default()
        })
    }

    /// Its token ids, special tokens included.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.0.ids
    }

    /// How many tokens the model reads, special tokens included.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.0.ids.len()
    }

    /// Whether only the beginning of the query or of the passage is read, by all pairs of the passage together.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.0.truncated
    }
}

/// The logits of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct PairLogits {
    /// One for each pair, without bounds; higher is better.
    pub logits: Vec<f32>,
    /// Time inside the model's runtime.
    pub model_time: Duration,
}

/// What a cross-encoder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrossEncoderInfo {
    /// Name from the bundle's description.
    pub name: String,
    /// Hex SHA-256 over the whole bundle.
    pub fingerprint: String,
    /// Tokens that the model reads of a query and a passage together, special tokens included.
    pub max_tokens: usize,
    /// Tokens that it reads of the query.
    pub max_query_tokens: usize,
}

/// Why passages got no scores.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScoreError {
    /// A query that cannot be read.
    #[error("query: {reason}")]
    InvalidQuery {
        /// What is wrong with it.
        reason: String,
    },
    /// A passage that cannot be read.
    #[error("passages[{index}]: {reason}")]
    InvalidPassage {
        /// Its place.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The model gives a passage a score that cannot be ranked.
    #[error("passages[{index}]: the model's score is {score}")]
    NotFinite {
        /// Its place.
        index: usize,
        /// NaN or an infinity.
        score: f32,
    },
    /// The model failed.
    #[error("the model failed")]
    Model(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

impl From<ModelError> for ScoreError {
    fn from(error: ModelError) -> Self {
        Self::Model(Arc::new(error))
    }
}
