//! What every reranker checks and computes alike, whatever reads the passages.

use super::check_text;
use crate::rerank::RerankRequest;
use search_core::FieldError;

/// Most passages of one request.
const MAX_PASSAGES: usize = 1000;
/// The longest query: many times what a model reads.
const MAX_QUERY_BYTES: usize = 64 * 1024;
/// The longest passage: whole documents are taken, of which the model reads the beginning, or windows.
pub const MAX_PASSAGE_BYTES: usize = 1024 * 1024;
/// Most windows over one passage: some thousands of words.
const MAX_WINDOWS: u32 = 16;

/// Whether query and passages are there, and all is within the limits of the contract.
pub fn check_rerank_request(request: &RerankRequest) -> Result<(), FieldError> {
    check_text("query", &request.query, MAX_QUERY_BYTES)?;
    check_passages(&request.passages)?;
    match request.max_windows {
        0..=MAX_WINDOWS => Ok(()),
        windows => {
            let message = format!("is {windows}, must be at most {MAX_WINDOWS}");
            Err(FieldError::new("max_windows", message))
        }
    }
}

fn check_passages(passages: &[String]) -> Result<(), FieldError> {
    let count = passages.len();
    if !(1..=MAX_PASSAGES).contains(&count) {
        let message = format!("has {count} passages, must have 1 to {MAX_PASSAGES}");
        return Err(FieldError::new("passages", message));
    }
    let mut numbered = passages.iter().enumerate();
    numbered.try_for_each(|(index, passage)| {
        check_text(&format!("passages[{index}]"), passage, MAX_PASSAGE_BYTES)
    })
}

/// The calibrated score of a logit: its logistic function, 0 to 1.
#[must_use]
pub fn calibrated(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// Keeps the highest logits, `max_results` of them, or all where that is 0: the highest first, equal ones in the order of the request.
/// `logit_and_index` tells what was said of which passage.
pub fn keep_best<T>(
    scored: &mut Vec<T>,
    max_results: u32,
    logit_and_index: impl Fn(&T) -> (f32, usize),
) {
    scored.sort_by(|left, right| {
        let ((left_logit, left_index), (right_logit, right_index)) =
            (logit_and_index(left), logit_and_index(right));
        let by_logit = right_logit.total_cmp(&left_logit);
        by_logit.then(left_index.cmp(&right_index))
    });
    if max_results > 0 {
        scored.truncate(max_results as usize);
    }
}
