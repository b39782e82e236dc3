//! Whether a cross-encoder gives what its bundle promises: same token and segment ids, same scores within its tolerance.

use crate::bundle::{PairBundle, PairGoldenEntry};
use crate::golden::{ENTRIES_PER_BATCH, GoldenError, check_ids, shortened};
use crate::pair_model::PairModel;
use crate::pair_tokenizer::PairTokenizer;
use crate::tokenizer::TokenIds;

/// Checks every golden pair.
pub(crate) fn check(
    bundle: &PairBundle,
    tokenizer: &PairTokenizer,
    model: &mut PairModel,
) -> Result<(), GoldenError> {
    let entries: Vec<(usize, &PairGoldenEntry)> =
        bundle.golden().entries.iter().enumerate().collect();
    for chunk in entries.chunks(ENTRIES_PER_BATCH) {
        let rows = chunk
            .iter()
            .map(|&(index, entry)| check_tokens(tokenizer, index, entry));
        let rows: Vec<TokenIds> = rows.collect::<Result<_, _>>()?;
        let scores = model.score(&rows.iter().collect::<Vec<_>>())?;
        for (&(index, entry), score) in chunk.iter().zip(scores) {
            check_score(index, entry, score, bundle.description().tolerance)?;
        }
    }
    Ok(())
}

fn check_tokens(
    tokenizer: &PairTokenizer,
    index: usize,
    entry: &PairGoldenEntry,
) -> Result<TokenIds, GoldenError> {
    let row = tokenizer
        .query(&entry.query)
        .and_then(|query| tokenizer.pair(&query, &entry.passage))
        .map_err(|reason| GoldenError::Text { index, reason })?;
    let text = || texts_of(entry);
    check_ids(index, text, "token ids", &row.ids, &entry.token_ids)?;
    check_ids(
        index,
        text,
        "segment ids",
        &row.type_ids,
        &entry.segment_ids,
    )?;
    Ok(row)
}

fn check_score(
    index: usize,
    entry: &PairGoldenEntry,
    got: f32,
    tolerance: f32,
) -> Result<(), GoldenError> {
    let difference = (got - entry.score).abs();
    if difference <= tolerance {
        return Ok(());
    }
    Err(GoldenError::Score {
        index,
        text: texts_of(entry),
        got,
        expected: entry.score,
        difference,
        tolerance,
    })
}

fn texts_of(entry: &PairGoldenEntry) -> String {
    format!(
        "{} | {}",
        shortened(&entry.query),
        shortened(&entry.passage)
    )
}
