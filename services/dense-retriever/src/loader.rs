//! What this service makes of a snapshot: mapped vectors of each segment, and the coder of the collection.

use segment::SegmentError;
use segment::catalog::{PartLoader, SegmentFiles, ServedSegment, ServedShard, SnapshotFiles};
use segment::checksum::FileEntry;
use segment::dense::DensePart;
use segment::manifest::{DenseSettings, Manifest, Stage};
use vector_math::{Rotation, VectorCoder};

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

/// The vectors of one segment.
pub(crate) struct SegmentVectors {
    pub(crate) dense: DensePart,
    /// None: the collection has no vectors for rescoring, or those of this segment are damaged.
    rescore: Option<DensePart>,
}

/// Which vectors of a passage are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// Those that are searched.
    Dense,
    /// Those of the second bundle.
    Rescore,
}

impl SegmentVectors {
    /// The vectors that are meant. None: they are damaged.
    pub(crate) fn of(&self, vectors: Vectors) -> Option<&DensePart> {
        match vectors {
            Vectors::Dense => Some(&self.dense),
            Vectors::Rescore => self.rescore.as_ref(),
        }
    }
}

/// What a query needs beside the segments.
pub(crate) struct DenseSnapshot {
    coder: VectorCoder,
    pub(crate) prefix_depth: usize,
    /// Whether prefixes say enough to choose by them.
    pub(crate) has_good_prefixes: bool,
    /// Codes queries of the second bundle, where there are vectors for rescoring.
    rescore_coder: Option<VectorCoder>,
}

impl DenseSnapshot {
    /// The coder of the vectors that are meant. None: the collection has none.
    pub(crate) fn coder(&self, vectors: Vectors) -> Option<&VectorCoder> {
        match vectors {
            Vectors::Dense => Some(&self.coder),
            Vectors::Rescore => self.rescore_coder.as_ref(),
        }
    }
}

impl PartLoader for DenseLoader {
    type Segment = SegmentVectors;
    type Snapshot = DenseSnapshot;

    fn part(&self) -> &'static str {
        Stage::Dense.as_str()
    }

    fn part_beside(&self) -> Option<&'static str> {
        Some(Stage::Rescore.as_str())
    }

    fn snapshot_file<'a>(&self, manifest: &'a Manifest) -> Option<&'a FileEntry> {
        manifest.rotation.as_ref()
    }

    fn load_segment(&self, segment: &SegmentFiles) -> Result<SegmentVectors, SegmentError> {
        let dense = DensePart::open(
            &segment.files,
            settings(&segment.manifest)?,
            segment.entry.passages,
        )?;
        Ok(SegmentVectors {
            dense,
            rescore: open_rescore(segment),
        })
    }

    fn load_snapshot(&self, snapshot: &SnapshotFiles) -> Result<DenseSnapshot, SegmentError> {
        let settings = settings(&snapshot.manifest)?;
        let rotation = snapshot.rotation()?;
        let has_good_prefixes = match &rotation {
            Some(rotation) => rotation.samples() >= MIN_ROTATION_SAMPLE,
            None => !settings.rotated,
        };
        Ok(DenseSnapshot {
            coder: coder(&snapshot.manifest, settings, rotation)?,
            prefix_depth: settings.prefix_depth as usize,
            has_good_prefixes,
            rescore_coder: rescore_coder(&snapshot.manifest)?,
        })
    }
}

/// Vectors for rescoring that contradict themselves are left out, and the segment is searched without them.
fn open_rescore(segment: &SegmentFiles) -> Option<DensePart> {
    let (files, rescore) = segment
        .files_beside
        .as_ref()
        .zip(segment.manifest.settings.rescore.as_ref())?;
    let settings = DenseSettings::scored_only(rescore.dimensions);
    let opened = DensePart::open(files, &settings, segment.entry.passages);
    let (collection, number) = (&segment.manifest.collection, segment.entry.number);
    opened
        .inspect_err(|error| tracing::error!(part = "rescore", %collection, number, "part left out: {error}"))
        .ok()
}

fn rescore_coder(manifest: &Manifest) -> Result<Option<VectorCoder>, SegmentError> {
    let Some(rescore) = &manifest.settings.rescore else {
        return Ok(None);
    };
    let width = rescore.dimensions as usize;
    VectorCoder::new(None, width, width, width)
        .map(Some)
        .map_err(|error| SegmentError::invalid(error.to_string()))
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
