//! What this service makes of a snapshot: the inverted index of each segment, and the statistics of the whole.

use segment::SegmentError;
use segment::catalog::{PartLoader, SegmentFiles, ServedShard, SnapshotFiles};
use segment::checksum::FileEntry;
use segment::manifest::{Manifest, Stage};
use segment::sparse::{Analyzer, SparseIndex, Statistics};

/// A shard with its inverted indices.
pub(crate) type Shard = ServedShard<SparseLoader>;

/// Opens sparse parts.
pub(crate) struct SparseLoader;

/// What a query needs beside the segments.
pub(crate) struct SparseSnapshot {
    pub(crate) analyzer: Analyzer,
    /// `None`: the snapshot has no segments.
    pub(crate) statistics: Option<Statistics>,
}

impl PartLoader for SparseLoader {
    type Segment = SparseIndex;
    type Snapshot = SparseSnapshot;

    fn part(&self) -> &'static str {
        Stage::Sparse.as_str()
    }

    fn snapshot_file<'a>(&self, manifest: &'a Manifest) -> Option<&'a FileEntry> {
        manifest.statistics.as_ref()
    }

    fn load_segment(&self, segment: &SegmentFiles) -> Result<SparseIndex, SegmentError> {
        let index = SparseIndex::open(&segment.files)?;
        let (indexed, listed) = (index.passages(), segment.entry.passages);
        if indexed != listed {
            let reason = format!("has {indexed} passages, the manifest says {listed}");
            return Err(SegmentError::damaged(self.part(), reason));
        }
        Ok(index)
    }

    fn load_snapshot(&self, snapshot: &SnapshotFiles) -> Result<SparseSnapshot, SegmentError> {
        let analyzer = Analyzer::for_language(&snapshot.manifest.settings.language)?;
        let statistics = snapshot.file.as_deref().map(Statistics::open).transpose()?;
        Ok(SparseSnapshot {
            analyzer,
            statistics,
        })
    }
}
