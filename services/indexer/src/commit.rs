//! A change of a collection becomes its next snapshot.
//!
//! The older versions of the documents that come or go are marked as deleted in the segments that hold them, the term
//! statistics are counted on, and a manifest with all of it is put if its number is still free. All of this is worked out from
//! the manifest that it follows: after a lost race it is done again from the newer one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use search_core::{CollectionName, shard_of};
use segment::SegmentError;
use segment::attributes::AttributeTypes;
use segment::bitmap::Bitmap;
use segment::checksum::FileEntry;
use segment::documents::Documents;
use segment::manifest::{Manifest, SegmentEntry, snapshot_folder};
use segment::sparse::{Statistics, StatisticsBuilder};
use segment::store::{CommitError, Store};
use vector_math::Rotation;

use crate::build::BuiltSegments;
use crate::error::IndexError;
use crate::prepare::Rotations;
use crate::stored::StoredSegment;

const STATISTICS: &str = "statistics.fst";
const ROTATION: &str = "rotation.bin";
const TOKEN_ROTATION: &str = "token_rotation.bin";

/// What is to change.
pub(crate) struct Change {
    pub(crate) store: Store,
    pub(crate) collection: CollectionName,
    /// Makes the run's keys unique.
    pub(crate) run: String,
    /// Segments that come.
    pub(crate) segments: Arc<BuiltSegments>,
    /// Documents whose older version goes.
    pub(crate) document_ids: Arc<Vec<Arc<str>>>,
    /// Types of the fields after the change.
    pub(crate) types: AttributeTypes,
    /// Those that the collection gets with this change.
    pub(crate) new_rotations: Rotations,
    /// For temporary files.
    pub(crate) directory: Arc<Path>,
}

/// How a try to commit ended.
pub(crate) enum Outcome {
    /// The change is visible.
    Committed(Committed),
    /// Nothing was to be changed.
    Unchanged,
    /// Another commit came first.
    Conflict,
}

/// What a commit did.
pub(crate) struct Committed {
    pub(crate) number: u64,
    /// The ids whose older version went.
    pub(crate) removed: BTreeSet<Arc<str>>,
}

/// Tries to make the change the successor of `base`.
pub(crate) async fn commit(base: &Manifest, change: &Change) -> Result<Outcome, IndexError> {
    let removal = find_removals(base, change).await?;
    if change.segments.segments.is_empty() && removal.ids.is_empty() {
        return Ok(Outcome::Unchanged);
    }
    let mut next = base.next();
    next.attributes = change.types.clone();
    apply_deletes(&mut next, removal.deletes, change).await?;
    add_segments(&mut next, change);
    next.statistics = Some(store_statistics(base, &next, removal.statistics, change).await?);
    store_rotations(&change.store, &mut next, &change.run, &change.new_rotations).await?;
    match change.store.commit(&next).await {
        Ok(()) => Ok(Outcome::Committed(Committed {
            number: next.number,
            removed: removal.ids,
        })),
        Err(CommitError::Conflict { .. }) => Ok(Outcome::Conflict),
        Err(CommitError::Segment(error)) => Err(error.into()),
    }
}

/// Gives the next snapshot rotations that it does not have yet.
pub(crate) async fn store_rotations(
    store: &Store,
    next: &mut Manifest,
    run: &str,
    new: &Rotations,
) -> Result<(), SegmentError> {
    if let Some(rotation) = &new.vectors {
        next.rotation = Some(store_rotation(store, next, run, ROTATION, rotation).await?);
    }
    if let Some(rotation) = &new.tokens {
        next.token_rotation =
            Some(store_rotation(store, next, run, TOKEN_ROTATION, rotation).await?);
    }
    Ok(())
}

async fn store_rotation(
    store: &Store,
    next: &Manifest,
    run: &str,
    name: &str,
    rotation: &Rotation,
) -> Result<FileEntry, SegmentError> {
    let path = file_path(next, run, name);
    let content = rotation.to_bytes().into();
    store.upload_bytes(&next.collection, &path, content).await
}

fn file_path(next: &Manifest, run: &str, name: &str) -> String {
    format!("{}/{name}", snapshot_folder(next.number, run))
}

/// What goes.
struct Removal {
    ids: BTreeSet<Arc<str>>,
    /// By segment number: all its deleted passages, older ones too. Only segments that lose passages now.
    deletes: BTreeMap<u32, Bitmap>,
    /// Knows the passages that go.
    statistics: StatisticsBuilder,
}

async fn find_removals(base: &Manifest, change: &Change) -> Result<Removal, IndexError> {
    let mut removal = Removal {
        ids: BTreeSet::new(),
        deletes: BTreeMap::new(),
        statistics: StatisticsBuilder::new(&base.settings.language)?,
    };
    let ids_of_shards = Arc::new(ids_by_shard(&change.document_ids, base.settings.shards));
    for entry in &base.segments {
        if ids_of_shards[entry.shard as usize].is_empty() {
            continue;
        }
        let old = StoredSegment::fetch(&change.store, &change.collection, entry).await?;
        let ids = Arc::clone(&ids_of_shards);
        let find = move || {
            removal
                .add(&old, &ids[old.entry.shard as usize])
                .map(|()| removal)
        };
        removal = tokio::task::spawn_blocking(find).await??;
    }
    Ok(removal)
}

fn ids_by_shard(ids: &[Arc<str>], shards: u32) -> Vec<Vec<Arc<str>>> {
    let mut by_shard = vec![Vec::new(); shards as usize];
    for id in ids {
        by_shard[shard_of(id, shards) as usize].push(Arc::clone(id));
    }
    by_shard
}

impl Removal {
    /// Finds which of the ids the segment holds alive.
    fn add(&mut self, old: &StoredSegment, ids: &[Arc<str>]) -> Result<(), SegmentError> {
        let documents = old.documents()?;
        let mut deletes = old.deletes()?;
        let before = deletes.count();
        for id in ids {
            let Some(passages) = documents
                .find(id)
                .filter(|passages| !deletes.contains(passages.start))
            else {
                continue;
            };
            for ordinal in passages.clone() {
                self.forget_passage(&documents, ordinal)?;
            }
            deletes.set_range(passages);
            self.ids.insert(Arc::clone(id));
        }
        if deletes.count() > before {
            self.deletes.insert(old.entry.number, deletes);
        }
        Ok(())
    }

    fn forget_passage(&mut self, documents: &Documents, ordinal: u32) -> Result<(), SegmentError> {
        if let Some(passage) = documents.passage(ordinal)? {
            self.statistics
                .remove_passage(&passage.title, &passage.text);
        }
        Ok(())
    }
}

/// Stores the bitmaps; a segment without a living passage leaves the manifest.
async fn apply_deletes(
    next: &mut Manifest,
    mut deletes: BTreeMap<u32, Bitmap>,
    change: &Change,
) -> Result<(), IndexError> {
    let mut segments = Vec::with_capacity(next.segments.len());
    for mut entry in std::mem::take(&mut next.segments) {
        if let Some(bitmap) = deletes.remove(&entry.number) {
            entry.deleted_passages = bitmap.count();
            if entry.live_passages() == 0 {
                continue;
            }
            let path = file_path(next, &change.run, &format!("deletes-{}.bin", entry.number));
            let content = bitmap.to_bytes().into();
            entry.deletes = Some(
                change
                    .store
                    .upload_bytes(&change.collection, &path, content)
                    .await?,
            );
        }
        segments.push(entry);
    }
    next.segments = segments;
    Ok(())
}

fn add_segments(next: &mut Manifest, change: &Change) {
    for segment in &change.segments.segments {
        next.segments.push(SegmentEntry {
            number: next.next_segment,
            shard: segment.shard,
            documents: segment.documents,
            passages: segment.passages,
            deleted_passages: 0,
            parts: segment.parts.clone(),
            deletes: None,
        });
        next.next_segment += 1;
    }
}

async fn store_statistics(
    base: &Manifest,
    next: &Manifest,
    statistics: StatisticsBuilder,
    change: &Change,
) -> Result<FileEntry, IndexError> {
    let previous = match &base.statistics {
        Some(file) => Some(change.store.local_file(&change.collection, file).await?),
        None => None,
    };
    let file = change.directory.join(format!("statistics-{}", next.number));
    let (segments, target) = (Arc::clone(&change.segments), file.clone());
    tokio::task::spawn_blocking(move || {
        let previous = previous.map(|path| Statistics::open(&path)).transpose()?;
        statistics.finish(previous.as_ref(), &segments.postings, &target)
    })
    .await??;
    let path = file_path(next, &change.run, STATISTICS);
    Ok(change
        .store
        .upload_file(&change.collection, &file, &path)
        .await?)
}
