//! What a collection is created with, and which stages it has by now.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::require;

/// Most shards of a collection.
pub const MAX_SHARDS: u32 = 1024;

/// How many token vectors of a passage may become one.
pub const TOKEN_POOLING: std::ops::RangeInclusive<u32> = 1..=3;

/// What tokenizers put around a text.
pub const SPECIAL_TOKENS: u32 = 2;

const PASSAGE_TOKENS: std::ops::RangeInclusive<u32> = 16..=8192;
const MAX_DIMENSIONS: u32 = 65_536;

/// Tokens of a title that stand in front of each passage of so many, at most: never more than half of them, so that a title as long as a
/// passage leaves room for the text.
#[must_use]
pub const fn title_tokens(passage_tokens: u32) -> u32 {
    (passage_tokens / 2).saturating_sub(SPECIAL_TOKENS)
}

/// What a collection is created with, and which stages it has by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectionSettings {
    /// Shards, 1 to 1024: documents go to them by a hash of their id.
    pub shards: u32,
    /// The stages that segments are built for: sparse, which also serves the stored documents, and others.
    pub stages: Vec<Stage>,
    /// Tokens of a passage, 16 to 8192.
    pub passage_tokens: u32,
    /// Tokens that neighbouring passages share: less than half of `passage_tokens`.
    pub overlap_tokens: u32,
    /// Analysis of the text. Not empty.
    pub language: String,
    /// The encoder of the vectors; set if and only if there is a dense stage.
    pub encoder: Option<EncoderSettings>,
    /// How vectors are stored; set if and only if there is a dense stage.
    pub dense: Option<DenseSettings>,
    /// The bundle of the vectors for rescoring, which are stored at full width; set if and only if there is a rescore stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescore: Option<EncoderSettings>,
    /// How token vectors are made and stored; set if and only if there is a colbert stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colbert: Option<ColbertSettings>,
}

/// A retrieval stage with a part of its own in each segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// BM25.
    Sparse,
    /// int8 vectors.
    Dense,
    /// int8 vectors of a second bundle, which are scored but not searched. Only beside a dense stage.
    Rescore,
    /// int8 token vectors, which are scored but not searched.
    Colbert,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Sparse, Self::Dense, Self::Rescore, Self::Colbert];

    /// Name of the stage and of its part.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sparse => "sparse",
            Self::Dense => "dense",
            Self::Rescore => "rescore",
            Self::Colbert => "colbert",
        }
    }

    /// The stage of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }
}

/// The bundle that encodes the passages of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSettings {
    /// Hash of the bundle. Not empty.
    pub fingerprint: String,
    /// Dimensions of its vectors.
    pub dimensions: u32,
}

/// How vectors are stored and searched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseSettings {
    /// Dimensions stored, at most those of the encoder.
    pub dimensions: u32,
    /// Dimensions of the first scan, at most `dimensions`.
    pub prefix_dimensions: u32,
    /// Passages that the first scan passes to the full width, by default.
    pub prefix_depth: u32,
    /// Whether vectors are rotated before they are cut.
    pub rotated: bool,
    /// Passages that the rotation is fitted on.
    pub rotation_sample: u32,
    /// Segments of fewer passages have no graph and are scanned.
    pub graph_min_passages: u32,
}

/// How token vectors are made and stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColbertSettings {
    /// Hash of the bundle that makes them: the encoder's, where there is a dense stage. Not empty.
    pub fingerprint: String,
    /// Width of the bundle's token vectors.
    pub token_dimensions: u32,
    /// Dimensions stored, at most `token_dimensions`.
    pub dimensions: u32,
    /// Whether token vectors are rotated before they are cut.
    pub rotated: bool,
    /// Token vectors that the rotation is fitted on.
    pub rotation_sample: u32,
    /// Token vectors of a passage that become one, 1 to 3; 1: each is kept.
    pub pooling: u32,
}

impl CollectionSettings {
    /// The same with those of these stages that it has, and with what belongs to them.
    #[must_use]
    pub fn with_only(&self, stages: &[Stage]) -> Self {
        let mut only = self.clone();
        only.stages.retain(|stage| stages.contains(stage));
        if !stages.contains(&Stage::Dense) {
            (only.encoder, only.dense) = (None, None);
        }
        only.rescore = only.rescore.filter(|_| stages.contains(&Stage::Rescore));
        only.colbert = only.colbert.filter(|_| stages.contains(&Stage::Colbert));
        only
    }

    /// Refuses settings that contradict themselves.
    pub fn check(&self) -> Result<(), String> {
        let (passage, overlap) = (self.passage_tokens, self.overlap_tokens);
        require((1..=MAX_SHARDS).contains(&self.shards), || {
            format!("shards is {}", self.shards)
        })?;
        require(PASSAGE_TOKENS.contains(&passage), || {
            format!("passage_tokens is {passage}")
        })?;
        require(overlap < passage.div_ceil(2), || {
            format!("overlap_tokens {overlap} is not less than half of passage_tokens {passage}")
        })?;
        require(!self.language.is_empty(), || "language is empty".to_owned())?;
        let stages: BTreeSet<&Stage> = self.stages.iter().collect();
        let once = !stages.is_empty() && stages.len() == self.stages.len();
        require(once, || "stages are empty or named twice".to_owned())?;
        require(stages.contains(&Stage::Sparse), || {
            "the sparse stage is missing, which serves the documents".to_owned()
        })?;
        self.check_dense(stages.contains(&Stage::Dense))?;
        self.check_rescore(stages.contains(&Stage::Rescore))?;
        self.check_colbert(stages.contains(&Stage::Colbert))
    }

    fn check_dense(&self, wanted: bool) -> Result<(), String> {
        match (&self.encoder, &self.dense) {
            (None, None) if !wanted => Ok(()),
            (Some(encoder), Some(dense)) if wanted => dense.check(encoder),
            _ => Err("encoder, dense and the dense stage come together or not at all".to_owned()),
        }
    }

    fn check_rescore(&self, wanted: bool) -> Result<(), String> {
        require(self.rescore.is_some() == wanted, || {
            "rescore and the rescore stage come together or not at all".to_owned()
        })?;
        let Some(rescore) = &self.rescore else {
            return Ok(());
        };
        rescore.check()?;
        let encoder = self
            .encoder
            .as_ref()
            .ok_or("rescore needs the dense stage")?;
        require(encoder.fingerprint != rescore.fingerprint, || {
            "rescore has the encoder's own fingerprint".to_owned()
        })
    }

    /// A query is encoded once for both: sentence and token vectors are of one bundle.
    fn check_colbert(&self, wanted: bool) -> Result<(), String> {
        require(self.colbert.is_some() == wanted, || {
            "colbert and the colbert stage come together or not at all".to_owned()
        })?;
        let Some(colbert) = &self.colbert else {
            return Ok(());
        };
        colbert.check()?;
        let encoder = self.encoder.as_ref();
        require(
            encoder.is_none_or(|encoder| encoder.fingerprint == colbert.fingerprint),
            || "colbert has another fingerprint than the encoder".to_owned(),
        )
    }
}

impl ColbertSettings {
    fn check(&self) -> Result<(), String> {
        let (made, stored, pooling) = (self.token_dimensions, self.dimensions, self.pooling);
        require(!self.fingerprint.is_empty(), || {
            "colbert fingerprint is empty".to_owned()
        })?;
        require((1..=MAX_DIMENSIONS).contains(&made), || {
            format!("{made} token dimensions")
        })?;
        require((1..=made).contains(&stored), || {
            format!("{stored} of {made} token dimensions stored")
        })?;
        require(TOKEN_POOLING.contains(&pooling), || {
            format!("colbert pooling is {pooling}")
        })
    }
}

impl EncoderSettings {
    fn check(&self) -> Result<(), String> {
        require(!self.fingerprint.is_empty(), || {
            "encoder fingerprint is empty".to_owned()
        })?;
        require((1..=MAX_DIMENSIONS).contains(&self.dimensions), || {
            format!("{} dimensions encoded", self.dimensions)
        })
    }
}

impl DenseSettings {
    /// Vectors that are scored and never searched: all dimensions in one block, neither rotated nor cut, no graph.
    #[must_use]
    pub fn scored_only(dimensions: u32) -> Self {
        Self {
            dimensions,
            prefix_dimensions: dimensions,
            prefix_depth: 1,
            rotated: false,
            rotation_sample: 0,
            graph_min_passages: u32::MAX,
        }
    }

    fn check(&self, encoder: &EncoderSettings) -> Result<(), String> {
        let (stored, prefix) = (self.dimensions, self.prefix_dimensions);
        let encoded = encoder.dimensions;
        encoder.check()?;
        require((1..=encoded).contains(&stored), || {
            format!("{stored} of {encoded} dimensions stored")
        })?;
        require((1..=stored).contains(&prefix), || {
            format!("{prefix} of {stored} dimensions in the prefix")
        })?;
        require(self.prefix_depth > 0, || "prefix_depth is 0".to_owned())
    }
}
