//! A mesh with indexed token vectors, what its scorer should answer, and services of its own making.

use std::collections::BTreeMap;
use std::path::PathBuf;

use colbert_scorer::{App, Config, RawConfig};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use search_core::Address;
use search_proto::FILE_DESCRIPTOR_SET;
use search_proto::colbert::colbert_scorer_service_client::ColbertScorerServiceClient;
use search_proto::colbert::{MatchRequest, QueryTokens, ScoreRequest, ScoreResponse};
use search_proto::common::Snapshot;
use segment::colbert::{ColbertPart, TokenCoder};
use segment::documents::Documents;
use segment::manifest::{Manifest, SegmentEntry};
use segment::store::Store;
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel, Problems, ServerBuilder, ServerLimits};
use testkit::corpus::Document;
use testkit::{COLLECTION, HashEncoder, Hosted, Mesh, MeshOptions};
use vector_math::{Rotation, TokenQuery};

pub(crate) type Client = ColbertScorerServiceClient<MeshChannel>;

/// A standard deviation of .0027 per cosine, and up to 32 of them.
pub(crate) const FLOAT_TOLERANCE: f32 = 0.06;

/// Documents of 1 to 60 seeded words.
pub(crate) fn documents(count: usize) -> Vec<Document> {
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let mut text = || {
        let length = random.random_range(1..=60);
        let words: Vec<String> = (0..length)
            .map(|_| format!("w{}", random.random_range(0..400)))
            .collect();
        words.join(" ")
    };
    (0..count)
        .map(|number| Document::new(format!("d{number:04}"), "", text()))
        .collect()
}

pub(crate) fn options(dimensions: usize) -> MeshOptions {
    MeshOptions {
        stages: ["sparse", "dense", "colbert"].map(str::to_owned).to_vec(),
        encoder: std::sync::Arc::new(HashEncoder::new(dimensions)),
        ..MeshOptions::default()
    }
}

/// An indexed collection, read as the service reads it.
pub(crate) struct World {
    pub(crate) mesh: Mesh,
    pub(crate) encoder: HashEncoder,
    texts: BTreeMap<String, String>,
}

/// A passage that the collection has, deleted or not.
pub(crate) struct Stored {
    pub(crate) address: Address,
    pub(crate) shard: u32,
    pub(crate) id: String,
    pub(crate) text: String,
}

impl World {
    /// Indexes documents with encoders of this width.
    pub(crate) async fn start(
        dimensions: usize,
        options: MeshOptions,
        documents: &[Document],
    ) -> Self {
        let texts = documents
            .iter()
            .map(|document| (document.id.clone(), document.text.clone()));
        Self {
            mesh: Mesh::start_with(options, documents).await.unwrap(),
            encoder: HashEncoder::new(dimensions),
            texts: texts.collect(),
        }
    }

    /// The smallest: one shard, two segments, tokens that are stored as they are.
    pub(crate) async fn small(documents: &[Document]) -> Self {
        let options = MeshOptions {
            runs: 2,
            ..options(64)
        };
        Self::start(64, options, documents).await
    }

    /// The same over what is stored, in services that are started anew.
    pub(crate) async fn restarted(self) -> Self {
        let mesh = self.mesh.restart().await.unwrap();
        Self { mesh, ..self }
    }

    pub(crate) fn client(&self) -> Client {
        client(self.mesh.colbert[0].channel())
    }

    pub(crate) fn store(&self) -> Store {
        Store::local(self.mesh.store_folder()).unwrap()
    }

    pub(crate) async fn manifest(&self) -> Manifest {
        let store = self.store();
        let latest = store.latest_manifest(&COLLECTION.parse().unwrap()).await;
        latest.unwrap().unwrap()
    }

    pub(crate) async fn snapshot(&self) -> Option<Snapshot> {
        Some(Snapshot {
            collection: COLLECTION.to_owned(),
            number: self.manifest().await.number,
        })
    }

    /// All passages of all segments, in their order.
    pub(crate) async fn passages(&self) -> Vec<Stored> {
        let (store, manifest) = (self.store(), self.manifest().await);
        let mut all = Vec::new();
        for entry in &manifest.segments {
            let files = store.part_files(&manifest.collection, entry, "documents");
            let documents = Documents::open(&files.await.unwrap()).unwrap();
            all.extend((0..entry.passages).map(|ordinal| {
                let id = documents.document_id_of(ordinal).unwrap().to_owned();
                Stored {
                    address: Address::new(entry.number, ordinal),
                    shard: entry.shard,
                    text: self.texts[&id].clone(),
                    id,
                }
            }));
        }
        all
    }

    pub(crate) fn tokens(&self, text: &str) -> Vec<Vec<f32>> {
        let words = text.split_whitespace();
        words.map(|word| self.encoder.vector(word)).collect()
    }

    pub(crate) fn query(&self, text: &str) -> QueryTokens {
        use inference::TextEncoder;
        QueryTokens {
            dimensions: self.encoder.info().token_dimensions as u32,
            vectors: self.tokens(text).concat(),
            encoder_fingerprint: self.encoder.info().fingerprint.clone(),
        }
    }

    /// Asks for passages of shard 0 of the newest snapshot.
    pub(crate) async fn request(&self, query: &str, addresses: Vec<u64>) -> ScoreRequest {
        ScoreRequest {
            snapshot: self.snapshot().await,
            query: Some(self.query(query)),
            addresses,
            shard: 0,
        }
    }

    pub(crate) async fn score(&self, query: &str, addresses: Vec<u64>) -> ScoreResponse {
        let request = self.request(query, addresses).await;
        self.client().score(request).await.unwrap().into_inner()
    }

    /// Asks the same for matches.
    pub(crate) async fn match_request(&self, query: &str, addresses: Vec<u64>) -> MatchRequest {
        let request = self.request(query, addresses).await;
        MatchRequest {
            snapshot: request.snapshot,
            query: request.query,
            addresses: request.addresses,
            shard: request.shard,
        }
    }

    /// The coder of the collection, made of what is stored.
    pub(crate) async fn coder(&self) -> TokenCoder {
        let manifest = self.manifest().await;
        let rotation = match &manifest.token_rotation {
            Some(file) => {
                let path = self.store().local_file(&manifest.collection, file).await;
                let bytes = std::fs::read(path.unwrap()).unwrap();
                Some(Rotation::from_bytes(&bytes).unwrap())
            }
            None => None,
        };
        TokenCoder::new(manifest.settings.colbert.as_ref().unwrap(), rotation).unwrap()
    }

    /// What the kernel says to the stored codes of a passage.
    pub(crate) async fn kernel_score(&self, query: &str, address: Address) -> f32 {
        let (manifest, coder) = (self.manifest().await, self.coder().await);
        let numbered = |entry: &&SegmentEntry| entry.number == address.segment();
        let entry = manifest.segments.iter().find(numbered).unwrap();
        let store = self.store();
        let files = store
            .part_files(&manifest.collection, entry, "colbert")
            .await;
        let settings = manifest.settings.colbert.as_ref().unwrap();
        let part = ColbertPart::open(&files.unwrap(), settings, entry.passages).unwrap();
        let query = coder.project(&self.query(query).vectors).unwrap().vectors;
        let query = TokenQuery::new(coder.layout(), &query).unwrap();
        let blocks = part.passage(address.ordinal()).unwrap();
        part.rows()
            .score_while(&query, &[blocks], |_| true)
            .unwrap()[0]
    }

    /// Flips a bit of a stored file of a segment's colbert part.
    pub(crate) async fn damage(&self, segment: usize, name: &str) {
        let manifest = self.manifest().await;
        let files = &manifest.segments[segment].parts["colbert"];
        let file = files.iter().find(|file| file.path.ends_with(name)).unwrap();
        let collections = self.mesh.store_folder().join("collections");
        let path: PathBuf = collections.join(COLLECTION).join(&file.path);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
}

/// MaxSim by three loops.
pub(crate) fn float_score(query: &[Vec<f32>], passage: &[Vec<f32>]) -> f32 {
    let dot =
        |left: &[f32], right: &[f32]| -> f32 { left.iter().zip(right).map(|(l, r)| l * r).sum() };
    query
        .iter()
        .map(|token| passage.iter().map(|other| dot(token, other)))
        .filter_map(|cosines| cosines.max_by(f32::total_cmp))
        .sum()
}

pub(crate) fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| score.to_bits()).collect()
}

pub(crate) fn client(channel: MeshChannel) -> Client {
    Client::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// A scorer of its own over a store, once it has looked at it.
pub(crate) async fn serve(store: Store, raw: RawConfig, encoders: Vec<MeshChannel>) -> Hosted {
    let mut problems = Problems::default();
    let config: Config = raw.validate("colbert_scorer", &mut problems);
    let app = App::start(config, store, encoders).unwrap();
    app.readiness().wait().await;
    let mut server = ServerBuilder::new(ServerLimits::default());
    app.add_to(&mut server);
    Hosted::start("colbert", server.build(FILE_DESCRIPTOR_SET).unwrap())
}
