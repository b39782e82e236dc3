//! The contract `finemesh.colbert.v1`: requests are checked, calls are made, answers are packed.

use std::sync::Arc;

use search_core::FieldError;
use search_proto::colbert::colbert_scorer_service_server::{
    ColbertScorerService, ColbertScorerServiceServer,
};
use search_proto::colbert::{
    self as wire, MatchRequest, MatchResponse, PassageMatches, ScoreRequest, ScoreResponse,
    ScoreTextsRequest, ScoreTextsResponse,
};
use search_proto::common::{DescribeRequest, DescribeResponse, Timing};
use search_proto::convert;
use service_kit::compute::Computed;
use service_kit::status::with_pushback;
use service_kit::{MAX_MESSAGE_BYTES, ServerBuilder, deadline_of};
use tonic::{Request, Response, Status};
use tracing::Instrument;
use vector_math::TokenMatch;

use crate::app::{App, ShardQuery};
use crate::error::Error;
use crate::query::QueryTokens;
use crate::texts::{Spent, Texts};

/// Most tokens of a query.
const MAX_QUERY_TOKENS: usize = 1024;
/// Most addresses of one request for scores.
const MAX_SCORED: usize = 10_000;
/// Most addresses of one request for matches.
const MAX_MATCHED: usize = 100;
/// Most texts of one request.
const MAX_TEXTS: usize = 1000;
/// The longest query or text: many times what a model reads.
const MAX_TEXT_BYTES: usize = 64 * 1024;

impl App {
    /// Adds the service to a server.
    pub fn add_to(self: &Arc<Self>, server: &mut ServerBuilder) {
        let service = ColbertScorerServiceServer::from_arc(Arc::clone(self))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        server.add(service, self.readiness());
    }
}

#[tonic::async_trait]
impl ColbertScorerService for App {
    async fn score(
        &self,
        request: Request<ScoreRequest>,
    ) -> Result<Response<ScoreResponse>, Status> {
        answer(self.answer_score(request).await)
    }

    async fn score_texts(
        &self,
        request: Request<ScoreTextsRequest>,
    ) -> Result<Response<ScoreTextsResponse>, Status> {
        answer(self.answer_score_texts(request).await)
    }

    async fn r#match(
        &self,
        request: Request<MatchRequest>,
    ) -> Result<Response<MatchResponse>, Status> {
        answer(self.answer_match(request).await)
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let described = convert::held_to_wire(self.held(), self.refused());
        Ok(Response::new(described))
    }
}

impl App {
    async fn answer_score(&self, request: Request<ScoreRequest>) -> Result<ScoreResponse, Error> {
        let deadline = deadline_of(&request);
        let wire = request.into_inner();
        let query = ShardQuery {
            snapshot: convert::snapshot_from_wire(wire.snapshot.as_ref())?,
            shard: wire.shard,
            addresses: convert::addresses_from_wire(&wire.addresses, MAX_SCORED)?,
            tokens: query_from_wire(wire.query)?,
            deadline,
        };
        let span = tracing::info_span!(
            "score passages",
            passages = query.addresses.len(),
            query_tokens = query.tokens.count(),
            scored = tracing::field::Empty,
            unknown = tracing::field::Empty,
            queue_us = tracing::field::Empty,
            compute_us = tracing::field::Empty,
        );
        let scored = self.score(query).instrument(span.clone()).await?;
        let timing = timing(&scored);
        span.record("scored", scored.value.scores.len());
        span.record("unknown", scored.value.unknown.len());
        record(&span, timing);
        Ok(ScoreResponse {
            scores: scored.value.scores,
            unknown: scored.value.unknown,
            timing: Some(timing),
        })
    }

    async fn answer_score_texts(
        &self,
        request: Request<ScoreTextsRequest>,
    ) -> Result<ScoreTextsResponse, Error> {
        let deadline = deadline_of(&request);
        let wire = request.into_inner();
        convert::check_text("query", &wire.query, MAX_TEXT_BYTES)?;
        convert::check_texts(&wire.texts, MAX_TEXTS, MAX_TEXT_BYTES)?;
        let span = tracing::info_span!(
            "score texts",
            texts = wire.texts.len(),
            truncated_texts = tracing::field::Empty,
            queue_us = tracing::field::Empty,
            compute_us = tracing::field::Empty,
        );
        let request = Texts {
            query: wire.query,
            texts: wire.texts,
            expected_fingerprint: wire.expected_fingerprint,
            deadline,
        };
        let scored = self.score_texts(request).instrument(span.clone()).await?;
        let timing = spent_to_wire(scored.scoring);
        span.record("truncated_texts", scored.truncated_texts);
        record(&span, timing);
        Ok(ScoreTextsResponse {
            scores: scored.scores,
            truncated_texts: scored.truncated_texts,
            fingerprint: scored.fingerprint,
            timing: Some(timing),
            encoding: Some(spent_to_wire(scored.encoding)),
        })
    }

    async fn answer_match(&self, request: Request<MatchRequest>) -> Result<MatchResponse, Error> {
        let deadline = deadline_of(&request);
        let wire = request.into_inner();
        let query = ShardQuery {
            snapshot: convert::snapshot_from_wire(wire.snapshot.as_ref())?,
            shard: wire.shard,
            addresses: convert::addresses_from_wire(&wire.addresses, MAX_MATCHED)?,
            tokens: query_from_wire(wire.query)?,
            deadline,
        };
        let matched = self.matches(query).await?;
        let timing = Some(timing(&matched));
        Ok(MatchResponse {
            passages: matched.value.into_iter().map(matches_to_wire).collect(),
            timing,
        })
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| refusal(&error))
}

fn refusal(error: &Error) -> Status {
    let status = service_kit::status::status(error.kind(), error, error.fields());
    with_pushback(status, error.pushback())
}

fn query_from_wire(wire: Option<wire::QueryTokens>) -> Result<QueryTokens, FieldError> {
    let wire = wire.ok_or_else(|| FieldError::new("query", "is missing"))?;
    tokens_from_wire(wire).map_err(|error| error.inside("query"))
}

fn tokens_from_wire(wire: wire::QueryTokens) -> Result<QueryTokens, FieldError> {
    if wire.encoder_fingerprint.is_empty() {
        return Err(FieldError::new("encoder_fingerprint", "is empty"));
    }
    let width = wire.dimensions as usize;
    if width == 0 {
        return Err(FieldError::new("dimensions", "must be 1 or more"));
    }
    let numbers = wire.vectors.len();
    if !numbers.is_multiple_of(width) {
        let message = format!("has {numbers} numbers for {width} dimensions");
        return Err(FieldError::new("vectors", message));
    }
    let tokens = numbers / width;
    if !(1..=MAX_QUERY_TOKENS).contains(&tokens) {
        let message = format!("has {tokens} tokens, must have 1 to {MAX_QUERY_TOKENS}");
        return Err(FieldError::new("vectors", message));
    }
    if let Some(position) = wire.vectors.iter().position(|number| !number.is_finite()) {
        let path = format!("vectors[{position}]");
        return Err(FieldError::new(path, "must be finite"));
    }
    let is_zero = |token: &[f32]| token.iter().all(|number| *number == 0.0);
    if let Some(token) = wire.vectors.chunks(width).position(is_zero) {
        let message = format!("token {token} is all zero");
        return Err(FieldError::new("vectors", message));
    }
    Ok(QueryTokens {
        width,
        vectors: wire.vectors,
        encoder_fingerprint: wire.encoder_fingerprint,
    })
}

fn matches_to_wire(matches: Vec<TokenMatch>) -> PassageMatches {
    PassageMatches {
        tokens: matches.iter().map(|found| found.token as u32).collect(),
        cosines: matches.iter().map(|found| found.cosine).collect(),
    }
}

fn timing<T>(computed: &Computed<T>) -> Timing {
    convert::timing_to_wire(computed.queue, computed.compute)
}

fn spent_to_wire(spent: Spent) -> Timing {
    convert::timing_to_wire(spent.queue, spent.compute)
}

fn record(span: &tracing::Span, timing: Timing) {
    span.record("queue_us", timing.queue_us);
    span.record("compute_us", timing.compute_us);
}
