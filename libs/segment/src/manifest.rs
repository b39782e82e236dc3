//! The description of one immutable state of a collection: its settings and the segments it is made of.
//!
//! Stored as JSON that a person can read, together with a checksum of its own content, and checked as a whole
//! before anything uses it: whoever holds a [`Manifest`] that was read holds one that makes sense.

use std::collections::{BTreeMap, BTreeSet};

use search_core::CollectionName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    SegmentError,
    attributes::AttributeTypes,
    checksum::{FileEntry, checksum},
};

/// Version of the layout of manifests and segments. Another one is refused.
pub const FORMAT: u32 = 1;
/// Part of a segment: the stored documents.
pub const DOCUMENTS: &str = "documents";
/// Part of a segment: the typed metadata.
pub const ATTRIBUTES: &str = "attributes";
/// Most shards of a collection.
pub const MAX_SHARDS: u32 = 1024;

/// How many token vectors of a passage may become one.
pub const TOKEN_POOLING: std::ops::RangeInclusive<u32> = 1..=3;

const PASSAGE_TOKENS: std::ops::RangeInclusive<u32> = 16..=8192;
const MAX_DIMENSIONS: u32 = 65_536;

/// One state of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The collection.
    pub collection: CollectionName,
    /// Number of the snapshot, from 1; each commit takes the next.
    pub number: u64,
    /// What the collection was created with; never changes.
    pub settings: CollectionSettings,
    /// Types of the metadata fields of all documents so far.
    pub attributes: AttributeTypes,
    /// The rotation of the vectors.
    pub rotation: Option<FileEntry>,
    /// The rotation of the token vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_rotation: Option<FileEntry>,
    /// Term statistics of all live passages of all shards; set as soon as there are segments.
    pub statistics: Option<FileEntry>,
    /// The number that the next new segment takes. Numbers are never used twice.
    pub next_segment: u32,
    /// The segments, in no order.
    pub segments: Vec<SegmentEntry>,
}

/// What a collection is created with.
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

/// One segment of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentEntry {
    /// Number: the upper half of its passages' addresses.
    pub number: u32,
    /// The shard that its documents belong to.
    pub shard: u32,
    /// Documents stored, deleted ones too.
    pub documents: u32,
    /// Passages stored, deleted ones too.
    pub passages: u32,
    /// Passages of deleted documents.
    pub deleted_passages: u32,
    /// Files of each part: documents, attributes, and one part for each stage.
    pub parts: BTreeMap<String, Vec<FileEntry>>,
    /// Bitmap of the deleted passages; set if and only if there are any.
    pub deletes: Option<FileEntry>,
}

impl SegmentEntry {
    /// Passages that a search can find.
    #[must_use]
    pub fn live_passages(&self) -> u32 {
        self.passages.saturating_sub(self.deleted_passages)
    }

    fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.parts.values().flatten().chain(&self.deletes)
    }
}

/// The folder of a new segment's files. `run` makes it unique, so that leftovers never collide.
#[must_use]
pub fn segment_folder(number: u32, run: &str) -> String {
    format!("segments/{number}-{run}")
}

/// The folder of the files of one commit.
#[must_use]
pub fn snapshot_folder(number: u64, run: &str) -> String {
    format!("snapshots/{number}-{run}")
}

impl Manifest {
    /// The manifest before the first commit: number 0, nothing in it.
    #[must_use]
    pub fn empty(collection: CollectionName, settings: CollectionSettings) -> Self {
        Self {
            format: FORMAT,
            collection,
            number: 0,
            settings,
            attributes: AttributeTypes::default(),
            rotation: None,
            token_rotation: None,
            statistics: None,
            next_segment: 0,
            segments: Vec::new(),
        }
    }

    /// A copy with the next number, to be changed and committed.
    #[must_use]
    pub fn next(&self) -> Self {
        Self {
            number: self.number + 1,
            ..self.clone()
        }
    }

    /// Passages that a search can find.
    #[must_use]
    pub fn live_passages(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| u64::from(segment.live_passages()))
            .sum()
    }

    /// Fingerprint of the encoder; empty when there are no vectors.
    #[must_use]
    pub fn encoder_fingerprint(&self) -> &str {
        self.settings
            .encoder
            .as_ref()
            .map_or("", |encoder| &encoder.fingerprint)
    }

    /// Fingerprint of the second bundle; empty when there are no vectors for rescoring.
    #[must_use]
    pub fn rescore_fingerprint(&self) -> &str {
        let rescore = self.settings.rescore.as_ref();
        rescore.map_or("", |encoder| &encoder.fingerprint)
    }

    /// Fingerprint of the bundle of the token vectors; empty when there are none.
    #[must_use]
    pub fn colbert_fingerprint(&self) -> &str {
        let colbert = self.settings.colbert.as_ref();
        colbert.map_or("", |colbert| &colbert.fingerprint)
    }

    /// Whether segments have a part of this name.
    #[must_use]
    pub fn has_part(&self, part: &str) -> bool {
        [DOCUMENTS, ATTRIBUTES].contains(&part)
            || self
                .settings
                .stages
                .iter()
                .any(|stage| stage.as_str() == part)
    }

    /// All files that the manifest refers to.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        let of_segments = self.segments.iter().flat_map(SegmentEntry::files);
        let of_snapshot = [&self.rotation, &self.token_rotation, &self.statistics];
        of_segments.chain(of_snapshot.into_iter().flatten())
    }

    /// The content of a manifest file, after a check of the whole.
    pub fn to_json(&self) -> Result<Vec<u8>, SegmentError> {
        self.check()
            .map_err(|reason| SegmentError::invalid(format!("manifest: {reason}")))?;
        let stored = Stored {
            checksum: self.checksum()?,
            manifest: to_value(self)?,
        };
        serde_json::to_vec_pretty(&stored).map_err(unwritable)
    }

    /// Reads the content of a manifest file; `file` is its name, for messages.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self, SegmentError> {
        let damaged = |reason: String| SegmentError::damaged(file, reason);
        let stored: Stored =
            serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        let format = &stored.manifest["format"];
        if *format != FORMAT {
            return Err(damaged(format!(
                "has format {format}, this build reads {FORMAT}"
            )));
        }
        let manifest: Self =
            serde_json::from_value(stored.manifest).map_err(|error| damaged(error.to_string()))?;
        if manifest.checksum()? != stored.checksum {
            return Err(damaged("does not match its own checksum".to_owned()));
        }
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    fn checksum(&self) -> Result<String, SegmentError> {
        Ok(checksum(&serde_json::to_vec(self).map_err(unwritable)?))
    }

    fn check(&self) -> Result<(), String> {
        require(self.format == FORMAT, || {
            format!("format is {}, not {FORMAT}", self.format)
        })?;
        require(self.number > 0, || "number is 0".to_owned())?;
        self.settings.check()?;
        self.check_snapshot_files()?;
        self.check_files()?;
        let mut numbers = BTreeSet::new();
        for segment in &self.segments {
            let named = |reason: String| format!("segment {}: {reason}", segment.number);
            require(numbers.insert(segment.number), || {
                named("is listed twice".to_owned())
            })?;
            self.check_segment(segment).map_err(named)?;
        }
        Ok(())
    }

    fn check_snapshot_files(&self) -> Result<(), String> {
        let CollectionSettings { dense, colbert, .. } = &self.settings;
        let rotated = dense.as_ref().is_some_and(|dense| dense.rotated);
        let tokens_rotated = colbert.as_ref().is_some_and(|colbert| colbert.rotated);
        self.check_rotation("rotation", rotated, &self.rotation)?;
        self.check_rotation("token_rotation", tokens_rotated, &self.token_rotation)?;
        require(
            self.segments.is_empty() || self.statistics.is_some(),
            || "statistics are missing".to_owned(),
        )
    }

    fn check_rotation(
        &self,
        name: &str,
        wanted: bool,
        file: &Option<FileEntry>,
    ) -> Result<(), String> {
        require(wanted || file.is_none(), || {
            format!("{name} is set but unused")
        })?;
        let may_lack = !wanted || self.segments.is_empty();
        require(may_lack || file.is_some(), || format!("{name} is missing"))
    }

    fn check_files(&self) -> Result<(), String> {
        let mut paths = BTreeSet::new();
        for file in self.files() {
            file.check()?;
            let in_place =
                file.path.starts_with("segments/") || file.path.starts_with("snapshots/");
            require(in_place, || format!("{}: no such folder", file.path))?;
            require(paths.insert(&file.path), || {
                format!("{}: listed twice", file.path)
            })?;
        }
        Ok(())
    }

    fn check_segment(&self, segment: &SegmentEntry) -> Result<(), String> {
        let SegmentEntry {
            number,
            shard,
            documents,
            passages,
            deleted_passages,
            ..
        } = segment;
        let shards = self.settings.shards;
        require(*number < self.next_segment, || {
            format!("next_segment is {}", self.next_segment)
        })?;
        require(*shard < shards, || format!("shard {shard} of {shards}"))?;
        require((1..=*passages).contains(documents), || {
            format!("{documents} documents, {passages} passages")
        })?;
        require(deleted_passages <= passages, || {
            format!("{deleted_passages} of {passages} passages deleted")
        })?;
        let has_deletes = segment.deletes.is_some();
        require((*deleted_passages > 0) == has_deletes, || {
            "deletes file and count contradict".to_owned()
        })?;
        self.check_parts(segment)
    }

    fn check_parts(&self, segment: &SegmentEntry) -> Result<(), String> {
        let stages = self.settings.stages.iter().map(|stage| stage.as_str());
        let wanted: BTreeSet<&str> = stages.chain([DOCUMENTS, ATTRIBUTES]).collect();
        let found: BTreeSet<&str> = segment.parts.keys().map(String::as_str).collect();
        require(wanted == found, || {
            format!("has parts {found:?}, not {wanted:?}")
        })?;
        segment
            .parts
            .iter()
            .try_for_each(|(part, files)| check_part(part, files))
    }
}

/// The files of a part lie in one folder of the part's name.
fn check_part(part: &str, files: &[FileEntry]) -> Result<(), String> {
    let folder = |file: &FileEntry| {
        file.path
            .rsplit_once('/')
            .map(|(folder, _)| folder.to_owned())
    };
    let first = files
        .first()
        .and_then(folder)
        .ok_or_else(|| format!("part {part} has no files"))?;
    let named = first.rsplit('/').next() == Some(part);
    let together = files
        .iter()
        .all(|file| folder(file).as_ref() == Some(&first));
    require(named && together, || format!("part {part} is scattered"))
}

impl CollectionSettings {
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

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Checksum of the manifest in compact form.
    checksum: String,
    manifest: Value,
}

fn to_value(manifest: &Manifest) -> Result<Value, SegmentError> {
    serde_json::to_value(manifest).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> SegmentError {
    SegmentError::invalid(format!("manifest: {error}"))
}

#[cfg(test)]
mod tests;
