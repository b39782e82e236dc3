//! The contract `finemesh.dense.v1`: requests are checked, calls are made, answers are packed.

use std::sync::Arc;

use search_core::FieldError;
use search_proto::common::{DescribeRequest, DescribeResponse};
use search_proto::convert;
use search_proto::dense::dense_retriever_service_server::{
    DenseRetrieverService, DenseRetrieverServiceServer,
};
use search_proto::dense::{ScoreRequest, ScoreResponse, SearchRequest, SearchResponse};
use service_kit::status::with_pushback;
use service_kit::{MAX_MESSAGE_BYTES, ServerBuilder, deadline_of};
use tonic::{Request, Response, Status};

use crate::app::{App, ShardQuery, Wish};
use crate::error::Error;
use service_kit::compute::Computed;

/// Most passages of one search.
const MAX_LIMIT: u32 = 10_000;
/// Most passages that a prefix scan passes on.
const MAX_PREFIX_DEPTH: u32 = 100_000;
/// Most addresses of one request.
const MAX_ADDRESSES: usize = 65_536;

impl App {
    /// Adds the service to a server.
    pub fn add_to(self: &Arc<Self>, server: &mut ServerBuilder) {
        let service = DenseRetrieverServiceServer::from_arc(Arc::clone(self))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        server.add(service, self.readiness());
    }
}

#[tonic::async_trait]
impl DenseRetrieverService for App {
    async fn search(
        &self,
        request: Request<SearchRequest>,
    ) -> Result<Response<SearchResponse>, Status> {
        answer(self.answer_search(request).await)
    }

    async fn score(
        &self,
        request: Request<ScoreRequest>,
    ) -> Result<Response<ScoreResponse>, Status> {
        answer(self.answer_score(request).await)
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
    async fn answer_search(
        &self,
        request: Request<SearchRequest>,
    ) -> Result<SearchResponse, Error> {
        let deadline = deadline_of(&request);
        let wire = request.into_inner();
        let query = ShardQuery {
            snapshot: convert::snapshot_from_wire(wire.snapshot.as_ref())?,
            shard: wire.shard,
            encoder_fingerprint: check_fingerprint(wire.encoder_fingerprint)?,
            vector: wire.vector,
            deadline,
        };
        let wish = Wish {
            limit: check_range("limit", wire.limit, 1, MAX_LIMIT)?,
            prefix_depth: match check_range("prefix_depth", wire.prefix_depth, 0, MAX_PREFIX_DEPTH)?
            {
                0 => None,
                depth => Some(depth),
            },
            filter: convert::request_filter(wire.filter)?,
        };
        let found = self.search(query, wish).await?;
        Ok(SearchResponse {
            candidates: Some(convert::candidates_to_wire(&found.candidates.value)),
            timing: Some(timing(&found.candidates)),
            refused_segments: found.refused_segments,
        })
    }

    async fn answer_score(&self, request: Request<ScoreRequest>) -> Result<ScoreResponse, Error> {
        let deadline = deadline_of(&request);
        let wire = request.into_inner();
        let addresses = convert::addresses_from_wire(&wire.addresses, MAX_ADDRESSES)?;
        let query = ShardQuery {
            snapshot: convert::snapshot_from_wire(wire.snapshot.as_ref())?,
            shard: wire.shard,
            encoder_fingerprint: check_fingerprint(wire.encoder_fingerprint)?,
            vector: wire.vector,
            deadline,
        };
        let scored = self.score(query, addresses).await?;
        let timing = Some(timing(&scored));
        Ok(ScoreResponse {
            scores: scored.value.scores,
            unknown: scored.value.unknown,
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

fn check_fingerprint(fingerprint: String) -> Result<String, FieldError> {
    if fingerprint.is_empty() {
        return Err(FieldError::new("encoder_fingerprint", "is empty"));
    }
    Ok(fingerprint)
}

fn check_range(field: &str, value: u32, least: u32, most: u32) -> Result<usize, FieldError> {
    if (least..=most).contains(&value) {
        return Ok(value as usize);
    }
    Err(FieldError::new(
        field,
        format!("is {value}, must be {least} to {most}"),
    ))
}

fn timing<T>(computed: &Computed<T>) -> search_proto::common::Timing {
    convert::timing_to_wire(computed.queue, computed.compute)
}
