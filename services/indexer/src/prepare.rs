//! A run's documents become segments of their collection: split, encoded, rotated, built.
//!
//! What a segment looks like depends on the collection's settings and its rotation, and both may change under a run that
//! creates a collection while another one does so too. Each step is therefore taken for a state of the collection, and only
//! taken again if that state asks for something else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use inference::TextEncoder;
use search_core::CollectionName;
use segment::SegmentError;
use segment::manifest::{CollectionSettings, Manifest, Stage};
use segment::store::Store;
use vector_math::Rotation;

use crate::build::{Build, BuiltSegments, CodedSpool, Destination, build_segments};
use crate::documents::RunDocuments;
use crate::encode::{Encoders, Encoding, encode_passages};
use crate::error::IndexError;
use crate::passages::{PassageSize, Passages, split_documents};
use crate::progress::{Counter, Events, Phase, Stopwatch};
use crate::rotation;
use crate::spool::VectorSpool;

/// What the steps work with.
pub(crate) struct Preparation {
    pub(crate) store: Store,
    pub(crate) collection: CollectionName,
    pub(crate) encoders: Encoders,
    pub(crate) max_segment_passages: u64,
    pub(crate) documents: Arc<RunDocuments>,
    pub(crate) events: Events,
    pub(crate) stopwatch: Stopwatch,
    /// Time in the models' runtime, on average over an encoder's threads.
    pub(crate) encode_model: Duration,
    /// Whether documents that the tokenizer or the encoder refuses are left out.
    pub(crate) skip_invalid: bool,
    /// Those that were refused and told.
    pub(crate) refused: usize,
    pub(crate) done: Done,
}

/// What the steps have made so far.
#[derive(Default)]
pub(crate) struct Done {
    split: Option<(PassageSize, Arc<Passages>)>,
    vectors: Option<Arc<VectorSpool>>,
    rescore_vectors: Option<Arc<VectorSpool>>,
    fitted: Option<Rotation>,
    built: Option<Built>,
}

struct Built {
    settings: CollectionSettings,
    rotation: Option<Rotation>,
    segments: Arc<BuiltSegments>,
}

/// Segments that fit the state of the collection.
pub(crate) struct Prepared {
    pub(crate) segments: Arc<BuiltSegments>,
    /// The collection has none yet.
    pub(crate) new_rotation: Option<Vec<u8>>,
    pub(crate) passages: u64,
}

impl Preparation {
    /// Takes the steps that the state asks for and that were not yet taken for it.
    pub(crate) async fn prepare(
        &mut self,
        settings: &CollectionSettings,
        latest: Option<&Manifest>,
    ) -> Result<Prepared, IndexError> {
        let passages = self.split(settings).await?;
        self.encode(&passages, settings).await?;
        let stored = self.stored_rotation(latest).await?;
        let new = if stored.is_none() {
            self.fit(&passages, settings).await?
        } else {
            None
        };
        let new_rotation = new.as_ref().map(Rotation::to_bytes);
        let first_number = latest.map_or(0, |manifest| manifest.next_segment);
        let segments = self
            .build(&passages, settings, stored.or(new), first_number)
            .await?;
        Ok(Prepared {
            passages: segments.passages(),
            segments,
            new_rotation,
        })
    }

    async fn split(&mut self, settings: &CollectionSettings) -> Result<Arc<Passages>, IndexError> {
        let size = PassageSize::of(settings);
        if let Some((_, passages)) = self.done.split.as_ref().filter(|(known, _)| *known == size) {
            return Ok(Arc::clone(passages));
        }
        let begin = Instant::now();
        let total = self.documents.len() as u64;
        let counter = Counter::new(&self.events, Phase::Read, total);
        let (documents, encoder) = (
            Arc::clone(&self.documents),
            Arc::clone(&self.encoders.first),
        );
        let skip_invalid = self.skip_invalid;
        let split = move || split_documents(&documents, size, &*encoder, &counter, skip_invalid);
        let passages = Arc::new(tokio::task::spawn_blocking(split).await??);
        self.tell_refused().await?;
        self.events.progress(Phase::Read, total, total).await?;
        self.stopwatch.add(Phase::Read, begin);
        self.done = Done {
            split: Some((size, Arc::clone(&passages))),
            ..Done::default()
        };
        Ok(passages)
    }

    /// Makes the vectors that the stages need: one encoder behind the other, for each uses all cores.
    async fn encode(
        &mut self,
        passages: &Arc<Passages>,
        settings: &CollectionSettings,
    ) -> Result<(), IndexError> {
        let lacks = |stage, done: &Option<_>| settings.stages.contains(&stage) && done.is_none();
        let first = lacks(Stage::Dense, &self.done.vectors);
        let rescorer = lacks(Stage::Rescore, &self.done.rescore_vectors)
            .then(|| self.encoders.rescorer.clone())
            .flatten();
        let encoders = u64::from(first) + u64::from(rescorer.is_some());
        if encoders == 0 {
            return Ok(());
        }
        let begin = Instant::now();
        let total = passages.len() * encoders;
        self.events.progress(Phase::Encode, 0, total).await?;
        let counter = Arc::new(Counter::new(&self.events, Phase::Encode, total));
        if first {
            let encoder = Arc::clone(&self.encoders.first);
            self.done.vectors = Some(self.encode_with(encoder, passages, &counter).await?);
        }
        if let Some(encoder) = rescorer {
            self.done.rescore_vectors = Some(self.encode_with(encoder, passages, &counter).await?);
        }
        self.events.progress(Phase::Encode, total, total).await?;
        self.stopwatch.add(Phase::Encode, begin);
        Ok(())
    }

    async fn encode_with(
        &mut self,
        encoder: Arc<dyn TextEncoder>,
        passages: &Arc<Passages>,
        counter: &Arc<Counter>,
    ) -> Result<Arc<VectorSpool>, IndexError> {
        let directory = self.documents.directory();
        let vectors = VectorSpool::create(directory, encoder.info().dimensions);
        let vectors = Arc::new(vectors.map_err(IndexError::spool(directory))?);
        let encoding = Encoding {
            documents: Arc::clone(&self.documents),
            passages: Arc::clone(passages),
            encoder: Arc::clone(&encoder),
            vectors: Arc::clone(&vectors),
            counter: Arc::clone(counter),
            skip_invalid: self.skip_invalid,
        };
        let cost = encode_passages(encoding).await?;
        if cost.truncated > 0 {
            let (bundle, passages) = (&encoder.info().name, cost.truncated);
            tracing::warn!(%self.collection, bundle, passages, "passages are longer than the bundle reads");
        }
        self.encode_model += cost.model;
        self.tell_refused().await?;
        Ok(vectors)
    }

    /// Tells which documents were refused since the last time. When none is left, there is nothing to index.
    async fn tell_refused(&mut self) -> Result<(), IndexError> {
        let lines = self.documents.refused_lines(self.refused);
        let Some(first) = lines.first().cloned() else {
            return Ok(());
        };
        self.refused += lines.len();
        self.events.tell(lines).await?;
        if self.documents.accepted().is_empty() {
            let count = self.refused as u64;
            return Err(IndexError::InvalidLines { count, first });
        }
        Ok(())
    }

    async fn stored_rotation(
        &self,
        latest: Option<&Manifest>,
    ) -> Result<Option<Rotation>, IndexError> {
        let Some(file) = latest.and_then(|manifest| manifest.rotation.as_ref()) else {
            return Ok(None);
        };
        let path = self.store.local_file(&self.collection, file).await?;
        let bytes = tokio::fs::read(&path)
            .await
            .map_err(SegmentError::io(&path))?;
        Rotation::from_bytes(&bytes)
            .map(Some)
            .map_err(IndexError::Rotation)
    }

    /// The rotation that the run would give its collection; none if the collection is not rotated.
    async fn fit(
        &mut self,
        passages: &Arc<Passages>,
        settings: &CollectionSettings,
    ) -> Result<Option<Rotation>, IndexError> {
        let dense = settings.dense.clone().filter(|dense| dense.rotated);
        let (Some(encoder), Some(dense), Some(vectors)) =
            (settings.encoder.clone(), dense, self.done.vectors.clone())
        else {
            return Ok(None);
        };
        if self.done.fitted.is_none() {
            let begin = Instant::now();
            let (documents, passages) = (Arc::clone(&self.documents), Arc::clone(passages));
            let fit = move || rotation::fit(&documents, &passages, &vectors, &encoder, &dense);
            self.done.fitted = Some(tokio::task::spawn_blocking(fit).await??);
            self.stopwatch.add(Phase::Build, begin);
        }
        Ok(self.done.fitted.clone())
    }

    async fn build(
        &mut self,
        passages: &Arc<Passages>,
        settings: &CollectionSettings,
        rotation: Option<Rotation>,
        first_number: u32,
    ) -> Result<Arc<BuiltSegments>, IndexError> {
        let fits = |built: &&Built| built.settings == *settings && built.rotation == rotation;
        if let Some(built) = self.done.built.as_ref().filter(fits) {
            return Ok(Arc::clone(&built.segments));
        }
        let begin = Instant::now();
        let total = passages.len();
        self.events.progress(Phase::Build, 0, total).await?;
        let build = Build {
            documents: Arc::clone(&self.documents),
            passages: Arc::clone(passages),
            settings: settings.clone(),
            vectors: CodedSpool::zip(
                rotation::coder(settings, rotation.clone())?,
                &self.done.vectors,
            ),
            rescore: CodedSpool::zip(
                rotation::rescore_coder(settings)?,
                &self.done.rescore_vectors,
            ),
            max_segment_passages: self.max_segment_passages,
            counter: Counter::new(&self.events, Phase::Build, total),
        };
        let segments = Arc::new(build_segments(build, &self.destination(first_number)).await?);
        self.events.progress(Phase::Build, total, total).await?;
        self.stopwatch.add(Phase::Build, begin);
        let built = Built {
            settings: settings.clone(),
            rotation,
            segments: Arc::clone(&segments),
        };
        self.done.built = Some(built);
        Ok(segments)
    }

    fn destination(&self, first_number: u32) -> Destination {
        Destination {
            store: self.store.clone(),
            collection: self.collection.clone(),
            // A build that is done again gets keys of its own: no file is ever written twice.
            run: crate::run_id(),
            first_number,
        }
    }
}
