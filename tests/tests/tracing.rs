//! One search over separate processes is one trace, as a real OTLP receiver sees it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use search_proto::search::search_service_client::SearchServiceClient;
use search_proto::search::{SearchRequest, SearchResponse};
use service_kit::MeshChannel;
use tempfile::TempDir;
use testkit::corpus::animals;
use testkit::{Mesh, MeshOptions, request};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// The caller's own context: all that happens for it must carry this trace.
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER_SPAN_ID: &str = "00f067aa0ba902b7";
/// Long beyond what is expected: processes start in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A span and the process that sent it.
#[derive(Debug, Clone)]
struct Seen {
    service: String,
    instance: String,
    span: Span,
}

/// An OTLP receiver that keeps what it gets.
#[derive(Clone, Default)]
struct Receiver {
    seen: watch::Sender<Vec<Seen>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for sent in request.into_inner().resource_spans {
            let resource = sent.resource.unwrap_or_default();
            let spans = sent.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let seen = spans.map(|span| Seen {
                service: attribute(&resource, "service.name"),
                instance: attribute(&resource, "service.instance.id"),
                span,
            });
            self.seen.send_modify(|all| all.extend(seen));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attribute(resource: &Resource, key: &str) -> String {
    let found = resource
        .attributes
        .iter()
        .find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key} is {other:?}"),
    }
}

impl Receiver {
    async fn start() -> (Self, SocketAddr) {
        let receiver = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        (receiver, address)
    }

    /// The spans of the trace, once `complete` says that they are all there.
    async fn trace(&self, complete: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let of_trace = |all: &Vec<Seen>| -> Vec<Seen> {
            all.iter()
                .filter(|seen| hex(&seen.span.trace_id) == TRACE_ID)
                .cloned()
                .collect()
        };
        let mut watch = self.seen.subscribe();
        let waited =
            tokio::time::timeout(PATIENCE, watch.wait_for(|all| complete(&of_trace(all)))).await;
        let all = self.seen.borrow().clone();
        match waited {
            Ok(_) => of_trace(&all),
            Err(_) => panic!("the trace stayed incomplete: {:#?}", summary(&all)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn summary(all: &[Seen]) -> Vec<String> {
    let line = |seen: &Seen| {
        format!(
            "{} {} {}",
            seen.service,
            hex(&seen.span.trace_id),
            seen.span.name
        )
    };
    all.iter().map(line).collect()
}

/// A finemesh process; killed when dropped.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    /// Starts `finemesh serve` and waits until it says where it serves.
    fn start(binary: &Path, folder: &Path, name: &str, target: &str, config: &str) -> Self {
        let file = folder.join(format!("{name}.toml"));
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new(binary)
            .args(["serve", "--target", target, "--config"])
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        let address = said.trim().rsplit("http://").next().unwrap().to_owned();
        assert!(
            address.parse::<SocketAddr>().is_ok(),
            "{name} said {said:?}"
        );
        Self { child, address }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary beside this test's, built if it is not there.
fn finemesh() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile_folder = test.parent().unwrap().parent().unwrap();
    let binary = profile_folder.join("finemesh");
    if !binary.exists() {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build
            .args(["build", "--package", "finemesh"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile_folder.file_name().unwrap() == "release" {
            build.arg("--release");
        }
        assert!(
            build.status().unwrap().success(),
            "finemesh could not be built"
        );
    }
    binary
}

/// Starts processes over one store.
struct Launcher {
    binary: PathBuf,
    configs: TempDir,
    /// What all configurations begin with.
    common: String,
}

impl Launcher {
    fn new(store: &Path, otlp: SocketAddr) -> Self {
        let common = format!(
            "[server]\naddress = '127.0.0.1:0'\n[telemetry]\nlog = 'warn'\notlp_endpoint = 'http://{otlp}'\n\
             [storage]\nlocation = '{}'\n",
            store.display()
        );
        Self {
            binary: finemesh(),
            configs: tempfile::tempdir().unwrap(),
            common,
        }
    }

    /// Returns once the process can answer.
    async fn start(&self, name: &str, target: &str, section: &str) -> Process {
        let config = format!("{}{section}", self.common);
        let process = Process::start(&self.binary, self.configs.path(), name, target, &config);
        serving(&process).await;
        process
    }
}

/// Returns once the process says that it can answer.
async fn serving(process: &Process) {
    let mut client = HealthClient::new(MeshChannel::tcp(&process.address).unwrap());
    let told = async {
        let overall = HealthCheckRequest::default();
        let mut changes = client.watch(overall).await.unwrap().into_inner();
        while let Some(change) = changes.message().await.unwrap() {
            if change.status() == ServingStatus::Serving {
                return;
            }
        }
        panic!("{} stopped telling", process.address);
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
}

/// Asks on behalf of the caller's span.
async fn ask(address: &str) -> SearchResponse {
    let mut client = SearchServiceClient::new(MeshChannel::tcp(address).unwrap());
    let mut asked = Request::new(SearchRequest {
        pipeline: "sparse".to_owned(),
        ..request("cat on the mat")
    });
    let context = format!("00-{TRACE_ID}-{CALLER_SPAN_ID}-01");
    asked
        .metadata_mut()
        .insert("traceparent", context.parse().unwrap());
    client.search(asked).await.unwrap().into_inner()
}

fn services(trace: &[Seen]) -> BTreeSet<&str> {
    trace.iter().map(|seen| seen.service.as_str()).collect()
}

fn processes(trace: &[Seen]) -> BTreeSet<&str> {
    trace.iter().map(|seen| seen.instance.as_str()).collect()
}

fn is_complete(trace: &[Seen]) -> bool {
    processes(trace).len() == 3 && orphans(trace).is_empty() && trace.iter().any(is_root)
}

/// The span under the caller's.
fn is_root(seen: &Seen) -> bool {
    hex(&seen.span.parent_span_id) == CALLER_SPAN_ID
}

/// Spans whose parent is neither here nor the caller.
fn orphans(trace: &[Seen]) -> Vec<&Seen> {
    let known: BTreeSet<String> = trace.iter().map(|seen| hex(&seen.span.span_id)).collect();
    let has_parent =
        |seen: &&Seen| is_root(seen) || known.contains(&hex(&seen.span.parent_span_id));
    trace.iter().filter(|seen| !has_parent(seen)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_over_processes_is_one_trace() {
    let options = MeshOptions {
        shards: 2,
        stages: vec!["sparse".to_owned()],
        ..MeshOptions::default()
    };
    let mesh = Mesh::start_with(options, &animals()).await.unwrap();
    let (receiver, otlp) = Receiver::start().await;
    let store = mesh.store_folder().to_owned();
    let launcher = tokio::task::spawn_blocking(move || Launcher::new(&store, otlp))
        .await
        .unwrap();
    let first = launcher
        .start(
            "first",
            "sparse-retriever",
            "[sparse_retriever]\nshards = [0]\n",
        )
        .await;
    let second = launcher
        .start(
            "second",
            "sparse-retriever",
            "[sparse_retriever]\nshards = [1]\n",
        )
        .await;
    let peers = format!(
        "[peers]\nsparse_retriever = ['{}', '{}']\n",
        first.address, second.address
    );
    let orchestrator = launcher.start("orchestrator", "orchestrator", &peers).await;

    let answer = ask(&orchestrator.address).await;
    assert_eq!(answer.hits[0].id, "cat");

    let trace = receiver.trace(is_complete).await;
    assert_eq!(
        services(&trace),
        BTreeSet::from(["orchestrator", "sparse-retriever"])
    );
    assert_eq!(processes(&trace).len(), 3, "{:#?}", summary(&trace));
    assert_hops(&trace);
}

/// Each span of a server in a retriever lies directly under a span of a client in the orchestrator.
fn assert_hops(trace: &[Seen]) {
    let by_id: BTreeMap<String, &Seen> = trace
        .iter()
        .map(|seen| (hex(&seen.span.span_id), seen))
        .collect();
    let served =
        |seen: &&Seen| seen.span.kind() == SpanKind::Server && seen.service == "sparse-retriever";
    let hops: Vec<&Seen> = trace.iter().filter(served).collect();
    for hop in &hops {
        let caller = by_id[&hex(&hop.span.parent_span_id)];
        assert_eq!(
            (caller.service.as_str(), caller.span.kind()),
            ("orchestrator", SpanKind::Client)
        );
        assert_eq!(caller.span.name, hop.span.name);
    }
    let names: BTreeSet<&str> = hops.iter().map(|hop| hop.span.name.as_str()).collect();
    let expected = [
        "finemesh.sparse.v1.SparseRetrieverService/Fetch",
        "finemesh.sparse.v1.SparseRetrieverService/Search",
    ];
    assert!(
        expected.iter().all(|name| names.contains(name)),
        "{names:?}"
    );
}
