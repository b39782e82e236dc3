//! A run's documents become segments of their collection: split, encoded, rotated, built.
//!
//! What a segment looks like depends on the collection's settings and its rotation, and both may change under a run that
//! creates a collection while another one does so too. Each step is therefore taken for a state of the collection, and only
//! taken again if that state asks for something else.

mod vectors;

use std::sync::Arc;
use std::time::{Duration, Instant};

use search_core::CollectionName;
use segment::SegmentError;
use segment::checksum::FileEntry;
use segment::manifest::{ColbertSettings, CollectionSettings, DenseSettings, Manifest};
use segment::store::Store;
use vector_math::{Rotation, VectorCoder};

use crate::build::{Build, BuiltSegments, CodedSpool, Destination, VectorSources, build_segments};
use crate::documents::RunDocuments;
use crate::encode::Encoders;
use crate::error::IndexError;
use crate::passages::{PassageSize, Passages, split_documents};
use crate::progress::{Counter, Events, Phase, Stopwatch};
use crate::rotation;
use crate::spool::VectorSpool;
use crate::tokens::CodedTokens;

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
    tokens: Option<Tokens>,
    fitted: Option<Rotation>,
    fitted_to_tokens: Option<Rotation>,
    built: Option<Built>,
}

/// Coded token vectors, and what they were coded for.
struct Tokens {
    settings: Option<ColbertSettings>,
    rotation: Option<Rotation>,
    codes: Arc<CodedTokens>,
}

/// Those of a collection's vectors.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Rotations {
    pub(crate) vectors: Option<Rotation>,
    pub(crate) tokens: Option<Rotation>,
}

impl Rotations {
    /// What comes later replaces nothing.
    pub(crate) fn take_in(&mut self, new: Self) {
        self.vectors = self.vectors.take().or(new.vectors);
        self.tokens = self.tokens.take().or(new.tokens);
    }
}

struct Built {
    settings: CollectionSettings,
    rotations: Rotations,
    segments: Arc<BuiltSegments>,
}

/// Segments that fit the state of the collection.
pub(crate) struct Prepared {
    pub(crate) segments: Arc<BuiltSegments>,
    /// Those that the collection does not have yet.
    pub(crate) new_rotations: Rotations,
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
        let stored = self.stored_rotations(latest).await?;
        let new_rotations = self.make_vectors(&passages, settings, &stored).await?;
        let mut rotations = stored;
        rotations.take_in(new_rotations.clone());
        let first_number = latest.map_or(0, |manifest| manifest.next_segment);
        let segments = self
            .build(&passages, settings, rotations, first_number)
            .await?;
        Ok(Prepared {
            passages: segments.passages(),
            segments,
            new_rotations,
        })
    }

    /// Makes the vectors that the settings ask for, and fits the rotations that are not stored yet: those it returns.
    pub(crate) async fn make_vectors(
        &mut self,
        passages: &Arc<Passages>,
        settings: &CollectionSettings,
        stored: &Rotations,
    ) -> Result<Rotations, IndexError> {
        let mut new = Rotations::default();
        // Token vectors are coded as they come, so that their rotation is needed first.
        if stored.tokens.is_none() {
            new.tokens = self.fit_to_tokens(passages, settings).await?;
        }
        let for_tokens = stored.tokens.as_ref().or(new.tokens.as_ref());
        self.encode(passages, settings, for_tokens.cloned()).await?;
        if stored.vectors.is_none() {
            new.vectors = self.fit(passages, settings).await?;
        }
        Ok(new)
    }

    /// The vectors that were made, for parts of these settings.
    pub(crate) fn sources(
        &self,
        settings: &CollectionSettings,
        rotations: &Rotations,
    ) -> Result<VectorSources, IndexError> {
        let Done {
            vectors,
            rescore_vectors,
            tokens,
            ..
        } = &self.done;
        let dense = settings.dense.clone();
        let dense_coder = rotation::coder(settings, rotations.vectors.clone())?;
        let rescore = settings.rescore.as_ref();
        let rescore = rescore.map(|rescore| DenseSettings::scored_only(rescore.dimensions));
        let rescore_coder = rotation::rescore_coder(settings)?;
        let tokens = tokens.as_ref().filter(|_| settings.colbert.is_some());
        Ok(VectorSources {
            dense: coded_spool(dense, dense_coder, vectors),
            rescore: coded_spool(rescore, rescore_coder, rescore_vectors),
            tokens: tokens.map(|tokens| Arc::clone(&tokens.codes)),
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

    async fn stored_rotations(&self, latest: Option<&Manifest>) -> Result<Rotations, IndexError> {
        let Some(manifest) = latest else {
            return Ok(Rotations::default());
        };
        Ok(Rotations {
            vectors: self.stored_rotation(&manifest.rotation).await?,
            tokens: self.stored_rotation(&manifest.token_rotation).await?,
        })
    }

    async fn stored_rotation(
        &self,
        file: &Option<FileEntry>,
    ) -> Result<Option<Rotation>, IndexError> {
        let Some(file) = file else {
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
        rotations: Rotations,
        first_number: u32,
    ) -> Result<Arc<BuiltSegments>, IndexError> {
        let fits = |built: &&Built| built.settings == *settings && built.rotations == rotations;
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
            vectors: self.sources(settings, &rotations)?,
            max_segment_passages: self.max_segment_passages,
            first_number,
            counter: Counter::new(&self.events, Phase::Build, total),
        };
        let segments = Arc::new(build_segments(build, &self.destination()).await?);
        self.events.progress(Phase::Build, total, total).await?;
        self.stopwatch.add(Phase::Build, begin);
        let built = Built {
            settings: settings.clone(),
            rotations,
            segments: Arc::clone(&segments),
        };
        self.done.built = Some(built);
        Ok(segments)
    }

    pub(crate) fn destination(&self) -> Destination {
        Destination {
            store: self.store.clone(),
            collection: self.collection.clone(),
            // A build that is done again gets keys of its own: no file is ever written twice.
            run: crate::run_id(),
        }
    }
}

/// All of it or none.
fn coded_spool(
    settings: Option<DenseSettings>,
    coder: Option<VectorCoder>,
    vectors: &Option<Arc<VectorSpool>>,
) -> Option<CodedSpool> {
    Some(CodedSpool {
        settings: settings?,
        coder: coder?,
        vectors: vectors.clone()?,
    })
}
