//! The way of a change of stages: what a collection lacks is built from its stored documents, and one commit names it.
//!
//! The files of a segment never change, so that what was built for one holds as long as a manifest lists it: after a lost race
//! only the segments that are new are read. Passages that were deleted meanwhile are left out by the bitmap of their segment, as
//! everywhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use segment::manifest::{CollectionSettings, DOCUMENTS, Manifest, SegmentEntry, Stage};
use segment::store::CommitError;
use tokio::sync::mpsc;

use super::{COMMIT_ATTEMPTS, Indexer, contended};
use crate::build::{BuiltParts, PartsBuild, build_parts};
use crate::commit::store_rotations;
use crate::documents::RunDocuments;
use crate::error::IndexError;
use crate::passages::{PassageSize, Passages};
use crate::prepare::{Done, Preparation, Rotations};
use crate::progress::{Counter, Event, Events, Phase, Stopwatch, Summary};
use crate::run_id;
use crate::settings::{StagePlan, StageSettings};
use crate::stored::{SegmentDocuments, StoredDocuments, StoredReader, StoredSegment, damage_in};
use crate::temporary::RunFolder;

impl Indexer {
    /// Gives an existing collection these stages with one commit, or changes nothing. Those that it lacks are built from its
    /// stored documents, those that are not named are left out, the others stay as they are. Dropping the future, or the receiver
    /// of the events, ends the run without a commit.
    pub async fn set_stages(
        &self,
        wishes: StageSettings,
        events: mpsc::Sender<Event>,
    ) -> Result<Summary, IndexError> {
        let mistakes = wishes.mistakes();
        if !mistakes.is_empty() {
            return Err(IndexError::InvalidArgument(mistakes));
        }
        let (events, _guard) = Events::new(events);
        self.remove_leftovers(&wishes.collection).await?;
        let run = StageRun {
            directory: self.temporary_folder().await?,
            indexer: self,
            wishes,
            events,
            stopwatch: Stopwatch::default(),
            encode_model: Duration::ZERO,
            built: BuiltStages::default(),
        };
        run.change().await
    }
}

/// One run of [`Indexer::set_stages`].
struct StageRun<'a> {
    indexer: &'a Indexer,
    wishes: StageSettings,
    events: Events,
    stopwatch: Stopwatch,
    encode_model: Duration,
    built: BuiltStages,
    /// Last, so that it is removed after everything that reads it.
    directory: RunFolder,
}

/// What the run has made so far.
#[derive(Default)]
struct BuiltStages {
    /// The stages that it was made for.
    added: Option<CollectionSettings>,
    rotations: Rotations,
    /// By segment number.
    parts: BTreeMap<u32, BuiltParts>,
}

impl BuiltStages {
    /// The parts of a segment, if they were built for just this one: a collection that was removed and made anew has other
    /// segments of the same numbers.
    fn of(&self, entry: &SegmentEntry) -> Option<&BuiltParts> {
        let documents = |entry: &SegmentEntry| entry.parts.get(DOCUMENTS).cloned();
        let built = self.parts.get(&entry.number);
        built.filter(|built| documents(&built.entry) == documents(entry))
    }
}

impl StageRun<'_> {
    async fn change(mut self) -> Result<Summary, IndexError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let base = self.latest().await?;
            let Indexer {
                config, encoders, ..
            } = self.indexer;
            let plan = self.wishes.plan(&base, config, encoders.info())?;
            if !plan.changes(&base) {
                return Ok(self.summary(None));
            }
            self.build_what_is_missing(&base, &plan).await?;
            self.events.check()?;
            let begin = Instant::now();
            let next = self.successor(&base, &plan).await?;
            let outcome = self.indexer.store.commit(&next).await;
            self.stopwatch.add(Phase::Commit, begin);
            match outcome {
                Ok(()) => {
                    return Ok(Summary {
                        left_out_stages: plan.left_out_of(&base),
                        ..self.summary(Some(&next))
                    });
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Segment(error)) => return Err(error.into()),
            }
        }
        Err(contended(&self.wishes.collection))
    }

    async fn latest(&self) -> Result<Manifest, IndexError> {
        let collection = &self.wishes.collection;
        let latest = self.indexer.store.latest_manifest(collection).await?;
        latest.ok_or_else(|| IndexError::UnknownCollection {
            collection: collection.to_string(),
        })
    }

    /// Builds the added stages for the segments that they were not yet built for.
    async fn build_what_is_missing(
        &mut self,
        base: &Manifest,
        plan: &StagePlan,
    ) -> Result<(), IndexError> {
        if self.built.added.as_ref() != Some(&plan.added) {
            self.built = BuiltStages {
                added: Some(plan.added.clone()),
                ..BuiltStages::default()
            };
        }
        let is_missing = |entry: &&SegmentEntry| self.built.of(entry).is_none();
        let missing: Vec<SegmentEntry> = base.segments.iter().filter(is_missing).cloned().collect();
        if missing.is_empty() || plan.added.stages.is_empty() {
            return Ok(());
        }
        let StoredDocuments {
            documents,
            passages,
            segments,
        } = self.read(&missing, &plan.added).await?;
        let passages = Arc::new(passages);
        let mut preparation = self.preparation(Arc::new(documents));
        let rotations = &mut self.built.rotations;
        let new = preparation.make_vectors(&passages, &plan.added, rotations);
        rotations.take_in(new.await?);
        let built = build(&mut preparation, &passages, segments, plan, rotations).await?;
        let by_number = built.into_iter().map(|built| (built.entry.number, built));
        self.built.parts.extend(by_number);
        self.stopwatch = preparation.stopwatch;
        self.encode_model = preparation.encode_model;
        Ok(())
    }

    /// Reads the living documents of segments.
    async fn read(
        &mut self,
        entries: &[SegmentEntry],
        settings: &CollectionSettings,
    ) -> Result<StoredDocuments, IndexError> {
        let begin = Instant::now();
        let total = entries.iter().map(|entry| u64::from(entry.documents)).sum();
        self.events.progress(Phase::Read, 0, total).await?;
        let directory: Arc<Path> = self.directory.path().into();
        let Indexer {
            store, encoders, ..
        } = self.indexer;
        let mut reader = StoredReader::new(
            &directory,
            PassageSize::of(settings),
            Arc::clone(&encoders.first),
            Counter::new(&self.events, Phase::Read, total),
        )?;
        for entry in entries {
            let segment = StoredSegment::fetch(store, &self.wishes.collection, entry).await;
            let segment = segment.map_err(|error| damage_in(entry.number, error))?;
            let read = move || reader.read(&segment).map(|()| reader);
            reader = tokio::task::spawn_blocking(read).await??;
        }
        let stored = tokio::task::spawn_blocking(|| reader.finish()).await??;
        self.events.progress(Phase::Read, total, total).await?;
        self.stopwatch.add(Phase::Read, begin);
        Ok(stored)
    }

    fn preparation(&mut self, documents: Arc<RunDocuments>) -> Preparation {
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
            documents,
            events: self.events.clone(),
            stopwatch: std::mem::take(&mut self.stopwatch),
            encode_model: self.encode_model,
            skip_invalid: false,
            refused: 0,
            done: Done::default(),
        }
    }

    /// The next manifest: the same segments with other parts.
    async fn successor(&self, base: &Manifest, plan: &StagePlan) -> Result<Manifest, IndexError> {
        let mut next = base.next();
        next.settings = plan.settings.clone();
        for entry in &mut next.segments {
            let goes = |stage: &Stage| !plan.settings.stages.contains(stage);
            for stage in Stage::ALL.iter().filter(|stage| goes(stage)) {
                entry.parts.remove(stage.as_str());
            }
            if let Some(built) = self.built.of(entry) {
                entry.parts.extend(built.parts.clone());
            }
        }
        let stays = |stage| plan.settings.stages.contains(&stage) && !plan.adds(stage);
        next.rotation = next.rotation.filter(|_| stays(Stage::Dense));
        next.token_rotation = next.token_rotation.filter(|_| stays(Stage::Colbert));
        let store = &self.indexer.store;
        store_rotations(store, &mut next, &run_id(), &self.built.rotations).await?;
        Ok(next)
    }

    /// None: nothing was changed.
    fn summary(self, committed: Option<&Manifest>) -> Summary {
        let mut summary = Summary {
            snapshot: committed.map(|manifest| manifest.number),
            times: self.stopwatch.into_times(),
            encode_model: self.encode_model,
            ..Summary::default()
        };
        let segments = committed.map_or(&[][..], |manifest| &manifest.segments);
        for built in segments.iter().filter_map(|entry| self.built.of(entry)) {
            summary.documents += built.documents;
            summary.passages += built.passages;
            summary.add_parts(&built.parts);
        }
        summary
    }
}

/// Writes the parts of the vectors that were made.
async fn build(
    preparation: &mut Preparation,
    passages: &Arc<Passages>,
    segments: Vec<SegmentDocuments>,
    plan: &StagePlan,
    rotations: &Rotations,
) -> Result<Vec<BuiltParts>, IndexError> {
    let begin = Instant::now();
    let total = passages.len();
    preparation.events.progress(Phase::Build, 0, total).await?;
    let build = PartsBuild {
        documents: Arc::clone(&preparation.documents),
        passages: Arc::clone(passages),
        segments,
        vectors: preparation.sources(&plan.added, rotations)?,
        counter: Counter::new(&preparation.events, Phase::Build, total),
    };
    let built = build_parts(build, &preparation.destination()).await?;
    preparation
        .events
        .progress(Phase::Build, total, total)
        .await?;
    preparation.stopwatch.add(Phase::Build, begin);
    Ok(built)
}
