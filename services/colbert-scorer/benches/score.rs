//! How long a request for scores takes through the real service, over loopback TCP, transport and all: 32 query tokens against passages of
//! 120 tokens of 96 dimensions, one request after the other.
//!
//! ```text
//! cargo bench -p colbert-scorer --bench score
//! ```
//!
//! Words are seeded and independent, so that every passage is cold and none is like another. Prints the median and the 95th percentile of
//! what the caller waits, and the median of what the service says it computed.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use colbert_scorer::{App, Config};
use inference::TextEncoder;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use search_core::Address;
use search_proto::FILE_DESCRIPTOR_SET;
use search_proto::colbert::colbert_scorer_service_client::ColbertScorerServiceClient;
use search_proto::colbert::{QueryTokens, ScoreRequest};
use search_proto::common::Snapshot;
use segment::store::Store;
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel, ServerBuilder, ServerLimits};
use testkit::corpus::Document;
use testkit::{COLLECTION, HashEncoder, Mesh, MeshOptions};
use tokio::net::TcpListener;

const PASSAGES: u32 = 10_000;
const PASSAGE_TOKENS: usize = 120;
const QUERY_TOKENS: usize = 32;
const DIMENSIONS: usize = 96;
const VOCABULARY: u32 = 20_000;
const SEED: u64 = 12;
/// Requests before anything is measured.
const WARM_UP: usize = 50;
const REQUESTS: usize = 1000;

type Failure = Box<dyn Error + Send + Sync>;
type Client = ColbertScorerServiceClient<MeshChannel>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("score: nothing is measured without --bench");
        return Ok(());
    }
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let encoder = HashEncoder::new(DIMENSIONS);
    let mesh = Mesh::start_with(options(&encoder), &documents(&mut random)).await?;
    let mut client = serve(Store::local(mesh.store_folder())?).await?;
    for candidates in [100, 1000] {
        let mut measure = Measure::default();
        for request in 0..WARM_UP + REQUESTS {
            let question = question(&encoder, candidates, &mut random);
            let started = Instant::now();
            let answer = client.score(question).await?.into_inner();
            let waited = started.elapsed();
            if answer.scores.len() != candidates || !answer.unknown.is_empty() {
                return Err("a passage was not scored".into());
            }
            if request >= WARM_UP {
                let computed = answer.timing.unwrap_or_default().compute_us;
                measure.add(waited, Duration::from_micros(computed));
            }
        }
        println!("{candidates} candidates: {}", measure.report());
    }
    Ok(())
}

fn options(encoder: &HashEncoder) -> MeshOptions {
    MeshOptions {
        stages: vec!["sparse".to_owned(), "colbert".to_owned()],
        encoder: Arc::new(encoder.clone()),
        ..MeshOptions::default()
    }
}

fn words(count: usize, random: &mut ChaCha8Rng) -> String {
    let words: Vec<String> = (0..count)
        .map(|_| format!("w{}", random.random_range(0..VOCABULARY)))
        .collect();
    words.join(" ")
}

fn documents(random: &mut ChaCha8Rng) -> Vec<Document> {
    (0..PASSAGES)
        .map(|number| Document::new(format!("d{number:05}"), "", words(PASSAGE_TOKENS, random)))
        .collect()
}

async fn serve(store: Store) -> Result<Client, Failure> {
    let app = App::start(Config::default(), store, Vec::new())?;
    app.readiness().wait().await;
    let mut server = ServerBuilder::new(ServerLimits::default());
    app.add_to(&mut server);
    let server = server.build(FILE_DESCRIPTOR_SET)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(server.serve(listener, std::future::pending()));
    let client = ColbertScorerServiceClient::new(MeshChannel::tcp(&address)?);
    Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES))
}

fn question(encoder: &HashEncoder, candidates: usize, random: &mut ChaCha8Rng) -> ScoreRequest {
    let query = words(QUERY_TOKENS, random);
    let vectors = query
        .split_whitespace()
        .flat_map(|word| encoder.vector(word));
    let addresses = (0..candidates).map(|_| Address::new(0, random.random_range(0..PASSAGES)));
    ScoreRequest {
        snapshot: Some(Snapshot {
            collection: COLLECTION.to_owned(),
            number: 1,
        }),
        query: Some(QueryTokens {
            dimensions: DIMENSIONS as u32,
            vectors: vectors.collect(),
            encoder_fingerprint: encoder.info().fingerprint.clone(),
        }),
        addresses: addresses.map(Address::to_u64).collect(),
        shard: 0,
    }
}

#[derive(Default)]
struct Measure {
    waited: Vec<Duration>,
    computed: Vec<Duration>,
}

impl Measure {
    fn add(&mut self, waited: Duration, computed: Duration) {
        self.waited.push(waited);
        self.computed.push(computed);
    }

    fn report(mut self) -> String {
        let [p50, p95] = [50, 95].map(|percent| percentile(&mut self.waited, percent));
        let computed = percentile(&mut self.computed, 50);
        format!("p50 {p50:.2?}, p95 {p95:.2?}; computed p50 {computed:.2?}")
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times
        .get(times.len() * percent / 100)
        .copied()
        .unwrap_or_default()
}
