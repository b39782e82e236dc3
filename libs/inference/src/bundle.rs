//! A model bundle: a folder that holds everything that decides which vectors come out, and its fingerprint.
//!
//! | file             | what it is                                                              |
//! |------------------|-------------------------------------------------------------------------|
//! | `bundle.json`    | [`Description`]: name, widths, limits, prompts, which output means what   |
//! | `model.onnx`     | the graph; its external data, if any, lies beside it                    |
//! | `tokenizer.json` | a Hugging Face tokenizer; its truncation and padding are overridden     |
//! | `golden.json`    | [`Golden`]: texts with the token ids and vectors that must come out     |
//!
//! Other files (licences, a model card) may lie beside them; the fingerprint covers every file.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::encode::{EncoderInfo, Task};

/// The description's file name.
pub(crate) const DESCRIPTION_FILE: &str = "bundle.json";
/// The graph's file name.
pub(crate) const MODEL_FILE: &str = "model.onnx";
/// The tokenizer's file name.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
/// The golden vectors' file name.
pub(crate) const GOLDEN_FILE: &str = "golden.json";

/// The format that this code reads and writes.
pub(crate) const FORMAT: u32 = 1;
/// The widest vector: no published text encoder comes near it.
const MAX_DIMENSIONS: usize = 16_384;
/// The longest input: attention is quadratic, and a batch has to fit into memory.
const MAX_MAX_TOKENS: usize = 32_768;
/// The longest prompt, in bytes.
const MAX_PROMPT_BYTES: usize = 8_192;
/// A tolerance beyond this would let a wrong model through.
const MAX_TOLERANCE: f32 = 0.1;
/// Folders within folders that are still looked into.
const MAX_FOLDER_DEPTH: usize = 8;

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Always [`FORMAT`].
    pub format: u32,
    /// A readable name. Not empty.
    pub name: String,
    /// What the model does.
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
    /// The largest difference to a golden value that is let through, per component.
    pub tolerance: f32,
    /// Where the model comes from and under which licence, for readers.
    pub source: String,
}

/// What a bundle's model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleTask {
    /// Texts to vectors.
    Encode,
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
    /// Its token ids as the model reads them: with the prompt and the special tokens, truncated.
    pub token_ids: Vec<u32>,
    /// Its sentence vector, of unit length.
    pub vector: Vec<f32>,
    /// Its token vectors, row-major, of unit length; absent where they are not checked.
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

/// One mistake in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}{message}", .file.display(), field_prefix(.field))]
pub struct BundleProblem {
    /// The file that has it.
    pub file: PathBuf,
    /// The field; empty where the whole file is meant.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

fn field_prefix(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!("{field}: ")
    }
}

/// Why a folder is no usable bundle: every mistake that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleError(pub Vec<BundleProblem>);

impl std::fmt::Display for BundleError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        formatter.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for BundleError {}

impl BundleError {
    /// One mistake.
    pub(crate) fn one(file: &Path, field: &str, message: impl ToString) -> Self {
        Self(vec![problem(file, field, message)])
    }
}

fn problem(file: &Path, field: &str, message: impl ToString) -> BundleProblem {
    BundleProblem {
        file: file.to_owned(),
        field: field.to_owned(),
        message: message.to_string(),
    }
}

/// A folder that was read and found consistent in itself. Whether the model fits it is known once it is loaded.
#[derive(Debug, Clone)]
pub struct Bundle {
    folder: PathBuf,
    description: Description,
    golden: Golden,
    fingerprint: String,
}

impl Bundle {
    /// Reads a bundle folder and checks its description, its golden file and that its files are there.
    pub fn read(folder: &Path) -> Result<Self, BundleError> {
        let mut problems = missing_files(folder);
        let description: Option<Description> =
            read_json(&folder.join(DESCRIPTION_FILE), &mut problems);
        let golden: Option<Golden> = read_json(&folder.join(GOLDEN_FILE), &mut problems);
        if let Some(description) = &description {
            check_description(&folder.join(DESCRIPTION_FILE), description, &mut problems);
        }
        if let (Some(description), Some(golden)) = (&description, &golden) {
            check_golden(
                &folder.join(GOLDEN_FILE),
                description,
                golden,
                &mut problems,
            );
        }
        let (true, Some(description), Some(golden)) = (problems.is_empty(), description, golden)
        else {
            return Err(BundleError(problems));
        };
        let fingerprint =
            fingerprint(folder).map_err(|error| BundleError::one(folder, "", error))?;
        Ok(Self {
            folder: folder.to_owned(),
            description,
            golden,
            fingerprint,
        })
    }

    /// A folder that has no golden file yet: to be loaded while it is made, and read once it is whole.
    pub(crate) fn draft(folder: &Path, description: Description) -> Self {
        let golden = Golden {
            origin: String::new(),
            entries: Vec::new(),
        };
        Self {
            folder: folder.to_owned(),
            description,
            golden,
            fingerprint: String::new(),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What must come out.
    pub fn golden(&self) -> &Golden {
        &self.golden
    }

    /// Hex SHA-256 over every file.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What an encoder over this bundle is.
    pub fn info(&self) -> EncoderInfo {
        EncoderInfo {
            name: self.description.name.clone(),
            fingerprint: self.fingerprint.clone(),
            dimensions: self.description.dimensions,
            token_dimensions: self.description.token_dimensions,
            max_tokens: self.description.max_tokens,
            matryoshka_dimensions: self.description.matryoshka_dimensions.clone(),
        }
    }
}

fn missing_files(folder: &Path) -> Vec<BundleProblem> {
    if !folder.is_dir() {
        return vec![problem(folder, "", "no such folder")];
    }
    let needed = [DESCRIPTION_FILE, MODEL_FILE, TOKENIZER_FILE, GOLDEN_FILE];
    let missing = needed
        .into_iter()
        .map(|name| folder.join(name))
        .filter(|path| !path.is_file());
    missing
        .map(|path| problem(&path, "", "missing: every bundle has this file"))
        .collect()
}

/// Nothing where the file is missing (already a problem) or wrong (now a problem).
fn read_json<T: DeserializeOwned>(path: &Path, problems: &mut Vec<BundleProblem>) -> Option<T> {
    if !path.is_file() {
        return None;
    }
    let parsed = fs::read(path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
    parsed
        .map_err(|message| problems.push(problem(path, "", message)))
        .ok()
}

/// Collects what is wrong with the fields of one file.
struct Check<'a> {
    file: &'a Path,
    problems: &'a mut Vec<BundleProblem>,
}

impl Check<'_> {
    fn that(&mut self, holds: bool, field: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem(self.file, field, message()));
        }
    }
}

fn check_description(file: &Path, it: &Description, problems: &mut Vec<BundleProblem>) {
    let mut check = Check { file, problems };
    check.that(it.format == FORMAT, "format", || {
        format!("is {}; this version reads {FORMAT}", it.format)
    });
    check.that(!it.name.trim().is_empty(), "name", || "is empty".into());
    check.that(
        (1..=MAX_DIMENSIONS).contains(&it.dimensions),
        "dimensions",
        || format!("is {}, must be 1 to {MAX_DIMENSIONS}", it.dimensions),
    );
    check_token_vectors(&mut check, it);
    check_matryoshka(&mut check, it);
    check.that(
        (4..=MAX_MAX_TOKENS).contains(&it.max_tokens),
        "max_tokens",
        || format!("is {}, must be 4 to {MAX_MAX_TOKENS}", it.max_tokens),
    );
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

fn check_golden(
    file: &Path,
    description: &Description,
    golden: &Golden,
    problems: &mut Vec<BundleProblem>,
) {
    let mut check = Check { file, problems };
    check.that(!golden.entries.is_empty(), "entries", || {
        "is empty: a bundle needs at least one golden text".into()
    });
    for (index, entry) in golden.entries.iter().enumerate() {
        check_golden_entry(&mut check, description, &format!("entries[{index}]"), entry);
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
    let expected = entry.token_ids.len() * description.token_dimensions;
    let given = entry.token_vectors.as_ref().map_or(expected, Vec::len);
    check.that(given == expected, &format!("{path}.token_vectors"), || {
        format!("has {given} values, must have token_ids × token_dimensions = {expected}")
    });
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

/// Hex SHA-256 over the sorted relative paths of all files and their contents, each with its length in front.
fn fingerprint(folder: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    list_files(folder, "", 0, &mut files)?;
    files.sort();
    let mut hasher = Sha256::new();
    for (relative_path, path) in files {
        let mut file = fs::File::open(path)?;
        hasher.update((relative_path.len() as u64).to_le_bytes());
        hasher.update(relative_path.as_bytes());
        hasher.update(file.metadata()?.len().to_le_bytes());
        hash_content(&mut file, &mut hasher)?;
    }
    Ok(hex::encode(hasher.finalize()))
}

fn hash_content(file: &mut fs::File, hasher: &mut Sha256) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Relative paths use `/` everywhere, so that a bundle has one fingerprint on every system.
fn list_files(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<(String, PathBuf)>,
) -> io::Result<()> {
    if depth > MAX_FOLDER_DEPTH {
        return Err(io::Error::other(format!(
            "folders are nested more than {MAX_FOLDER_DEPTH} deep"
        )));
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| io::Error::other(format!("{name:?} is not UTF-8")))?;
        let relative_path = format!("{prefix}{name}");
        if fs::metadata(entry.path())?.is_dir() {
            list_files(
                &entry.path(),
                &format!("{relative_path}/"),
                depth + 1,
                files,
            )?;
        } else {
            files.push((relative_path, entry.path()));
        }
    }
    Ok(())
}
