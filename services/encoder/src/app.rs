//! The service: encoders that have passed their golden checks, each with a cache in front of it.

use std::sync::Arc;
use std::time::Duration;

use inference::{EncodeJob, Encoded, EncoderInfo, Priority, Task, TextEncoder};
use search_core::Deadline;
use service_kit::Readiness;

use crate::cache::{QueryCache, TextEncoding};
use crate::config::Config;
use crate::error::Error;

/// The encoder service.
pub struct App {
    first: Bundle,
    others: Vec<Bundle>,
    readiness: Readiness,
}

/// One served bundle.
pub(crate) struct Bundle {
    encoder: Arc<dyn TextEncoder>,
    cache: QueryCache,
}

/// What to encode.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) texts: Vec<String>,
    pub(crate) task: Task,
    pub(crate) with_token_vectors: bool,
    pub(crate) deadline: Option<Deadline>,
}

/// Encodings in the order of the texts.
#[derive(Debug)]
pub(crate) struct Encodings {
    pub(crate) texts: Vec<Arc<TextEncoding>>,
    pub(crate) cached_texts: u32,
    pub(crate) truncated_texts: u32,
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
}

impl App {
    /// A service over encoders; requests that name no bundle are for the first. It is ready at once: an encoder that exists has
    /// passed the check of its golden vectors (see [`inference::BundleEncoder::open`]).
    #[must_use]
    pub fn start(
        config: Config,
        first: Arc<dyn TextEncoder>,
        others: impl IntoIterator<Item = Arc<dyn TextEncoder>>,
    ) -> Arc<Self> {
        let bundle = |encoder| Bundle::new(&config, encoder);
        Arc::new(Self {
            first: bundle(first),
            others: others.into_iter().map(bundle).collect(),
            readiness: Readiness::ready(),
        })
    }

    /// Whether texts can be encoded.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// All served bundles, the first one first.
    pub(crate) fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The bundle of this fingerprint; of none: the first.
    pub(crate) fn bundle(&self, fingerprint: &str) -> Result<&Bundle, Error> {
        if fingerprint.is_empty() {
            return Ok(&self.first);
        }
        let is_meant = |bundle: &&Bundle| bundle.info().fingerprint == fingerprint;
        let found = self.bundles().find(is_meant);
        found.ok_or_else(|| Error::other_bundle(fingerprint, self.bundles().map(Bundle::info)))
    }
}

impl Bundle {
    fn new(config: &Config, encoder: Arc<dyn TextEncoder>) -> Self {
        let info = encoder.info();
        tracing::info!(
            name = info.name,
            fingerprint = info.fingerprint,
            dimensions = info.dimensions,
            "serving"
        );
        Self {
            cache: QueryCache::new(config.query_cache_bytes),
            encoder,
        }
    }

    pub(crate) fn info(&self) -> &EncoderInfo {
        self.encoder.info()
    }

    /// Answers from the cache and encodes the rest. Dropping the future abandons what is not computed yet.
    pub(crate) async fn encode(&self, request: Request) -> Result<Encodings, Error> {
        let found = self.cached(&request);
        let missing = request
            .texts
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none());
        let missing: Vec<String> = missing.map(|(text, _)| text.clone()).collect();
        let cached_texts = (request.texts.len() - missing.len()) as u32;
        let encoded = if missing.is_empty() {
            nothing()
        } else {
            self.encoder.encode(job(&request, missing)).await?
        };
        let (truncated_texts, queue, compute) =
            (encoded.truncated_texts, encoded.queue, encoded.compute);
        let mut computed = text_encodings(encoded, self.info().dimensions).into_iter();
        // What was truncated is not kept: nothing in the cache needs counting, and such queries do not come twice.
        let keep = request.task == Task::Query && truncated_texts == 0;
        let mut texts = Vec::with_capacity(request.texts.len());
        for (text, found) in request.texts.iter().zip(found) {
            let computed = || {
                computed
                    .next()
                    .map(|encoding| self.computed(text, encoding, keep))
            };
            texts.extend(found.or_else(computed));
        }
        Ok(Encodings {
            texts,
            cached_texts,
            truncated_texts,
            queue,
            compute,
        })
    }

    /// The tokens that the token vectors of [`Bundle::encode`] stand for.
    pub(crate) async fn tokens(
        &self,
        texts: Vec<String>,
        task: Task,
    ) -> Result<Vec<Vec<String>>, Error> {
        Ok(self.encoder.tokens(texts, task).await?)
    }

    fn cached(&self, request: &Request) -> Vec<Option<Arc<TextEncoding>>> {
        match request.task {
            Task::Query => request
                .texts
                .iter()
                .map(|text| self.cache.get(text, request.with_token_vectors))
                .collect(),
            Task::Passage => request.texts.iter().map(|_| None).collect(),
        }
    }

    fn computed(&self, text: &str, encoding: TextEncoding, keep: bool) -> Arc<TextEncoding> {
        let encoding = Arc::new(encoding);
        if keep {
            self.cache.insert(text, &encoding);
        }
        encoding
    }
}

/// What an encoder gives for no texts.
fn nothing() -> Encoded {
    Encoded {
        vectors: Vec::new(),
        token_vectors: None,
        tokens: Vec::new(),
        truncated_texts: 0,
        queue: Duration::ZERO,
        compute: Duration::ZERO,
        model: Duration::ZERO,
        threads: 0,
    }
}

fn job(request: &Request, texts: Vec<String>) -> EncodeJob {
    // Somebody waits for a query; passages are an index being built.
    let priority = match request.task {
        Task::Query => Priority::Interactive,
        Task::Passage => Priority::Bulk,
    };
    EncodeJob {
        texts,
        task: request.task,
        with_token_vectors: request.with_token_vectors,
        priority,
        criticality: service_kit::criticality::current(),
        deadline: request.deadline.map(Deadline::instant),
    }
}

fn text_encodings(encoded: Encoded, dimensions: usize) -> Vec<TextEncoding> {
    let mut token_vectors = encoded.token_vectors.map(Vec::into_iter);
    let vectors = encoded.vectors.chunks_exact(dimensions);
    vectors
        .zip(encoded.tokens)
        .map(|(vector, tokens)| TextEncoding {
            vector: vector.to_vec(),
            token_vectors: token_vectors.as_mut().and_then(Iterator::next),
            tokens,
        })
        .collect()
}
