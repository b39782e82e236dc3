//! The snapshots that a replica serves: the newest two of every collection, kept up to date.
//!
//! A refresh looks for new manifests, loads what is new beside what is served, and swaps. Segments that two
//! snapshots have in common are loaded once. A damaged segment is refused by name and the rest is served; a
//! failure that may pass (the object store is away) leaves what is served as it is, until the next refresh.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use search_core::{
    CollectionName, HeldSnapshot, RefusedCollection, RefusedSegment, ShardSelection, SnapshotId,
};
use tokio::{
    sync::{Mutex, Notify},
    task::{JoinHandle, spawn_blocking},
};
use vector_math::{Rotation, VectorError};

use crate::{
    SegmentError,
    attributes::Attributes,
    bitmap::Bitmap,
    checksum::FileEntry,
    cleanup::before_now,
    documents::Documents,
    manifest::{ATTRIBUTES, DOCUMENTS, Manifest, SegmentEntry},
    store::{ManifestVersion, PartFiles, Store},
};

mod served;

pub use served::{NotHeld, ServedSegment, ServedShard, ServedSnapshot};

/// Snapshots held of each collection: the orchestrator may still ask for the one before the newest.
const HELD_SNAPSHOTS: usize = 2;
/// Segments loaded at a time: enough to overlap downloads with checks.
const CONCURRENT_LOADS: usize = 4;

/// Cached files younger than this may be of a snapshot that another catalog is about to load.
const CACHE_GRACE: Duration = Duration::from_secs(3600);

/// What a service makes of a part of its own.
pub trait PartLoader: Send + Sync + 'static {
    /// A loaded part of one segment.
    type Segment: Send + Sync + 'static;
    /// What belongs to a whole snapshot.
    type Snapshot: Send + Sync + 'static;

    /// Name of the part. Collections without it are not held.
    fn part(&self) -> &'static str;

    /// A part that is loaded beside it, where the collection has one. Damaged, it is left out and the segment is served without.
    fn part_beside(&self) -> Option<&'static str> {
        None
    }

    /// Fingerprint of the bundle whose vectors the replica announces. Empty: there are none.
    fn encoder_fingerprint<'a>(&self, manifest: &'a Manifest) -> &'a str {
        manifest.encoder_fingerprint()
    }

    /// The file that [`PartLoader::load_snapshot`] needs, if any.
    fn snapshot_file<'a>(&self, manifest: &'a Manifest) -> Option<&'a FileEntry>;

    /// Opens the part of a segment. Blocking. An error or a panic refuses the segment.
    fn load_segment(&self, segment: &SegmentFiles) -> Result<Self::Segment, SegmentError>;

    /// Opens what belongs to the snapshot. Blocking. An error refuses the snapshot.
    fn load_snapshot(&self, snapshot: &SnapshotFiles) -> Result<Self::Snapshot, SegmentError>;
}

/// What a loader gets to open a part of a segment.
#[derive(Clone, Debug)]
pub struct SegmentFiles {
    /// The manifest that lists the segment.
    pub manifest: Arc<Manifest>,
    /// The segment.
    pub entry: SegmentEntry,
    /// Verified files of the part.
    pub files: PartFiles,
    /// Verified files of the part beside it. None: the collection has no such part, or it is damaged, which was logged.
    pub files_beside: Option<PartFiles>,
}

/// What a loader gets to open what belongs to a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotFiles {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// The verified file that the loader named.
    pub file: Option<PathBuf>,
}

impl SnapshotFiles {
    /// The file as a rotation; one that contradicts itself is refused by name. None: the loader named none.
    pub fn rotation(&self) -> Result<Option<Rotation>, SegmentError> {
        self.file.as_deref().map(read_rotation).transpose()
    }
}

fn read_rotation(file: &Path) -> Result<Rotation, SegmentError> {
    let bytes = std::fs::read(file).map_err(SegmentError::io(file))?;
    let damaged =
        |error: VectorError| SegmentError::damaged(file.display().to_string(), error.to_string());
    Rotation::from_bytes(&bytes).map_err(damaged)
}

/// What the last refresh could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshProblem {
    /// The collection. None: collections could not be listed.
    pub collection: Option<CollectionName>,
    /// What went wrong.
    pub message: String,
    /// The storage failed, which may pass; otherwise a file is damaged or missing.
    pub may_pass: bool,
}

impl RefreshProblem {
    fn new(collection: Option<&CollectionName>, what: &str, error: &SegmentError) -> Self {
        Self {
            collection: collection.cloned(),
            message: format!("{what}{error}"),
            may_pass: may_pass(error),
        }
    }

    /// Both in one. When one of them passes, the collection can be served again.
    fn and(self, other: Self) -> Self {
        Self {
            message: format!("{}; {}", self.message, other.message),
            may_pass: self.may_pass || other.may_pass,
            ..self
        }
    }
}

type Held<L> = BTreeMap<CollectionName, Vec<Arc<ServedSnapshot<L>>>>;

/// The served snapshots of all collections of a store.
pub struct Catalog<L: PartLoader> {
    store: Store,
    loader: Arc<L>,
    selection: ShardSelection,
    /// Newest first.
    held: RwLock<Held<L>>,
    problems: RwLock<Vec<RefreshProblem>>,
    refreshing: Mutex<()>,
    poked: Notify,
}

/// Keeps a catalog up to date until it is dropped.
#[derive(Debug)]
pub struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<L: PartLoader> Catalog<L> {
    /// A catalog that holds nothing until its first refresh.
    #[must_use]
    pub fn new(store: Store, loader: L, selection: ShardSelection) -> Self {
        Self {
            store,
            loader: Arc::new(loader),
            selection,
            held: RwLock::default(),
            problems: RwLock::default(),
            refreshing: Mutex::default(),
            poked: Notify::new(),
        }
    }

    /// A held snapshot.
    pub fn get(
        &self,
        collection: &CollectionName,
        number: u64,
    ) -> Result<Arc<ServedSnapshot<L>>, NotHeld> {
        let held = self.held_of(collection);
        let found = held
            .iter()
            .find(|snapshot| snapshot.manifest.number == number);
        found.cloned().ok_or_else(|| NotHeld::Snapshot {
            number,
            collection: collection.clone(),
            held: held
                .iter()
                .map(|snapshot| snapshot.manifest.number)
                .collect(),
            problem: self.problem_of(collection),
        })
    }

    /// A shard of a held snapshot.
    pub fn shard(&self, of: &SnapshotId, number: u32) -> Result<ServedShard<L>, NotHeld> {
        let snapshot = self.get(&of.collection, of.number)?;
        if snapshot.has_shard(number) {
            return Ok(ServedShard { snapshot, number });
        }
        Err(NotHeld::Shard {
            shard: number,
            collection: of.collection.clone(),
            held: snapshot.shards.clone(),
        })
    }

    fn problem_of(&self, collection: &CollectionName) -> Option<String> {
        let concerns = |problem: &RefreshProblem| {
            problem
                .collection
                .as_ref()
                .is_none_or(|concerned| concerned == collection)
        };
        self.problems()
            .into_iter()
            .find(concerns)
            .map(|problem| problem.message)
    }

    /// Everything that is held, by collection, newest first.
    #[must_use]
    pub fn held(&self) -> Vec<HeldSnapshot> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.values()
            .flatten()
            .map(|snapshot| snapshot.describe(&*self.loader))
            .collect()
    }

    /// What the last refresh could not do. Empty: all is well.
    #[must_use]
    pub fn problems(&self) -> Vec<RefreshProblem> {
        self.problems
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The collections of which nothing is held because the last refresh could load no snapshot.
    #[must_use]
    pub fn refused(&self) -> Vec<RefusedCollection> {
        let refused = self.problems().into_iter().filter_map(|problem| {
            Some(RefusedCollection {
                collection: problem.collection?,
                reason: problem.message,
                may_pass: problem.may_pass,
            })
        });
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        refused
            .filter(|refused| !held.contains_key(&refused.collection))
            .collect()
    }

    /// Asks for a refresh now, in the background, of a catalog that is followed.
    pub fn poke(&self) {
        self.poked.notify_one();
    }

    /// Refreshes in the background, at each interval and when poked, until the handle is dropped. `listed` is called once the
    /// store could be listed: a collection that cannot be served doesn't keep the others from being served. Must be called
    /// inside the runtime.
    #[must_use]
    pub fn keep_following(
        self: &Arc<Self>,
        interval: Duration,
        listed: impl FnOnce() + Send + 'static,
    ) -> Following {
        let catalog = Arc::clone(self);
        Following(tokio::spawn(async move {
            catalog.follow(interval, listed).await;
        }))
    }

    async fn follow(&self, interval: Duration, listed: impl FnOnce()) {
        let mut listed = Some(listed);
        loop {
            self.refresh().await;
            if self.could_list() {
                listed.take().into_iter().for_each(|listed| listed());
            }
            // Either way it is time: the interval is over, or somebody poked.
            let _ = tokio::time::timeout(interval, self.poked.notified()).await;
        }
    }

    fn could_list(&self) -> bool {
        let problems = self.problems();
        problems.iter().all(|problem| problem.collection.is_some())
    }

    /// Holds what the store has by now. What could not be done is logged once and kept in
    /// [`Catalog::problems`].
    pub async fn refresh(&self) {
        let _one_at_a_time = self.refreshing.lock().await;
        let mut problems = Vec::new();
        match self.store.collections().await {
            Ok(names) => {
                self.keep_only(&names);
                for name in names {
                    problems.extend(self.refresh_collection(&name).await.err());
                }
            }
            Err(error) => problems.push(RefreshProblem::new(None, "", &error)),
        }
        self.report(problems);
    }

    fn report(&self, problems: Vec<RefreshProblem>) {
        let mut last = self
            .problems
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|problem| !last.contains(problem)) {
            let collection = problem.collection.as_ref().map(CollectionName::as_str);
            tracing::error!(
                part = self.loader.part(),
                collection,
                "refresh: {}",
                problem.message
            );
        }
        *last = problems;
    }

    /// Drops the collections that are gone.
    fn keep_only(&self, names: &[CollectionName]) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.retain(|name, _| names.contains(name));
    }

    fn held_of(&self, name: &CollectionName) -> Vec<Arc<ServedSnapshot<L>>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.get(name).cloned().unwrap_or_default()
    }

    fn hold(&self, name: &CollectionName, snapshots: Vec<Arc<ServedSnapshot<L>>>) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        match snapshots.is_empty() {
            true => held.remove(name),
            false => held.insert(name.clone(), snapshots),
        };
    }

    /// Loads the newest snapshots, the newest first, and serves each as soon as it is loaded. One that cannot be
    /// loaded keeps its predecessor in service; the problem says what failed.
    async fn refresh_collection(&self, name: &CollectionName) -> Result<(), RefreshProblem> {
        let problem = |what: &str, error| RefreshProblem::new(Some(name), what, &error);
        let versions = self
            .store
            .manifest_versions(name)
            .await
            .map_err(|error| problem("", error))?;
        let before = self.held_of(name);
        let mut failures = Vec::new();
        let mut current = Vec::new();
        for version in versions.iter().take(HELD_SNAPSHOTS) {
            match self.load_or_keep(name, version, &current).await {
                Ok(Some(snapshot)) => {
                    current.push(snapshot);
                    self.hold(name, self.with_predecessors(name, &current, &versions));
                }
                Ok(None) => {}
                Err(error) => {
                    failures.push(problem(&format!("snapshot {}: ", version.number), error));
                }
            }
        }
        let held = self.with_predecessors(name, &current, &versions);
        let pruned = self.prune_cache(name, &before, &held).await;
        failures.extend(pruned.err().map(|error| problem("cache: ", error)));
        self.hold(name, held);
        match failures.into_iter().reduce(RefreshProblem::and) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// Removes cached files that none of the snapshots held now has, if others were held before.
    async fn prune_cache(
        &self,
        name: &CollectionName,
        before: &[Arc<ServedSnapshot<L>>],
        now: &[Arc<ServedSnapshot<L>>],
    ) -> Result<(), SegmentError> {
        let is_new = |snapshot| before.iter().all(|other| !Arc::ptr_eq(snapshot, other));
        if !now.iter().any(is_new) {
            return Ok(());
        }
        let files = now.iter().flat_map(|snapshot| snapshot.manifest.files());
        let keep = files.map(|file| file.path.clone()).collect();
        self.store
            .prune_cache(name, keep, before_now(CACHE_GRACE))
            .await
    }

    /// The loaded snapshots, and as long as they are too few, those served so far that are still in the store.
    fn with_predecessors(
        &self,
        name: &CollectionName,
        current: &[Arc<ServedSnapshot<L>>],
        versions: &[ManifestVersion],
    ) -> Vec<Arc<ServedSnapshot<L>>> {
        let mut snapshots = current.to_vec();
        for held in self.held_of(name) {
            let new = snapshots
                .iter()
                .all(|snapshot| snapshot.manifest.number != held.manifest.number);
            let stored = versions.iter().any(|version| held.is_of(version));
            if new && stored && snapshots.len() < HELD_SNAPSHOTS {
                snapshots.push(held);
            }
        }
        snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.manifest.number));
        snapshots
    }

    /// None: the collection has nothing for this replica.
    async fn load_or_keep(
        &self,
        name: &CollectionName,
        version: &ManifestVersion,
        newer: &[Arc<ServedSnapshot<L>>],
    ) -> Result<Option<Arc<ServedSnapshot<L>>>, SegmentError> {
        let mut loaded = self.held_of(name);
        if let Some(held) = loaded.iter().find(|held| held.is_of(version)) {
            return Ok(Some(Arc::clone(held)));
        }
        loaded.extend_from_slice(newer);
        let manifest = Arc::new(self.store.manifest(name, version.number).await?);
        let shards = self.selection.of(manifest.settings.shards);
        if shards.is_empty() || !manifest.has_part(self.loader.part()) {
            return Ok(None);
        }
        let snapshot = self.load(manifest, shards, version, &loaded).await?;
        self.log_loaded(&snapshot);
        Ok(Some(Arc::new(snapshot)))
    }

    fn log_loaded(&self, snapshot: &ServedSnapshot<L>) {
        let HeldSnapshot {
            collection,
            number,
            passages,
            refused,
            ..
        } = snapshot.describe(&*self.loader);
        let part = self.loader.part();
        for RefusedSegment {
            segment,
            shard,
            reason,
        } in refused
        {
            tracing::error!(part, %collection, number, segment, shard, "segment refused: {reason}");
        }
        tracing::info!(part, %collection, number, passages, "snapshot loaded");
    }

    async fn load(
        &self,
        manifest: Arc<Manifest>,
        shards: Vec<u32>,
        version: &ManifestVersion,
        loaded: &[Arc<ServedSnapshot<L>>],
    ) -> Result<ServedSnapshot<L>, SegmentError> {
        let snapshot = self.load_snapshot(&manifest).await?;
        let wanted = manifest
            .segments
            .iter()
            .filter(|entry| shards.contains(&entry.shard));
        let loads: Vec<_> = wanted
            .map(|entry| self.load_or_refuse(&manifest, entry, loaded))
            .collect();
        let results: Vec<_> = stream::iter(loads)
            .buffer_unordered(CONCURRENT_LOADS)
            .try_collect()
            .await?;
        let (segments, refused) = sort_out(results);
        let version = version.version.clone();
        Ok(ServedSnapshot {
            manifest,
            shards,
            segments,
            refused,
            snapshot: Arc::new(snapshot),
            version,
        })
    }

    async fn load_snapshot(&self, manifest: &Arc<Manifest>) -> Result<L::Snapshot, SegmentError> {
        let file = match self.loader.snapshot_file(manifest) {
            Some(entry) => Some(self.store.local_file(&manifest.collection, entry).await?),
            None => None,
        };
        let (loader, manifest) = (Arc::clone(&self.loader), Arc::clone(manifest));
        spawn_blocking(move || loader.load_snapshot(&SnapshotFiles { manifest, file })).await?
    }

    /// An outer error may pass and fails the whole refresh; an inner one is the segment's own.
    async fn load_or_refuse(
        &self,
        manifest: &Arc<Manifest>,
        entry: &SegmentEntry,
        loaded: &[Arc<ServedSnapshot<L>>],
    ) -> Result<Result<ServedSegment<L>, RefusedSegment>, SegmentError> {
        match self.load_segment(manifest, entry, loaded).await {
            Ok(segment) => Ok(Ok(segment)),
            Err(error) if may_pass(&error) => Err(error),
            Err(error) => {
                let SegmentEntry {
                    number: segment,
                    shard,
                    ..
                } = *entry;
                Ok(Err(RefusedSegment {
                    segment,
                    shard,
                    reason: error.to_string(),
                }))
            }
        }
    }

    async fn load_segment(
        &self,
        manifest: &Arc<Manifest>,
        entry: &SegmentEntry,
        loaded: &[Arc<ServedSnapshot<L>>],
    ) -> Result<ServedSegment<L>, SegmentError> {
        let same_files = |segment: &&ServedSegment<L>| self.loads_the_same(&segment.entry, entry);
        let shared = loaded
            .iter()
            .filter_map(|snapshot| snapshot.segment(entry.number))
            .find(same_files);
        let live = match shared.filter(|segment| segment.entry.deletes == entry.deletes) {
            Some(unchanged) => unchanged.live.clone(),
            None => self.load_live(manifest, entry).await?.map(Arc::new),
        };
        match shared {
            Some(shared) => Ok(ServedSegment {
                live,
                entry: entry.clone(),
                ..shared.clone()
            }),
            None => self.load_parts(manifest, entry, live).await,
        }
    }

    /// Parts that come and go for other services are of no matter here.
    fn loads_the_same(&self, one: &SegmentEntry, other: &SegmentEntry) -> bool {
        let parts = [DOCUMENTS, ATTRIBUTES, self.loader.part()].into_iter();
        let mut parts = parts.chain(self.loader.part_beside());
        parts.all(|part| one.parts.get(part) == other.parts.get(part))
    }

    async fn load_parts(
        &self,
        manifest: &Arc<Manifest>,
        entry: &SegmentEntry,
        live: Option<Arc<Bitmap>>,
    ) -> Result<ServedSegment<L>, SegmentError> {
        let files = |part| self.store.part_files(&manifest.collection, entry, part);
        let documents = files(DOCUMENTS).await?;
        let attributes = files(ATTRIBUTES).await?;
        let part = SegmentFiles {
            manifest: Arc::clone(manifest),
            entry: entry.clone(),
            files: files(self.loader.part()).await?,
            files_beside: self.files_beside(manifest, entry).await?,
        };
        let loader = Arc::clone(&self.loader);
        let open = move || open_segment(&*loader, &documents, &attributes, &part, live);
        spawn_blocking(open).await?
    }

    /// An outer error may pass and fails the whole refresh.
    async fn files_beside(
        &self,
        manifest: &Manifest,
        entry: &SegmentEntry,
    ) -> Result<Option<PartFiles>, SegmentError> {
        let part = self.loader.part_beside();
        let Some(part) = part.filter(|part| manifest.has_part(part)) else {
            return Ok(None);
        };
        let collection = &manifest.collection;
        match self.store.part_files(collection, entry, part).await {
            Ok(files) => Ok(Some(files)),
            Err(error) if may_pass(&error) => Err(error),
            Err(error) => {
                let (number, shard) = (entry.number, entry.shard);
                tracing::error!(part, %collection, number, shard, "part left out: {error}");
                Ok(None)
            }
        }
    }

    async fn load_live(
        &self,
        manifest: &Manifest,
        entry: &SegmentEntry,
    ) -> Result<Option<Bitmap>, SegmentError> {
        let Some(deletes) = &entry.deletes else {
            return Ok(None);
        };
        let local = self.store.local_file(&manifest.collection, deletes).await?;
        let (deletes, entry) = (deletes.clone(), entry.clone());
        spawn_blocking(move || {
            let bytes = std::fs::read(&local).map_err(SegmentError::io(&local))?;
            let mut bitmap = Bitmap::from_bytes(&deletes.path, &bytes)?;
            if (bitmap.bound(), bitmap.count()) != (entry.passages, entry.deleted_passages) {
                return Err(SegmentError::damaged(
                    &deletes.path,
                    "contradicts its manifest",
                ));
            }
            bitmap.not();
            Ok(Some(bitmap))
        })
        .await?
    }
}

/// Served and refused segments, by number.
fn sort_out<L: PartLoader>(
    results: Vec<Result<ServedSegment<L>, RefusedSegment>>,
) -> (Vec<ServedSegment<L>>, Vec<RefusedSegment>) {
    let (mut segments, mut refused) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(segment) => segments.push(segment),
            Err(refusal) => refused.push(refusal),
        }
    }
    segments.sort_by_key(|segment: &ServedSegment<L>| segment.number);
    refused.sort_by_key(|segment: &RefusedSegment| segment.segment);
    (segments, refused)
}

fn open_segment<L: PartLoader>(
    loader: &L,
    documents: &PartFiles,
    attributes: &PartFiles,
    part: &SegmentFiles,
    live: Option<Arc<Bitmap>>,
) -> Result<ServedSegment<L>, SegmentError> {
    let entry = part.entry.clone();
    let documents = Documents::open(documents)?;
    let attributes = Attributes::open(attributes)?;
    attributes.check_types(&part.manifest.attributes)?;
    let stored = (
        documents.documents(),
        documents.passages(),
        attributes.documents(),
    );
    if stored != (entry.documents, entry.passages, entry.documents) {
        let reason = "documents and attributes contradict the manifest's counts";
        return Err(SegmentError::damaged(
            format!("segment {}", entry.number),
            reason,
        ));
    }
    Ok(ServedSegment {
        number: entry.number,
        shard: entry.shard,
        documents: Arc::new(documents),
        attributes: Arc::new(attributes),
        live,
        part: Arc::new(loader.load_segment(part)?),
        entry,
    })
}

/// Whether a failure says nothing about the files themselves.
fn may_pass(error: &SegmentError) -> bool {
    match error {
        SegmentError::Store { .. } | SegmentError::Io { .. } => true,
        SegmentError::Task(stopped) => stopped.is_cancelled(),
        SegmentError::Damaged { .. }
        | SegmentError::NotFound { .. }
        | SegmentError::Invalid { .. }
        | SegmentError::Engine { .. } => false,
    }
}

#[cfg(test)]
mod tests;
