//! The contract `finemesh.rerank.v1`: requests are checked, passages scored, scores packed.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};
use search_core::FieldError;
use search_proto::convert;
use search_proto::rerank::reranker_service_server::{RerankerService, RerankerServiceServer};
use search_proto::rerank::{DescribeRequest, DescribeResponse, RerankRequest, RerankResponse};
use service_kit::status::with_pushback;
use service_kit::{MAX_MESSAGE_BYTES, ServerBuilder, deadline_of};
use tonic::{Request, Response, Status};

use crate::app::{self, App};
use crate::error::Error;
use crate::scores::{ScoredBatch, ScoredPassage, Scores};

impl App {
    /// Adds the service to a server.
    pub fn add_to(self: &Arc<Self>, server: &mut ServerBuilder) {
        let service = RerankerServiceServer::from_arc(Arc::clone(self))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        server.add(service, self.readiness());
    }

    fn begin(&self, request: Request<RerankRequest>) -> Result<Scores, Error> {
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        let (expected, served) = (&request.expected_fingerprint, self.info());
        if !expected.is_empty() && *expected != served.fingerprint {
            return Err(Error::other_bundle(expected, served));
        }
        convert::check_rerank_request(&request)?;
        let RerankRequest {
            query,
            passages,
            max_windows,
            ..
        } = request;
        let span = tracing::info_span!(
            "score passages",
            passages = passages.len(),
            batches = tracing::field::Empty,
            tokens = tracing::field::Empty,
            unscored = tracing::field::Empty,
            queue_us = tracing::field::Empty,
            compute_us = tracing::field::Empty,
        );
        self.score(
            app::Request {
                query,
                passages,
                max_windows: max_windows.max(1) as usize,
                deadline,
            },
            span,
        )
    }

    async fn answer_all(&self, request: Request<RerankRequest>) -> Result<RerankResponse, Error> {
        let max_results = request.get_ref().max_results;
        let mut scores = self.begin(request)?;
        let mut passages: Vec<(u32, ScoredPassage)> = Vec::new();
        while let Some(batch) = scores.next().await {
            let ScoredBatch {
                number,
                passages: scored,
                ..
            } = batch?;
            passages.extend(scored.into_iter().map(|passage| (number, passage)));
        }
        let truncated = passages
            .iter()
            .filter(|(_, passage)| passage.is_truncated)
            .count();
        convert::keep_best(&mut passages, max_results, |(_, passage)| {
            (passage.logit, passage.index)
        });
        let progress = scores.progress;
        Ok(RerankResponse {
            unscored: progress.unscored as u32,
            truncated_passages: truncated as u32,
            timing: Some(convert::timing_to_wire(progress.queue, progress.compute)),
            ..packed(&passages, &self.info().fingerprint)
        })
    }

    /// The first batch is waited for: who is refused is told in the head of the answer.
    async fn answer_by_batch(&self, request: Request<RerankRequest>) -> Result<Answers, Error> {
        if request.get_ref().max_results != 0 {
            let message =
                "must be 0: a stream brings all scores, the caller's first candidates first";
            return Err(FieldError::new("max_results", message).into());
        }
        let mut scores = self.begin(request)?;
        let fingerprint = self.info().fingerprint.clone();
        let first = scores.next().await.transpose()?;
        let first = first.map(|batch| Ok(batch_to_wire(&batch, &fingerprint)));
        let rest = stream::unfold(
            (scores, fingerprint),
            |(mut scores, fingerprint)| async move {
                let batch = scores.next().await?;
                let answer = batch.map(|batch| batch_to_wire(&batch, &fingerprint));
                Some((
                    answer.map_err(|error| status(&error)),
                    (scores, fingerprint),
                ))
            },
        );
        Ok(Box::pin(stream::iter(first).chain(rest)))
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<RerankResponse, Status>> + Send>>;

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
        let answers = self.answer_by_batch(request).await;
        answers.map(Response::new).map_err(|error| status(&error))
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let info = self.info();
        Ok(Response::new(DescribeResponse {
            name: info.name.clone(),
            fingerprint: info.fingerprint.clone(),
            max_tokens: info.max_tokens as u32,
            max_query_tokens: info.max_query_tokens as u32,
        }))
    }
}

fn status(error: &Error) -> Status {
    let status = service_kit::status::status(error.kind(), error, error.fields());
    with_pushback(status, error.pushback())
}

fn batch_to_wire(batch: &ScoredBatch, fingerprint: &str) -> RerankResponse {
    let passages = batch.passages.iter().cloned();
    let passages: Vec<_> = passages.map(|passage| (batch.number, passage)).collect();
    RerankResponse {
        unscored: batch.unscored as u32,
        timing: Some(convert::timing_to_wire(batch.queue, batch.compute)),
        ..packed(&passages, fingerprint)
    }
}

/// Passages with the numbers of their batches.
fn packed(passages: &[(u32, ScoredPassage)], fingerprint: &str) -> RerankResponse {
    let each = || passages.iter().map(|(_, passage)| passage);
    RerankResponse {
        indexes: each().map(|passage| passage.index as u32).collect(),
        logits: each().map(|passage| passage.logit).collect(),
        scores: each()
            .map(|passage| convert::calibrated(passage.logit))
            .collect(),
        tokens: each().map(|passage| passage.tokens as u32).collect(),
        batches: passages.iter().map(|(number, _)| *number).collect(),
        truncated_passages: each().filter(|passage| passage.is_truncated).count() as u32,
        fingerprint: fingerprint.to_owned(),
        unscored: 0,
        timing: None,
        language_model: None,
    }
}
