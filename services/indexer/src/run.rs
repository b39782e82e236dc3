//! The way of a run: read everything, then split, encode, build and commit.
//!
//! A run writes nothing that a reader could see before its commit, and its commit is one atomic step. When another writer was
//! faster, the steps that depend on the collection's state are taken again from the newer one; what still holds is kept:
//! usually everything but the commit.

mod stages;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use search_core::CollectionName;
use segment::attributes::AttributeTypes;
use segment::manifest::{CollectionSettings, Manifest};
use segment::store::Store;
use tokio::sync::mpsc;

use crate::commit::{Change, Committed, Outcome, commit};
use crate::config::Config;
use crate::documents::RunDocuments;
use crate::encode::Encoders;
use crate::error::IndexError;
use crate::prepare::{Done, Preparation, Prepared, Rotations};
use crate::progress::{Event, Events, Phase, Stopwatch, Summary};
use crate::read::{CheckedTypes, ReadDocuments, Reader};
use crate::run_id;
use crate::settings::IndexSettings;
use crate::source::LineBatch;
use crate::temporary::{RunFolder, remove_stale};

/// Each lost race means that another writer has won one, so that this many in a row are a crowd.
const COMMIT_ATTEMPTS: u32 = 32;
/// Files of interrupted runs are removed after this: longer than any run takes from its first upload to its commit.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Changes collections.
pub struct Indexer {
    store: Store,
    encoders: Encoders,
    config: Config,
}

/// What a deletion did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The snapshot that was committed; none if the collection had none of the documents.
    pub snapshot: Option<u64>,
    /// Documents removed.
    pub deleted: u64,
    /// Ids that the collection does not have, in the order in which they were given.
    pub unknown: Vec<String>,
}

impl Indexer {
    /// An indexer of the collections in `store`.
    pub fn new(config: Config, store: Store, encoders: Encoders) -> Self {
        Self {
            store,
            encoders,
            config,
        }
    }

    /// Adds or replaces the documents of all lines with one commit, or changes nothing. Dropping the future, or the receiver
    /// of the events, ends the run without a commit.
    pub async fn index<E>(
        &self,
        settings: IndexSettings,
        lines: impl Stream<Item = Result<LineBatch, E>> + Send + Unpin,
        events: mpsc::Sender<Event>,
    ) -> Result<Summary, IndexError>
    where
        IndexError: From<E>,
    {
        let mistakes = settings.mistakes();
        if !mistakes.is_empty() {
            return Err(IndexError::InvalidArgument(mistakes));
        }
        let (events, _guard) = Events::new(events);
        let mut run = Run::start(self, settings, events.clone()).await?;
        let read = run.read(lines).await?;
        run.change(read).await
    }

    /// Removes documents with one commit, or changes nothing.
    pub async fn delete(
        &self,
        collection: &CollectionName,
        ids: Vec<String>,
    ) -> Result<Deletion, IndexError> {
        let directory = self.temporary_folder().await?;
        let mut document_ids: Vec<Arc<str>> = ids.iter().map(|id| Arc::from(id.as_str())).collect();
        document_ids.sort_unstable();
        document_ids.dedup();
        let document_ids = Arc::new(document_ids);
        for _ in 0..COMMIT_ATTEMPTS {
            let Some(base) = self.store.latest_manifest(collection).await? else {
                return Err(IndexError::UnknownCollection {
                    collection: collection.to_string(),
                });
            };
            let change = Change {
                store: self.store.clone(),
                collection: collection.clone(),
                run: run_id(),
                segments: Arc::default(),
                document_ids: Arc::clone(&document_ids),
                types: base.attributes.clone(),
                new_rotations: Rotations::default(),
                directory: directory.path().into(),
            };
            match commit(&base, &change).await? {
                Outcome::Committed(committed) => return Ok(Deletion::of(Some(committed), ids)),
                Outcome::Unchanged => return Ok(Deletion::of(None, ids)),
                Outcome::Conflict => {}
            }
        }
        Err(contended(collection))
    }

    async fn temporary_folder(&self) -> Result<RunFolder, IndexError> {
        let parent = self.config.temporary_folder.clone();
        let create = move || RunFolder::create(&parent).map_err(IndexError::spool(&parent));
        tokio::task::spawn_blocking(create).await?
    }

    /// Clears up after runs that were interrupted long ago.
    async fn remove_leftovers(&self, collection: &CollectionName) -> Result<(), IndexError> {
        let parent = self.config.temporary_folder.clone();
        tokio::task::spawn_blocking(move || remove_stale(&parent, LEFTOVER_AGE)).await?;
        remove_unreferenced(&self.store, collection).await;
        Ok(())
    }
}

impl Deletion {
    fn of(committed: Option<Committed>, ids: Vec<String>) -> Self {
        let snapshot = committed.as_ref().map(|committed| committed.number);
        let removed = committed
            .map(|committed| committed.removed)
            .unwrap_or_default();
        let unknown = ids
            .into_iter()
            .filter(|id| !removed.contains(id.as_str()))
            .collect();
        Self {
            snapshot,
            deleted: removed.len() as u64,
            unknown,
        }
    }
}

fn contended(collection: &CollectionName) -> IndexError {
    IndexError::Contended {
        collection: collection.to_string(),
        attempts: COMMIT_ATTEMPTS,
    }
}

/// One run of [`Indexer::index`].
struct Run<'a> {
    indexer: &'a Indexer,
    wishes: IndexSettings,
    events: Events,
    stopwatch: Stopwatch,
    /// Last, so that it is removed after everything that reads it.
    directory: RunFolder,
}

impl<'a> Run<'a> {
    async fn start(
        indexer: &'a Indexer,
        wishes: IndexSettings,
        events: Events,
    ) -> Result<Self, IndexError> {
        indexer.remove_leftovers(&wishes.collection).await?;
        Ok(Self {
            directory: indexer.temporary_folder().await?,
            indexer,
            wishes,
            events,
            stopwatch: Stopwatch::default(),
        })
    }

    async fn latest(&self) -> Result<Option<Manifest>, IndexError> {
        Ok(self
            .indexer
            .store
            .latest_manifest(&self.wishes.collection)
            .await?)
    }

    fn resolve(&self, latest: Option<&Manifest>) -> Result<CollectionSettings, IndexError> {
        self.wishes
            .resolve(latest, &self.indexer.config, self.indexer.encoders.info())
    }

    /// Reads and checks all lines.
    async fn read<E>(
        &mut self,
        mut lines: impl Stream<Item = Result<LineBatch, E>> + Send + Unpin,
    ) -> Result<ReadDocuments, IndexError>
    where
        IndexError: From<E>,
    {
        let begin = Instant::now();
        let latest = self.latest().await?;
        self.resolve(latest.as_ref())?;
        let types = latest
            .map(|manifest| manifest.attributes)
            .unwrap_or_default();
        let directory: Arc<Path> = self.directory.path().into();
        let mut reader = Reader::new(types, &directory)?;
        while let Some(batch) = lines.next().await {
            let batch = batch?;
            let read = move || reader.read(&batch).map(|refused| (reader, refused));
            let (returned, refused) = tokio::task::spawn_blocking(read).await??;
            reader = returned;
            self.events.tell(refused).await?;
            self.events.check()?;
            self.events.offer(Phase::Read, reader.documents(), 0);
        }
        let skip_invalid = self.wishes.skip_invalid;
        let read = tokio::task::spawn_blocking(move || reader.finish(skip_invalid)).await??;
        self.stopwatch.add(Phase::Read, begin);
        Ok(read)
    }

    /// Makes the documents part of the collection.
    async fn change(mut self, read: ReadDocuments) -> Result<Summary, IndexError> {
        let ReadDocuments {
            documents,
            types,
            invalid,
        } = read;
        let documents = Arc::new(documents);
        if documents.len() == 0 {
            return Ok(Summary {
                invalid,
                times: self.stopwatch.into_times(),
                ..Summary::default()
            });
        }
        let mut preparation = self.preparation(&documents);
        for _ in 0..COMMIT_ATTEMPTS {
            let latest = self.latest().await?;
            let settings = self.resolve(latest.as_ref())?;
            let prepared = preparation.prepare(&settings, latest.as_ref()).await?;
            let base =
                latest.unwrap_or_else(|| Manifest::empty(self.wishes.collection.clone(), settings));
            let types = types_with(&documents, &types, &base).await?;
            let change = self.change_of(&documents, types, &prepared);
            self.events.check()?;
            let begin = Instant::now();
            let outcome = commit(&base, &change).await?;
            preparation.stopwatch.add(Phase::Commit, begin);
            if let Outcome::Committed(committed) = outcome {
                return Ok(summary(preparation, &prepared, invalid, &committed));
            }
        }
        Err(contended(&self.wishes.collection))
    }

    fn preparation(&mut self, documents: &Arc<RunDocuments>) -> Preparation {
        let Indexer {
            store,
            encoders,
            config,
        } = self.indexer;
        Preparation {
            store: store.clone(),
            collection: self.wishes.collection.clone(),
            encoders: encoders.clone(),
            max_segment_passages: config.max_segment_passages,
            documents: Arc::clone(documents),
            events: self.events.clone(),
            stopwatch: std::mem::take(&mut self.stopwatch),
            encode_model: Duration::ZERO,
            skip_invalid: self.wishes.skip_invalid,
            refused: 0,
            done: Done::default(),
        }
    }

    fn change_of(
        &self,
        documents: &RunDocuments,
        types: AttributeTypes,
        prepared: &Prepared,
    ) -> Change {
        let accepted = documents.accepted().into_iter();
        let ids = accepted.map(|document| Arc::clone(documents.id(document)));
        Change {
            store: self.indexer.store.clone(),
            collection: self.wishes.collection.clone(),
            run: run_id(),
            segments: Arc::clone(&prepared.segments),
            document_ids: Arc::new(ids.collect()),
            types,
            new_rotations: prepared.new_rotations.clone(),
            directory: self.directory.path().into(),
        }
    }
}

fn summary(
    preparation: Preparation,
    prepared: &Prepared,
    invalid: u64,
    committed: &Committed,
) -> Summary {
    let mut summary = Summary {
        snapshot: Some(committed.number),
        documents: preparation.documents.accepted().len() as u64,
        passages: prepared.passages,
        replaced: committed.removed.len() as u64,
        invalid: invalid + preparation.refused as u64,
        times: preparation.stopwatch.into_times(),
        encode_model: preparation.encode_model,
        ..Summary::default()
    };
    for segment in &prepared.segments.segments {
        summary.add_parts(&segment.parts);
    }
    summary
}

/// The types of the collection's metadata fields once the documents are in. They were checked against the collection as it
/// was when the run began; if it has other types by now, they are checked again.
async fn types_with(
    documents: &Arc<RunDocuments>,
    checked: &CheckedTypes,
    base: &Manifest,
) -> Result<AttributeTypes, IndexError> {
    if checked.before == base.attributes {
        return Ok(checked.after.clone());
    }
    let (documents, mut types) = (Arc::clone(documents), base.attributes.clone());
    let observe = move || {
        for document in documents.accepted() {
            let metadata = documents.read(document)?.metadata();
            let observed = types.observe(&metadata);
            observed.map_err(|source| IndexError::Metadata {
                document: documents.name(document),
                source,
            })?;
        }
        Ok(types)
    };
    tokio::task::spawn_blocking(observe).await?
}

/// Removes what interrupted runs have stored. A failure is no reason not to run.
async fn remove_unreferenced(store: &Store, collection: &CollectionName) {
    match store.delete_unreferenced(collection, LEFTOVER_AGE).await {
        Ok(removed) if removed.files > 0 => {
            tracing::info!(%collection, removed.files, removed.bytes, "removed what no snapshot needs");
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%collection, %error, "leftovers of interrupted runs could not be removed")
        }
    }
}
