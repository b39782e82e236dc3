//! The encoder over a bundle: tokenizer, golden check and batcher behind [`TextEncoder`].

use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::batcher::{Admission, BatchLimits, Batcher, BatcherStats, JobVectors, TokenJob};
use crate::bundle::Bundle;
use crate::encode::{BoxFuture, EncodeError, EncodeJob, Encoded, EncoderInfo, Task, TextEncoder};
use crate::golden;
use crate::graph::LoadError;
use crate::model::OnnxModel;
use crate::runtime::OnnxRuntime;
use crate::tokenizer::TextTokenizer;

/// Jobs of so many bytes are cut into tokens where they arrive (well under a millisecond); larger ones on a thread
/// that may block.
const INLINE_TOKENIZE_BYTES: usize = 1024;

/// How an encoder uses the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderOptions {
    /// Compute threads, each with a session of its own. At least 1.
    pub threads: usize,
    /// Tokens of a batch, padding included. One longer text is a batch of its own.
    pub batch_tokens: usize,
    /// Texts that may wait or be computed; a job that does not fit is refused.
    pub queue_texts: usize,
}

impl Default for EncoderOptions {
    /// A thread per core; batches of 256 tokens, which on two AVX2 cores give 97 % of the throughput of the best size
    /// (512; 4,096 gives 75 to 80 %, for it outgrows the caches) and keep a query behind a bulk batch waiting for 65 ms at
    /// most; a queue of 8,192 texts, which are some minutes of work and 16 MiB of token ids.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            threads,
            batch_tokens: 256,
            queue_texts: 8192,
        }
    }
}

/// An encoder over a bundle that has passed its golden check. Cheap to clone.
#[derive(Clone)]
pub struct BundleEncoder(Arc<Inner>);

struct Inner {
    info: EncoderInfo,
    tokenizer: TextTokenizer,
    batcher: Batcher,
}

impl BundleEncoder {
    /// Loads the ONNX Runtime (its library once per process) and the bundle in `folder`, and checks that the bundle's golden
    /// vectors come out. Blocks for some tenths of a second.
    pub fn open(
        runtime: &OnnxRuntime,
        folder: &Path,
        options: EncoderOptions,
    ) -> Result<Self, LoadError> {
        let bundle = Bundle::read(folder)?;
        let tokenizer = TextTokenizer::load(&bundle)?;
        let mut models = load_models(runtime, &bundle, options.threads.max(1))?;
        golden::check(&bundle, &tokenizer, &mut models[0])?;
        let limits = BatchLimits {
            batch_tokens: options.batch_tokens,
            queue_texts: options.queue_texts,
        };
        let batcher = Batcher::start(models, limits);
        Ok(Self(Arc::new(Inner {
            info: bundle.info(),
            tokenizer,
            batcher,
        })))
    }

    /// What the compute threads have done so far.
    pub fn stats(&self) -> BatcherStats {
        self.0.batcher.stats()
    }
}

/// A session takes some tenths of a second to load and about 50 MB: all at once.
fn load_models(
    runtime: &OnnxRuntime,
    bundle: &Bundle,
    count: usize,
) -> Result<Vec<OnnxModel>, LoadError> {
    std::thread::scope(|scope| {
        let loading: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| OnnxModel::load(runtime, bundle)))
            .collect();
        let loaded = loading
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        loaded.collect()
    })
}

fn check_texts(texts: &[String]) -> Result<(), EncodeError> {
    match texts.iter().position(String::is_empty) {
        Some(index) => Err(EncodeError::InvalidText {
            index,
            reason: "is empty".into(),
        }),
        None => Ok(()),
    }
}

impl TextEncoder for BundleEncoder {
    fn info(&self) -> &EncoderInfo {
        &self.0.info
    }

    fn token_spans(&self, text: &str) -> Result<Vec<Range<usize>>, EncodeError> {
        self.0.tokenizer.spans(text)
    }

    fn tokens(
        &self,
        texts: Vec<String>,
        task: Task,
    ) -> BoxFuture<Result<Vec<Vec<String>>, EncodeError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            inner.check_tokens_are_there(true)?;
            check_texts(&texts)?;
            let tokens = move |inner: &Inner, text: &str| inner.tokenizer.tokens(text, task);
            inner.for_each_text(texts, tokens).await
        })
    }

    fn encode(&self, job: EncodeJob) -> BoxFuture<Result<Encoded, EncodeError>> {
        let inner = Arc::clone(&self.0);
        let arrived = Instant::now();
        Box::pin(async move {
            let admission = inner.admit(&job)?;
            if job.texts.is_empty() {
                return Ok(inner.encoded(&[], false, JobVectors::default()));
            }
            inner.encode(job, admission, arrived).await
        })
    }
}

impl Inner {
    fn admit(&self, job: &EncodeJob) -> Result<Admission, EncodeError> {
        self.check_tokens_are_there(job.with_token_vectors)?;
        check_texts(&job.texts)?;
        self.batcher.admit(job.texts.len(), job.criticality)
    }

    fn check_tokens_are_there(&self, are_wanted: bool) -> Result<(), EncodeError> {
        if are_wanted && self.info.token_dimensions == 0 {
            return Err(EncodeError::NoTokenVectors {
                bundle: self.info.name.clone(),
            });
        }
        Ok(())
    }

    async fn encode(
        self: Arc<Self>,
        job: EncodeJob,
        admission: Admission,
        arrived: Instant,
    ) -> Result<Encoded, EncodeError> {
        let EncodeJob {
            texts,
            task,
            with_token_vectors,
            priority,
            criticality,
            deadline,
        } = job;
        let cut = move |inner: &Self, text: &str| {
            let tokenizer = &inner.tokenizer;
            tokenizer.encode(text, task, with_token_vectors)
        };
        let rows = self.for_each_text(texts, cut).await?;
        let read: Vec<(u32, bool)> = rows
            .iter()
            .map(|row| (row.attended().len() as u32, row.truncated))
            .collect();
        let job = TokenJob {
            rows,
            with_token_vectors,
            priority,
            criticality,
            deadline,
            arrived,
        };
        let vectors = self.batcher.submit(job, admission)?.await?;
        Ok(self.encoded(&read, with_token_vectors, vectors))
    }

    /// What the tokenizer makes of each text.
    async fn for_each_text<T: Send + 'static>(
        self: &Arc<Self>,
        texts: Vec<String>,
        of_text: impl Fn(&Self, &str) -> Result<T, String> + Send + 'static,
    ) -> Result<Vec<T>, EncodeError> {
        let is_short = texts.iter().map(String::len).sum::<usize>() <= INLINE_TOKENIZE_BYTES;
        let this = Arc::clone(self);
        let all = move || {
            let of_place = |(index, text): (usize, &String)| {
                of_text(&this, text).map_err(|reason| EncodeError::InvalidText { index, reason })
            };
            texts.iter().enumerate().map(of_place).collect()
        };
        if is_short {
            return all();
        }
        let found = tokio::task::spawn_blocking(all).await;
        found.map_err(|error| EncodeError::Model(Arc::new(error)))?
    }

    fn encoded(
        &self,
        read: &[(u32, bool)],
        with_token_vectors: bool,
        vectors: JobVectors,
    ) -> Encoded {
        Encoded {
            vectors: vectors.sentences.concat(),
            token_vectors: with_token_vectors.then_some(vectors.tokens),
            tokens: read.iter().map(|&(tokens, _)| tokens).collect(),
            truncated_texts: read.iter().filter(|(_, truncated)| *truncated).count() as u32,
            queue: vectors.queue,
            compute: vectors.compute,
            model: vectors.model,
            threads: self.batcher.threads(),
        }
    }
}
