//! Parts for segments that are stored without them.
//!
//! Passages keep their ordinals: those of documents that were deleted meanwhile have empty places.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use segment::checksum::FileEntry;
use segment::manifest::SegmentEntry;
use tempfile::TempDir;

use super::vectors::{CodedRows, VectorSources, VectorWriters};
use super::{BATCH_DOCUMENTS, Destination, store_parts};
use crate::documents::RunDocuments;
use crate::error::IndexError;
use crate::passages::Passages;
use crate::progress::Counter;
use crate::stored::SegmentDocuments;

/// What a build of parts works on.
pub(crate) struct PartsBuild {
    pub(crate) documents: Arc<RunDocuments>,
    pub(crate) passages: Arc<Passages>,
    pub(crate) segments: Vec<SegmentDocuments>,
    pub(crate) vectors: VectorSources,
    pub(crate) counter: Counter,
}

/// Parts that are stored and only need to be named by a manifest.
pub(crate) struct BuiltParts {
    /// The segment as it was when they were built.
    pub(crate) entry: SegmentEntry,
    pub(crate) parts: BTreeMap<String, Vec<FileEntry>>,
    /// Documents and passages that they were built of.
    pub(crate) documents: u64,
    pub(crate) passages: u64,
}

/// Builds and stores the parts of all segments.
pub(crate) async fn build_parts(
    build: PartsBuild,
    destination: &Destination,
) -> Result<Vec<BuiltParts>, IndexError> {
    let build = Arc::new(build);
    let mut built = Vec::with_capacity(build.segments.len());
    for at in 0..build.segments.len() {
        let task = Arc::clone(&build);
        let write = move || write_parts(&task, &task.segments[at]);
        let folder = tokio::task::spawn_blocking(write).await??;
        let SegmentDocuments {
            entry,
            documents,
            left_out,
        } = &build.segments[at];
        built.push(BuiltParts {
            entry: entry.clone(),
            parts: store_parts(folder.path(), entry.number, destination).await?,
            documents: documents.len() as u64,
            passages: u64::from(entry.passages - left_out.count()),
        });
    }
    Ok(built)
}

fn write_parts(build: &PartsBuild, segment: &SegmentDocuments) -> Result<TempDir, IndexError> {
    let directory = build.documents.directory();
    let folder = tempfile::tempdir_in(directory).map_err(IndexError::spool(directory))?;
    let mut writer = PartsWriter {
        build,
        segment,
        writers: VectorWriters::create(folder.path(), &build.vectors)?,
        next: 0,
    };
    let documents: Vec<usize> = segment.documents.clone().collect();
    for batch in documents.chunks(BATCH_DOCUMENTS) {
        writer.push(batch)?;
    }
    writer.finish()?;
    Ok(folder)
}

/// Writes the parts of one segment.
struct PartsWriter<'a> {
    build: &'a PartsBuild,
    segment: &'a SegmentDocuments,
    writers: VectorWriters,
    /// The passage that comes next.
    next: u32,
}

impl PartsWriter<'_> {
    fn push(&mut self, batch: &[usize]) -> Result<(), IndexError> {
        let build = self.build;
        let coded: Result<Vec<CodedRows>, IndexError> = batch
            .par_iter()
            .map(|document| {
                let rows = build.passages.rows(*document);
                build.vectors.coded(&build.documents, *document, rows)
            })
            .collect();
        let mut passages = 0;
        for coded in coded? {
            self.push_left_out()?;
            self.writers
                .push(&coded, &build.vectors, build.documents.directory())?;
            self.next += coded.passages();
            passages += u64::from(coded.passages());
        }
        build.counter.add(passages)
    }

    fn push_left_out(&mut self) -> Result<(), IndexError> {
        while self.segment.left_out.contains(self.next) {
            self.writers.push_none(&self.build.vectors)?;
            self.next += 1;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), IndexError> {
        self.push_left_out()?;
        Ok(self.writers.finish()?)
    }
}
