//! The contract `finemesh.rerank.v1`: requests are checked, passages scored, scores packed.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use search_core::FieldError;
use search_proto::convert;
use search_proto::rerank::reranker_service_server::{RerankerService, RerankerServiceServer};
use search_proto::rerank::{
    DescribeRequest, DescribeResponse, LanguageModelUse, RerankRequest, RerankResponse,
};
use service_kit::status::{Pushback, with_pushback};
use service_kit::{MAX_MESSAGE_BYTES, ServerBuilder, deadline_of};
use tonic::{Request, Response, Status};

use crate::app::{App, Passage, Scored};
use crate::error::Error;
use crate::usage::Usage;

type Answers = Pin<Box<dyn Stream<Item = Result<RerankResponse, Status>> + Send>>;

/// A call whose request is right.
struct Call {
    scores: BoxStream<'static, Result<Scored, Error>>,
    passages: usize,
    fingerprint: String,
    span: tracing::Span,
    /// Of the whole call.
    total: Usage,
    scored: usize,
    /// What is not told yet.
    untold: Usage,
}

impl App {
    /// Adds the service to a server.
    pub fn add_to(self: &Arc<Self>, server: &mut ServerBuilder) {
        let service = RerankerServiceServer::from_arc(Arc::clone(self))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        server.add(service, self.readiness());
    }

    fn begin(&self, request: Request<RerankRequest>) -> Result<Call, Error> {
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        self.check_fingerprint(&request.expected_fingerprint)?;
        convert::check_rerank_request(&request)?;
        if request.max_windows > 1 {
            let message =
                "must be 0 or 1: of a long passage a language model is given the beginning";
            return Err(FieldError::new("max_windows", message).into());
        }
        let span = tracing::info_span!(
            "ask the language model",
            passages = request.passages.len(),
            scored = tracing::field::Empty,
            requests = tracing::field::Empty,
            cached_answers = tracing::field::Empty,
            prompt_tokens = tracing::field::Empty,
            completion_tokens = tracing::field::Empty,
            mended_ids = tracing::field::Empty,
            unusable_answers = tracing::field::Empty,
        );
        Ok(Call {
            scores: self.score(&request.query, &request.passages, deadline)?,
            passages: request.passages.len(),
            fingerprint: self.fingerprint().to_owned(),
            span,
            total: Usage::default(),
            scored: 0,
            untold: Usage::default(),
        })
    }

    fn check_fingerprint(&self, expected: &str) -> Result<(), Error> {
        if expected.is_empty() || expected == self.fingerprint() {
            return Ok(());
        }
        Err(Error::OtherModel {
            expected: expected.to_owned(),
            served: self.fingerprint().to_owned(),
            model: self.model_name().to_owned(),
        })
    }

    async fn answer_all(&self, request: Request<RerankRequest>) -> Result<RerankResponse, Error> {
        let max_results = request.get_ref().max_results;
        let mut call = self.begin(request)?;
        let mut all = Scored::default();
        while let Some(scored) = call.next().await {
            let scored = scored?;
            all.passages.extend(scored.passages);
            all.queue = all.queue.max(scored.queue);
            all.compute += scored.compute;
        }
        all.usage = call.total;
        let truncated = truncated(&all.passages);
        convert::keep_best(&mut all.passages, max_results, |passage| {
            (passage.logit, passage.index)
        });
        Ok(RerankResponse {
            truncated_passages: truncated,
            ..call.packed(&all)
        })
    }

    /// The first scores are waited for: who is refused is told in the head of the answer.
    async fn answer_as_it_comes(&self, request: Request<RerankRequest>) -> Result<Answers, Error> {
        if request.get_ref().max_results != 0 {
            let message = "must be 0: a stream brings all scores";
            return Err(FieldError::new("max_results", message).into());
        }
        let mut call = self.begin(request)?;
        let first = call.next_answer().await.transpose()?;
        let rest = stream::unfold(call, async |mut call| {
            let answer = call.next_answer().await?;
            Some((answer.map_err(|error| status(&error)), call))
        });
        Ok(Box::pin(stream::iter(first.map(Ok)).chain(rest)))
    }
}

impl Call {
    async fn next(&mut self) -> Option<Result<Scored, Error>> {
        let next = self.scores.next().await?;
        if let Ok(scored) = &next {
            self.total += scored.usage;
            self.untold += scored.usage;
            self.scored += scored.passages.len();
            record(&self.span, self.scored, &self.total);
        }
        Some(next)
    }

    /// The next message of a stream: never one without passages, which would tell a caller nothing.
    async fn next_answer(&mut self) -> Option<Result<RerankResponse, Error>> {
        loop {
            let mut scored = match self.next().await? {
                Ok(scored) if scored.passages.is_empty() => continue,
                Ok(scored) => scored,
                Err(error) => return Some(Err(error)),
            };
            scored.usage = std::mem::take(&mut self.untold);
            scored.passages.sort_by_key(|passage| passage.index);
            return Some(Ok(self.packed(&scored)));
        }
    }

    fn packed(&self, scored: &Scored) -> RerankResponse {
        let passages = || scored.passages.iter();
        RerankResponse {
            indexes: passages().map(|passage| passage.index as u32).collect(),
            logits: passages().map(|passage| passage.logit).collect(),
            scores: passages()
                .map(|passage| convert::calibrated(passage.logit))
                .collect(),
            tokens: passages()
                .map(|passage| saturated(passage.tokens))
                .collect(),
            batches: passages().map(|passage| passage.batch).collect(),
            unscored: (self.passages - self.scored) as u32,
            truncated_passages: truncated(&scored.passages),
            fingerprint: self.fingerprint.clone(),
            timing: Some(convert::timing_to_wire(scored.queue, scored.compute)),
            language_model: Some(usage_to_wire(&scored.usage)),
        }
    }
}

#[tonic::async_trait]
impl RerankerService for App {
    async fn rerank(
        &self,
        request: Request<RerankRequest>,
    ) -> Result<Response<RerankResponse>, Status> {
        let answer = self.answer_all(request).await;
        answer.map(Response::new).map_err(|error| status(&error))
    }

    type RerankStreamStream = Answers;

    async fn rerank_stream(
        &self,
        request: Request<RerankRequest>,
    ) -> Result<Response<Answers>, Status> {
        let answers = self.answer_as_it_comes(request).await;
        answers.map(Response::new).map_err(|error| status(&error))
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(DescribeResponse {
            name: self.model_name().to_owned(),
            fingerprint: self.fingerprint().to_owned(),
            max_tokens: 0,
            max_query_tokens: 0,
        }))
    }
}

fn status(error: &Error) -> Status {
    let status = service_kit::status::status(error.kind(), error, error.fields());
    with_pushback(status, error.retry_after().map(Pushback::After))
}

fn truncated(passages: &[Passage]) -> u32 {
    passages
        .iter()
        .filter(|passage| passage.is_truncated)
        .count() as u32
}

fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn usage_to_wire(usage: &Usage) -> LanguageModelUse {
    LanguageModelUse {
        requests: usage.requests,
        cached_answers: usage.cached_answers,
        prompt_tokens: usage.tokens.prompt,
        completion_tokens: usage.tokens.completion,
        missing_ids: usage.repairs.missing,
        duplicate_ids: usage.repairs.duplicate,
        foreign_ids: usage.repairs.foreign,
        unusable_answers: usage.unusable_answers,
    }
}

fn record(span: &tracing::Span, scored: usize, total: &Usage) {
    let repairs = total.repairs;
    span.record("scored", scored);
    span.record("requests", total.requests);
    span.record("cached_answers", total.cached_answers);
    span.record("prompt_tokens", total.tokens.prompt);
    span.record("completion_tokens", total.tokens.completion);
    span.record(
        "mended_ids",
        repairs.missing + repairs.duplicate + repairs.foreign,
    );
    span.record("unusable_answers", total.unusable_answers);
}
