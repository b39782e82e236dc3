//! The public service: requests are checked here, field by field, and answers written.

use crate::app::App;
use crate::config::{MAX_BUDGET_MS, RANK_CONSTANTS};
use crate::error::SearchError;
use crate::funnel::{Answer, Hit, Reading, Scale, TokenMatch, TrailEntry};
use crate::plan::{FusionOverride, Leg, MethodName, Pipeline, Request, RoutingWish};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use search_core::fusion::Method;
use search_core::{CollectionName, Deadline, FieldError, ParsedQuery};
use search_proto::search::search_service_server::{SearchService, SearchServiceServer};
use search_proto::{convert, search};
use service_kit::status::{status, with_pushback};
use service_kit::{MAX_MESSAGE_BYTES, ServerBuilder, criticality, deadline_of, now};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;
use tonic::{Response, Status};
use tracing::Instrument;

/// Hits of a request that does not say how many.
const DEFAULT_K: u32 = 10;
/// Most hits of one answer.
const MAX_K: u32 = 1000;
/// Most hits that can be left out.
const MAX_OFFSET: u32 = 9000;

impl App {
    /// Adds the public search service.
    pub fn add_to(self: &Arc<Self>, builder: &mut ServerBuilder) {
        let service = SearchServiceServer::new(SearchHandler::new(Arc::clone(self)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        builder.add(service, self.readiness());
    }
}

/// Answers the public service.
#[derive(Debug)]
pub(crate) struct SearchHandler {
    app: Arc<App>,
}

impl SearchHandler {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

/// Messages of one answer.
type Messages = BoxStream<'static, Result<search::SearchStreamResponse, Status>>;

#[tonic::async_trait]
impl SearchService for SearchHandler {
    type SearchStreamStream = Messages;

    async fn search(
        &self,
        request: tonic::Request<search::SearchRequest>,
    ) -> Result<Response<search::SearchResponse>, Status> {
        let arrival = now();
        let caller_deadline = deadline_of(&request);
        let answer = match read(request.into_inner(), arrival, caller_deadline) {
            Ok(request) => self.app.search(request, None).await,
            Err(field) => Err(SearchError::Invalid(field)),
        };
        let answer = answer.map_err(|error| refuse(&error))?;
        Ok(Response::new(write(answer, arrival)))
    }

    async fn search_stream(
        &self,
        request: tonic::Request<search::SearchRequest>,
    ) -> Result<Response<Messages>, Status> {
        let arrival = now();
        let caller_deadline = deadline_of(&request);
        let request = read(request.into_inner(), arrival, caller_deadline)
            .map_err(|field| refuse(&SearchError::Invalid(field)))?;
        let app = Arc::clone(&self.app);
        Ok(Response::new(messages(app, request, arrival)))
    }

    async fn describe(
        &self,
        _request: tonic::Request<search::DescribeRequest>,
    ) -> Result<Response<search::DescribeResponse>, Status> {
        Ok(Response::new(search::DescribeResponse {
            collections: collections(&self.app),
            pipelines: self
                .app
                .pipelines()
                .by_name
                .values()
                .filter(|pipeline| self.app.has_services_of(pipeline))
                .map(|pipeline| pipeline_info(pipeline))
                .collect(),
            default_pipeline: self.app.pipelines().default.clone(),
        }))
    }
}

/// Answers as they become better; the last one, or why there is none, ends the stream. Whoever drops it ends the search.
fn messages(app: Arc<App>, request: Request, arrival: Instant) -> Messages {
    let (listener, mut told) = unbounded_channel();
    // A task of its own, or a reader who stalls would hold its place among the answers on their way. Dropped, the set ends it.
    let search = async move { app.search(request, Some(&listener)).await };
    let search = criticality::scope(criticality::current(), search);
    let mut searches = JoinSet::new();
    searches.spawn(search.in_current_span());
    let message = move |answer, is_last| search::SearchStreamResponse {
        answer: Some(write(answer, arrival)),
        is_last,
    };
    // The listener is gone when the search has ended: what was told goes before the last one.
    stream::poll_fn(move |context| match told.poll_recv(context) {
        Poll::Ready(Some(answer)) => Poll::Ready(Some(Ok(message(answer, false)))),
        Poll::Ready(None) => searches.poll_join_next(context).map(|ended| {
            let outcome = ended?.map_err(|_| Status::internal("the search failed"));
            let answer = outcome.and_then(|answer| answer.map_err(|error| refuse(&error)));
            Some(answer.map(|answer| message(answer, true)))
        }),
        Poll::Pending => Poll::Pending,
    })
    .boxed()
}

fn refuse(error: &SearchError) -> Status {
    let kind = error.kind();
    tracing::debug!(%kind, %error, "a search failed");
    with_pushback(status(kind, error, error.fields()), error.pushback())
}

fn read(
    wire: search::SearchRequest,
    arrival: Instant,
    caller_deadline: Option<Deadline>,
) -> Result<Request, FieldError> {
    let collection = CollectionName::try_from(wire.collection.as_str())
        .map_err(|error| FieldError::new("collection", error.to_string()))?;
    let parsed = ParsedQuery::parse(&wire.query)
        .map_err(|error| FieldError::new("query", error.to_string()))?;
    let budget = read_budget(wire.budget_ms, arrival)?;
    Ok(Request {
        collection,
        parsed,
        query: wire.query,
        k: in_range("k", wire.k.unwrap_or(DEFAULT_K), 1..=MAX_K)? as usize,
        offset: in_range("offset", wire.offset, 0..=MAX_OFFSET)? as usize,
        pipeline: wire.pipeline,
        filter: convert::request_filter(wire.filter)?,
        fusion: wire
            .fusion
            .map(read_fusion)
            .transpose()?
            .unwrap_or_default(),
        explain: wire.explain,
        require_full_coverage: wire.require_full_coverage,
        routing: read_routing(wire.routing)?,
        arrival,
        deadline: Deadline::earliest(caller_deadline, budget),
    })
}

fn in_range(
    path: &str,
    value: u32,
    range: std::ops::RangeInclusive<u32>,
) -> Result<u32, FieldError> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(FieldError::new(
        path,
        format!(
            "is {value}; {} to {} are allowed",
            range.start(),
            range.end()
        ),
    ))
}

fn read_budget(budget_ms: Option<u32>, arrival: Instant) -> Result<Option<Deadline>, FieldError> {
    let Some(budget_ms) = budget_ms else {
        return Ok(None);
    };
    let budget_ms = in_range("budget_ms", budget_ms, 1..=MAX_BUDGET_MS)?;
    let budget = Duration::from_millis(u64::from(budget_ms));
    Ok(Deadline::after(arrival, budget))
}

fn read_routing(routing: i32) -> Result<RoutingWish, FieldError> {
    match search::Routing::try_from(routing) {
        Ok(search::Routing::Unspecified) => Ok(RoutingWish::OfPipeline),
        Ok(search::Routing::AllStages) => Ok(RoutingWish::AllStages),
        Ok(search::Routing::SparseOnly) => Ok(RoutingWish::SparseOnly),
        Err(_) => Err(convert::unknown_number("routing", routing)),
    }
}

fn read_fusion(wire: search::Fusion) -> Result<FusionOverride, FieldError> {
    if let Some(alpha) = wire.alpha.filter(|alpha| !(0.0..=1.0).contains(alpha)) {
        return Err(FieldError::new(
            "fusion.alpha",
            format!("is {alpha}; 0 to 1 are allowed"),
        ));
    }
    let rank_constant = wire
        .rank_constant
        .map(|constant| in_range("fusion.rank_constant", constant, RANK_CONSTANTS));
    Ok(FusionOverride {
        method: read_method(wire.method)?,
        alpha: wire.alpha,
        rank_constant: rank_constant.transpose()?,
    })
}

fn read_method(method: i32) -> Result<Option<MethodName>, FieldError> {
    match search::FusionMethod::try_from(method) {
        Ok(search::FusionMethod::Unspecified) => Ok(None),
        Ok(search::FusionMethod::MinMax) => Ok(Some(MethodName::MinMax)),
        Ok(search::FusionMethod::ZScore) => Ok(Some(MethodName::ZScore)),
        Ok(search::FusionMethod::Rrf) => Ok(Some(MethodName::Rrf)),
        Ok(search::FusionMethod::Dbsf) => Ok(Some(MethodName::Dbsf)),
        Err(_) => Err(convert::unknown_number("fusion.method", method)),
    }
}

fn write(answer: Answer, arrival: Instant) -> search::SearchResponse {
    search::SearchResponse {
        degraded: answer.is_degraded(),
        stages: answer.stages.iter().map(convert::report_to_wire).collect(),
        snapshot: Some(convert::snapshot_to_wire(&answer.snapshot)),
        wall_us: search_core::micros(now().saturating_duration_since(arrival)),
        score_scale: write_scale(answer.scale).into(),
        pipeline: answer.pipeline,
        hits: answer.hits.into_iter().map(write_hit).collect(),
    }
}

const fn write_scale(scale: Scale) -> search::ScoreScale {
    match scale {
        Scale::Of(Leg::Sparse) => search::ScoreScale::Bm25,
        Scale::Of(Leg::Dense) => search::ScoreScale::Cosine,
        Scale::Fused(Method::MinMax) => search::ScoreScale::MinMax,
        Scale::Fused(Method::ZScore) => search::ScoreScale::ZScore,
        Scale::Fused(Method::Rrf { .. }) => search::ScoreScale::Rrf,
        Scale::Fused(Method::Dbsf) => search::ScoreScale::Dbsf,
    }
}

fn write_hit(hit: Hit) -> search::Hit {
    search::Hit {
        id: hit.passage.document_id,
        score: hit.score,
        title: hit.passage.title,
        text: hit.passage.text,
        metadata_json: hit.passage.metadata_json,
        passage: hit.passage.passage,
        address: hit.shown.address.to_u64(),
        trail: hit.trail.into_iter().map(write_trail).collect(),
    }
}

fn write_trail(entry: TrailEntry) -> search::ScoreTrail {
    search::ScoreTrail {
        stage: entry.stage.to_owned(),
        raw: entry.raw,
        rank: entry.rank,
        normalized: entry.normalized,
        weight: entry.weight,
        contribution: entry.contribution,
        completed: entry.completed,
        reading: entry.reading.map(write_reading),
        matches: entry.matches.into_iter().map(write_match).collect(),
    }
}

fn write_match(found: TokenMatch) -> search::TokenMatch {
    search::TokenMatch {
        query_token: found.query_token,
        passage_token: found.passage_token,
        similarity: found.similarity,
    }
}

fn write_reading(reading: Reading) -> search::Reading {
    search::Reading {
        calibrated: f64::from(reading.calibrated),
        tokens: reading.tokens,
        batch: reading.batch,
    }
}

/// Each collection as the default pipeline sees it, or else the first pipeline that can search it.
fn collections(app: &App) -> Vec<search::CollectionInfo> {
    let known = app.known();
    let view = &known.view;
    let place = |collection| {
        let mut wants = app.pipelines().in_order().map(|pipeline| pipeline.wants());
        wants.find_map(|wants| view.place(collection, wants).ok())
    };
    let info = |collection| {
        let placement = place(collection)?;
        Some(search::CollectionInfo {
            snapshot: Some(convert::snapshot_to_wire(&placement.snapshot)),
            shards: placement.documents.shards(),
            passages: placement.documents.passages,
        })
    };
    view.collections().filter_map(info).collect()
}

fn pipeline_info(pipeline: &Pipeline) -> search::PipelineInfo {
    search::PipelineInfo {
        name: pipeline.name.clone(),
        stages: pipeline
            .stage_names()
            .into_iter()
            .map(str::to_owned)
            .collect(),
    }
}
