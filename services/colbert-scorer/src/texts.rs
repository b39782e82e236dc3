//! Scores of texts that are not indexed: encoded, coded as passages are, at the bundle's full token width, and scored.

use std::time::Duration;

use search_core::{Deadline, FieldError};
use service_kit::compute::{ComputeError, ComputePool, Computed};
use vector_math::{TokenLayout, TokenQuery, TokenRows, VectorError};

use crate::clients::{Encoded, Role, TokenEncoder};
use crate::error::Error;

/// What to score.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) query: String,
    pub(crate) texts: Vec<String>,
    /// Empty: the first bundle that has token vectors.
    pub(crate) expected_fingerprint: String,
    pub(crate) deadline: Option<Deadline>,
}

/// Scores of all texts, in their order.
#[derive(Debug, Default)]
pub(crate) struct TextScores {
    pub(crate) scores: Vec<f32>,
    pub(crate) truncated_texts: u32,
    pub(crate) fingerprint: String,
    pub(crate) scoring: Spent,
    pub(crate) encoding: Spent,
}

/// Where time went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
}

impl Spent {
    fn add(&mut self, queue: Duration, compute: Duration) {
        self.queue += queue;
        self.compute += compute;
    }
}

/// Scores a part of the texts at a time: no more token vectors are in memory than fit into a message.
pub(crate) async fn score(
    encoder: &TokenEncoder,
    pool: &ComputePool,
    request: Texts,
) -> Result<TextScores, Error> {
    let mut answer = TextScores {
        fingerprint: encoder.fingerprint().to_owned(),
        ..TextScores::default()
    };
    let deadline = request.deadline;
    let query = vec![request.query];
    let encoded = encoder.encode(query, Role::Query, 0, deadline).await?;
    answer.encoding.add(encoded.queue, encoded.compute);
    answer.truncated_texts += encoded.truncated_texts;
    let query = code_query(encoder, &encoded)?;
    let mut texts = request.texts.into_iter().peekable();
    while texts.peek().is_some() {
        let first = answer.scores.len();
        let texts = texts.by_ref().take(encoder.most_texts()).collect();
        let encoded = encoder
            .encode(texts, Role::Passage, first, deadline)
            .await?;
        answer.encoding.add(encoded.queue, encoded.compute);
        answer.truncated_texts += encoded.truncated_texts;
        let scored = score_encoded(pool, &query, encoded, deadline).await?;
        answer.scoring.add(scored.queue, scored.compute);
        let scores = scored.value;
        answer
            .scores
            .extend(scores.map_err(|wrong| encoder.unusable(wrong.text, &wrong.error))?);
    }
    Ok(answer)
}

fn code_query(encoder: &TokenEncoder, encoded: &Encoded) -> Result<TokenQuery, Error> {
    let tokens = encoded.texts.first().map_or(&[][..], Vec::as_slice);
    if tokens.is_empty() {
        return Err(FieldError::new("query", "has no tokens").into());
    }
    let unusable = |error: VectorError| encoder.unusable(0, &error);
    let layout = TokenLayout::new(encoder.dimensions()).map_err(unusable)?;
    TokenQuery::new(layout, tokens).map_err(unusable)
}

/// Token vectors that cannot be coded.
struct Wrong {
    text: usize,
    error: VectorError,
}

type Scored = Computed<Result<Vec<f32>, Wrong>>;

async fn score_encoded(
    pool: &ComputePool,
    query: &TokenQuery,
    encoded: Encoded,
    deadline: Option<Deadline>,
) -> Result<Scored, ComputeError> {
    let query = query.clone();
    pool.run(deadline, move |wanted| {
        let mut scores = Vec::with_capacity(encoded.texts.len());
        for (text, tokens) in encoded.texts.iter().enumerate() {
            wanted.check()?;
            match score_one(&query, tokens) {
                Ok(score) => scores.push(score),
                Err(error) => return Ok(Err(Wrong { text, error })),
            }
        }
        Ok(Ok(scores))
    })
    .await
}

fn score_one(query: &TokenQuery, tokens: &[f32]) -> Result<f32, VectorError> {
    let (layout, mut packed) = (query.layout(), Vec::new());
    let blocks = layout.pack_passage(tokens, &mut packed)?;
    let rows = TokenRows::new(layout, &packed)?;
    let end = u32::try_from(blocks).unwrap_or(u32::MAX);
    rows.passage(&(0..end))?.score(query, None)
}
