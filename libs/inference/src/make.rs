//! Making a bundle from an exported model: any Hugging Face style folder with `model.onnx` and `tokenizer.json`.
//!
//! What the folder's own files say is used; what they leave open is taken from a default and said aloud.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::bundle::{
    Bundle, BundleError, BundleTask, DESCRIPTION_FILE, Description, FORMAT, GOLDEN_FILE, Golden,
    GoldenEntry, GoldenTask, MODEL_FILE, Outputs, Pooling, Prompts, SentenceOutput, TOKENIZER_FILE,
    TokenVectorRules,
};
use crate::golden::{self, GoldenError};
use crate::graph::{self, LoadError};
use crate::model::{BatchModel, OnnxModel};
use crate::runtime::OnnxRuntime;
use crate::tokenizer::{self, TextTokenizer};

/// What most encoders read, where nothing says it.
const DEFAULT_MAX_TOKENS: usize = 512;
/// A tokenizer's limit beyond this means "none".
const BELIEVABLE_MAX_TOKENS: u64 = 32_768;
/// Runtimes and processors round differently; a bundle that is made here has no finer truth to compare with.
const TOLERANCE: f32 = 1e-4;
/// Files that say what a model is and may be used for: they travel with it.
const CARRIED_FILES: [&str; 6] = [
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "README.md",
    "config.json",
];
/// The texts whose vectors are kept: short, with accents and other scripts, and longer than any limit.
const GOLDEN_TEXTS: [(GoldenTask, &str, usize); 4] = [
    (GoldenTask::Query, "set a deadline on a request", 1),
    (
        GoldenTask::Passage,
        "Naïve café owners in 東京 don't shard their index; they read it.",
        1,
    ),
    (
        GoldenTask::Passage,
        "The orchestrator asks every shard in parallel and fuses what it got before the deadline.",
        1,
    ),
    (
        GoldenTask::Passage,
        "Immutable segments are mapped after their checksums were compared. ",
        40,
    ),
];

/// How a bundle is made.
#[derive(Debug, Clone)]
pub struct MakeOptions {
    /// The graph is loaded and run.
    pub runtime: OnnxRuntime,
    /// The bundle's name. None: the model folder's.
    pub name: Option<String>,
}

/// A bundle that was made.
#[derive(Debug)]
pub struct Made {
    /// It.
    pub bundle: Bundle,
    /// What was assumed because the folder did not say it: one sentence each.
    pub notes: Vec<String>,
}

/// Why no bundle was made. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The model folder lacks something or says what cannot be served.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The graph does not load or does not fit.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model fails on the golden texts.
    #[error(
        "{folder}: the model cannot encode the golden texts (is max_tokens = {max_tokens} more than it reads?)"
    )]
    Golden {
        /// The model folder.
        folder: String,
        /// The limit that was read from the folder or assumed.
        max_tokens: usize,
        /// Why not.
        #[source]
        cause: Box<GoldenError>,
    },
    /// There is something at the place already.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {cause}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> MakeError {
    let path = path.to_owned();
    move |cause| MakeError::Io { path, cause }
}

/// Makes the bundle folder `out` from the model in `folder`. Its golden vectors are what comes out today on this
/// machine: they show later that nothing changed, not that the export is right.
pub fn make_bundle(folder: &Path, out: &Path, options: &MakeOptions) -> Result<Made, MakeError> {
    if out.exists() {
        return Err(MakeError::Exists(out.to_owned()));
    }
    let mut source = Source::find(folder)?;
    let declared = graph::output_shapes(&options.runtime, &source.graph)?;
    let description = source.describe(&declared, options)?;

    let parent = out
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io_error(parent))?;
    let staging = tempfile::Builder::new()
        .prefix(".staging-")
        .tempdir_in(parent)
        .map_err(io_error(parent))?;
    let made = staging.path().join("bundle");
    source.copy_into(&made)?;
    write_json(&made.join(DESCRIPTION_FILE), &description)?;
    add_golden(folder, &made, description, options)?;
    fs::rename(&made, out).map_err(io_error(out))?;
    Ok(Made {
        bundle: Bundle::read(out)?,
        notes: source.notes,
    })
}

fn add_golden(
    folder: &Path,
    made: &Path,
    description: Description,
    options: &MakeOptions,
) -> Result<(), MakeError> {
    let max_tokens = description.max_tokens;
    let failed = |cause: GoldenError| MakeError::Golden {
        folder: folder.display().to_string(),
        max_tokens,
        cause: Box::new(cause),
    };
    let draft = Bundle::draft(made, description);
    let tokenizer = TextTokenizer::load(&draft)?;
    let mut model = OnnxModel::load(&options.runtime, &draft)?;
    let entry = |&(task, text, times): &(GoldenTask, &str, usize)| {
        golden_entry(&tokenizer, &mut model, task, text.repeat(times))
    };
    let entries: Result<Vec<_>, _> = GOLDEN_TEXTS.iter().map(entry).collect();
    let origin = "this graph on this runtime, when the bundle was made; not the framework that trained the model";
    let golden = Golden {
        origin: origin.into(),
        entries: entries.map_err(failed)?,
    };
    write_json(&made.join(GOLDEN_FILE), &golden)?;
    // Batched with others, the texts must give the same.
    golden::check(&Bundle::read(made)?, &tokenizer, &mut model).map_err(failed)
}

fn golden_entry(
    tokenizer: &TextTokenizer,
    model: &mut OnnxModel,
    task: GoldenTask,
    text: String,
) -> Result<GoldenEntry, GoldenError> {
    let failed = |reason| GoldenError::Text { index: 0, reason };
    let row = tokenizer
        .encode(&text, task.into(), false)
        .map_err(failed)?;
    let vectors = model.run(&[&row], false)?;
    let vector = vectors.sentences.into_iter().next().unwrap_or_default();
    Ok(GoldenEntry {
        task,
        text,
        token_ids: row.ids,
        vector,
        token_vectors: None,
    })
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), MakeError> {
    let json = serde_json::to_vec_pretty(value).map_err(|error| io_error(path)(error.into()))?;
    fs::write(path, json).map_err(io_error(path))
}

/// Name and shape of an output that a graph declares.
type OutputShape = (String, Vec<i64>);

/// A model folder, and what had to be assumed about it.
struct Source<'a> {
    folder: &'a Path,
    graph: PathBuf,
    tokenizer: PathBuf,
    notes: Vec<String>,
}

impl<'a> Source<'a> {
    fn find(folder: &'a Path) -> Result<Self, BundleError> {
        let graphs = [
            folder.join(MODEL_FILE),
            folder.join("onnx").join(MODEL_FILE),
        ];
        let Some(graph) = graphs.into_iter().find(|path| path.is_file()) else {
            return Err(BundleError::one(
                folder,
                "",
                "has neither model.onnx nor onnx/model.onnx",
            ));
        };
        let tokenizer = folder.join(TOKENIZER_FILE);
        if !tokenizer.is_file() {
            return Err(BundleError::one(
                &tokenizer,
                "",
                "missing: a fast tokenizer in one file is needed",
            ));
        }
        Ok(Self {
            folder,
            graph,
            tokenizer,
            notes: Vec::new(),
        })
    }

    /// A JSON file of the folder; nothing where there is none.
    fn json(&self, name: &str) -> Result<Value, BundleError> {
        let path = self.folder.join(name);
        if !path.is_file() {
            return Ok(Value::Null);
        }
        let bytes = fs::read(&path).map_err(|error| BundleError::one(&path, "", error))?;
        serde_json::from_slice(&bytes).map_err(|error| BundleError::one(&path, "", error))
    }

    fn describe(
        &mut self,
        declared: &[OutputShape],
        options: &MakeOptions,
    ) -> Result<Description, BundleError> {
        let sentence_settings = self.json("sentence_bert_config.json")?;
        let (outputs, dimensions, token_dimensions) = self.outputs(declared)?;
        let folder_name = || {
            self.folder
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let name = options
            .name
            .clone()
            .or_else(folder_name)
            .unwrap_or_else(|| "model".into());
        Ok(Description {
            format: FORMAT,
            name,
            task: BundleTask::Encode,
            dimensions,
            token_dimensions,
            matryoshka_dimensions: Vec::new(),
            prompts: self.prompts()?,
            outputs,
            max_tokens: self.max_tokens(&sentence_settings)?,
            pad_token_id: self.pad_token_id()?,
            lowercase: sentence_settings["do_lower_case"]
                .as_bool()
                .unwrap_or(false),
            token_vectors: TokenVectorRules::default(),
            tolerance: TOLERANCE,
            source: format!("made from {}", self.folder.display()),
        })
    }

    /// Which outputs mean what, and their widths.
    fn outputs(
        &mut self,
        declared: &[OutputShape],
    ) -> Result<(Outputs, usize, usize), BundleError> {
        let find = |name: &str, rank: usize| {
            declared
                .iter()
                .find(|(output, shape)| output == name && shape.len() == rank)
        };
        let tokens = find("token_embeddings", 3).or_else(|| find("last_hidden_state", 3));
        let sentence = find("sentence_embedding", 2);
        let token_dimensions = tokens
            .map(|(name, shape)| self.width(name, shape))
            .transpose()?
            .unwrap_or(0);
        let tokens = tokens.map(|(name, _)| name.clone());
        let (sentence, dimensions) = match (sentence, &tokens) {
            (Some((name, shape)), _) => (
                SentenceOutput {
                    output: name.clone(),
                    pooling: Pooling::None,
                },
                self.width(name, shape)?,
            ),
            (None, Some(name)) => (
                SentenceOutput {
                    output: name.clone(),
                    pooling: self.pooling()?,
                },
                token_dimensions,
            ),
            (None, None) => return Err(self.no_output(declared)),
        };
        Ok((Outputs { sentence, tokens }, dimensions, token_dimensions))
    }

    fn no_output(&self, declared: &[OutputShape]) -> BundleError {
        let known: Vec<&str> = declared.iter().map(|(name, _)| name.as_str()).collect();
        let message = format!(
            "needs sentence_embedding, token_embeddings or last_hidden_state; the graph gives {}",
            known.join(", ")
        );
        BundleError::one(&self.graph, "outputs", message)
    }

    fn width(&self, output: &str, shape: &[i64]) -> Result<usize, BundleError> {
        let declared = shape.last().and_then(|&width| usize::try_from(width).ok());
        let configured = || {
            self.json("config.json")
                .map(|config| config["hidden_size"].as_u64())
        };
        match declared {
            Some(width) => Ok(width),
            None => configured()?
                .and_then(|width| usize::try_from(width).ok())
                .ok_or_else(|| {
                    BundleError::one(
                        &self.graph,
                        &format!("outputs.{output}"),
                        "its width is open, and config.json has no hidden_size",
                    )
                }),
        }
    }

    fn pooling(&mut self) -> Result<Pooling, BundleError> {
        self.refuse_unknown_modules()?;
        let file = self.folder.join("1_Pooling/config.json");
        let settings = self.json("1_Pooling/config.json")?;
        let modes = settings.as_object().into_iter().flatten();
        let chosen: Vec<&str> = modes
            .filter(|(name, on)| name.starts_with("pooling_mode_") && on.as_bool() == Some(true))
            .map(|(name, _)| name.as_str())
            .collect();
        match chosen.as_slice() {
            [] => {
                self.notes.push(
                    "1_Pooling/config.json is missing: the mean of the token states is taken."
                        .into(),
                );
                Ok(Pooling::Mean)
            }
            // Dividing by the square root of the count changes the length only, and the length is made 1.
            ["pooling_mode_mean_tokens" | "pooling_mode_mean_sqrt_len_tokens"] => Ok(Pooling::Mean),
            ["pooling_mode_cls_token"] => Ok(Pooling::FirstToken),
            ["pooling_mode_lasttoken"] => Ok(Pooling::LastToken),
            ["pooling_mode_max_tokens"] => Ok(Pooling::Max),
            several => Err(BundleError::one(
                &file,
                &several.join(" and "),
                "is not supported",
            )),
        }
    }

    /// A layer behind the pooling that the graph does not contain would be lost in silence.
    fn refuse_unknown_modules(&self) -> Result<(), BundleError> {
        let modules = self.json("modules.json")?;
        let kinds = modules
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|module| module["type"].as_str());
        let mut unknown = kinds.filter(|kind| {
            !["Transformer", "Pooling", "Normalize"]
                .iter()
                .any(|known| kind.ends_with(known))
        });
        match unknown.next_back() {
            None => Ok(()),
            Some(kind) => Err(BundleError::one(
                &self.folder.join("modules.json"),
                "type",
                format!(
                    "{kind} is not in the graph: export the whole model, with the output sentence_embedding"
                ),
            )),
        }
    }

    fn max_tokens(&mut self, sentence_settings: &Value) -> Result<usize, BundleError> {
        let tokenizer_limit = self.json("tokenizer_config.json")?["model_max_length"].as_u64();
        let limit = sentence_settings["max_seq_length"]
            .as_u64()
            .or(tokenizer_limit.filter(|&limit| limit <= BELIEVABLE_MAX_TOKENS));
        Ok(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or_else(|| {
            let note = format!("Nothing says how many tokens the model reads: {DEFAULT_MAX_TOKENS} are assumed.");
            self.notes.push(note);
            DEFAULT_MAX_TOKENS
        }))
    }

    fn prompts(&mut self) -> Result<Prompts, BundleError> {
        let settings = self.json("config_sentence_transformers.json")?;
        let prompt = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| settings["prompts"][name].as_str())
                .unwrap_or_default()
                .to_owned()
        };
        let prompts = Prompts {
            query: prompt(&["query"]),
            passage: prompt(&["passage", "document"]),
        };
        if prompts == Prompts::default() {
            self.notes.push(
                "No prompts are configured: queries and passages are encoded as they are.".into(),
            );
        }
        Ok(prompts)
    }

    fn pad_token_id(&mut self) -> Result<u32, BundleError> {
        Ok(
            tokenizer::pad_token_id(&self.tokenizer)?.unwrap_or_else(|| {
                self.notes
                    .push("The tokenizer names no padding token: id 0 is used.".into());
                0
            }),
        )
    }

    fn copy_into(&self, made: &Path) -> Result<(), MakeError> {
        fs::create_dir(made).map_err(io_error(made))?;
        let graph_dir = self.graph.parent().unwrap_or(self.folder);
        let external = external_files(&self.graph)?;
        let external = external
            .iter()
            .map(|location| (graph_dir.join(location), location.clone()));
        let carried = CARRIED_FILES
            .iter()
            .map(|name| (self.folder.join(name), PathBuf::from(name)));
        let carried = carried.filter(|(path, _)| path.is_file());
        let own = [
            (self.graph.clone(), MODEL_FILE.into()),
            (self.tokenizer.clone(), TOKENIZER_FILE.into()),
        ];
        for (from, name) in own.into_iter().chain(external).chain(carried) {
            let to = made.join(name);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(io_error(parent))?;
            }
            fs::copy(&from, &to).map_err(io_error(&from))?;
        }
        Ok(())
    }
}

/// The files that a graph keeps weights in: every external tensor has an entry with the key `location`.
fn external_files(graph: &Path) -> Result<Vec<PathBuf>, MakeError> {
    let bytes = fs::read(graph).map_err(io_error(graph))?;
    let mut locations: Vec<PathBuf> = locations(&bytes).into_iter().map(PathBuf::from).collect();
    locations.sort();
    locations.dedup();
    let escapes = |path: &PathBuf| {
        !path
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
    };
    match locations.iter().find(|path| escapes(path)) {
        Some(path) => Err(BundleError::one(
            graph,
            "external_data",
            format!("{} leaves the folder", path.display()),
        )
        .into()),
        None => Ok(locations),
    }
}

/// The values of all `StringStringEntryProto` with the key `location`, found by their wire form: field 1, eight
/// bytes, the key; field 2, the length in one byte (longer file names are nobody's), the value.
fn locations(graph: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\x0a\x08location\x12";
    let mut found = Vec::new();
    let mut rest = graph;
    while let Some(at) = rest.windows(KEY.len()).position(|window| window == KEY) {
        rest = &rest[at + KEY.len()..];
        let value = rest
            .split_first()
            .and_then(|(&length, value)| value.get(..length.into()));
        found.extend(
            value
                .filter(|_| rest[0] < 0x80)
                .and_then(|value| String::from_utf8(value.to_vec()).ok()),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_files_are_found_in_the_default_graph() {
        let graph = include_bytes!("../graphs/minilm_l6.onnx");
        let mut found = locations(graph);
        found.dedup();
        assert_eq!(found, ["model.safetensors"]);
    }

    #[test]
    fn a_cut_or_senseless_location_is_passed_over() {
        assert!(locations(b"\x0a\x08location\x12").is_empty());
        assert!(locations(b"\x0a\x08location\x12\x09short").is_empty());
        assert!(locations(b"\x0a\x08location\x12\xff\x01").is_empty());
    }
}
