//! Whether what is served is what the bundle promises: same token ids, same vectors within its tolerance.

use crate::bundle::{Bundle, GoldenEntry};
use crate::graph::ModelError;
use crate::model::{BatchModel, BatchVectors};
use crate::tokenizer::{TextTokenizer, TokenIds};

/// Entries that are run together: two, so that padding is part of what is checked.
pub(crate) const ENTRIES_PER_BATCH: usize = 2;
/// Characters of a golden text that an error shows.
const SHOWN_CHARS: usize = 40;
/// Ids from the first difference on that an error shows.
const SHOWN_IDS: usize = 4;

/// How what is served differs from what the bundle promises.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// Other token or segment ids: another tokenizer.
    #[error(
        "golden text {index} (\"{text}\"): the {what} are {got:?} from token {from} on, golden.json has {expected:?}"
    )]
    Tokens {
        /// Which entry of the golden file.
        index: usize,
        /// How it begins.
        text: String,
        /// `token ids` or `segment ids`.
        what: &'static str,
        /// The first token that differs.
        from: usize,
        /// What came out from there on; at most four.
        got: Vec<u32>,
        /// What should have.
        expected: Vec<u32>,
    },
    /// Other values: another model, or a runtime that computes otherwise.
    #[error(
        "golden text {index} (\"{text}\"): {what} component {component} is {got}, golden.json has {expected}; \
         they differ by {difference:e}, the bundle tolerates {tolerance:e}"
    )]
    Values {
        /// Which entry of the golden file.
        index: usize,
        /// How it begins.
        text: String,
        /// `vector` or `token_vectors`.
        what: &'static str,
        /// The component that differs most.
        component: usize,
        /// What came out.
        got: f32,
        /// What should have.
        expected: f32,
        /// How far apart they are.
        difference: f32,
        /// The bundle's tolerance.
        tolerance: f32,
    },
    /// Another score: another model, or a runtime that computes otherwise.
    #[error(
        "golden text {index} (\"{text}\"): the score is {got}, golden.json has {expected}; \
         they differ by {difference:e}, the bundle tolerates {tolerance:e}"
    )]
    Score {
        /// Which entry of the golden file.
        index: usize,
        /// How query and passage begin.
        text: String,
        /// What came out.
        got: f32,
        /// What should have.
        expected: f32,
        /// How far apart they are.
        difference: f32,
        /// The bundle's tolerance.
        tolerance: f32,
    },
    /// Vectors for more or fewer tokens: other rules about which tokens have one.
    #[error(
        "golden text {index} (\"{text}\"): {what} has {got} values, golden.json has {expected}"
    )]
    Length {
        /// Which entry of the golden file.
        index: usize,
        /// How it begins.
        text: String,
        /// `vector` or `token_vectors`.
        what: &'static str,
        /// How many came out.
        got: usize,
        /// How many should have.
        expected: usize,
    },
    /// The text could not be cut into tokens.
    #[error("golden text {index}: {reason}")]
    Text {
        /// Which entry of the golden file.
        index: usize,
        /// Why not.
        reason: String,
    },
    /// The model failed.
    #[error("the model failed on the golden texts")]
    Model(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<ModelError> for GoldenError {
    fn from(error: ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}

/// Checks every golden text.
pub(crate) fn check<M: BatchModel>(
    bundle: &Bundle,
    tokenizer: &TextTokenizer,
    model: &mut M,
) -> Result<(), GoldenError> {
    let entries: Vec<(usize, &GoldenEntry)> = bundle.golden().entries.iter().enumerate().collect();
    for chunk in entries.chunks(ENTRIES_PER_BATCH) {
        let rows = chunk
            .iter()
            .map(|&(index, entry)| check_tokens(tokenizer, index, entry));
        let rows: Vec<TokenIds> = rows.collect::<Result<_, _>>()?;
        let with_token_vectors = chunk.iter().any(|(_, entry)| entry.token_vectors.is_some());
        let vectors = model.run(&rows.iter().collect::<Vec<_>>(), with_token_vectors)?;
        check_vectors(chunk, &vectors, bundle.description().tolerance)?;
    }
    Ok(())
}

fn check_tokens(
    tokenizer: &TextTokenizer,
    index: usize,
    entry: &GoldenEntry,
) -> Result<TokenIds, GoldenError> {
    let failed = |reason| GoldenError::Text { index, reason };
    let row = tokenizer
        .encode(
            &entry.text,
            entry.task.into(),
            entry.token_vectors.is_some(),
        )
        .map_err(failed)?;
    let text = || shortened(&entry.text);
    check_ids(index, text, "token ids", row.attended(), &entry.token_ids)?;
    Ok(row)
}

/// Refuses ids that are not those of the golden file. `text` is how the entry is named.
pub(crate) fn check_ids(
    index: usize,
    text: impl Fn() -> String,
    what: &'static str,
    got: &[u32],
    expected: &[u32],
) -> Result<(), GoldenError> {
    if got == expected {
        return Ok(());
    }
    let same = got.iter().zip(expected).take_while(|(a, b)| a == b);
    let from = same.count();
    let shown = |ids: &[u32]| ids.iter().skip(from).take(SHOWN_IDS).copied().collect();
    Err(GoldenError::Tokens {
        index,
        text: text(),
        what,
        from,
        got: shown(got),
        expected: shown(expected),
    })
}

fn check_vectors(
    chunk: &[(usize, &GoldenEntry)],
    vectors: &BatchVectors,
    tolerance: f32,
) -> Result<(), GoldenError> {
    for (row, &(index, entry)) in chunk.iter().enumerate() {
        let compare = Compare {
            index,
            entry,
            tolerance,
        };
        compare.values("vector", &vectors.sentences[row], &entry.vector)?;
        if let Some(expected) = &entry.token_vectors {
            compare.values("token_vectors", &vectors.tokens[row], expected)?;
        }
    }
    Ok(())
}

struct Compare<'a> {
    index: usize,
    entry: &'a GoldenEntry,
    tolerance: f32,
}

impl Compare<'_> {
    fn values(&self, what: &'static str, got: &[f32], expected: &[f32]) -> Result<(), GoldenError> {
        if got.len() != expected.len() {
            return Err(GoldenError::Length {
                index: self.index,
                text: shortened(&self.entry.text),
                what,
                got: got.len(),
                expected: expected.len(),
            });
        }
        let differences = got
            .iter()
            .zip(expected)
            .map(|(got, expected)| (got - expected).abs());
        let Some((component, difference)) =
            differences.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
        else {
            return Ok(());
        };
        if difference <= self.tolerance {
            return Ok(());
        }
        Err(GoldenError::Values {
            index: self.index,
            text: shortened(&self.entry.text),
            what,
            component,
            got: got[component],
            expected: expected[component],
            difference,
            tolerance: self.tolerance,
        })
    }
}

/// How a text begins.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}
