//! What a bundle of the task `rerank` says of itself, and its golden pairs.

use serde::{Deserialize, Serialize};

use super::{BundleTask, Check, check_common};

/// `[CLS]` and two `[SEP]`, and at least one token of the passage.
const TOKENS_BESIDE_QUERY: usize = 4;
/// What f32 logits, about ten apart, may differ between runtimes.
const FLOAT_TOLERANCE: f32 = 1e-3;
/// A tolerance beyond this share of the golden scores' range would let a wrong model through.
const MAX_TOLERANCE_SHARE: f32 = 0.3;

/// What a pair model's bundle says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairDescription {
    /// Always 1.
    pub format: u32,
    /// A readable name. Not empty.
    pub name: String,
    /// Always [`BundleTask::Rerank`].
    pub task: BundleTask,
    /// How a query and a passage become one input.
    pub pair: PairInput,
    /// Which output of the graph is used.
    pub outputs: ScoreOutput,
    /// Tokens that the model reads of a query and a passage together, special tokens included.
    pub max_tokens: usize,
    /// The id that fills the short rows of a batch.
    pub pad_token_id: u32,
    /// Texts are lowercased before the tokenizer sees them.
    pub lowercase: bool,
    /// The largest difference to a golden score that is let through.
    pub tolerance: f32,
    /// Where the model comes from and under which licence, for readers.
    pub source: String,
}

/// How a query and a passage become one input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairInput {
    /// Tokens of the query that are kept; the passage gets what is left of `max_tokens`.
    pub max_query_tokens: usize,
    /// What the segment ids say.
    pub segments: Segments,
}

/// What the segment ids of a pair say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segments {
    /// 0 for the query's side, 1 for the passage's, and 2 more where a word occurs on both.
    ExactMatchV1,
    /// 0 for the query's side, 1 for the passage's.
    Plain,
}

impl Segments {
    /// How many different ids there are.
    fn count(self) -> u32 {
        match self {
            Self::ExactMatchV1 => 4,
            Self::Plain => 2,
        }
    }
}

/// Which output of the graph is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreOutput {
    /// The output [batch] with the scores: logits without bounds, higher is better.
    pub score: String,
}

/// Pairs with what must come out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairGolden {
    /// Who computed the expected values.
    pub origin: String,
    /// At least one.
    pub entries: Vec<PairGoldenEntry>,
}

/// A pair with what must come out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairGoldenEntry {
    /// The query.
    pub query: String,
    /// The passage.
    pub passage: String,
    /// Their token ids as the model reads them: with the special tokens, truncated.
    pub token_ids: Vec<u32>,
    /// Their segment ids, one per token.
    pub segment_ids: Vec<u32>,
    /// Their score.
    pub score: f32,
}

/// What is wrong with a description.
pub(super) fn check_description(check: &mut Check<'_>, it: &PairDescription) {
    check_common(check, it.format, &it.name, it.max_tokens);
    let most = it.max_tokens.saturating_sub(TOKENS_BESIDE_QUERY);
    check.that(
        (1..=most).contains(&it.pair.max_query_tokens),
        "pair.max_query_tokens",
        || {
            format!(
                "is {}, must be 1 to max_tokens - {TOKENS_BESIDE_QUERY} = {most}",
                it.pair.max_query_tokens
            )
        },
    );
    check.that(!it.outputs.score.is_empty(), "outputs.score", || {
        "is empty".into()
    });
    check.that(
        it.tolerance > 0.0 && it.tolerance.is_finite(),
        "tolerance",
        || format!("is {}, must be above 0", it.tolerance),
    );
}

/// What is wrong with the golden pairs.
pub(super) fn check_golden(check: &mut Check<'_>, description: &PairDescription, it: &PairGolden) {
    check.that(!it.entries.is_empty(), "entries", || {
        "is empty: a bundle needs at least one golden pair".into()
    });
    for (index, entry) in it.entries.iter().enumerate() {
        check_entry(check, description, &format!("entries[{index}]"), entry);
    }
    let most = FLOAT_TOLERANCE.max(MAX_TOLERANCE_SHARE * score_range(&it.entries));
    check.that(description.tolerance <= most, "entries", || {
        format!(
            "are too close in score for the tolerance of {}: up to {most} would tell a wrong model",
            description.tolerance
        )
    });
}

fn score_range(entries: &[PairGoldenEntry]) -> f32 {
    let scores = || entries.iter().map(|entry| entry.score);
    let (least, most) = (scores().reduce(f32::min), scores().reduce(f32::max));
    most.zip(least).map_or(0.0, |(most, least)| most - least)
}

fn check_entry(
    check: &mut Check<'_>,
    description: &PairDescription,
    path: &str,
    entry: &PairGoldenEntry,
) {
    let tokens = entry.token_ids.len();
    check.that(
        (1..=description.max_tokens).contains(&tokens),
        &format!("{path}.token_ids"),
        || {
            format!(
                "has {tokens} ids, must have 1 to max_tokens = {}",
                description.max_tokens
            )
        },
    );
    check_segments(check, description, &format!("{path}.segment_ids"), entry);
    check.that(entry.score.is_finite(), &format!("{path}.score"), || {
        format!("is {}, must be finite", entry.score)
    });
}

fn check_segments(
    check: &mut Check<'_>,
    description: &PairDescription,
    path: &str,
    entry: &PairGoldenEntry,
) {
    let (segments, tokens) = (entry.segment_ids.len(), entry.token_ids.len());
    check.that(segments == tokens, path, || {
        format!("has {segments} ids, must have as many as token_ids: {tokens}")
    });
    let count = description.pair.segments.count();
    if let Some(wrong) = entry.segment_ids.iter().find(|&&id| id >= count) {
        check.that(false, path, || {
            format!("has a {wrong}; pair.segments has ids below {count}")
        });
    }
}
