//! What a scorer keeps resident of a mapped shard under load.
//!
//! ```text
//! cargo run --release -p colbert-scorer --example resident_memory -- DATA_FOLDER COLLECTION [SECONDS [CANDIDATES]]
//! ```
//!
//! DATA_FOLDER is what `finemesh index --data` wrote, with the stage colbert. Random requests of 32 query tokens ask for passages of a
//! hundredth of the collection, then of a tenth, then of all of it, so many seconds each. Once a second it prints what the process has
//! resident, by `/proc/self/smaps_rollup`: anonymous memory, which is the process's own, and pages of files, which the kernel may take back
//! at any time. Beside it stands how many bytes of tokens were asked for so far, each passage once. To see a shard that does not fit, run
//! it in a control group with less memory than the shard.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, Instant};

use colbert_scorer::{App, Config};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use search_core::{Address, CollectionName};
use search_proto::FILE_DESCRIPTOR_SET;
use search_proto::colbert::colbert_scorer_service_client::ColbertScorerServiceClient;
use search_proto::colbert::{QueryTokens, ScoreRequest};
use search_proto::common::Snapshot;
use segment::colbert::ColbertPart;
use segment::manifest::Manifest;
use segment::store::Store;
use service_kit::{MeshChannel, ServerBuilder, ServerLimits, in_process};

const QUERY_TOKENS: usize = 32;
const DEFAULT_SECONDS: u64 = 10;
const DEFAULT_CANDIDATES: usize = 100;
const SHARES: [f64; 3] = [0.01, 0.1, 1.0];
const SEED: u64 = 8;
const MIB: f64 = 1024.0 * 1024.0;

type Failure = Box<dyn Error + Send + Sync>;
type Client = ColbertScorerServiceClient<MeshChannel>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, collection, numbers @ ..] = arguments.as_slice() else {
        return Err("resident_memory DATA_FOLDER COLLECTION [SECONDS [CANDIDATES]]".into());
    };
    let seconds = numbers
        .first()
        .map_or(Ok(DEFAULT_SECONDS), |text| text.parse())?;
    let candidates = numbers
        .get(1)
        .map_or(Ok(DEFAULT_CANDIDATES), |text| text.parse())?;
    let store = Store::local(folder.as_ref())?;
    let mut load = Load::new(&store, collection.parse()?, candidates).await?;
    println!("before the shard is loaded: {}", Resident::now()?);
    let mut client = serve(store).await?;
    println!(
        "{:.0} MiB of tokens are mapped: {}",
        load.mapped_bytes() / MIB,
        Resident::now()?
    );
    println!("share  second  requests  asked MiB  anonymous MiB  files MiB");
    for share in SHARES {
        run(&mut client, &mut load, share, seconds).await?;
    }
    Ok(())
}

async fn run(
    client: &mut Client,
    load: &mut Load,
    share: f64,
    seconds: u64,
) -> Result<(), Failure> {
    let (started, mut requests, mut printed) = (Instant::now(), 0, 0);
    while printed < seconds {
        let request = load.request(share);
        let asked = request.addresses.len();
        let answer = client.score(request).await?.into_inner();
        if answer.scores.len() != asked {
            return Err("a request without a deadline was cut short".into());
        }
        requests += 1;
        if started.elapsed() >= Duration::from_secs(printed + 1) {
            printed += 1;
            let Resident { anonymous, files } = Resident::now()?;
            let asked = load.asked_bytes / MIB;
            println!(
                "{share:5}  {printed:6}  {requests:8}  {asked:9.0}  {anonymous:13.0}  {files:9.0}"
            );
        }
    }
    Ok(())
}

/// What is asked, and what was.
struct Load {
    manifest: Manifest,
    parts: Vec<(u32, ColbertPart)>,
    candidates: usize,
    random: ChaCha8Rng,
    asked: BTreeSet<Address>,
    asked_bytes: f64,
}

impl Load {
    async fn new(
        store: &Store,
        collection: CollectionName,
        candidates: usize,
    ) -> Result<Self, Failure> {
        let manifest = store.latest_manifest(&collection).await?;
        let manifest = manifest.ok_or("the folder has no such collection")?;
        let settings = manifest.settings.colbert.as_ref();
        let settings = settings.ok_or("the collection has no stage colbert")?;
        let mut parts = Vec::new();
        for entry in manifest.segments.iter().filter(|entry| entry.shard == 0) {
            let files = store.part_files(&collection, entry, "colbert").await?;
            let part = ColbertPart::open(&files, settings, entry.passages)?;
            parts.push((entry.number, part));
        }
        if parts.is_empty() {
            return Err("the collection is empty".into());
        }
        Ok(Self {
            manifest,
            parts,
            candidates,
            random: ChaCha8Rng::seed_from_u64(SEED),
            asked: BTreeSet::new(),
            asked_bytes: 0.0,
        })
    }

    fn mapped_bytes(&self) -> f64 {
        let bytes = |part: &ColbertPart| part.rows().blocks() * part.layout().block_bytes();
        self.parts.iter().map(|(_, part)| bytes(part) as f64).sum()
    }

    /// Random passages of the first ones of each segment.
    fn request(&mut self, share: f64) -> ScoreRequest {
        let addresses: Vec<u64> = (0..self.candidates)
            .map(|_| self.address(share).to_u64())
            .collect();
        let settings = self.manifest.settings.colbert.clone();
        let width = settings.map_or(0, |settings| settings.token_dimensions);
        let vectors = QUERY_TOKENS * width as usize;
        ScoreRequest {
            snapshot: Some(Snapshot {
                collection: self.manifest.collection.to_string(),
                number: self.manifest.number,
            }),
            query: Some(QueryTokens {
                dimensions: width,
                vectors: (0..vectors)
                    .map(|_| self.random.random_range(-1.0..1.0))
                    .collect(),
                encoder_fingerprint: self.manifest.colbert_fingerprint().to_owned(),
            }),
            addresses,
            shard: 0,
        }
    }

    fn address(&mut self, share: f64) -> Address {
        let (number, part) = &self.parts[self.random.random_range(0..self.parts.len())];
        let passages = (f64::from(part.passages()) * share).ceil() as u32;
        let ordinal = self.random.random_range(0..passages.max(1));
        let address = Address::new(*number, ordinal);
        let blocks = part.passage(ordinal).map_or(0, |blocks| blocks.len());
        if self.asked.insert(address) {
            self.asked_bytes += (blocks * part.layout().block_bytes()) as f64;
        }
        address
    }
}

async fn serve(store: Store) -> Result<Client, Failure> {
    let app = App::start(Config::default(), store, Vec::new())?;
    app.readiness().wait().await;
    let mut server = ServerBuilder::new(ServerLimits::default());
    app.add_to(&mut server);
    let server = server.build(FILE_DESCRIPTOR_SET)?;
    let (listener, channel) = in_process("colbert-scorer");
    tokio::spawn(server.serve_in_process(listener, std::future::pending()));
    Ok(ColbertScorerServiceClient::new(channel))
}

/// Resident memory of this process, MiB.
struct Resident {
    anonymous: f64,
    files: f64,
}

impl Resident {
    fn now() -> Result<Self, Failure> {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
        let mib = |name: &str| -> Result<f64, Failure> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next());
            let kib: f64 = kib.ok_or("smaps_rollup lacks a line")?.parse()?;
            Ok(kib / 1024.0)
        };
        let (all, anonymous) = (mib("Rss:")?, mib("Anonymous:")?);
        Ok(Self {
            anonymous,
            files: all - anonymous,
        })
    }
}

impl std::fmt::Display for Resident {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { anonymous, files } = self;
        write!(
            formatter,
            "{anonymous:.0} MiB anonymous, {files:.0} MiB of files"
        )
    }
}
