//! Segments that are stored already: what a change of the collection reads of them.
//!
//! Their living documents, with the passages that they were cut into, become those of a run, so that stages are built of them in
//! the same way as of documents that are just read.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference::TextEncoder;
use rayon::prelude::*;
use search_core::CollectionName;
use segment::SegmentError;
use segment::bitmap::Bitmap;
use segment::documents::{Document, Documents};
use segment::manifest::{DOCUMENTS, SegmentEntry};
use segment::store::{PartFiles, Store};

use crate::documents::{DocumentsBuilder, Origin, RunDocuments};
use crate::error::IndexError;
use crate::passages::{PassageSize, Passages, Split, split_stored};
use crate::progress::Counter;
use crate::spool::SpooledDocument;

/// Documents that are read together, on all cores.
const CHUNK_DOCUMENTS: u32 = 1024;

/// A segment whose documents are local and verified.
pub(crate) struct StoredSegment {
    pub(crate) entry: SegmentEntry,
    documents: PartFiles,
    deletes: Option<PathBuf>,
}

impl StoredSegment {
    pub(crate) async fn fetch(
        store: &Store,
        collection: &CollectionName,
        entry: &SegmentEntry,
    ) -> Result<Self, SegmentError> {
        let documents = store.part_files(collection, entry, DOCUMENTS).await?;
        let deletes = match &entry.deletes {
            Some(file) => Some(store.local_file(collection, file).await?),
            None => None,
        };
        Ok(Self {
            entry: entry.clone(),
            documents,
            deletes,
        })
    }

    pub(crate) fn documents(&self) -> Result<Documents, SegmentError> {
        Documents::open(&self.documents)
    }

    /// The passages that are deleted.
    pub(crate) fn deletes(&self) -> Result<Bitmap, SegmentError> {
        match (&self.deletes, &self.entry.deletes) {
            (Some(path), Some(file)) => {
                let bytes = std::fs::read(path).map_err(SegmentError::io(path))?;
                let deletes = Bitmap::from_bytes(&file.path, &bytes)?;
                let is_consistent = deletes.bound() == self.entry.passages;
                is_consistent
                    .then_some(deletes)
                    .ok_or_else(|| SegmentError::damaged(&file.path, "is of another segment"))
            }
            _ => Ok(Bitmap::new(self.entry.passages)),
        }
    }
}

/// The living documents of some segments, as a run works on them.
pub(crate) struct StoredDocuments {
    pub(crate) documents: RunDocuments,
    pub(crate) passages: Passages,
    pub(crate) segments: Vec<SegmentDocuments>,
}

/// Which of the run's documents are in a segment.
pub(crate) struct SegmentDocuments {
    pub(crate) entry: SegmentEntry,
    /// In the order of their passages.
    pub(crate) documents: Range<usize>,
    /// The passages of the others, which were deleted.
    pub(crate) left_out: Bitmap,
}

/// Takes in the documents of segments.
pub(crate) struct StoredReader {
    documents: DocumentsBuilder,
    passages: Passages,
    segments: Vec<SegmentDocuments>,
    size: PassageSize,
    encoder: Arc<dyn TextEncoder>,
    counter: Counter,
}

impl StoredReader {
    /// The encoder tells how long passages are.
    pub(crate) fn new(
        directory: &Arc<Path>,
        size: PassageSize,
        encoder: Arc<dyn TextEncoder>,
        counter: Counter,
    ) -> Result<Self, IndexError> {
        Ok(Self {
            documents: DocumentsBuilder::create(directory)?,
            passages: Passages::default(),
            segments: Vec::new(),
            size,
            encoder,
            counter,
        })
    }

    /// Takes in a segment. Damage is told with its number.
    pub(crate) fn read(&mut self, segment: &StoredSegment) -> Result<(), IndexError> {
        let SegmentEntry {
            number, passages, ..
        } = segment.entry;
        let of_segment = |error| damage_in(number, error);
        let documents = segment.documents().map_err(of_segment)?;
        if (documents.documents(), documents.passages()) != (segment.entry.documents, passages) {
            let reason = "documents contradict the manifest's counts";
            return Err(SegmentError::damaged(format!("segment {number}"), reason).into());
        }
        let deletes = segment.deletes().map_err(of_segment)?;
        let first = self.documents.len();
        let mut left_out = Bitmap::new(passages);
        for start in (0..documents.documents()).step_by(CHUNK_DOCUMENTS as usize) {
            let chunk = start..documents.documents().min(start + CHUNK_DOCUMENTS);
            let count = u64::from(chunk.end - chunk.start);
            let living = living(&documents, chunk, &deletes, &mut left_out).map_err(of_segment)?;
            self.push(number, &documents, &living)?;
            self.counter.add(count)?;
        }
        self.segments.push(SegmentDocuments {
            entry: segment.entry.clone(),
            documents: first..self.documents.len(),
            left_out,
        });
        Ok(())
    }

    fn push(
        &mut self,
        segment: u32,
        documents: &Documents,
        chosen: &[u32],
    ) -> Result<(), IndexError> {
        let read: Result<Vec<(Document, Split)>, IndexError> = chosen
            .par_iter()
            .map(|document| self.read_document(segment, documents, *document))
            .collect();
        for (document, split) in read? {
            self.passages.push(split);
            let spooled = SpooledDocument {
                text: document.passages.concat(),
                title: document.title,
                metadata_json: String::new(),
            };
            let origin = Origin::Segment(segment);
            self.documents.push(document.id, origin, &spooled)?;
        }
        Ok(())
    }

    fn read_document(
        &self,
        segment: u32,
        documents: &Documents,
        document: u32,
    ) -> Result<(Document, Split), IndexError> {
        let read = documents.document(document);
        let read = read.map_err(|error| damage_in(segment, error))?;
        let read = read.ok_or_else(|| {
            SegmentError::damaged(format!("segment {segment}"), "lacks a document")
        })?;
        match split_stored(&read.title, &read.passages, self.size, &*self.encoder) {
            Ok(split) => Ok((read, split)),
            Err(reason) => Err(IndexError::StoredDocument {
                document: format!("segment {segment}: document {}", read.id),
                reason,
            }),
        }
    }

    pub(crate) fn finish(self) -> Result<StoredDocuments, IndexError> {
        Ok(StoredDocuments {
            documents: self.documents.finish()?,
            passages: self.passages,
            segments: self.segments,
        })
    }
}

/// Those of a segment's documents that are not deleted. The passages of the others go to `left_out`.
fn living(
    documents: &Documents,
    chosen: Range<u32>,
    deletes: &Bitmap,
    left_out: &mut Bitmap,
) -> Result<Vec<u32>, SegmentError> {
    let mut living = Vec::new();
    for document in chosen {
        let passages = documents.passages_of(document);
        let passages = passages.ok_or_else(|| {
            SegmentError::damaged("documents", format!("has no document {document}"))
        })?;
        match deletes.contains(passages.start) {
            true => left_out.set_range(passages),
            false => living.push(document),
        }
    }
    Ok(living)
}

/// A file's name alone does not always tell whose it is.
pub(crate) fn damage_in(segment: u32, error: SegmentError) -> SegmentError {
    match error {
        SegmentError::Damaged { file, reason } => {
            SegmentError::damaged(format!("segment {segment}: {file}"), reason)
        }
        error => error,
    }
}
