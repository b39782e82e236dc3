//! Scripted peers over in-process connections: they answer from a table of passages whose scores the test chose.

use orchestrator::{App, Config, Peers, RawConfig, RawMethod};
use search_core::{Address, ErrorKind, FieldError};
use search_proto::dense::dense_retriever_service_server::{
    DenseRetrieverService, DenseRetrieverServiceServer,
};
use search_proto::encoder::encoder_service_server::{EncoderService, EncoderServiceServer};
use search_proto::search::search_service_client::SearchServiceClient;
use search_proto::sparse::sparse_retriever_service_server::{
    SparseRetrieverService, SparseRetrieverServiceServer,
};
use search_proto::{colbert, common, dense, encoder, search, sparse};
use service_kit::status::{Pushback, status, with_pushback};
use service_kit::{
    Channels, MeshChannel, Problems, Readiness, ServerBuilder, ServerLimits, deadline_of,
    in_process, now,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::{Code, Request, Response, Status};

pub(crate) const COLLECTION: &str = "docs";
/// Most bytes of passages in one answer.
const MAX_ANSWER_BYTES: usize = 12 * 1024 * 1024;
pub(crate) const FINGERPRINT: &str = "f00d";
pub(crate) const RESCORE_FINGERPRINT: &str = "cafe";
/// Of a bundle of token vectors that is not that of the vectors.
pub(crate) const TOKEN_FINGERPRINT: &str = "babe";

/// One passage, with what the retrievers say about it.
#[derive(Clone, Debug)]
pub(crate) struct Passage {
    pub(crate) address: Address,
    pub(crate) shard: u32,
    pub(crate) document_id: String,
    pub(crate) passage: u32,
    /// 0: no term matches.
    pub(crate) sparse: f32,
    pub(crate) dense: f32,
    /// None: the retriever has no undamaged vector of it.
    pub(crate) rescore: Option<f32>,
    /// None: the scorer has no undamaged token vectors of it.
    pub(crate) max_sim: Option<f32>,
    pub(crate) excluded: bool,
}

/// What the peers do; tests change it while they run.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) passages: Vec<Passage>,
    pub(crate) shards: u32,
    /// Snapshots that the sparse retrievers, the dense retrievers and the scorers announce.
    pub(crate) sparse_held: Vec<u64>,
    pub(crate) dense_held: Vec<u64>,
    pub(crate) colbert_held: Vec<u64>,
    /// Collections that all refuse.
    pub(crate) refused_collections: Vec<common::RefusedCollection>,
    /// Snapshots that stage calls accept; others were retired.
    pub(crate) accepted: BTreeSet<u64>,
    /// Shards that retrievers announce; empty: all.
    pub(crate) announced_shards: Vec<u32>,
    pub(crate) index_fingerprint: String,
    /// Empty: the index has no vectors for rescoring.
    pub(crate) rescore_fingerprint: String,
    /// Empty: the index has no token vectors.
    pub(crate) colbert_fingerprint: String,
    pub(crate) encoder_fingerprint: String,
    /// What becomes of an encoding before it is sent.
    pub(crate) spoil_encoding: fn(&mut encoder::EncodeResponse),
    /// An encoding with token vectors is refused.
    pub(crate) refuses_tokens: bool,
    /// What becomes of the tokens of texts.
    pub(crate) spoil_tokens: fn(&mut encoder::TokenizeResponse),
    /// How the scorers go on.
    pub(crate) scorer: ScorerScript,
    /// Fails calls: the call's name, the shard (none: every one), how.
    pub(crate) failures: Vec<(&'static str, Option<u32>, Code)>,
    /// Calls that never answer.
    pub(crate) hanging: Vec<&'static str>,
    /// Calls that never answer on one shard.
    pub(crate) hanging_on: Vec<(&'static str, u32)>,
    /// Milliseconds that calls take.
    pub(crate) delays_ms: BTreeMap<&'static str, u64>,
    /// Of calls that take so long, those that are worked on one after the other.
    pub(crate) queues: BTreeMap<&'static str, Arc<tokio::sync::Mutex<()>>>,
    pub(crate) refused_segments: u32,
    /// Addresses that the sparse retriever does not have.
    pub(crate) unknown_to_sparse: BTreeSet<u64>,
    /// Addresses of passages without text.
    pub(crate) blank: BTreeSet<u64>,
    /// Title of every document.
    pub(crate) title: String,
    /// Length of each passage's text; none: a few words.
    pub(crate) text_bytes: Option<usize>,
    /// How often the sparse retriever was asked what it holds.
    pub(crate) describes: usize,
    /// Name of each stage call, and milliseconds that its deadline left.
    pub(crate) log: Vec<(String, Option<u128>)>,
}

/// What the scorers do with the passages that they are asked about.
#[derive(Clone, Debug)]
pub(crate) struct ScorerScript {
    /// Time that each passage takes; who is late answers with what is scored.
    pub(crate) passage_ms: u64,
    /// So many passages are scored by these shards.
    pub(crate) prefixes: BTreeMap<u32, usize>,
    /// What becomes of an answer before it is sent.
    pub(crate) spoil_scores: fn(&mut colbert::ScoreResponse),
    pub(crate) spoil_matches: fn(&mut colbert::MatchResponse),
    /// What they were asked about.
    pub(crate) scored: Vec<colbert::ScoreRequest>,
    pub(crate) matched: Vec<colbert::MatchRequest>,
}

impl Default for ScorerScript {
    fn default() -> Self {
        Self {
            passage_ms: 0,
            prefixes: BTreeMap::new(),
            spoil_scores: |_| {},
            spoil_matches: |_| {},
            scored: Vec::new(),
            matched: Vec::new(),
        }
    }
}

impl Script {
    pub(crate) fn new(passages: Vec<Passage>, shards: u32) -> Self {
        Self {
            passages,
            shards,
            sparse_held: vec![1],
            dense_held: vec![1],
            colbert_held: vec![1],
            refused_collections: Vec::new(),
            accepted: BTreeSet::from([1]),
            announced_shards: Vec::new(),
            index_fingerprint: FINGERPRINT.to_owned(),
            rescore_fingerprint: String::new(),
            colbert_fingerprint: String::new(),
            encoder_fingerprint: FINGERPRINT.to_owned(),
            spoil_encoding: |_| {},
            refuses_tokens: false,
            spoil_tokens: |_| {},
            scorer: ScorerScript::default(),
            failures: Vec::new(),
            hanging: Vec::new(),
            hanging_on: Vec::new(),
            delays_ms: BTreeMap::new(),
            queues: BTreeMap::new(),
            refused_segments: 0,
            unknown_to_sparse: BTreeSet::new(),
            blank: BTreeSet::new(),
            title: String::new(),
            text_bytes: None,
            describes: 0,
            log: Vec::new(),
        }
    }

    pub(crate) fn described(&self, numbers: &[u64]) -> common::DescribeResponse {
        let all: Vec<u32> = (0..self.shards).collect();
        let held_shards = if self.announced_shards.is_empty() {
            all
        } else {
            self.announced_shards.clone()
        };
        let held = |number: &u64| common::HeldSnapshot {
            snapshot: Some(common::Snapshot {
                collection: COLLECTION.to_owned(),
                number: *number,
            }),
            shards: self.shards,
            held_shards: held_shards.clone(),
            encoder_fingerprint: self.index_fingerprint.clone(),
            passages: self.passages.len() as u64,
            refused_segments: Vec::new(),
            rescore_fingerprint: self.rescore_fingerprint.clone(),
            colbert_fingerprint: self.colbert_fingerprint.clone(),
            title_tokens: 6,
        };
        common::DescribeResponse {
            snapshots: numbers.iter().map(held).collect(),
            refused_collections: self.refused_collections.clone(),
        }
    }

    fn best(
        &self,
        shard: u32,
        limit: u32,
        score: impl Fn(&Passage) -> Option<f32>,
    ) -> common::Candidates {
        let mut found: Vec<(f32, &Passage)> = self
            .passages
            .iter()
            .filter(|passage| passage.shard == shard)
            .filter_map(|passage| Some((score(passage)?, passage)))
            .collect();
        found.sort_by(|(left_score, left), (right_score, right)| {
            let by_id = (&left.document_id, left.passage).cmp(&(&right.document_id, right.passage));
            right_score.total_cmp(left_score).then(by_id)
        });
        found.truncate(limit as usize);
        common::Candidates {
            addresses: found
                .iter()
                .map(|(_, passage)| passage.address.to_u64())
                .collect(),
            scores: found.iter().map(|(score, _)| *score).collect(),
            places: found.iter().map(|(_, passage)| passage.passage).collect(),
        }
    }

    pub(crate) fn text(&self, passage: &Passage) -> String {
        if self.blank.contains(&passage.address.to_u64()) {
            return " ".to_owned();
        }
        self.text_bytes.map_or_else(
            || format!("text of {}", passage.address),
            |bytes| "x".repeat(bytes),
        )
    }

    /// The sparse retriever's limit.
    fn is_too_large(&self, passages: usize) -> bool {
        self.text_bytes.unwrap_or(0) * passages > MAX_ANSWER_BYTES
    }

    pub(crate) fn find(&self, address: u64) -> Option<&Passage> {
        self.passages
            .iter()
            .find(|passage| passage.address.to_u64() == address)
    }
}

/// The peers share one script; `failing` belongs to one replica.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    pub(crate) script: Arc<Mutex<Script>>,
    /// Every stage call to this replica fails.
    pub(crate) is_broken: bool,
    /// Bundles that this encoder announces and serves; empty: the script's one, which it does not announce.
    pub(crate) bundles: Vec<&'static str>,
}

pub(crate) const TIMING: Option<common::Timing> = Some(common::Timing {
    queue_us: 3,
    compute_us: 5,
});

impl Fake {
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Script) -> T) -> T {
        read(&self.script.lock().unwrap())
    }

    /// Logs the call, and fails it or lets it hang where the script says so.
    pub(crate) async fn enter<T>(
        &self,
        call: &'static str,
        request: &Request<T>,
        snapshot: Option<&common::Snapshot>,
        shard: u32,
    ) -> Result<(), Status> {
        let left = deadline_of(request)
            .map(|deadline| deadline.remaining(now()).unwrap_or_default().as_millis());
        self.script
            .lock()
            .unwrap()
            .log
            .push((call.to_owned(), left));
        let hangs = |script: &Script| {
            script.hanging.contains(&call) || script.hanging_on.contains(&(call, shard))
        };
        if self.read(hangs) {
            std::future::pending::<()>().await;
        }
        if let Some(delay_ms) = self.read(|script| script.delays_ms.get(call).copied()) {
            let queue = self.read(|script| script.queues.get(call).cloned());
            let _turn = match &queue {
                Some(queue) => Some(queue.lock().await),
                None => None,
            };
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        if self.is_broken {
            return Err(Status::unavailable("scripted"));
        }
        let failure = self.read(|script| {
            let is_meant = |(name, at, _): &&(&str, Option<u32>, Code)| {
                *name == call && at.is_none_or(|at| at == shard)
            };
            script
                .failures
                .iter()
                .find(is_meant)
                .map(|(_, _, code)| *code)
        });
        if let Some(code) = failure {
            let is_refusal = code == Code::ResourceExhausted;
            let pushback = is_refusal.then_some(Pushback::After(Duration::from_millis(70)));
            return Err(with_pushback(Status::new(code, "scripted"), pushback));
        }
        match snapshot {
            Some(snapshot) if !self.read(|script| script.accepted.contains(&snapshot.number)) => {
                Err(Status::failed_precondition(format!(
                    "snapshot {} is not held",
                    snapshot.number
                )))
            }
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl EncoderService for Fake {
    async fn encode(
        &self,
        request: Request<encoder::EncodeRequest>,
    ) -> Result<Response<encoder::EncodeResponse>, Status> {
        let expected = request.get_ref().expected_fingerprint.clone();
        let with_tokens = request.get_ref().with_token_vectors;
        let call = match expected.as_str() {
            RESCORE_FINGERPRINT => "encode_rescore",
            _ if with_tokens => "encode_tokens",
            _ => "encode",
        };
        self.enter(call, &request, None, 0).await?;
        if with_tokens && self.read(|script| script.refuses_tokens) {
            return Err(Status::invalid_argument("with_token_vectors"));
        }
        let serves = |bundle: &str| self.bundles.contains(&bundle);
        if !self.bundles.is_empty() && !expected.is_empty() && !serves(&expected) {
            return Err(Status::failed_precondition(format!(
                "not served: {expected}"
            )));
        }
        let fingerprint = if self.bundles.is_empty() || expected.is_empty() {
            self.read(|script| script.encoder_fingerprint.clone())
        } else {
            expected
        };
        let tokens = encoder::TokenVectors {
            dimensions: 3,
            vectors: vec![1.0, 0.0, 0.0, 0.0, 0.6, 0.8],
        };
        let mut encoded = encoder::EncodeResponse {
            dimensions: 2,
            vectors: vec![0.6, 0.8],
            token_vectors: with_tokens.then_some(tokens).into_iter().collect(),
            fingerprint,
            timing: TIMING,
            ..Default::default()
        };
        self.read(|script| (script.spoil_encoding)(&mut encoded));
        Ok(Response::new(encoded))
    }

    /// Tokens are words.
    async fn tokenize(
        &self,
        request: Request<encoder::TokenizeRequest>,
    ) -> Result<Response<encoder::TokenizeResponse>, Status> {
        let call = match request.get_ref().task() {
            encoder::Task::Query => "tokenize_query",
            _ => "tokenize_passages",
        };
        self.enter(call, &request, None, 0).await?;
        let request = request.into_inner();
        if request.texts.len() > 1024 {
            return Err(Status::invalid_argument("texts"));
        }
        let words = |text: &String| encoder::TextTokens {
            tokens: text.split(' ').map(str::to_owned).collect(),
        };
        let mut tokenized = encoder::TokenizeResponse {
            texts: request.texts.iter().map(words).collect(),
            fingerprint: request.expected_fingerprint,
        };
        self.read(|script| (script.spoil_tokens)(&mut tokenized));
        Ok(Response::new(tokenized))
    }

    async fn describe(
        &self,
        _request: Request<encoder::DescribeRequest>,
    ) -> Result<Response<encoder::DescribeResponse>, Status> {
        let bundle = |fingerprint: &&str| encoder::Bundle {
            fingerprint: (*fingerprint).to_owned(),
            ..Default::default()
        };
        Ok(Response::new(encoder::DescribeResponse {
            bundles: self.bundles.iter().map(bundle).collect(),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl SparseRetrieverService for Fake {
    async fn search(
        &self,
        request: Request<sparse::SearchRequest>,
    ) -> Result<Response<sparse::SearchResponse>, Status> {
        let message = request.get_ref();
        self.enter(
            "sparse.search",
            &request,
            message.snapshot.as_ref(),
            message.shard,
        )
        .await?;
        let found = |passage: &Passage| {
            (passage.sparse > 0.0 && !passage.excluded).then_some(passage.sparse)
        };
        Ok(Response::new(self.read(|script| sparse::SearchResponse {
            candidates: Some(script.best(message.shard, message.limit, found)),
            timing: TIMING,
            refused_segments: script.refused_segments,
        })))
    }

    async fn score(
        &self,
        request: Request<sparse::ScoreRequest>,
    ) -> Result<Response<sparse::ScoreResponse>, Status> {
        let message = request.get_ref();
        self.enter(
            "sparse.score",
            &request,
            message.snapshot.as_ref(),
            message.shard,
        )
        .await?;
        let mut response = sparse::ScoreResponse {
            timing: TIMING,
            ..Default::default()
        };
        self.read(|script| {
            for (position, address) in (0..).zip(&message.addresses) {
                let passage = script
                    .find(*address)
                    .filter(|_| !script.unknown_to_sparse.contains(address));
                response
                    .scores
                    .push(passage.map_or(0.0, |passage| passage.sparse));
                response
                    .unknown
                    .extend(passage.is_none().then_some(position));
                response.excluded.extend(
                    passage
                        .is_some_and(|passage| passage.excluded)
                        .then_some(position),
                );
            }
        });
        Ok(Response::new(response))
    }

    async fn fetch(
        &self,
        request: Request<sparse::FetchRequest>,
    ) -> Result<Response<sparse::FetchResponse>, Status> {
        let message = request.get_ref();
        let call = if message.ids_only {
            "sparse.fetch_ids"
        } else {
            "sparse.fetch"
        };
        self.enter(call, &request, message.snapshot.as_ref(), message.shard)
            .await?;
        let passages = message.addresses.len();
        if !message.ids_only && self.read(|script| script.is_too_large(passages)) {
            let field = FieldError::new("addresses", "are too many");
            let kind = ErrorKind::ResourceExhausted;
            return Err(status(kind, &"too large", vec![field]));
        }
        let mut response = sparse::FetchResponse {
            timing: TIMING,
            ..Default::default()
        };
        self.read(|script| {
            for (position, address) in (0..).zip(&message.addresses) {
                let passage = script
                    .find(*address)
                    .filter(|_| !script.unknown_to_sparse.contains(address));
                response
                    .unknown
                    .extend(passage.is_none().then_some(position));
                response
                    .passages
                    .push(
                        passage.map_or_else(Default::default, |passage| sparse::Passage {
                            document_id: passage.document_id.clone(),
                            title: if message.ids_only {
                                String::new()
                            } else {
                                script.title.clone()
                            },
                            text: if message.ids_only {
                                String::new()
                            } else {
                                script.text(passage)
                            },
                            passage: passage.passage,
                            ..Default::default()
                        }),
                    );
            }
        });
        Ok(Response::new(response))
    }

    async fn describe(
        &self,
        _request: Request<common::DescribeRequest>,
    ) -> Result<Response<common::DescribeResponse>, Status> {
        self.script.lock().unwrap().describes += 1;
        Ok(Response::new(
            self.read(|script| script.described(&script.sparse_held)),
        ))
    }
}

#[tonic::async_trait]
impl DenseRetrieverService for Fake {
    async fn search(
        &self,
        request: Request<dense::SearchRequest>,
    ) -> Result<Response<dense::SearchResponse>, Status> {
        let message = request.get_ref();
        self.enter(
            "dense.search",
            &request,
            message.snapshot.as_ref(),
            message.shard,
        )
        .await?;
        Ok(Response::new(self.read(|script| dense::SearchResponse {
            candidates: Some(
                script.best(message.shard, message.limit, |passage| Some(passage.dense)),
            ),
            timing: TIMING,
            refused_segments: 0,
        })))
    }

    async fn score(
        &self,
        request: Request<dense::ScoreRequest>,
    ) -> Result<Response<dense::ScoreResponse>, Status> {
        let message = request.get_ref();
        let rescores = message.encoder_fingerprint == RESCORE_FINGERPRINT;
        let call = if rescores {
            "dense.rescore"
        } else {
            "dense.score"
        };
        self.enter(call, &request, message.snapshot.as_ref(), message.shard)
            .await?;
        let score = |script: &Script, address: &u64| {
            let passage = script
                .find(*address)
                .filter(|at| at.shard == message.shard)?;
            if rescores {
                passage.rescore
            } else {
                Some(passage.dense)
            }
        };
        let scores: Vec<Option<f32>> = self.read(|script| {
            let addresses = message.addresses.iter();
            addresses.map(|address| score(script, address)).collect()
        });
        let unknown = (0..).zip(&scores).filter(|(_, score)| score.is_none());
        Ok(Response::new(dense::ScoreResponse {
            unknown: unknown.map(|(position, _)| position).collect(),
            scores: scores.into_iter().map(Option::unwrap_or_default).collect(),
            timing: TIMING,
        }))
    }

    async fn describe(
        &self,
        _request: Request<common::DescribeRequest>,
    ) -> Result<Response<common::DescribeResponse>, Status> {
        Ok(Response::new(
            self.read(|script| script.described(&script.dense_held)),
        ))
    }
}

/// Serves until the runtime ends.
pub(crate) fn serve(name: &str, builder: ServerBuilder) -> MeshChannel {
    let server = builder.build(search_proto::FILE_DESCRIPTOR_SET).unwrap();
    let (listener, channel) = in_process(name);
    tokio::spawn(server.serve_in_process(listener, std::future::pending()));
    channel
}

pub(crate) fn builder() -> ServerBuilder {
    ServerBuilder::new(ServerLimits::default())
}

pub(crate) fn encoder(fake: Fake) -> MeshChannel {
    let mut builder = builder();
    builder.add(EncoderServiceServer::new(fake), &Readiness::ready());
    serve("encoder", builder)
}

pub(crate) fn sparse(fake: Fake) -> MeshChannel {
    sparse_named("sparse", fake)
}

pub(crate) fn sparse_named(name: &str, fake: Fake) -> MeshChannel {
    let mut builder = builder();
    builder.add(SparseRetrieverServiceServer::new(fake), &Readiness::ready());
    serve(name, builder)
}

pub(crate) fn dense(fake: Fake) -> MeshChannel {
    let mut builder = builder();
    builder.add(DenseRetrieverServiceServer::new(fake), &Readiness::ready());
    serve("dense", builder)
}

/// A channel to nobody.
pub(crate) fn gone(name: &str) -> MeshChannel {
    in_process(name).1
}

/// An orchestrator over scripted peers.
pub(crate) struct Mesh {
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) client: SearchServiceClient<MeshChannel>,
    pub(crate) app: Arc<App>,
}

impl Mesh {
    /// One replica of each service.
    pub(crate) async fn start(script: Script) -> Self {
        Self::with_peers(script, 1000, |fake| Peers {
            encoder: vec![encoder(fake.clone())],
            sparse: vec![sparse(fake.clone())],
            dense: vec![dense(fake)],
            cross_encoder: Vec::new(),
            colbert: Vec::new(),
        })
        .await
    }

    pub(crate) async fn with_depth(script: Script, depth: u32) -> Self {
        Self::with_peers(script, depth, |fake| Peers {
            encoder: vec![encoder(fake.clone())],
            sparse: vec![sparse(fake.clone())],
            dense: vec![dense(fake)],
            cross_encoder: Vec::new(),
            colbert: Vec::new(),
        })
        .await
    }

    pub(crate) async fn with_peers(
        script: Script,
        depth: u32,
        peers: impl FnOnce(Fake) -> Peers,
    ) -> Self {
        Self::with_config(script, config(depth, |_| {}), peers).await
    }

    pub(crate) async fn with_config<P>(
        script: Script,
        config: Config,
        peers: impl FnOnce(Fake) -> P,
    ) -> Self
    where
        P: Into<Peers<Channels>>,
    {
        let script = Arc::new(Mutex::new(script));
        let fake = Fake {
            script: Arc::clone(&script),
            is_broken: false,
            bundles: Vec::new(),
        };
        let app = App::start(config, peers(fake));
        let mut builder = builder();
        app.add_to(&mut builder);
        let client = SearchServiceClient::new(serve("orchestrator", builder))
            .max_decoding_message_size(service_kit::MAX_MESSAGE_BYTES);
        app.poke().await;
        Self {
            script,
            client,
            app,
        }
    }

    pub(crate) async fn ask(
        &self,
        request: search::SearchRequest,
    ) -> Result<search::SearchResponse, Status> {
        self.client
            .clone()
            .search(request)
            .await
            .map(Response::into_inner)
    }

    pub(crate) async fn ask_within(
        &self,
        request: search::SearchRequest,
        timeout: Duration,
    ) -> Result<search::SearchResponse, Status> {
        let mut request = Request::new(request);
        request.set_timeout(timeout);
        self.client
            .clone()
            .search(request)
            .await
            .map(Response::into_inner)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }
}

/// Peers are looked at once an hour, so that a test says itself when they are.
pub(crate) fn config(depth: u32, change: impl FnOnce(&mut RawConfig)) -> Config {
    let mut raw = RawConfig {
        describe_interval_ms: 3_600_000,
        ..RawConfig::default()
    };
    for pipeline in raw.pipelines.values_mut() {
        pipeline.retrieve_depth = depth;
        // A busy machine is not what is tested.
        pipeline.budget_ms = 60_000;
        for part in [&mut pipeline.late_interaction, &mut pipeline.rerank] {
            let part = part.iter_mut();
            part.for_each(|part| part.window = part.window.map(|window| window.min(depth)));
        }
        // Scores that can be checked by hand.
        pipeline.fusion.method = RawMethod::MinMax;
        pipeline.fusion.alpha = 0.5;
    }
    change(&mut raw);
    let mut problems = Problems::default();
    let config = raw.validate("orchestrator", &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    config
}

pub(crate) fn request(pipeline: &str) -> search::SearchRequest {
    search::SearchRequest {
        collection: COLLECTION.to_owned(),
        query: "bone loss".to_owned(),
        pipeline: pipeline.to_owned(),
        explain: true,
        ..Default::default()
    }
}

/// Documents with one passage each: id, BM25, cosine.
pub(crate) fn documents(table: &[(&str, f32, f32)]) -> Vec<Passage> {
    let passage = |(ordinal, (id, sparse, dense)): (usize, &(&str, f32, f32))| Passage {
        address: Address::new(0, ordinal as u32),
        shard: 0,
        document_id: (*id).to_owned(),
        passage: 0,
        sparse: *sparse,
        dense: *dense,
        rescore: None,
        max_sim: None,
        excluded: false,
    };
    table.iter().enumerate().map(passage).collect()
}

pub(crate) fn ids(response: &search::SearchResponse) -> Vec<&str> {
    response.hits.iter().map(|hit| hit.id.as_str()).collect()
}

pub(crate) fn stage<'a>(
    response: &'a search::SearchResponse,
    name: &str,
) -> &'a search::StageReport {
    response
        .stages
        .iter()
        .find(|report| report.stage == name)
        .unwrap()
}

/// Scored documents; every match is found by one retriever, by both, or by none.
const TABLE: [(&str, f32, f32); 5] = [
    ("a", 9.0, 0.1),
    ("b", 0.0, 0.9),
    ("c", 3.0, 0.5),
    ("d", 6.0, 0.7),
    ("e", 0.0, -0.1),
];

/// Five documents on one shard.
pub(crate) fn small() -> Script {
    Script::new(documents(&TABLE), 1)
}
