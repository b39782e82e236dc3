//! How fast texts are encoded, and where the time goes.
//!
//! ```text
//! cargo run --release -p inference --example throughput -- MODELS_FOLDER LINES_FILE [THREADS [BATCH_TOKENS]]
//! ```
//!
//! Encodes the lines of a text file as passages in jobs of 512, four in flight as the indexer has them, then single
//! queries one after another, and prints tokens per second, the share of the wall time that all threads spent inside ONNX
//! Runtime, the share of padding, and the latency of a query on the idle machine and behind bulk work.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use inference::pull::{PullOptions, pull};
use inference::{
    BatcherStats, BundleEncoder, EncodeJob, EncoderOptions, OnnxRuntime, Priority, Task,
    TextEncoder,
};
use search_core::Criticality;
use tokio::task::JoinSet;

const JOB_TEXTS: usize = 512;
const JOBS_IN_FLIGHT: usize = 4;
const QUERIES: usize = 200;
const QUERY: &str = "how do I set a deadline on a request";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [models, lines, numbers @ ..] = arguments.as_slice() else {
        return Err("usage: throughput MODELS_FOLDER LINES_FILE [THREADS [BATCH_TOKENS]]".into());
    };
    let numbers: Vec<usize> = numbers
        .iter()
        .map(|number| number.parse())
        .collect::<Result<_, _>>()?;
    let mut options = EncoderOptions::default();
    options.threads = numbers.first().copied().unwrap_or(options.threads);
    options.batch_tokens = numbers.get(1).copied().unwrap_or(options.batch_tokens);

    let installed = pull(&PullOptions::new(PathBuf::from(models)), &mut |_| ())?;
    let before = Instant::now();
    let runtime = OnnxRuntime::on_cpu(&installed.ort_library);
    let encoder = BundleEncoder::open(&runtime, &installed.encoder_bundle, options)?;
    println!(
        "{options:?}, open in {:?}, {} MiB resident",
        before.elapsed(),
        resident_mib()
    );
    let texts: Vec<String> = std::fs::read_to_string(lines)?
        .lines()
        .filter(|line| !line.is_empty())
        .map(Into::into)
        .collect();

    queries("query, idle", &encoder).await?;
    let (start, before) = (encoder.stats(), Instant::now());
    let bulk = tokio::spawn(bulk(encoder.clone(), texts));
    tokio::time::sleep(Duration::from_secs(1)).await;
    queries("query, behind bulk", &encoder).await?;
    bulk.await??;
    report(&start, &encoder.stats(), before.elapsed());
    println!("{} MiB resident", resident_mib());
    Ok(())
}

type EncodeResult = Result<(), inference::EncodeError>;

async fn bulk(encoder: BundleEncoder, texts: Vec<String>) -> EncodeResult {
    let mut running = JoinSet::new();
    for texts in texts.chunks(JOB_TEXTS) {
        let job = job(texts.to_vec(), Task::Passage, Priority::Bulk);
        if running.len() == JOBS_IN_FLIGHT
            && let Some(Ok(done)) = running.join_next().await
        {
            done?;
        }
        let encode = encoder.encode(job);
        running.spawn(async move { encode.await.map(|_| ()) });
    }
    running.join_all().await.into_iter().collect()
}

fn job(texts: Vec<String>, task: Task, priority: Priority) -> EncodeJob {
    EncodeJob {
        texts,
        task,
        with_token_vectors: false,
        priority,
        criticality: Criticality::Critical,
        deadline: None,
    }
}

async fn queries(label: &str, encoder: &BundleEncoder) -> EncodeResult {
    let mut times = Vec::with_capacity(QUERIES);
    for _ in 0..QUERIES {
        let before = Instant::now();
        encoder
            .encode(job(vec![QUERY.into()], Task::Query, Priority::Interactive))
            .await?;
        times.push(before.elapsed());
    }
    times.sort();
    println!(
        "{label}: p50 {:?}, p95 {:?}",
        times[QUERIES / 2],
        times[QUERIES * 95 / 100]
    );
    Ok(())
}

fn report(start: &BatcherStats, end: &BatcherStats, wall: Duration) {
    let tokens = (end.tokens - start.tokens) as f64;
    let padding = (end.padding_tokens - start.padding_tokens) as f64;
    let batches = (end.batches - start.batches) as f64;
    let model = (end.model_time - start.model_time).as_secs_f64();
    let busy = (end.busy_time - start.busy_time).as_secs_f64();
    let available = wall.as_secs_f64() * end.threads as f64;
    println!(
        "{tokens} tokens in {wall:?}: {:.0} tokens/s",
        tokens / wall.as_secs_f64()
    );
    println!(
        "{:.1} tokens a batch, padding {:.2} %",
        tokens / batches,
        100.0 * padding / (tokens + padding)
    );
    println!(
        "threads: {:.2} % of the wall time inside ONNX Runtime, {:.2} % busy",
        100.0 * model / available,
        100.0 * busy / available
    );
}

/// Zero where the system does not tell.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}
