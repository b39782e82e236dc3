//! Whether a cross-encoder gives what its bundle promises: same token and segment ids, same scores within its tolerance.

use crate::bundle::{PairBundle, PairGoldenEntry};
use crate::golden::{ENTRIES_PER_BATCH, GoldenError, check_ids, shortened};
use crate::pair_model::PairModel;
use crate::pair_tokenizer::PairTokenizer;
use crate::tokenizer::TokenIds;

/// A golden pair that comes out.
#[derive(Clone)]
pub(crate) struct GoldenPair {
    pub(crate) pair: TokenIds,
    index: usize,
    entry: PairGoldenEntry,
    tolerance: f32,
}

impl GoldenPair {
    /// Whether this score is the expected one.
    pub(crate) fn check(&self, got: f32) -> Result<(), GoldenError> {
        check_score(self.index, &self.entry, got, self.tolerance)
    }
}

/// Checks every golden pair, and gives the first to check with later.
pub(crate) fn check(
    bundle: &PairBundle,
    tokenizer: &PairTokenizer,
    model: &mut PairModel,
) -> Result<GoldenPair, GoldenError> {
    let tolerance = bundle.description().tolerance;
    let entries = bundle.golden().entries.iter().enumerate();
    let pair = |(index, entry): (usize, &PairGoldenEntry)| {
        Ok::<_, GoldenError>(GoldenPair {
            pair: check_tokens(tokenizer, index, entry)?,
            index,
            entry: entry.clone(),
            tolerance,
        })
    };
    let mut pairs: Vec<GoldenPair> = entries.map(pair).collect::<Result<_, _>>()?;
    for chunk in pairs.chunks(ENTRIES_PER_BATCH) {
        let rows: Vec<&TokenIds> = chunk.iter().map(|golden| &golden.pair).collect();
        let logits = model.score(&rows)?.logits;
        for (golden, score) in chunk.iter().zip(logits) {
            golden.check(score)?;
        }
    }
    Ok(pairs.swap_remove(0))
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
