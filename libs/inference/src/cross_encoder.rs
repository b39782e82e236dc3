//! The cross-encoder over a bundle: a query and its passages are read together, and each passage gets a logit.

use std::path::Path;

use crate::bundle::PairBundle;
use crate::graph::{LoadError, ModelError};
use crate::length_batches::length_batches;
use crate::pair_golden;
use crate::pair_model::PairModel;
use crate::pair_tokenizer::PairTokenizer;
use crate::tokenizer::TokenIds;

/// Tokens of a batch, padding included. On an AVX2 core, six layers and pairs of 40 to 160 tokens, sizes from 160 to 2,048
/// differ by 5 % in pairs per second; this one is the best of them.
const BATCH_TOKENS: usize = 256;
/// The longest query or passage: only its beginning is read, but all of it is cut into tokens.
const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// A cross-encoder over a bundle that has passed its golden check. It computes on the thread that calls it.
pub struct CrossEncoder {
    info: CrossEncoderInfo,
    tokenizer: PairTokenizer,
    model: PairModel,
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
#[derive(Debug, thiserror::Error)]
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
    Model(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<ModelError> for ScoreError {
    fn from(error: ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}

impl CrossEncoder {
    /// Loads the ONNX Runtime at `library` (once per process) and the bundle in `folder`, and checks that the bundle's
    /// golden scores come out. Blocks for some tenths of a second.
    pub fn open(library: &Path, folder: &Path) -> Result<Self, LoadError> {
        let bundle = PairBundle::read(folder)?;
        let tokenizer = PairTokenizer::load(&bundle)?;
        let mut model = PairModel::load(library, &bundle)?;
        pair_golden::check(&bundle, &tokenizer, &mut model)?;
        let description = bundle.description();
        Ok(Self {
            info: CrossEncoderInfo {
                name: description.name.clone(),
                fingerprint: bundle.fingerprint().to_owned(),
                max_tokens: description.max_tokens,
                max_query_tokens: description.pair.max_query_tokens,
            },
            tokenizer,
            model,
        })
    }

    /// What it is.
    pub fn info(&self) -> &CrossEncoderInfo {
        &self.info
    }

    /// The raw logits of the passages, in their order: without bounds, finite, higher is better.
    ///
    /// The query must have a token. A passage without any is scored as the trainer scores it. Texts of more than 1 MiB are
    /// refused.
    pub fn score(
        &mut self,
        query: &str,
        passages: &[impl AsRef<str>],
    ) -> Result<Vec<f32>, ScoreError> {
        let rows = self.tokenize(query, passages)?;
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        let mut scores = vec![0.0; rows.len()];
        for batch in length_batches(&lengths, BATCH_TOKENS) {
            let batch_rows: Vec<&TokenIds> = batch.iter().map(|&index| &rows[index]).collect();
            for (index, score) in batch.into_iter().zip(self.model.score(&batch_rows)?) {
                scores[index] = finite(index, score)?;
            }
        }
        Ok(scores)
    }

    fn tokenize(
        &self,
        query: &str,
        passages: &[impl AsRef<str>],
    ) -> Result<Vec<TokenIds>, ScoreError> {
        let query = check_size(query)
            .and_then(|query| self.tokenizer.query(query))
            .map_err(|reason| ScoreError::InvalidQuery { reason })?;
        let row = |(index, passage): (usize, &_)| {
            check_size(AsRef::as_ref(passage))
                .and_then(|passage| self.tokenizer.pair(&query, passage))
                .map_err(|reason| ScoreError::InvalidPassage { index, reason })
        };
        passages.iter().enumerate().map(row).collect()
    }
}

fn check_size(text: &str) -> Result<&str, String> {
    match text.len() {
        bytes if bytes > MAX_TEXT_BYTES => Err(format!(
            "has {bytes} bytes, must have at most {MAX_TEXT_BYTES}"
        )),
        _ => Ok(text),
    }
}

fn finite(index: usize, score: f32) -> Result<f32, ScoreError> {
    if score.is_finite() {
        Ok(score)
    } else {
        Err(ScoreError::NotFinite { index, score })
    }
}
