//! A model bundle: a folder that holds everything that decides which numbers come out, and its fingerprint.
//!
//! | file             | what it is                                                                  |
//! |------------------|-----------------------------------------------------------------------------|
//! | `bundle.json`    | [`Description`] or [`PairDescription`]: task, name, limits, meaning of outputs |
//! | `model.onnx`     | the graph; its external data, if any, lies beside it                        |
//! | `tokenizer.json` | a Hugging Face tokenizer; its truncation and padding are overridden         |
//! | `golden.json`    | [`Golden`] or [`PairGolden`]: texts with the ids and numbers that must come out |
//!
//! Other files (licences, a model card) may lie beside them; the fingerprint covers every file.

mod encoder;
mod pair;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use encoder::{
    Description, Golden, GoldenEntry, GoldenTask, Outputs, Pooling, Prompts, QueryMasks,
    SentenceOutput, TokenVectorRules,
};
pub use pair::{PairDescription, PairGolden, PairGoldenEntry, PairInput, ScoreOutput, Segments};

use crate::encode::EncoderInfo;

/// The description's file name.
pub(crate) const DESCRIPTION_FILE: &str = "bundle.json";
/// The graph's file name.
pub(crate) const MODEL_FILE: &str = "model.onnx";
/// The tokenizer's file name.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
/// The golden file's name.
pub(crate) const GOLDEN_FILE: &str = "golden.json";

/// The format that this code reads and writes.
pub(crate) const FORMAT: u32 = 1;
/// The longest input: attention is quadratic, and a batch has to fit into memory.
const MAX_MAX_TOKENS: usize = 32_768;
/// Folders within folders that are still looked into.
const MAX_FOLDER_DEPTH: usize = 8;

/// What a bundle's model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleTask {
    /// Texts to vectors.
    Encode,
    /// A query and a passage to one score.
    Rerank,
}

impl BundleTask {
    fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Rerank => "rerank",
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
pub struct BundleOf<D, G> {
    folder: PathBuf,
    description: D,
    golden: G,
    fingerprint: String,
}

/// A bundle of the task `encode`.
pub type Bundle = BundleOf<Description, Golden>;

/// A bundle of the task `rerank`.
pub type PairBundle = BundleOf<PairDescription, PairGolden>;

/// A bundle of any task.
#[derive(Debug, Clone)]
pub enum AnyBundle {
    /// Texts to vectors.
    Encode(Bundle),
    /// A query and a passage to one score.
    Rerank(PairBundle),
}

impl AnyBundle {
    /// Reads a bundle folder as what its description says it is, and checks it as [`Bundle::read`] does.
    pub fn read(folder: &Path) -> Result<Self, BundleError> {
        match task_of(folder) {
            Some(BundleTask::Rerank) => PairBundle::read(folder).map(Self::Rerank),
            Some(BundleTask::Encode) | None => Bundle::read(folder).map(Self::Encode),
        }
    }

    /// The name in its description.
    pub fn name(&self) -> &str {
        match self {
            Self::Encode(bundle) => &bundle.description.name,
            Self::Rerank(bundle) => &bundle.description.name,
        }
    }

    /// Hex SHA-256 over every file.
    pub fn fingerprint(&self) -> &str {
        match self {
            Self::Encode(bundle) => bundle.fingerprint(),
            Self::Rerank(bundle) => bundle.fingerprint(),
        }
    }
}

/// The task that a folder's description names. None where there is none that is known: reading it says why.
fn task_of(folder: &Path) -> Option<BundleTask> {
    #[derive(Deserialize)]
    struct Named {
        task: BundleTask,
    }
    let named: Option<Named> = read_json(&folder.join(DESCRIPTION_FILE), &mut Vec::new());
    named.map(|named| named.task)
}

impl<D, G> BundleOf<D, G> {
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it says of itself.
    pub fn description(&self) -> &D {
        &self.description
    }

    /// What must come out.
    pub fn golden(&self) -> &G {
        &self.golden
    }

    /// Hex SHA-256 over every file.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl<D: DeserializeOwned, G: DeserializeOwned> BundleOf<D, G> {
    fn read_checked(folder: &Path, checks: &Checks<D, G>) -> Result<Self, BundleError> {
        refuse_another_task(folder, checks.task)?;
        let mut problems = missing_files(folder);
        let (description_file, golden_file) =
            (folder.join(DESCRIPTION_FILE), folder.join(GOLDEN_FILE));
        let description: Option<D> = read_json(&description_file, &mut problems);
        let golden: Option<G> = read_json(&golden_file, &mut problems);
        if let Some(description) = &description {
            let mut check = Check::of(&description_file, &mut problems);
            (checks.description)(&mut check, description);
        }
        if let (Some(description), Some(golden)) = (&description, &golden) {
            let mut check = Check::of(&golden_file, &mut problems);
            (checks.golden)(&mut check, description, golden);
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
}

/// What has to hold for a bundle of one task.
struct Checks<D, G> {
    task: BundleTask,
    description: fn(&mut Check<'_>, &D),
    golden: fn(&mut Check<'_>, &D, &G),
}

/// Said alone, for a description of another task has other fields, and each would be a mistake.
fn refuse_another_task(folder: &Path, task: BundleTask) -> Result<(), BundleError> {
    match task_of(folder) {
        Some(found) if found != task => {
            let message = format!("is {}, must be {} here", found.name(), task.name());
            Err(BundleError::one(
                &folder.join(DESCRIPTION_FILE),
                "task",
                message,
            ))
        }
        _ => Ok(()),
    }
}

impl Bundle {
    /// Reads an encoder's bundle folder and checks its description, its golden file and that its files are there.
    pub fn read(folder: &Path) -> Result<Self, BundleError> {
        let checks = Checks {
            task: BundleTask::Encode,
            description: encoder::check_description,
            golden: encoder::check_golden,
        };
        Self::read_checked(folder, &checks)
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

impl PairBundle {
    /// Reads a pair model's bundle folder and checks it as [`Bundle::read`] does.
    pub fn read(folder: &Path) -> Result<Self, BundleError> {
        let checks = Checks {
            task: BundleTask::Rerank,
            description: pair::check_description,
            golden: pair::check_golden,
        };
        Self::read_checked(folder, &checks)
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

impl<'a> Check<'a> {
    fn of(file: &'a Path, problems: &'a mut Vec<BundleProblem>) -> Self {
        Self { file, problems }
    }

    fn that(&mut self, holds: bool, field: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem(self.file, field, message()));
        }
    }
}

/// What every task's description has to keep.
fn check_common(check: &mut Check<'_>, format: u32, name: &str, max_tokens: usize) {
    check.that(format == FORMAT, "format", || {
        format!("is {format}; this version reads {FORMAT}")
    });
    check.that(!name.trim().is_empty(), "name", || "is empty".into());
    check.that(
        (4..=MAX_MAX_TOKENS).contains(&max_tokens),
        "max_tokens",
        || format!("is {max_tokens}, must be 4 to {MAX_MAX_TOKENS}"),
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
