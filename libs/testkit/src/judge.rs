//! A cross-encoder without a model: a test writes down what it thinks of a query and a passage.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use inference::{CrossEncoderInfo, Pair, PairLogits, ReadPairs, ScoreError, ScorePairs};

/// Query and passage together.
const MAX_TOKENS: usize = 1000;
/// Stands between them: no character of a text.
const SEPARATOR: u32 = u32::MAX;

type Opinion = dyn Fn(&str, &str) -> f32 + Send + Sync;

/// Reads a character as a token. Clones are of one opinion.
#[derive(Clone)]
pub struct Judge {
    info: CrossEncoderInfo,
    opinion: Arc<Opinion>,
}

impl Judge {
    /// `opinion` gives the logit of a query and a passage. It may block: it is asked on a compute thread.
    pub fn new(opinion: impl Fn(&str, &str) -> f32 + Send + Sync + 'static) -> Self {
        Self {
            info: CrossEncoderInfo {
                name: "judge".to_owned(),
                fingerprint: "judge-1".to_owned(),
                max_tokens: MAX_TOKENS,
                max_query_tokens: MAX_TOKENS / 2,
            },
            opinion: Arc::new(opinion),
        }
    }

    /// A service with one compute thread.
    #[must_use]
    pub fn start(&self) -> Arc<cross_encoder::App> {
        let (reader, scorer) = (Arc::new(self.clone()), Box::new(self.clone()));
        let config = cross_encoder::Config::default();
        cross_encoder::App::start_with(&config, reader, vec![scorer])
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Judge").finish_non_exhaustive()
    }
}

impl ReadPairs for Judge {
    fn info(&self) -> &CrossEncoderInfo {
        &self.info
    }

    fn read(
        &self,
        query: &str,
        passages: &[String],
        max_windows: usize,
    ) -> Result<Vec<Vec<Pair>>, ScoreError> {
        let query: Vec<u32> = query
            .chars()
            .map(u32::from)
            .take(self.info.max_query_tokens)
            .collect();
        let room = MAX_TOKENS - query.len() - 1;
        let windows = |passage: &String| {
            let passage: Vec<u32> = passage.chars().map(u32::from).collect();
            let truncated = passage.len() > room * max_windows;
            let windows = passage.chunks(room).take(max_windows);
            windows
                .map(|window| pair(&query, window, truncated))
                .collect()
        };
        Ok(passages.iter().map(windows).collect())
    }
}

fn pair(query: &[u32], window: &[u32], truncated: bool) -> Pair {
    let ids = [query, &[SEPARATOR], window].concat();
    let segment_ids = vec![0; ids.len()];
    Pair::new(ids, segment_ids, truncated)
}

impl ScorePairs for Judge {
    fn score(&mut self, pairs: &[&Pair]) -> Result<PairLogits, ScoreError> {
        let logit = |pair: &&Pair| {
            let mut sides = pair.ids().split(|&id| id == SEPARATOR).map(text);
            let (query, passage) = (sides.next(), sides.next());
            (self.opinion)(&query.unwrap_or_default(), &passage.unwrap_or_default())
        };
        Ok(PairLogits {
            logits: pairs.iter().map(logit).collect(),
            model_time: Duration::from_micros(1),
        })
    }

    fn check(&mut self) -> Result<(), ScoreError> {
        Ok(())
    }
}

fn text(ids: &[u32]) -> String {
    ids.iter().copied().filter_map(char::from_u32).collect()
}
