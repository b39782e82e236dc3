//! The contract `finemesh.sparse.v1`: requests are checked, calls are made, answers are packed.

use std::sync::Arc;

use search_core::{FieldError, ParsedQuery};
use search_proto::common::{DescribeRequest, DescribeResponse, Snapshot};
use search_proto::convert;
use search_proto::sparse::sparse_retriever_service_server::{
    SparseRetrieverService, SparseRetrieverServiceServer,
};
use search_proto::sparse::{
    FetchRequest, FetchResponse, Passage, ScoreRequest, ScoreResponse, SearchRequest,
    SearchResponse,
};
use segment::documents::StoredPassage;
use service_kit::status::with_pushback;
use service_kit::{MAX_MESSAGE_BYTES, ServerBuilder, deadline_of};
use tonic::{Request, Response, Status};

use crate::app::{App, ShardRequest};
use crate::error::Error;
use crate::fetch::Wanted;
use service_kit::compute::Computed;

/// Most passages of one search.
const MAX_LIMIT: u32 = 10_000;
/// Most addresses of one request.
const MAX_ADDRESSES: usize = 65_536;
/// Most addresses of one request for texts.
const MAX_TEXTS: usize = 4096;

impl App {
    /// Adds the service to a server.
    pub fn add_to(self: &Arc<Self>, server: &mut ServerBuilder) {
        let service = SparseRetrieverServiceServer::from_arc(Arc::clone(self))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        server.add(service, self.readiness());
    }
}

#[tonic::async_trait]
impl SparseRetrieverService for App {
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

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<FetchResponse>, Status> {
        answer(self.answer_fetch(request).await)
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
        let place = place(&request, |wire| (wire.snapshot.as_ref(), wire.shard))?;
        let wire = request.into_inner();
        let query = parse_query(&wire.query)?;
        let limit = check_range("limit", wire.limit as usize, MAX_LIMIT as usize)?;
        let filter = convert::request_filter(wire.filter)?;
        let found = self.search(place, query, limit, filter).await?;
        Ok(SearchResponse {
            candidates: Some(convert::candidates_to_wire(&found.candidates.value)),
            timing: Some(timing(&found.candidates)),
            refused_segments: found.refused_segments,
        })
    }

    async fn answer_score(&self, request: Request<ScoreRequest>) -> Result<ScoreResponse, Error> {
        let place = place(&request, |wire| (wire.snapshot.as_ref(), wire.shard))?;
        let wire = request.into_inner();
        let query = parse_query(&wire.query)?;
        let addresses = convert::addresses_from_wire(&wire.addresses, MAX_ADDRESSES)?;
        let scored = self.score(place, query, addresses).await?;
        let timing = Some(timing(&scored));
        let scores = scored.value;
        Ok(ScoreResponse {
            scores: scores.scores,
            excluded: scores.excluded,
            unknown: scores.unknown,
            timing,
        })
    }

    async fn answer_fetch(&self, request: Request<FetchRequest>) -> Result<FetchResponse, Error> {
        let place = place(&request, |wire| (wire.snapshot.as_ref(), wire.shard))?;
        let wire = request.into_inner();
        let (wanted, most) = match wire.ids_only {
            true => (Wanted::DocumentId, MAX_ADDRESSES),
            false => (Wanted::Everything, MAX_TEXTS),
        };
        let addresses = convert::addresses_from_wire(&wire.addresses, most)?;
        let fetched = self.fetch(place, addresses, wanted).await?;
        let timing = Some(timing(&fetched));
        let positions = fetched.value.iter().zip(0..);
        let unknown = positions
            .filter(|(passage, _)| passage.is_none())
            .map(|(_, position)| position);
        Ok(FetchResponse {
            unknown: unknown.collect(),
            passages: fetched.value.into_iter().map(passage_to_wire).collect(),
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

fn place<T>(
    request: &Request<T>,
    fields: impl FnOnce(&T) -> (Option<&Snapshot>, u32),
) -> Result<ShardRequest, Error> {
    let (snapshot, shard) = fields(request.get_ref());
    let snapshot = convert::snapshot_from_wire(snapshot)?;
    Ok(ShardRequest {
        snapshot,
        shard,
        deadline: deadline_of(request),
    })
}

fn parse_query(query: &str) -> Result<ParsedQuery, FieldError> {
    ParsedQuery::parse(query).map_err(|error| FieldError::new("query", error.to_string()))
}

fn check_range(field: &str, value: usize, most: usize) -> Result<usize, FieldError> {
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(FieldError::new(
        field,
        format!("is {value}, must be 1 to {most}"),
    ))
}

fn timing<T>(computed: &Computed<T>) -> search_proto::common::Timing {
    convert::timing_to_wire(computed.queue, computed.compute)
}

fn passage_to_wire(passage: Option<StoredPassage>) -> Passage {
    passage.map_or_else(Passage::default, |stored| Passage {
        document_id: stored.document_id,
        title: stored.title,
        text: stored.text,
        metadata_json: stored.metadata_json,
        passage: stored.passage,
    })
}
