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
use segment::checksum::FileEntry;
use segment::manifest::{ColbertSettings, CollectionSettings, Manifest, Stage};
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
use crate::tokens::{CodedTokens, TokenSample, TokenSink};

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

#[derive(Clone, Default, PartialEq)]
struct Rotations {
    vectors: Option<Rotation>,
    tokens: Option<Rotation>,
}

struct Built {
    settings: CollectionSettings,
    rotations: Rotations,
    segments: Arc<BuiltSegments>,
}

/// Segments that fit the state of the collection.
pub(crate) struct Prepared {
    pub(crate) segments: Arc<BuiltSegments>,
    /// The collection has none yet.
    pub(crate) new_rotation: Option<Vec<u8>>,
    /// The same of its token vectors.
    pub(crate) new_token_rotation: Option<Vec<u8>>,
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
        let mut new = Rotations::default();
        // Token vectors are coded as they come, so that their rotation is needed first.
        if stored.tokens.is_none() {
            new.tokens = self.fit_to_tokens(&passages, settings).await?;
        }
        let for_tokens = stored.tokens.clone().or_else(|| new.tokens.clone());
        self.encode(&passages, settings, for_tokens.clone()).await?;
        if stored.vectors.is_none() {
            new.vectors = self.fit(&passages, settings).await?;
        }
        let rotations = Rotations {
            vectors: stored.vectors.or_else(|| new.vectors.clone()),
            tokens: for_tokens,
        };
        let first_number = latest.map_or(0, |manifest| manifest.next_segment);
        let segments = self
            .build(&passages, settings, rotations, first_number)
            .await?;
        Ok(Prepared {
            passages: segments.passages(),
            segments,
            new_rotation: new.vectors.as_ref().map(Rotation::to_bytes),
            new_token_rotation: new.tokens.as_ref().map(Rotation::to_bytes),
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
        token_rotation: Option<Rotation>,
    ) -> Result<(), IndexError> {
        let lacks = |stage, done: &Option<_>| settings.stages.contains(&stage) && done.is_none();
        let sentences = lacks(Stage::Dense, &self.done.vectors);
        let rescorer = lacks(Stage::Rescore, &self.done.rescore_vectors)
            .then(|| self.encoders.rescorer.clone())
            .flatten();
        let tokens = self.lacking_tokens(settings, token_rotation, passages.len())?;
        let first = sentences || tokens.is_some();
        let encoders = u64::from(first) + u64::from(rescorer.is_some());
        if encoders == 0 {
            return Ok(());
        }
        let begin = Instant::now();
        let total = passages.len() * encoders;
        self.events.progress(Phase::Encode, 0, total).await?;
        let counter = Arc::new(Counter::new(&self.events, Phase::Encode, total));
        if first {
            self.encode_first(passages, sentences, tokens, &counter)
                .await?;
        }
        if let Some(encoder) = rescorer {
            let vectors = self.vector_spool(&*encoder)?;
            let mut encoding = self.encoding(encoder, passages, &counter);
            encoding.vectors = Some(Arc::clone(&vectors));
            self.run(encoding).await?;
            self.done.rescore_vectors = Some(vectors);
        }
        self.events.progress(Phase::Encode, total, total).await?;
        self.stopwatch.add(Phase::Encode, begin);
        Ok(())
    }

    /// One forward pass gives the sentence vectors and the token vectors.
    async fn encode_first(
        &mut self,
        passages: &Arc<Passages>,
        sentences: bool,
        tokens: Option<Tokens>,
        counter: &Arc<Counter>,
    ) -> Result<(), IndexError> {
        let encoder = Arc::clone(&self.encoders.first);
        let vectors = match sentences {
            true => Some(self.vector_spool(&*encoder)?),
            false => None,
        };
        let mut encoding = self.encoding(encoder, passages, counter);
        encoding.vectors.clone_from(&vectors);
        let codes = tokens.as_ref().map(|tokens| Arc::clone(&tokens.codes));
        encoding.tokens = codes.map(TokenSink::Codes);
        self.run(encoding).await?;
        self.done.vectors = vectors.or(self.done.vectors.take());
        self.done.tokens = tokens.or(self.done.tokens.take());
        Ok(())
    }

    /// A place for token vectors, if the state asks for some that are not there yet.
    fn lacking_tokens(
        &self,
        settings: &CollectionSettings,
        rotation: Option<Rotation>,
        passages: u64,
    ) -> Result<Option<Tokens>, IndexError> {
        let known = self.done.tokens.as_ref();
        if known.is_some_and(|it| it.settings == settings.colbert && it.rotation == rotation) {
            return Ok(None);
        }
        let Some(coder) = rotation::token_coder(settings, rotation.clone())? else {
            return Ok(None);
        };
        let directory = self.documents.directory();
        let codes = CodedTokens::create(directory, coder, passages);
        Ok(Some(Tokens {
            settings: settings.colbert.clone(),
            rotation,
            codes: Arc::new(codes.map_err(IndexError::spool(directory))?),
        }))
    }

    fn vector_spool(&self, encoder: &dyn TextEncoder) -> Result<Arc<VectorSpool>, IndexError> {
        let directory = self.documents.directory();
        let vectors = VectorSpool::create(directory, encoder.info().dimensions);
        vectors.map(Arc::new).map_err(IndexError::spool(directory))
    }

    /// Of all passages, for nobody yet.
    fn encoding(
        &self,
        encoder: Arc<dyn TextEncoder>,
        passages: &Arc<Passages>,
        counter: &Arc<Counter>,
    ) -> Encoding {
        Encoding {
            documents: Arc::clone(&self.documents),
            passages: Arc::clone(passages),
            rows: (0..passages.len()).collect(),
            encoder,
            vectors: None,
            tokens: None,
            counter: Arc::clone(counter),
            skip_invalid: self.skip_invalid,
        }
    }

    async fn run(&mut self, encoding: Encoding) -> Result<(), IndexError> {
        let encoder = Arc::clone(&encoding.encoder);
        let cost = encode_passages(encoding).await?;
        if cost.truncated > 0 {
            let (bundle, passages) = (&encoder.info().name, cost.truncated);
            tracing::warn!(%self.collection, bundle, passages, "passages are longer than the bundle reads");
        }
        self.encode_model += cost.model;
        self.tell_refused().await
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

    /// The rotation that the run would give its collection's token vectors; none if they are not rotated. Encodes some passages
    /// for it, which are encoded again later.
    async fn fit_to_tokens(
        &mut self,
        passages: &Arc<Passages>,
        settings: &CollectionSettings,
    ) -> Result<Option<Rotation>, IndexError> {
        let Some(colbert) = settings.colbert.clone().filter(|colbert| colbert.rotated) else {
            return Ok(None);
        };
        if self.done.fitted_to_tokens.is_none() {
            let begin = Instant::now();
            let rows = TokenSample::rows(passages.len(), &colbert);
            let counter = Counter::new(&self.events, Phase::Encode, rows.len() as u64);
            let encoder = Arc::clone(&self.encoders.first);
            let sample = Arc::new(TokenSample::new(encoder.info().token_dimensions));
            let mut encoding = self.encoding(encoder, passages, &Arc::new(counter));
            encoding.rows = rows;
            encoding.tokens = Some(TokenSink::Sample(Arc::clone(&sample)));
            self.run(encoding).await?;
            let fit = move || sample.fit(&colbert);
            self.done.fitted_to_tokens = Some(tokio::task::spawn_blocking(fit).await??);
            self.stopwatch.add(Phase::Encode, begin);
        }
        Ok(self.done.fitted_to_tokens.clone())
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
            vectors: CodedSpool::zip(
                rotation::coder(settings, rotations.vectors.clone())?,
                &self.done.vectors,
            ),
            rescore: CodedSpool::zip(
                rotation::rescore_coder(settings)?,
                &self.done.rescore_vectors,
            ),
            tokens: self
                .done
                .tokens
                .as_ref()
                .filter(|_| settings.colbert.is_some())
                .map(|tokens| Arc::clone(&tokens.codes)),
            max_segment_passages: self.max_segment_passages,
            counter: Counter::new(&self.events, Phase::Build, total),
        };
        let segments = Arc::new(build_segments(build, &self.destination(first_number)).await?);
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
