//! What this service makes of a snapshot: mapped vectors of each segment, and the coder of the collection.

use std::path::Path;

use segment::SegmentError;
use segment::catalog::{PartLoader, SegmentFiles, ServedSegment, ServedShard, SnapshotFiles};
use segment::checksum::FileEntry;
use segment::dense::DensePart;
use segment::manifest::{DenseSettings, Manifest, Stage};
use vector_math::{Rotation, VectorCoder, VectorError};

/// A rotation that was fitted on fewer passages than this says too little about later ones to choose by prefix: the
/// collection is scanned at full width instead.
///
/// SciFact, MiniLM, prefix 64 → 1000, share of the exact top 100 that is kept by samples of 128, 256, 512, 1024 and all 5,183:
/// .994, .997, .998, .999, .999.
pub(crate) const MIN_ROTATION_SAMPLE: usize = 1024;

/// A shard with its vectors.
pub(crate) type Shard = ServedShard<DenseLoader>;

/// One segment of it.
pub(crate) type Segment = ServedSegment<DenseLoader>;

/// Opens dense parts.
pub(crate) struct DenseLoader;

/// What a query needs beside the segments.
pub(crate) struct DenseSnapshot {
    pub(crate) coder: VectorCoder,
    pub(crate) prefix_depth: usize,
    /// Whether prefixes say enough to choose by them.
    pub(crate) has_good_prefixes: bool,
}

impl PartLoader for DenseLoader {
    type Segment = DensePart;
    type Snapshot = DenseSnapshot;

    fn part(&self) -> &'static str {
        Stage::Dense.as_str()
    }

    fn snapshot_file<'a>(&self, manifest: &'a Manifest) -> Option<&'a FileEntry> {
        manifest.rotation.as_ref()
    }

    fn load_segment(&self, segment: &SegmentFiles) -> Result<DensePart, SegmentError> {
        DensePart::open(
            &segment.files,
            settings(&segment.manifest)?,
            segment.entry.passages,
        )
    }

    fn load_snapshot(&self, snapshot: &SnapshotFiles) -> Result<DenseSnapshot, SegmentError> {
        let settings = settings(&snapshot.manifest)?;
        let rotation = snapshot.file.as_deref().map(read_rotation).transpose()?;
        let has_good_prefixes = match &rotation {
            Some(rotation) => rotation.samples() >= MIN_ROTATION_SAMPLE,
            None => !settings.rotated,
        };
        Ok(DenseSnapshot {
            coder: coder(&snapshot.manifest, settings, rotation)?,
            prefix_depth: settings.prefix_depth as usize,
            has_good_prefixes,
        })
    }
}

fn settings(manifest: &Manifest) -> Result<&DenseSettings, SegmentError> {
    let missing = || SegmentError::invalid("the manifest has no dense settings");
    manifest.settings.dense.as_ref().ok_or_else(missing)
}

fn coder(
    manifest: &Manifest,
    settings: &DenseSettings,
    rotation: Option<Rotation>,
) -> Result<VectorCoder, SegmentError> {
    let encoder = manifest.settings.encoder.as_ref();
    let encoder = encoder.ok_or_else(|| SegmentError::invalid("the manifest has no encoder"))?;
    let [width, dimensions, prefix] = [
        encoder.dimensions,
        settings.dimensions,
        settings.prefix_dimensions,
    ]
    .map(|size| size as usize);
    VectorCoder::new(rotation, width, dimensions, prefix)
        .map_err(|error| SegmentError::invalid(error.to_string()))
}

fn read_rotation(file: &Path) -> Result<Rotation, SegmentError> {
    let bytes = std::fs::read(file).map_err(SegmentError::io(file))?;
    let damaged =
        |error: VectorError| SegmentError::damaged(file.display().to_string(), error.to_string());
    Rotation::from_bytes(&bytes).map_err(damaged)
}
