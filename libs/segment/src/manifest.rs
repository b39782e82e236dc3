//! The description of one immutable state of a collection: its settings and the segments it is made of.
//!
//! Stored as JSON that a person can read, together with a checksum of its own content, and checked as a whole
//! before anything uses it: whoever holds a [`Manifest`] that was read holds one that makes sense.

mod settings;

use std::collections::{BTreeMap, BTreeSet};

use search_core::CollectionName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use settings::{
    ColbertSettings, CollectionSettings, DenseSettings, EncoderSettings, MAX_SHARDS,
    SPECIAL_TOKENS, Stage, TOKEN_POOLING, title_tokens,
};

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
    /// What the collection was created with. Stages may come and go with what belongs to them; the rest never changes.
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
