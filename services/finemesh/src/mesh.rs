//! Composes the services: all in one process, or one of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use indexer::Encoders;
use orchestrator::Peers;
use search_proto::FILE_DESCRIPTOR_SET;
use segment::store::Store;
use service_kit::access::Access;
use service_kit::tls::{ClientTls, ServerTls};
use service_kit::{
    Channels, Dialer, MeshChannel, PeerAddress, Problems, Security, Server, ServerBuilder,
    in_process,
};

use crate::cli::Target;
use crate::config::{Config, PeersConfig, ServerConfig, StorageConfig};
use crate::models::{self, Loaded};
use crate::needs::Needs;

/// What `target` names, ready to listen.
pub(crate) async fn server(config: &Config, target: Target) -> Result<Server> {
    let mut builder = ServerBuilder::new(config.server.limits);
    match target {
        Target::All => return all(config, Needs::ALL).await,
        Target::Encoder => {
            let Encoders { first, rescorer } = models::encoders(&config.models).await?;
            encoder::App::start(config.encoder.clone(), first, rescorer).add_to(&mut builder);
        }
        Target::SparseRetriever => {
            let store = open_store(&config.storage)?;
            sparse_retriever::App::start(config.sparse_retriever.clone(), store)?
                .add_to(&mut builder);
        }
        Target::DenseRetriever => {
            let store = open_store(&config.storage)?;
            dense_retriever::App::start(config.dense_retriever.clone(), store)?
                .add_to(&mut builder);
        }
        Target::ColbertScorer => {
            let store = open_store(&config.storage)?;
            let encoders = Followed::new(&config.peers)?
                .channels(&config.peers.encoder)
                .await?;
            colbert_scorer::App::start(config.colbert_scorer.clone(), store, encoders)?
                .add_to(&mut builder);
        }
        Target::CrossEncoder => {
            let threads = config.cross_encoder.compute_threads();
            let cross_encoder = models::cross_encoder(&config.models, threads).await?;
            let mut problems = Problems::default();
            problems.require(
                cross_encoder.is_some(),
                "models.reranker_bundle",
                || "a cross-encoder needs one: the folder of a bundle of the task `rerank`",
            );
            problems.into_result(())?;
            if let Some(opened) = cross_encoder {
                cross_encoder::App::start(&config.cross_encoder, opened).add_to(&mut builder);
            }
        }
        Target::LlmReranker => {
            llm_reranker::App::start(config.llm_reranker.clone())?.add_to(&mut builder);
        }
        Target::Orchestrator => {
            let peers = tcp_peers(&config.peers).await?;
            orchestrator::App::start(config.orchestrator.clone(), peers).add_to(&mut builder);
        }
        Target::Indexer => {
            let encoders = models::encoders(&config.models).await?;
            let store = open_store(&config.storage)?;
            indexer::App::start(config.indexer.clone(), store, encoders, None).add_to(&mut builder);
        }
    }
    Ok(builder.build(FILE_DESCRIPTOR_SET)?)
}

/// All services in one process. The orchestrator reaches the others through pipes; the server offers every service.
/// Without encoders nothing can be indexed.
pub(crate) async fn all(config: &Config, needs: Needs) -> Result<Server> {
    let store = open_store(&config.storage)?;
    let Loaded {
        encoders,
        cross_encoder,
    } = models::load(
        &config.models,
        needs,
        config.cross_encoder.compute_threads(),
    )
    .await?;
    let encoder = encoders.clone().map(|Encoders { first, rescorer }| {
        encoder::App::start(config.encoder.clone(), first, rescorer)
    });
    let encoder_pipe = match &encoder {
        Some(encoder) => Some(encoder_pipe(config, encoder)?),
        None => None,
    };
    let replicas = Replicas::start(config, &store, encoder_pipe.clone())?;
    replicas.refresh().await;
    let cross_encoder =
        cross_encoder.map(|opened| cross_encoder::App::start(&config.cross_encoder, opened));

    let add_stages = |builder: &mut ServerBuilder| {
        replicas.add_to(builder);
        if let Some(encoder) = &encoder {
            encoder.add_to(builder);
        }
        if let Some(cross_encoder) = &cross_encoder {
            cross_encoder.add_to(builder);
        }
    };
    let mut stages = ServerBuilder::new(config.server.limits);
    add_stages(&mut stages);
    let stages = stages.build(FILE_DESCRIPTOR_SET)?;
    let peers = Peers {
        sparse: vec![pipe("sparse-retriever", &stages)],
        dense: vec![pipe("dense-retriever", &stages)],
        colbert: replicas
            .colbert
            .iter()
            .map(|_| pipe("colbert-scorer", &stages))
            .collect(),
        encoder: encoder_pipe.into_iter().collect(),
        cross_encoder: cross_encoder
            .iter()
            .map(|_| pipe("cross-encoder", &stages))
            .collect(),
    };
    let orchestrator = orchestrator::App::start(config.orchestrator.clone(), peers);
    orchestrator.poke().await;

    let mut public = ServerBuilder::new(config.server.limits);
    orchestrator.add_to(&mut public);
    add_stages(&mut public);
    if let Some(encoders) = encoders {
        let after_commit = move |_| {
            let (replicas, orchestrator) = (replicas.clone(), orchestrator.clone());
            async move {
                replicas.refresh().await;
                orchestrator.poke().await;
            }
            .boxed()
        };
        indexer::App::start(
            config.indexer.clone(),
            store,
            encoders,
            Some(Arc::new(after_commit)),
        )
        .add_to(&mut public);
    }
    Ok(public.build(FILE_DESCRIPTOR_SET)?)
}

/// The services that follow the store.
#[derive(Clone)]
struct Replicas {
    sparse: Arc<sparse_retriever::App>,
    dense: Arc<dense_retriever::App>,
    /// None without an encoder: there are no query's tokens to score with.
    colbert: Option<Arc<colbert_scorer::App>>,
}

impl Replicas {
    fn start(config: &Config, store: &Store, encoder: Option<MeshChannel>) -> Result<Self> {
        let colbert = encoder.map(|encoder| {
            let settings = config.colbert_scorer.clone();
            colbert_scorer::App::start(settings, store.clone(), vec![encoder])
        });
        Ok(Self {
            sparse: sparse_retriever::App::start(config.sparse_retriever.clone(), store.clone())?,
            dense: dense_retriever::App::start(config.dense_retriever.clone(), store.clone())?,
            colbert: colbert.transpose()?,
        })
    }

    /// Looks for new snapshots and waits for them.
    async fn refresh(&self) {
        let colbert = async {
            if let Some(colbert) = &self.colbert {
                colbert.refresh().await;
            }
        };
        tokio::join!(self.sparse.refresh(), self.dense.refresh(), colbert);
    }

    fn add_to(&self, server: &mut ServerBuilder) {
        self.sparse.add_to(server);
        self.dense.add_to(server);
        if let Some(colbert) = &self.colbert {
            colbert.add_to(server);
        }
    }
}

/// The encoder on a server of its own: the scorer of token vectors needs it before the others can be served.
fn encoder_pipe(config: &Config, encoder: &Arc<encoder::App>) -> Result<MeshChannel> {
    let mut server = ServerBuilder::new(config.server.limits);
    encoder.add_to(&mut server);
    Ok(pipe("encoder", &server.build(FILE_DESCRIPTOR_SET)?))
}

/// A channel to a server inside this process.
pub(crate) fn pipe(name: &str, server: &Server) -> MeshChannel {
    let (listener, channel) = in_process(name);
    let server = server.clone();
    let name = name.to_owned();
    tokio::spawn(async move {
        if let Err(error) = server
            .serve_in_process(listener, std::future::pending())
            .await
        {
            tracing::error!(%name, %error, "an in-process server ended");
        }
    });
    channel
}

fn open_store(config: &StorageConfig) -> Result<Store> {
    Store::open(&config.location, &config.cache_folder)
        .with_context(|| format!("storage.location: {}", config.location))
}

async fn tcp_peers(config: &PeersConfig) -> Result<Peers<Channels>> {
    let mut problems = Problems::default();
    let has_documents = !config.sparse_retriever.is_empty();
    problems.require(
        has_documents,
        "peers.sparse_retriever",
        || "an orchestrator needs at least one: it serves the documents",
    );
    problems.into_result(())?;
    let follow = Followed::new(config)?;
    let (encoder, sparse, dense, cross_encoder, colbert) = tokio::try_join!(
        follow.channels(&config.encoder),
        follow.channels(&config.sparse_retriever),
        follow.channels(&config.dense_retriever),
        follow.channels(&config.cross_encoder),
        follow.channels(&config.colbert_scorer),
    )?;
    Ok(Peers {
        encoder,
        sparse,
        dense,
        cross_encoder,
        colbert,
    })
}

/// How peers are followed and called.
struct Followed {
    dialer: Dialer,
    interval: Duration,
}

impl Followed {
    fn new(config: &PeersConfig) -> Result<Self> {
        let dialer = match &config.tls {
            Some(tls) => Dialer::tls(ClientTls::load(tls).context("peers.tls")?),
            None => Dialer::plaintext(),
        };
        Ok(Self {
            dialer,
            interval: config.resolve_interval,
        })
    }

    async fn channels(&self, peers: &[PeerAddress]) -> Result<Channels> {
        Ok(Channels::follow(peers.to_vec(), self.dialer.clone(), self.interval).await?)
    }
}

/// What a server asks of its callers. Keys are for those from outside: stages are called by stages.
pub(crate) fn security(config: &ServerConfig, target: Target) -> Result<Security> {
    let is_public = matches!(target, Target::All | Target::Orchestrator | Target::Indexer);
    let keys = config.api_keys_file.as_ref().filter(|_| is_public);
    let tls = config.tls.as_ref().map(ServerTls::load);
    let access = Access::default().with_callers(config.callers.clone());
    Ok(Security {
        tls: tls.transpose().context("server.tls")?,
        access: match keys {
            Some(file) => access
                .with_api_keys(file)
                .context("server.access.api_keys_file")?,
            None => access,
        },
    })
}
