//! The steps that run encoders.

use std::sync::Arc;
use std::time::Instant;

use inference::TextEncoder;
use segment::manifest::{CollectionSettings, Stage};
use vector_math::Rotation;

use super::{Preparation, Tokens};
use crate::encode::{Encoding, encode_passages};
use crate::error::IndexError;
use crate::passages::Passages;
use crate::progress::{Counter, Phase};
use crate::rotation;
use crate::spool::VectorSpool;
use crate::tokens::{CodedTokens, TokenSample, TokenSink};

impl Preparation {
    /// The rotation that the run would give its collection's token vectors; none if they are not rotated. Encodes some passages
    /// for it, which are encoded again later.
    pub(super) async fn fit_to_tokens(
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

    /// Makes the vectors that the stages need: one encoder behind the other, for each uses all cores.
    pub(super) async fn encode(
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
}
