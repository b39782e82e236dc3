//! What this service makes of a snapshot: mapped token vectors of each segment, and the coder of the collection.

use search_core::Address;
use segment::SegmentError;
use segment::catalog::{PartLoader, SegmentFiles, ServedShard, SnapshotFiles};
use segment::checksum::FileEntry;
use segment::colbert::{ColbertPart, TokenCoder};
use segment::manifest::{ColbertSettings, Manifest, Stage};
use vector_math::TokenPassage;

/// A shard with its token vectors.
pub(crate) type Shard = ServedShard<ColbertLoader>;

/// Opens colbert parts.
pub(crate) struct ColbertLoader;

impl PartLoader for ColbertLoader {
    type Segment = ColbertPart;
    type Snapshot = TokenCoder;

    fn part(&self) -> &'static str {
        Stage::Colbert.as_str()
    }

    fn encoder_fingerprint<'a>(&self, manifest: &'a Manifest) -> &'a str {
        manifest.colbert_fingerprint()
    }

    fn snapshot_file<'a>(&self, manifest: &'a Manifest) -> Option<&'a FileEntry> {
        manifest.token_rotation.as_ref()
    }

    fn load_segment(&self, segment: &SegmentFiles) -> Result<ColbertPart, SegmentError> {
        let settings = settings(&segment.manifest)?;
        ColbertPart::open(&segment.files, settings, segment.entry.passages)
    }

    fn load_snapshot(&self, snapshot: &SnapshotFiles) -> Result<TokenCoder, SegmentError> {
        let settings = settings(&snapshot.manifest)?;
        TokenCoder::new(settings, snapshot.rotation()?)
            .map_err(|error| SegmentError::invalid(error.to_string()))
    }
}

fn settings(manifest: &Manifest) -> Result<&ColbertSettings, SegmentError> {
    let missing = || SegmentError::invalid("the manifest has no colbert settings");
    manifest.settings.colbert.as_ref().ok_or_else(missing)
}

/// The tokens of a passage. None: the shard has no such passage, or its segment is damaged.
pub(crate) fn passage(shard: &Shard, address: Address) -> Option<TokenPassage<'_>> {
    let part = &shard.locate(address)?.part;
    let blocks = part.passage(address.ordinal())?;
    // Opening has checked that the blocks of every passage exist.
    part.rows().passage(&blocks).ok()
}
