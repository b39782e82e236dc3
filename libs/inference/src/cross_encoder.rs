//! The cross-encoder over a bundle: a query and its passages are read together, and each passage gets a logit.

use std::path::Path;
use std::sync::Arc;

use crate::bundle::PairBundle;
use crate::graph::LoadError;
use crate::length_batches::length_batches;
use crate::pair::{CrossEncoderInfo, Pair, PairLogits, ReadPairs, ScoreError, ScorePairs};
use crate::pair_golden::{self, GoldenPair};
use crate::pair_model::PairModel;
use crate::pair_tokenizer::PairTokenizer;
use crate::runtime::OnnxRuntime;

/// Tokens of a batch, padding included. On an AVX2 core, six layers and pairs of 40 to 160 tokens, sizes from 160 to 2,048
/// differ by 5 % in pairs per second; this one is the best of them.
const BATCH_TOKENS: usize = 256;
/// The longest query or passage.
const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// A cross-encoder over a bundle that has passed its golden check.
pub struct CrossEncoder {
    reader: Arc<BundleReader>,
    first: BundleScorer,
    others: Vec<BundleScorer>,
}

/// Cuts pairs as the bundle says.
struct BundleReader {
    info: CrossEncoderInfo,
    tokenizer: PairTokenizer,
}

/// One session over the bundle's graph.
struct BundleScorer {
    model: PairModel,
    known: GoldenPair,
}

impl CrossEncoder {
    /// Loads the ONNX Runtime (its library once per process) and the bundle in `folder`, as many sessions as there are to be threads
    /// (one at least), and checks that the bundle's golden scores come out. Blocks for some tenths of a second.
    pub fn open(runtime: &OnnxRuntime, folder: &Path, threads: usize) -> Result<Self, LoadError> {
        let bundle = PairBundle::read(folder)?;
        let tokenizer = PairTokenizer::load(&bundle)?;
        let mut model = PairModel::load(runtime, &bundle)?;
        let known = pair_golden::check(&bundle, &tokenizer, &mut model)?;
        let other = |_| {
            Ok(BundleScorer {
                model: PairModel::load(runtime, &bundle)?,
                known: known.clone(),
            })
        };
        let others = (1..threads).map(other).collect::<Result<_, LoadError>>()?;
        Ok(Self {
            reader: Arc::new(BundleReader {
                info: info(&bundle),
                tokenizer,
            }),
            first: BundleScorer { model, known },
            others,
        })
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> &CrossEncoderInfo {
        self.reader.info()
    }

    /// What reads pairs, and a scorer for each thread.
    #[must_use]
    pub fn into_parts(self) -> (Arc<dyn ReadPairs>, Vec<Box<dyn ScorePairs>>) {
        let scorers = std::iter::once(self.first).chain(self.others);
        let scorers = scorers.map(|scorer| Box::new(scorer) as Box<dyn ScorePairs>);
        (self.reader, scorers.collect())
    }

    /// The raw logits of the passages, in their order: without bounds, finite, higher is better. Computed on this thread.
    ///
    /// The query must have a token. A passage without any is scored as the trainer scores it; of one that is longer than the model
    /// reads, the beginning is scored. Texts of more than 1 MiB are refused.
    pub fn score(
        &mut self,
        query: &str,
        passages: &[impl AsRef<str>],
    ) -> Result<Vec<f32>, ScoreError> {
        let passages: Vec<String> = passages.iter().map(|it| it.as_ref().to_owned()).collect();
        let pairs = self.reader.read(query, &passages, 1)?.concat();
        let lengths: Vec<usize> = pairs.iter().map(Pair::tokens).collect();
        let mut scores = vec![0.0; pairs.len()];
        for batch in length_batches(&lengths, BATCH_TOKENS) {
            let batch_pairs: Vec<&Pair> = batch.iter().map(|&index| &pairs[index]).collect();
            let PairLogits { logits, .. } = self.first.score(&batch_pairs)?;
            for (index, score) in batch.into_iter().zip(logits) {
                scores[index] = finite(index, score)?;
            }
        }
        Ok(scores)
    }
}

fn info(bundle: &PairBundle) -> CrossEncoderInfo {
    let description = bundle.description();
    CrossEncoderInfo {
        name: description.name.clone(),
        fingerprint: bundle.fingerprint().to_owned(),
        max_tokens: description.max_tokens,
        max_query_tokens: description.pair.max_query_tokens,
    }
}

impl ReadPairs for BundleReader {
    fn info(&self) -> &CrossEncoderInfo {
        &self.info
    }

    fn read(
        &self,
        query: &str,
        passages: &[String],
        max_windows: usize,
    ) -> Result<Vec<Vec<Pair>>, ScoreError> {
        let query = check_size(query)
            .and_then(|query| self.tokenizer.query(query))
            .map_err(|reason| ScoreError::InvalidQuery { reason })?;
        let pairs = |(index, passage): (usize, &String)| {
            check_size(passage)
                .and_then(|passage| self.tokenizer.windows(&query, passage, max_windows))
                .map(|windows| windows.into_iter().map(Pair).collect())
                .map_err(|reason| ScoreError::InvalidPassage { index, reason })
        };
        passages.iter().enumerate().map(pairs).collect()
    }
}

impl ScorePairs for BundleScorer {
    fn score(&mut self, pairs: &[&Pair]) -> Result<PairLogits, ScoreError> {
        let rows: Vec<_> = pairs.iter().map(|pair| &pair.0).collect();
        Ok(self.model.score(&rows)?)
    }

    fn check(&mut self) -> Result<(), ScoreError> {
        let logits = self.model.score(&[&self.known.pair])?.logits;
        self.known
            .check(logits[0])
            .map_err(|error| ScoreError::Model(Arc::new(error)))
    }
}

fn check_size(text: &str) -> Result<&str, String> {
    match text.len() {
        bytes if bytes > MAX_TEXT_BYTES => Err(format!(
            "has {bytes} bytes, must have at most {MAX_TEXT_BYTES}"
        )),
        _ => Ok(text),
    }
}

fn finite(index: usize, score: f32) -> Result<f32, ScoreError> {
    if score.is_finite() {
        Ok(score)
    } else {
        Err(ScoreError::NotFinite { index, score })
    }
}
