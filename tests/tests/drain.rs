//! A rolling restart: each replica of each stage, one after the other, over TCP and under constant queries. None is lost, and none is
//! answered with less.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use orchestrator::Peers;
use search_proto::FILE_DESCRIPTOR_SET;
use search_proto::search::SearchRequest;
use search_proto::search::search_service_client::SearchServiceClient;
use segment::store::Store;
use service_kit::replica::ReplicaConfig;
use service_kit::server::ServerError;
use service_kit::{MeshChannel, Problems, Server, ServerBuilder, ServerLimits};
use testkit::corpus::wordy;
use testkit::{HashEncoder, Mesh, request};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Of each stage.
const REPLICAS: usize = 2;
/// Callers that ask without a pause.
const CALLERS: usize = 6;
/// Answers between two steps of the restart.
const ANSWERS: usize = 30;
/// Longer than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server over TCP, until it is told to drain.
struct Replica {
    address: SocketAddr,
    drain: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ServerError>>,
}

impl Replica {
    /// Serves at this address; port 0 is a free one.
    async fn start(address: SocketAddr, server: Server) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, drained) = oneshot::channel::<()>();
        let shutdown = drained.map(|_| ());
        Self {
            address,
            drain,
            served: tokio::spawn(server.serve(listener, shutdown)),
        }
    }

    /// As a process that gets SIGTERM ends.
    async fn stop(self) -> SocketAddr {
        self.drain.send(()).unwrap();
        let served = tokio::time::timeout(PATIENCE, self.served).await;
        served.unwrap().unwrap().unwrap();
        self.address
    }
}

/// A stage and how a process of it begins.
struct Stage {
    name: &'static str,
    start: Box<dyn Fn() -> BoxFuture<'static, Server>>,
    replicas: Vec<Replica>,
}

impl Stage {
    async fn start<F>(name: &'static str, start: impl Fn() -> F + 'static) -> Self
    where
        F: Future<Output = Server> + Send + 'static,
    {
        let start = move || start().boxed();
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            let anywhere = "127.0.0.1:0".parse().unwrap();
            replicas.push(Replica::start(anywhere, start().await).await);
        }
        Self {
            name,
            start: Box::new(start),
            replicas,
        }
    }

    fn channels(&self) -> Vec<MeshChannel> {
        let addresses = self.replicas.iter().map(|replica| replica.address);
        let channel = |address: SocketAddr| MeshChannel::tcp(&address.to_string()).unwrap();
        addresses.map(channel).collect()
    }

    /// Ends one replica and begins it anew, at the same address.
    async fn restart(&mut self, index: usize) {
        let address = self.replicas.remove(index).stop().await;
        let replica = Replica::start(address, (self.start)().await).await;
        self.replicas.insert(index, replica);
    }
}

fn server(add: impl FnOnce(&mut ServerBuilder)) -> Server {
    let mut builder = ServerBuilder::new(ServerLimits::default());
    add(&mut builder);
    builder.build(FILE_DESCRIPTOR_SET).unwrap()
}

fn encoder_server() -> Server {
    let encoder = Arc::new(HashEncoder::new(64));
    let app = encoder::App::start(encoder::Config::default(), encoder, None);
    server(|builder| app.add_to(builder))
}

async fn sparse_server(store: Store) -> Server {
    let app = sparse_retriever::App::start(ReplicaConfig::default(), store).unwrap();
    app.refresh().await;
    server(|builder| app.add_to(builder))
}

async fn dense_server(store: Store) -> Server {
    let app = dense_retriever::App::start(ReplicaConfig::default(), store).unwrap();
    app.refresh().await;
    server(|builder| app.add_to(builder))
}

async fn stages(store: &Store) -> [Stage; 3] {
    let (for_sparse, for_dense) = (store.clone(), store.clone());
    [
        Stage::start("encoder", || async { encoder_server() }).await,
        Stage::start("sparse", move || sparse_server(for_sparse.clone())).await,
        Stage::start("dense", move || dense_server(for_dense.clone())).await,
    ]
}

fn orchestrator_over(stages: &[Stage; 3]) -> Arc<orchestrator::App> {
    let [encoder, sparse, dense] = stages.each_ref().map(Stage::channels);
    let peers = Peers {
        encoder,
        sparse,
        dense,
        ..Peers::default()
    };
    let mut problems = Problems::default();
    let config = orchestrator::RawConfig::default().validate("orchestrator", &mut problems);
    orchestrator::App::start(problems.into_result(config).unwrap(), peers)
}

/// Asks without a pause until it is told to end; all answers are whole.
async fn ask(
    address: SocketAddr,
    caller: usize,
    answers: watch::Sender<usize>,
    is_over: Arc<AtomicBool>,
) {
    let channel = MeshChannel::tcp(&address.to_string()).unwrap();
    let mut client = SearchServiceClient::new(channel);
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        // Each query is another one: none is answered from what the encoder remembers.
        let query = SearchRequest {
            pipeline: "hybrid".to_owned(),
            ..request(&format!("search index {caller} {number}"))
        };
        let answer = client.search(query).await;
        let answer = answer.unwrap_or_else(|lost| panic!("lost: {lost}"));
        assert!(!answer.get_ref().degraded, "{:#?}", answer.get_ref().stages);
        assert!(!answer.get_ref().hits.is_empty());
        answers.send_modify(|answers| *answers += 1);
    }
}

/// Returns after so many more answers.
async fn answered(answers: &watch::Sender<usize>) {
    let enough = *answers.borrow() + ANSWERS;
    let mut seen = answers.subscribe();
    let waited = seen.wait_for(|answers| *answers >= enough);
    let waited = tokio::time::timeout(PATIENCE, waited).await;
    waited.expect("queries are answered").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_query() {
    let mesh = Mesh::start(&wordy(120)).await.unwrap();
    let store = Store::local(mesh.store_folder()).unwrap();
    let mut stages = stages(&store).await;
    let orchestrator = orchestrator_over(&stages);
    orchestrator.poke().await;
    let public = server(|builder| orchestrator.add_to(builder));
    let public = Replica::start("127.0.0.1:0".parse().unwrap(), public).await;

    let (answers, is_over) = (watch::Sender::new(0), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let asking = ask(public.address, caller, answers.clone(), is_over.clone());
            tokio::spawn(asking)
        })
        .collect();
    for stage in &mut stages {
        for index in 0..REPLICAS {
            answered(&answers).await;
            stage.restart(index).await;
            // In a cluster the next replica ends when this one is ready, which takes longer than the orchestrator's next look.
            orchestrator.poke().await;
            println!(
                "{} {index} is back after {} answers",
                stage.name,
                *answers.borrow()
            );
        }
    }
    answered(&answers).await;
    is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    public.stop().await;
}
