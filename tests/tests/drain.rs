//! A rolling restart: each replica of each service, one after the other, over TCP and under constant queries. None is lost, and none is
//! answered with less.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use orchestrator::{Peers, RawHeadPart, RawPipeline, RawStage};
use search_proto::FILE_DESCRIPTOR_SET;
use search_proto::search::search_service_client::SearchServiceClient;
use search_proto::search::{SearchRequest, SearchResponse};
use segment::store::Store;
use service_kit::replica::ReplicaConfig;
use service_kit::server::ServerError;
use service_kit::{MeshChannel, Problems, Server, ServerBuilder, ServerLimits};
use testkit::corpus::wordy;
use testkit::{HashEncoder, Judge, Mesh, MeshOptions, request};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Code;

const EVERYTHING: &str = "everything";
/// Of each service.
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

/// A service and how a process of it begins.
struct Service {
    name: &'static str,
    start: Box<dyn Fn() -> BoxFuture<'static, Server>>,
    replicas: Vec<Replica>,
}

impl Service {
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

async fn colbert_server(store: Store, encoders: Vec<MeshChannel>) -> Server {
    let app = colbert_scorer::App::start(ReplicaConfig::default(), store, encoders).unwrap();
    app.refresh().await;
    server(|builder| app.add_to(builder))
}

fn cross_encoder_server() -> Server {
    let judge = Judge::new(|query, passage| (query.len() + passage.len()) as f32);
    server(|builder| judge.start().add_to(builder))
}

/// What the orchestrators call.
async fn services(store: &Store) -> [Service; 5] {
    let [for_sparse, for_dense, for_colbert] = [(); 3].map(|()| store.clone());
    let encoders = Service::start("encoder", || async { encoder_server() }).await;
    let channels = encoders.channels();
    [
        encoders,
        Service::start("sparse", move || sparse_server(for_sparse.clone())).await,
        Service::start("dense", move || dense_server(for_dense.clone())).await,
        Service::start("colbert", move || {
            colbert_server(for_colbert.clone(), channels.clone())
        })
        .await,
        Service::start("cross-encoder", || async { cross_encoder_server() }).await,
    ]
}

/// A pipeline with every stage, and time for all of them on a busy machine.
fn config() -> orchestrator::Config {
    let mut raw = orchestrator::RawConfig::default();
    let everything = RawPipeline {
        stages: vec![RawStage::Sparse, RawStage::Dense],
        late_interaction: Some(RawHeadPart::new(20, 0.2)),
        rerank: Some(RawHeadPart::new(5, 0.3)),
        budget_ms: 60_000,
        ..RawPipeline::default()
    };
    raw.pipelines.insert(EVERYTHING.to_owned(), everything);
    let mut problems = Problems::default();
    let config = raw.validate("orchestrator", &mut problems);
    problems.into_result(config).unwrap()
}

/// Orchestrators that run, those that were restarted too.
type Running = Arc<Mutex<Vec<Arc<orchestrator::App>>>>;

async fn orchestrator_server(peers: Peers, running: Running) -> Server {
    let app = orchestrator::App::start(config(), peers);
    app.poke().await;
    running.lock().unwrap().push(Arc::clone(&app));
    server(|builder| app.add_to(builder))
}

async fn orchestrators(services: &[Service; 5], running: &Running) -> Service {
    let channels = services.each_ref().map(Service::channels);
    let running = Arc::clone(running);
    Service::start("orchestrator", move || {
        let [encoder, sparse, dense, colbert, cross_encoder] = channels.clone();
        let peers = Peers {
            encoder,
            sparse,
            dense,
            colbert,
            cross_encoder,
        };
        orchestrator_server(peers, Arc::clone(&running))
    })
    .await
}

/// In a cluster the next replica ends when this one is ready, which takes longer than the orchestrators' next look.
async fn look_again(running: &Running) {
    let apps = running.lock().unwrap().clone();
    for app in apps {
        app.poke().await;
    }
}

/// A caller as gRPC clients are: with a connection to each replica, and a call that found nobody is made again elsewhere.
struct Caller {
    clients: Vec<SearchServiceClient<MeshChannel>>,
}

impl Caller {
    fn new(orchestrators: &Service) -> Self {
        let channels = orchestrators.channels().into_iter();
        Self {
            clients: channels.map(SearchServiceClient::new).collect(),
        }
    }

    async fn search(&mut self, query: SearchRequest) -> SearchResponse {
        let mut tries = self.clients.len();
        loop {
            tries -= 1;
            match self.clients[0].search(query.clone()).await {
                Ok(answer) => return answer.into_inner(),
                Err(status) if status.code() == Code::Unavailable && tries > 0 => {
                    self.clients.rotate_left(1);
                }
                Err(lost) => panic!("lost: {lost}"),
            }
        }
    }

    /// Asks without a pause until it is told to end; all answers are whole.
    async fn ask(mut self, number: usize, answers: watch::Sender<usize>, is_over: Arc<AtomicBool>) {
        for query in 0.. {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            // Each query is another one: none is answered from what the encoder remembers.
            let query = SearchRequest {
                pipeline: EVERYTHING.to_owned(),
                ..request(&format!("search index {number} {query}"))
            };
            let answer = self.search(query).await;
            assert!(!answer.degraded, "{:#?}", answer.stages);
            assert!(!answer.hits.is_empty());
            answers.send_modify(|answers| *answers += 1);
        }
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
    let options = MeshOptions {
        stages: ["sparse", "dense", "colbert"].map(str::to_owned).to_vec(),
        ..MeshOptions::default()
    };
    let mesh = Mesh::start_with(options, &wordy(120)).await.unwrap();
    let store = Store::local(mesh.store_folder()).unwrap();
    let services = services(&store).await;
    let running = Running::default();
    let orchestrators = orchestrators(&services, &running).await;

    let (answers, is_over) = (watch::Sender::new(0), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let caller = Caller::new(&orchestrators);
            tokio::spawn(caller.ask(number, answers.clone(), is_over.clone()))
        })
        .collect();
    // They go on to serve.
    let mut restarted = Vec::new();
    for mut service in services.into_iter().chain([orchestrators]) {
        for index in 0..REPLICAS {
            answered(&answers).await;
            service.restart(index).await;
            look_again(&running).await;
            println!(
                "{} {index} is back after {} answers",
                service.name,
                *answers.borrow()
            );
        }
        restarted.push(service);
    }
    answered(&answers).await;
    is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
}
