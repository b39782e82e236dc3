//! What every reranker checks and computes alike, whatever reads the passages.

use super::check_text;
use crate::rerank::RerankRequest;
use search_core::FieldError;

/// Most passages of one request.
const MAX_PASSAGES: usize = 1000;
/// The longest query: many times what a model reads.
const MAX_QUERY_BYTES: usize = 64 * 1024;
/// The longest passage: whole documents are taken, of which the model reads the beginning.
const MAX_PASSAGE_BYTES: usize = 1024 * 1024;

/// Whether query and passages are there, and within the limits of the contract.
pub fn check_rerank_texts(request: &RerankRequest) -> Result<(), FieldError> {
    check_text("query", &request.query, MAX_QUERY_BYTES)?;
    let count = request.passages.len();
    if !(1..=MAX_PASSAGES).contains(&count) {
        let message = format!("has {count} passages, must have 1 to {MAX_PASSAGES}");
        return Err(FieldError::new("passages", message));
    }
    let mut numbered = request.passages.iter().enumerate();
    numbered.try_for_each(|(index, passage)| {
        check_text(&format!("passages[{index}]"), passage, MAX_PASSAGE_BYTES)
    })
}

/// The calibrated score of a logit: its logistic function, 0 to 1.
#[must_use]
pub fn calibrated(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}
