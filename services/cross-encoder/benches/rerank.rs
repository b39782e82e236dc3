//! How fast the real service scores, over loopback TCP, and where the time goes.
//!
//! ```text
//! cargo bench -p cross-encoder --bench rerank -- LIBONNXRUNTIME BUNDLE CALLS.jsonl [THREADS [CALLERS]]
//! ```
//!
//! Each line of CALLS is `{"query": …, "passages": […]}`; `compare.py` beside this file makes them, seeded, and runs this. So many callers
//! ask at once, each the next call that is left. Prints one JSON object: passages per second, padding, the share of the threads' time
//! inside ONNX Runtime, and the latency of a call alone on the machine. Without arguments there is nothing to measure.

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cross_encoder::{App, Config, RawConfig};
use inference::CrossEncoder;
use search_proto::rerank::RerankRequest;
use search_proto::rerank::reranker_service_client::RerankerServiceClient;
use serde_json::{Value, json};
use service_kit::{MeshChannel, Problems, ServerBuilder, ServerLimits};
use tokio::net::TcpListener;

/// Calls that are made before anything is measured.
const WARM_UP_CALLS: usize = 3;
/// Calls that are made one after the other for the latency.
const ALONE_CALLS: usize = 20;

type Failure = Box<dyn Error + Send + Sync>;
type Client = RerankerServiceClient<MeshChannel>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [library, bundle, calls, numbers @ ..] = arguments.as_slice() else {
        println!("rerank: nothing to measure; compare.py runs this with a bundle");
        return Ok(());
    };
    let number = |at: usize| numbers.get(at).map_or(Ok(1), |text: &String| text.parse());
    let (threads, callers) = (number(0)?, number(1)?);
    let calls = read_calls(Path::new(calls))?;
    let app = open(Path::new(library), Path::new(bundle), threads)?;
    let client = serve(&app).await?;
    let report = measure(&app, &client, calls, threads, callers).await?;
    println!("{report}");
    Ok(())
}

fn read_calls(file: &Path) -> Result<Vec<RerankRequest>, Failure> {
    let text = std::fs::read_to_string(file)?;
    let call = |line: &str| -> Result<RerankRequest, Failure> {
        let call: Value = serde_json::from_str(line)?;
        Ok(RerankRequest {
            query: serde_json::from_value(call["query"].clone())?,
            passages: serde_json::from_value(call["passages"].clone())?,
            ..RerankRequest::default()
        })
    };
    text.lines().map(call).collect()
}

fn open(library: &Path, bundle: &Path, threads: usize) -> Result<Arc<App>, Failure> {
    let raw = RawConfig {
        queue_passages: 100_000,
        ..RawConfig::default()
    };
    let config: Config = raw.validate("cross_encoder", &mut Problems::default());
    Ok(App::start(
        &config,
        CrossEncoder::open(library, bundle, threads)?,
    ))
}

/// Serves on a free port until the runtime ends.
async fn serve(app: &Arc<App>) -> Result<Client, Failure> {
    let mut builder = ServerBuilder::new(ServerLimits::default());
    app.add_to(&mut builder);
    let server = builder.build(search_proto::FILE_DESCRIPTOR_SET)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(server.serve(listener, std::future::pending()));
    Ok(RerankerServiceClient::new(MeshChannel::tcp(&address)?))
}

async fn measure(
    app: &App,
    client: &Client,
    calls: Vec<RerankRequest>,
    threads: usize,
    callers: usize,
) -> Result<Value, Failure> {
    for call in calls.iter().take(WARM_UP_CALLS) {
        client.clone().rerank(call.clone()).await?;
    }
    let mut alone_ms = Vec::new();
    for call in calls.iter().cycle().take(ALONE_CALLS) {
        let started = Instant::now();
        client.clone().rerank(call.clone()).await?;
        alone_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    alone_ms.sort_by(f64::total_cmp);
    let (before, started) = (app.stats(), Instant::now());
    all(client, calls, callers).await?;
    let (after, seconds) = (app.stats(), started.elapsed().as_secs_f64());
    let passages = after.passages - before.passages;
    let (tokens, padding) = (
        after.tokens - before.tokens,
        after.padding_tokens - before.padding_tokens,
    );
    let model_seconds = (after.model_time - before.model_time).as_secs_f64();
    Ok(json!({
        "threads": threads,
        "callers": callers,
        "passages_per_second": passages as f64 / seconds,
        "tokens_per_second": tokens as f64 / seconds,
        "passages_per_batch": passages as f64 / (after.batches - before.batches) as f64,
        "padding_share": padding as f64 / (tokens + padding) as f64,
        "runtime_share": model_seconds / seconds / threads as f64,
        "call_alone_p50_ms": alone_ms[alone_ms.len() / 2],
        "call_alone_p95_ms": alone_ms[alone_ms.len() * 95 / 100],
    }))
}

async fn all(client: &Client, calls: Vec<RerankRequest>, callers: usize) -> Result<(), Failure> {
    let left = Arc::new(Mutex::new(VecDeque::from(calls)));
    let next = |left: &Mutex<VecDeque<RerankRequest>>| left.lock().ok()?.pop_front();
    let callers = (0..callers).map(|_| {
        let (mut client, left) = (client.clone(), Arc::clone(&left));
        tokio::spawn(async move {
            while let Some(call) = next(&left) {
                client.rerank(call).await?;
            }
            Ok::<_, Failure>(())
        })
    });
    for caller in futures::future::join_all(callers).await {
        caller??;
    }
    Ok(())
}
