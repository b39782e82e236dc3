//! A whole mesh inside this process: encoder, retrievers, scorers, cross-encoder, orchestrator and indexer, each behind its real
//! server and layers, over pipes and a store in a temporary folder.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use inference::TextEncoder;
use orchestrator::Peers;
use search_core::Filter;
use search_proto::convert::filter_to_wire;
use search_proto::index::index_service_client::IndexServiceClient;
use search_proto::index::{
    DeleteRequest, DeleteResponse, EndOfLines, IndexEvent, IndexRequest, IndexSettings,
    IndexSummary, InvalidLine, Lines, index_event, index_request,
};
use search_proto::search::search_service_client::SearchServiceClient;
use search_proto::search::{SearchRequest, SearchResponse};
use segment::store::Store;
use service_kit::compute::StartError;
use service_kit::config::Problems;
use service_kit::replica::{RawReplicaConfig, ReplicaConfig};
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel, ServerBuilder, ServerLimits};
use tempfile::TempDir;
use tonic::Status;

use crate::corpus::Document;
use crate::hosting::Hosted;
use crate::{HashEncoder, Judge};

/// Lines of one message, less than the contract's limit.
const MESSAGE_LINES: usize = 1000;

/// The collection that a mesh starts with.
pub const COLLECTION: &str = "test";

/// How a mesh differs from the smallest.
#[derive(Clone)]
pub struct MeshOptions {
    /// Shards of the collection.
    pub shards: u32,
    /// Runs that the documents are indexed in; each makes a segment in every shard that it meets.
    pub runs: usize,
    /// Replicas of each retriever, and of the scorer of token vectors: the shards that it serves; none: all.
    pub replicas: Vec<Vec<u32>>,
    /// Stages of the collection; none: sparse and dense.
    pub stages: Vec<String>,
    /// What encodes.
    pub encoder: Arc<dyn TextEncoder>,
    /// What makes the vectors for rescoring.
    pub rescorer: Option<Arc<dyn TextEncoder>>,
    /// What reads the head of a ranking; none: nobody.
    pub judge: Option<Judge>,
    /// Settings of the orchestrator.
    pub orchestrator: orchestrator::RawConfig,
    /// Settings of the indexer.
    pub indexer: indexer::RawConfig,
}

impl Default for MeshOptions {
    fn default() -> Self {
        Self {
            shards: 1,
            runs: 1,
            replicas: vec![Vec::new()],
            stages: Vec::new(),
            encoder: Arc::new(HashEncoder::new(64)),
            rescorer: None,
            judge: None,
            orchestrator: orchestrator::RawConfig::default(),
            indexer: indexer::RawConfig {
                prefix_dimensions: 32,
                ..indexer::RawConfig::default()
            },
        }
    }
}

/// A running mesh. Everything ends when it is dropped.
pub struct Mesh {
    options: MeshOptions,
    folder: TempDir,
    /// Replicas of the sparse retriever.
    pub sparse: Vec<Hosted>,
    /// Replicas of the dense retriever.
    pub dense: Vec<Hosted>,
    /// Replicas of the scorer of token vectors.
    pub colbert: Vec<Hosted>,
    /// The encoder.
    pub encoder: Hosted,
    /// The cross-encoder, where there is a judge.
    pub cross_encoder: Option<Hosted>,
    /// The indexer.
    pub indexer: Hosted,
    /// The orchestrator.
    pub orchestrator: Hosted,
    sparse_apps: Vec<Arc<sparse_retriever::App>>,
    dense_apps: Vec<Arc<dense_retriever::App>>,
    colbert_apps: Vec<Arc<colbert_scorer::App>>,
    orchestrator_app: Arc<orchestrator::App>,
}

/// The message that ends the lines of a run.
#[must_use]
pub fn end_of_lines() -> IndexRequest {
    IndexRequest {
        part: Some(index_request::Part::EndOfLines(EndOfLines {})),
    }
}

impl Mesh {
    /// A mesh that has indexed the documents into [`COLLECTION`].
    ///
    /// # Errors
    /// When a service does not start or a document is refused.
    pub async fn start(documents: &[Document]) -> Result<Self> {
        Self::start_with(MeshOptions::default(), documents).await
    }

    /// The same, otherwise than the smallest.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub async fn start_with(options: MeshOptions, documents: &[Document]) -> Result<Self> {
        let runs = options.runs;
        let mesh = Self::serve(options, tempfile::tempdir()?)?;
        let run_size = documents.len().div_ceil(runs).max(1);
        for run in documents.chunks(run_size) {
            mesh.index(run).await.context("indexing")?;
        }
        mesh.refresh().await;
        Ok(mesh)
    }

    /// Ends all services and starts them anew over what is stored.
    ///
    /// # Errors
    /// When a service does not start.
    pub async fn restart(self) -> Result<Self> {
        self.restart_with(|_| {}).await
    }

    /// The same with other options.
    ///
    /// # Errors
    /// As [`Mesh::restart`].
    pub async fn restart_with(self, change: impl FnOnce(&mut MeshOptions)) -> Result<Self> {
        let Self {
            mut options,
            folder,
            ..
        } = self;
        change(&mut options);
        let mesh = Self::serve(options, folder)?;
        mesh.refresh().await;
        Ok(mesh)
    }

    fn serve(options: MeshOptions, folder: TempDir) -> Result<Self> {
        let store = Store::local(folder.path())?;
        let encoders = indexer::Encoders {
            first: Arc::clone(&options.encoder),
            rescorer: options.rescorer.clone(),
        };
        let encoder_app = encoder::App::start(
            encoder::Config::default(),
            Arc::clone(&encoders.first),
            encoders.rescorer.clone(),
        );
        let encoder = host("encoder", |server| encoder_app.add_to(server))?;
        let cross_encoder = options.judge.as_ref().map(|judge| {
            let app = judge.start();
            host("cross-encoder", |server| app.add_to(server))
        });
        let cross_encoder = cross_encoder.transpose()?;
        let (sparse_apps, sparse) = replicas(
            &options,
            "sparse",
            |config| sparse_retriever::App::start(config, store.clone()),
            sparse_retriever::App::add_to,
        )?;
        let (dense_apps, dense) = replicas(
            &options,
            "dense",
            |config| dense_retriever::App::start(config, store.clone()),
            dense_retriever::App::add_to,
        )?;
        let (colbert_apps, colbert) = replicas(
            &options,
            "colbert",
            |config| colbert_scorer::App::start(config, store.clone(), vec![encoder.channel()]),
            colbert_scorer::App::add_to,
        )?;
        let peers = Peers {
            encoder: vec![encoder.channel()],
            sparse: sparse.iter().map(Hosted::channel).collect(),
            dense: dense.iter().map(Hosted::channel).collect(),
            cross_encoder: cross_encoder.iter().map(Hosted::channel).collect(),
            colbert: colbert.iter().map(Hosted::channel).collect(),
        };
        let orchestrator_config = validated(|problems| {
            let raw = options.orchestrator.clone();
            raw.validate("orchestrator", problems)
        })?;
        let orchestrator_app = orchestrator::App::start(orchestrator_config, peers);
        let indexer_config =
            validated(|problems| options.indexer.clone().validate("indexer", problems))?;
        let indexer_app = indexer::App::start(indexer_config, store, encoders, None);
        Ok(Self {
            indexer: host("indexer", |server| indexer_app.add_to(server))?,
            orchestrator: host("orchestrator", |server| orchestrator_app.add_to(server))?,
            options,
            folder,
            sparse,
            dense,
            colbert,
            encoder,
            cross_encoder,
            sparse_apps,
            dense_apps,
            colbert_apps,
            orchestrator_app,
        })
    }

    /// The folder of the store.
    #[must_use]
    pub fn store_folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets every retriever and scorer look at the store, and the orchestrator at them.
    pub async fn refresh(&self) {
        for sparse in &self.sparse_apps {
            sparse.refresh().await;
        }
        for dense in &self.dense_apps {
            dense.refresh().await;
        }
        for colbert in &self.colbert_apps {
            colbert.refresh().await;
        }
        self.orchestrator_app.poke().await;
    }

    /// A client of the orchestrator.
    #[must_use]
    pub fn search_client(&self) -> SearchServiceClient<MeshChannel> {
        SearchServiceClient::new(self.orchestrator.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A client of the indexer.
    #[must_use]
    pub fn index_client(&self) -> IndexServiceClient<MeshChannel> {
        IndexServiceClient::new(self.indexer.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Asks with the server's defaults.
    ///
    /// # Errors
    /// The status that the orchestrator answered.
    pub async fn search(&self, query: &str) -> Result<SearchResponse, Status> {
        self.ask(request(query)).await
    }

    /// Asks.
    ///
    /// # Errors
    /// The status that the orchestrator answered.
    pub async fn ask(&self, request: SearchRequest) -> Result<SearchResponse, Status> {
        Ok(self.search_client().search(request).await?.into_inner())
    }

    /// Indexes documents in one run; [`Mesh::refresh`] makes them visible.
    ///
    /// # Errors
    /// The status that the indexer answered.
    pub async fn index(&self, documents: &[Document]) -> Result<IndexSummary, Status> {
        let lines = documents.iter().map(Document::line).collect();
        let outcome = self.index_lines(self.settings(), lines).await?;
        outcome
            .summary
            .ok_or_else(|| Status::internal("the run ended without a summary"))
    }

    /// Indexes raw lines of a file `test.jsonl` in one run.
    ///
    /// # Errors
    /// The status that the indexer answered.
    pub async fn index_lines(
        &self,
        settings: IndexSettings,
        lines: Vec<Vec<u8>>,
    ) -> Result<IndexOutcome, Status> {
        let settings = IndexRequest {
            part: Some(index_request::Part::Settings(settings)),
        };
        let mut requests = vec![settings];
        let mut first_line = 1;
        for lines in lines.chunks(MESSAGE_LINES) {
            let part = Lines {
                file: "test.jsonl".to_owned(),
                first_line,
                lines: lines.to_vec(),
            };
            first_line += lines.len() as u64;
            requests.push(IndexRequest {
                part: Some(index_request::Part::Lines(part)),
            });
        }
        requests.push(end_of_lines());
        let mut events = self
            .index_client()
            .index(tokio_stream::iter(requests))
            .await?
            .into_inner();
        let mut outcome = IndexOutcome::default();
        while let Some(event) = events.message().await? {
            outcome.add(event);
        }
        Ok(outcome)
    }

    /// Settings of [`COLLECTION`] as the options say.
    #[must_use]
    pub fn settings(&self) -> IndexSettings {
        IndexSettings {
            collection: COLLECTION.to_owned(),
            shards: Some(self.options.shards),
            stages: self.options.stages.clone(),
            ..IndexSettings::default()
        }
    }

    /// Removes documents; [`Mesh::refresh`] makes it visible.
    ///
    /// # Errors
    /// The status that the indexer answered.
    pub async fn delete(&self, ids: &[&str]) -> Result<DeleteResponse, Status> {
        let request = DeleteRequest {
            collection: COLLECTION.to_owned(),
            document_ids: ids.iter().map(ToString::to_string).collect(),
        };
        Ok(self.index_client().delete(request).await?.into_inner())
    }
}

/// What a run said.
#[derive(Debug, Clone, Default)]
pub struct IndexOutcome {
    /// Lines that were refused.
    pub invalid: Vec<InvalidLine>,
    /// The summary, at the end of a run that committed.
    pub summary: Option<IndexSummary>,
}

impl IndexOutcome {
    fn add(&mut self, event: IndexEvent) {
        match event.event {
            Some(index_event::Event::Invalid(line)) => self.invalid.push(line),
            Some(index_event::Event::Summary(summary)) => self.summary = Some(summary),
            Some(index_event::Event::Progress(_)) | None => {}
        }
    }
}

/// A request for [`COLLECTION`] with the server's defaults.
#[must_use]
pub fn request(query: &str) -> SearchRequest {
    SearchRequest {
        collection: COLLECTION.to_owned(),
        query: query.to_owned(),
        ..SearchRequest::default()
    }
}

/// A filter of the command line's grammar, as it travels.
///
/// # Panics
/// When it is not of that grammar.
#[must_use]
pub fn filter(text: &str) -> search_proto::common::Filter {
    let parsed: Filter =
        search_core::filter_grammar::parse(text).expect("a test writes valid filters");
    filter_to_wire(&parsed)
}

fn host(name: &str, add: impl FnOnce(&mut ServerBuilder)) -> Result<Hosted> {
    let mut server = ServerBuilder::new(ServerLimits::default());
    add(&mut server);
    Ok(Hosted::start(
        name,
        server.build(search_proto::FILE_DESCRIPTOR_SET)?,
    ))
}

fn validated<T>(validate: impl FnOnce(&mut Problems) -> T) -> Result<T> {
    let mut problems = Problems::default();
    let config = validate(&mut problems);
    Ok(problems.into_result(config)?)
}

type Replicas<App> = (Vec<Arc<App>>, Vec<Hosted>);

/// Starts and hosts a service for each of the mesh's replicas.
fn replicas<App>(
    options: &MeshOptions,
    name: &str,
    start: impl Fn(ReplicaConfig) -> Result<Arc<App>, StartError>,
    add_to: impl Fn(&Arc<App>, &mut ServerBuilder),
) -> Result<Replicas<App>> {
    let mut replicas = (Vec::new(), Vec::new());
    for (index, shards) in options.replicas.iter().enumerate() {
        let raw = RawReplicaConfig {
            shards: shards.clone(),
            ..Default::default()
        };
        let app = start(validated(|problems| raw.validate(name, problems))?)?;
        replicas.1.push(host(&format!("{name}-{index}"), |server| {
            add_to(&app, server);
        })?);
        replicas.0.push(app);
    }
    Ok(replicas)
}
