//! Documents, attributes, postings and vectors become segments.
//!
//! Each shard's documents are sorted by id and cut into segments: a segment is full when it has the passages that it may have,
//! or when its postings take too much memory. Texts and vectors come out of the spools a few at a time.

mod parts;
mod vectors;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use search_core::{CollectionName, shard_of};
use segment::attributes::AttributesWriter;
use segment::checksum::FileEntry;

use segment::SegmentError;
use segment::documents::{Document, DocumentsWriter};
use segment::manifest::{ATTRIBUTES, CollectionSettings, DOCUMENTS, Stage, segment_folder};
use segment::sparse::{SparseBuilder, SparseIndex};
use segment::store::{PartFiles, Store};
use serde_json::{Map, Value};
use tempfile::TempDir;

pub(crate) use self::parts::{BuiltParts, PartsBuild, build_parts};
use self::vectors::{CodedRows, VectorWriters};
pub(crate) use self::vectors::{CodedSpool, VectorSources};
use crate::documents::RunDocuments;
use crate::error::IndexError;
use crate::passages::Passages;
use crate::progress::Counter;

/// Documents that are read and coded together, on all cores.
const BATCH_DOCUMENTS: usize = 256;
/// Postings of a segment are gathered in memory; a new segment begins beyond this.
const MAX_POSTINGS_BYTES: usize = 384 << 20;

/// What a build works on.
pub(crate) struct Build {
    pub(crate) documents: Arc<RunDocuments>,
    pub(crate) passages: Arc<Passages>,
    pub(crate) settings: CollectionSettings,
    pub(crate) vectors: VectorSources,
    pub(crate) max_segment_passages: u64,
    /// The first number that a new segment may get. Only a name in the keys: the manifest's numbers count.
    pub(crate) first_number: u32,
    pub(crate) counter: Counter,
}

/// A segment that is stored already and only needs a number.
pub(crate) struct BuiltSegment {
    pub(crate) shard: u32,
    pub(crate) documents: u32,
    pub(crate) passages: u32,
    pub(crate) parts: BTreeMap<String, Vec<FileEntry>>,
}

/// All segments of a run.
#[derive(Default)]
pub(crate) struct BuiltSegments {
    pub(crate) segments: Vec<BuiltSegment>,
    /// Their postings, for the statistics of the snapshot.
    pub(crate) postings: Vec<SparseIndex>,
    /// Holds the files of `postings`.
    folders: Vec<TempDir>,
}

/// Where the files of a run go.
#[derive(Clone)]
pub(crate) struct Destination {
    pub(crate) store: Store,
    pub(crate) collection: CollectionName,
    /// Makes the run's keys unique.
    pub(crate) run: String,
}

/// Builds and stores all segments.
pub(crate) async fn build_segments(
    build: Build,
    destination: &Destination,
) -> Result<BuiltSegments, IndexError> {
    let build = Arc::new(build);
    let mut built = BuiltSegments::default();
    for (shard, order) in (0..).zip(shard_orders(&build)) {
        let order = Arc::new(order);
        let mut next = 0;
        while next < order.len() {
            let (task, task_order) = (Arc::clone(&build), Arc::clone(&order));
            let write = move || write_segment(&task, &task_order[next..], shard);
            let written = tokio::task::spawn_blocking(write).await??;
            next += written.documents as usize;
            let number = build
                .first_number
                .saturating_add(built.segments.len() as u32);
            built.add(written, number, destination).await?;
        }
    }
    Ok(built)
}

impl BuiltSegments {
    pub(crate) fn passages(&self) -> u64 {
        let passages = self.segments.iter().map(|segment| segment.passages);
        passages.map(u64::from).sum()
    }

    /// Stores a segment.
    async fn add(
        &mut self,
        written: WrittenSegment,
        number: u32,
        destination: &Destination,
    ) -> Result<(), IndexError> {
        let WrittenSegment {
            folder,
            shard,
            documents,
            passages,
        } = written;
        let parts = store_parts(folder.path(), number, destination).await?;
        let postings = folder.path().join(Stage::Sparse.as_str());
        let open = move || SparseIndex::open(&PartFiles::of_folder(&postings)?);
        self.postings
            .push(tokio::task::spawn_blocking(open).await??);
        self.folders.push(folder);
        self.segments.push(BuiltSegment {
            shard,
            documents,
            passages,
            parts,
        });
        Ok(())
    }
}

/// The documents of each shard in the order of their ids.
fn shard_orders(build: &Build) -> Vec<Vec<u32>> {
    let shards = build.settings.shards;
    let mut orders = vec![Vec::new(); shards as usize];
    for document in build.documents.accepted() {
        orders[shard_of(build.documents.id(document), shards) as usize].push(document as u32);
    }
    for order in &mut orders {
        order.sort_unstable_by(|a, b| {
            build
                .documents
                .id(*a as usize)
                .cmp(build.documents.id(*b as usize))
        });
    }
    orders
}

/// A segment on the local disk.
struct WrittenSegment {
    folder: TempDir,
    shard: u32,
    documents: u32,
    passages: u32,
}

/// Writes as many of the documents as fit into one segment, at least one.
fn write_segment(build: &Build, order: &[u32], shard: u32) -> Result<WrittenSegment, IndexError> {
    let directory = build.documents.directory();
    let folder = tempfile::tempdir_in(directory).map_err(IndexError::spool(directory))?;
    let mut writers = Writers::create(folder.path(), build)?;
    let (mut documents, mut passages) = (0, 0);
    while !writers.are_full() {
        let batch = next_batch(build, &order[documents..], passages);
        if batch.is_empty() {
            break;
        }
        documents += batch.len();
        passages += push_batch(build, &mut writers, batch)?;
    }
    writers.finish()?;
    Ok(WrittenSegment {
        folder,
        shard,
        documents: documents as u32,
        passages: passages as u32,
    })
}

/// The next documents, as many as the segment has room for; the first document of a segment always fits.
fn next_batch<'a>(build: &Build, order: &'a [u32], mut passages: u64) -> &'a [u32] {
    let fits = |document: &u32| {
        let rows = build.passages.rows(*document as usize);
        let is_first = passages == 0;
        passages += rows.end - rows.start;
        is_first || passages <= build.max_segment_passages
    };
    let count = order
        .iter()
        .take(BATCH_DOCUMENTS)
        .copied()
        .take_while(fits)
        .count();
    &order[..count]
}

/// A document with all that the parts of a segment want of it.
struct Prepared {
    document: Document,
    metadata: Map<String, Value>,
    vectors: CodedRows,
}

/// Returns the passages of the batch.
fn push_batch(build: &Build, writers: &mut Writers, batch: &[u32]) -> Result<u64, IndexError> {
    let prepared: Result<Vec<Prepared>, IndexError> = batch
        .par_iter()
        .map(|document| prepare(build, *document as usize))
        .collect();
    let prepared = prepared?;
    writers.push(build, &prepared)?;
    let passages = prepared
        .iter()
        .map(|document| document.document.passages.len() as u64)
        .sum();
    build.counter.add(passages)?;
    Ok(passages)
}

fn prepare(build: &Build, document: usize) -> Result<Prepared, IndexError> {
    let read = build.documents.read(document)?;
    let rows = build.passages.rows(document);
    let text_of = |row| {
        let Range { start, end } = build.passages.span(row);
        read.text[start as usize..end as usize].to_owned()
    };
    Ok(Prepared {
        metadata: read.metadata(),
        document: Document {
            id: build.documents.id(document).to_string(),
            passages: rows.clone().map(text_of).collect(),
            title: read.title,
            metadata_json: read.metadata_json,
        },
        vectors: build.vectors.coded(&build.documents, document, rows)?,
    })
}

/// The parts of a segment, side by side.
struct Writers {
    documents: DocumentsWriter,
    attributes: AttributesWriter,
    sparse: SparseBuilder,
    vectors: VectorWriters,
}

impl Writers {
    fn create(folder: &Path, build: &Build) -> Result<Self, SegmentError> {
        let part = |name: &str| part_folder(folder, name);
        let language = &build.settings.language;
        Ok(Self {
            documents: DocumentsWriter::new(&part(DOCUMENTS)?)?,
            attributes: AttributesWriter::new(&part(ATTRIBUTES)?),
            sparse: SparseBuilder::new(&part(Stage::Sparse.as_str())?, language)?,
            vectors: VectorWriters::create(folder, &build.vectors)?,
        })
    }

    fn are_full(&self) -> bool {
        self.sparse.memory_bytes() > MAX_POSTINGS_BYTES
    }

    /// The postings take the most time: they have a core of their own.
    fn push(&mut self, build: &Build, batch: &[Prepared]) -> Result<(), IndexError> {
        let Self {
            documents,
            attributes,
            sparse,
            vectors,
        } = self;
        let directory = build.documents.directory();
        let others = || {
            push_others(documents, attributes, batch)?;
            let mut batch = batch.iter();
            batch
                .try_for_each(|prepared| vectors.push(&prepared.vectors, &build.vectors, directory))
        };
        let (postings, others) = rayon::join(|| push_sparse(sparse, batch), others);
        postings?;
        others
    }

    fn finish(self) -> Result<(), SegmentError> {
        self.documents.finish()?;
        self.attributes.finish()?;
        self.sparse.finish()?;
        self.vectors.finish()
    }
}

fn push_sparse(sparse: &mut SparseBuilder, batch: &[Prepared]) -> Result<(), SegmentError> {
    for Prepared { document, .. } in batch {
        document
            .passages
            .iter()
            .try_for_each(|text| sparse.push(&document.title, text))?;
    }
    Ok(())
}

fn push_others(
    documents: &mut DocumentsWriter,
    attributes: &mut AttributesWriter,
    batch: &[Prepared],
) -> Result<(), SegmentError> {
    for prepared in batch {
        documents.push(&prepared.document)?;
        attributes.push(&prepared.metadata)?;
    }
    Ok(())
}

/// Makes the folder of a part.
fn part_folder(segment: &Path, part: &str) -> Result<PathBuf, SegmentError> {
    let path = segment.join(part);
    std::fs::create_dir(&path).map_err(SegmentError::io(&path))?;
    Ok(path)
}

/// Stores the parts of a segment; only the postings stay on the local disk.
async fn store_parts(
    folder: &Path,
    number: u32,
    destination: &Destination,
) -> Result<BTreeMap<String, Vec<FileEntry>>, SegmentError> {
    let Destination {
        store,
        collection,
        run,
        ..
    } = destination;
    let target = segment_folder(number, run);
    let mut parts = BTreeMap::new();
    let stages = Stage::ALL.map(Stage::as_str);
    for part in [DOCUMENTS, ATTRIBUTES].into_iter().chain(stages) {
        let local = folder.join(part);
        if !local.is_dir() {
            continue;
        }
        let files = store
            .upload_dir(collection, &local, &format!("{target}/{part}"))
            .await?;
        parts.insert(part.to_owned(), files);
        if part != Stage::Sparse.as_str() {
            tokio::fs::remove_dir_all(&local)
                .await
                .map_err(SegmentError::io(&local))?;
        }
    }
    Ok(parts)
}
