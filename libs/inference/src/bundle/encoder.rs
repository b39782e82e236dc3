//! What a bundle of the task `encode` says of itself, and its golden vectors.

use serde::{Deserialize, Serialize};

use super::{BundleTask, Check, check_common};
use crate::encode::Task;

/// The widest vector: no published text encoder comes near it.
const MAX_DIMENSIONS: usize = 16_384;
/// The longest prompt, in bytes.
const MAX_PROMPT_BYTES: usize = 8_192;
/// A tolerance beyond this would let a wrong model through.
const MAX_TOLERANCE: f32 = 0.1;

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Always 1.
    pub format: u32,
    /// A readable name. Not empty.
    pub name: String,
    /// Always [`BundleTask::Encode`].
    pub task: BundleTask,
    /// Width of the sentence vectors.
    pub dimensions: usize,
    /// Width of the token vectors; 0 where the bundle has none.
    pub token_dimensions: usize,
    /// Widths that the model was trained for, ascending; empty where there is only the full one.
    pub matryoshka_dimensions: Vec<usize>,
    /// What is put in front of each text.
    pub prompts: Prompts,
    /// Which outputs of the graph are used, and how.
    pub outputs: Outputs,
    /// Tokens that the model reads of one text, special tokens included.
    pub max_tokens: usize,
    /// The id that fills the short rows of a batch.
    pub pad_token_id: u32,
    /// Texts are lowercased before the tokenizer sees them.
    pub lowercase: bool,
    /// Which tokens have vectors, where it is not just each that the model reads.
    #[serde(default, skip_serializing_if = "TokenVectorRules::is_default")]
    pub token_vectors: TokenVectorRules,
    /// The largest difference to a golden value that is let through, per component.
    pub tolerance: f32,
    /// Where the model comes from and under which licence, for readers.
    pub source: String,
}

/// What is put in front of a text, verbatim. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// In front of a query.
    pub query: String,
    /// In front of a passage.
    pub passage: String,
}

/// Which outputs of the graph are used. Vectors are brought to unit length whatever the graph gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outputs {
    /// Where the sentence vector comes from.
    pub sentence: SentenceOutput,
    /// The output [batch, tokens, token_dimensions] with the token vectors. None: the bundle has none.
    pub tokens: Option<String>,
}

/// Where the sentence vector comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentenceOutput {
    /// Name of the graph's output.
    pub output: String,
    /// How it becomes one vector per text.
    pub pooling: Pooling,
}

/// How an output becomes one vector per text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// It is [batch, dimensions] already.
    None,
    /// The mean of the real tokens' states, [batch, tokens, dimensions].
    Mean,
    /// The first token's state.
    FirstToken,
    /// The last real token's state.
    LastToken,
    /// The largest value over the real tokens, per component.
    Max,
}

/// Which tokens have vectors. Without a rule it is each that the model reads, special tokens included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenVectorRules {
    /// Tokens, as the vocabulary writes them, that have no vector in passages: punctuation, say. None twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out_of_passages: Vec<String>,
    /// What fills short queries up, whose vectors then search too. None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_masks: Option<QueryMasks>,
}

/// Mask tokens behind a short query (ColBERT's query augmentation, Khattab and Zaharia, 2020).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryMasks {
    /// The token, as the vocabulary writes it.
    pub token: String,
    /// Tokens that a query has at least, special tokens and masks included; 1 to `max_tokens`. A longer one keeps its own.
    pub tokens: usize,
    /// Whether the other tokens attend to masks. If so, masks are part of every query and may change its sentence vector; if not,
    /// they are added where token vectors are wanted.
    #[serde(default)]
    pub attended: bool,
}

impl TokenVectorRules {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Texts with what must come out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Who computed the expected values.
    pub origin: String,
    /// At least one.
    pub entries: Vec<GoldenEntry>,
}

/// A text with what must come out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenEntry {
    /// `query` or `passage`.
    pub task: GoldenTask,
    /// The text, without a prompt.
    pub text: String,
    /// Its token ids as the model reads them: with the prompt and the special tokens, truncated. Masks are among them where the
    /// others attend to them.
    pub token_ids: Vec<u32>,
    /// Its sentence vector, of unit length.
    pub vector: Vec<f32>,
    /// The vectors of its tokens that have one, row-major, of unit length; absent where they are not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_vectors: Option<Vec<f32>>,
}

/// [`Task`] as it is written in a golden file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoldenTask {
    /// A query.
    Query,
    /// A passage.
    Passage,
}

impl From<GoldenTask> for Task {
    fn from(task: GoldenTask) -> Self {
        match task {
            GoldenTask::Query => Task::Query,
            GoldenTask::Passage => Task::Passage,
        }
    }
}

/// What is wrong with a description.
pub(super) fn check_description(check: &mut Check<'_>, it: &Description) {
    check_common(check, it.format, &it.name, it.max_tokens);
    check.that(
        (1..=MAX_DIMENSIONS).contains(&it.dimensions),
        "dimensions",
        || format!("is {}, must be 1 to {MAX_DIMENSIONS}", it.dimensions),
    );
    check_token_vectors(check, it);
    check_token_rules(check, it);
    check_matryoshka(check, it);
    for (field, prompt) in [
        ("prompts.query", &it.prompts.query),
        ("prompts.passage", &it.prompts.passage),
    ] {
        check.that(prompt.len() <= MAX_PROMPT_BYTES, field, || {
            format!("is longer than {MAX_PROMPT_BYTES} bytes")
        });
    }
    check.that(
        !it.outputs.sentence.output.is_empty(),
        "outputs.sentence.output",
        || "is empty".into(),
    );
    check.that(
        it.tolerance > 0.0 && it.tolerance <= MAX_TOLERANCE,
        "tolerance",
        || {
            format!(
                "is {}, must be above 0 and at most {MAX_TOLERANCE}",
                it.tolerance
            )
        },
    );
}

fn check_token_vectors(check: &mut Check<'_>, it: &Description) {
    let has_output = it.outputs.tokens.is_some();
    check.that(
        it.token_dimensions <= MAX_DIMENSIONS,
        "token_dimensions",
        || {
            format!(
                "is {}, must be at most {MAX_DIMENSIONS}",
                it.token_dimensions
            )
        },
    );
    check.that(
        has_output == (it.token_dimensions > 0),
        "token_dimensions",
        || "must be above 0 exactly where outputs.tokens is given".into(),
    );
    check.that(
        it.outputs.tokens.as_deref() != Some(""),
        "outputs.tokens",
        || "is empty; null means none".into(),
    );
}

/// Whether the vocabulary has the tokens is known to the tokenizer.
fn check_token_rules(check: &mut Check<'_>, it: &Description) {
    let TokenVectorRules {
        left_out_of_passages: left_out,
        query_masks,
    } = &it.token_vectors;
    let has_vectors = it.outputs.tokens.is_some();
    check.that(
        has_vectors || it.token_vectors.is_default(),
        "token_vectors",
        || "is given, but outputs.tokens is not".into(),
    );
    for (index, token) in left_out.iter().enumerate() {
        check.that(
            !left_out[..index].contains(token),
            &format!("token_vectors.left_out_of_passages[{index}]"),
            || format!("{token:?} is named twice"),
        );
    }
    if let Some(masks) = query_masks {
        check.that(
            (1..=it.max_tokens).contains(&masks.tokens),
            "token_vectors.query_masks.tokens",
            || {
                let (tokens, most) = (masks.tokens, it.max_tokens);
                format!("is {tokens}, must be 1 to max_tokens = {most}")
            },
        );
    }
}

fn check_matryoshka(check: &mut Check<'_>, it: &Description) {
    let widths = &it.matryoshka_dimensions;
    let ascending = widths.windows(2).all(|pair| pair[0] < pair[1]);
    let within = widths
        .iter()
        .all(|&width| (1..=it.dimensions).contains(&width));
    check.that(ascending && within, "matryoshka_dimensions", || {
        format!("is {widths:?}, must ascend within 1 to {}", it.dimensions)
    });
}

/// What is wrong with the golden texts.
pub(super) fn check_golden(check: &mut Check<'_>, description: &Description, golden: &Golden) {
    check.that(!golden.entries.is_empty(), "entries", || {
        "is empty: a bundle needs at least one golden text".into()
    });
    for (index, entry) in golden.entries.iter().enumerate() {
        check_golden_entry(check, description, &format!("entries[{index}]"), entry);
    }
}

fn check_golden_entry(
    check: &mut Check<'_>,
    description: &Description,
    path: &str,
    entry: &GoldenEntry,
) {
    check.that(!entry.text.is_empty(), &format!("{path}.text"), || {
        "is empty".into()
    });
    check.that(
        entry.vector.len() == description.dimensions,
        &format!("{path}.vector"),
        || {
            format!(
                "has {} values, bundle.json says dimensions {}",
                entry.vector.len(),
                description.dimensions
            )
        },
    );
    if let Some(token_vectors) = &entry.token_vectors {
        let path = format!("{path}.token_vectors");
        check_golden_tokens(check, description, &path, entry, token_vectors.len());
    }
    check.that(
        (1..=description.max_tokens).contains(&entry.token_ids.len()),
        &format!("{path}.token_ids"),
        || {
            format!(
                "has {} ids, must have 1 to max_tokens = {}",
                entry.token_ids.len(),
                description.max_tokens
            )
        },
    );
}

/// Which tokens of a passage are left out is known to the tokenizer; here there may be fewer.
fn check_golden_tokens(
    check: &mut Check<'_>,
    description: &Description,
    path: &str,
    entry: &GoldenEntry,
    given: usize,
) {
    let (rules, width) = (&description.token_vectors, description.token_dimensions);
    let with_masks = match (entry.task, &rules.query_masks) {
        (GoldenTask::Query, Some(masks)) => masks.tokens,
        _ => 0,
    };
    let most = entry.token_ids.len().max(with_masks) * width;
    let may_be_fewer = entry.task == GoldenTask::Passage && !rules.left_out_of_passages.is_empty();
    let fits = given == most || (may_be_fewer && given < most && given.is_multiple_of(width));
    check.that(fits, path, || {
        let bound = if may_be_fewer { "at most " } else { "" };
        format!("has {given} values, must have {bound}tokens × token_dimensions = {most}")
    });
}
