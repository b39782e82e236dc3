//! A collection in a folder, and a dense retriever that serves it inside the process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dense_retriever::{App, Config};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use search_core::{CollectionName, shard_of};
use search_proto::FILE_DESCRIPTOR_SET;
use search_proto::common::Snapshot;
use search_proto::dense::dense_retriever_service_client::DenseRetrieverServiceClient;
use segment::attributes::AttributesWriter;
use segment::bitmap::Bitmap;
use segment::dense::DenseWriter;
use segment::documents::{Document, Documents, DocumentsWriter};
use segment::manifest::{
    CollectionSettings, DenseSettings, EncoderSettings, Manifest, SegmentEntry, Stage,
    segment_folder, snapshot_folder,
};
use segment::store::Store;
use service_kit::{MeshChannel, ServerBuilder, ServerLimits, in_process};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use vector_math::{Rotation, VectorCoder};

pub(crate) const WIDTH: usize = 40;
pub(crate) const FINGERPRINT: &str = "fingerprint-of-the-tests";
pub(crate) const RESCORE_FINGERPRINT: &str = "fingerprint-of-the-second-bundle";
/// The second bundle's vectors are wider.
const RESCORE_WIDTH: usize = WIDTH + 8;

/// A document with one passage; its metadata is `{"number": …}`.
pub(crate) struct Doc {
    pub(crate) id: String,
    pub(crate) number: usize,
    pub(crate) vector: Vec<f32>,
}

/// What the second bundle makes of the text of which the first makes this.
pub(crate) fn rescore_vector(vector: &[f32]) -> Vec<f32> {
    let squares = vector
        .iter()
        .rev()
        .map(|value| value.signum() * value.powi(2));
    squares.chain([0.25; RESCORE_WIDTH - WIDTH]).collect()
}

/// Vectors around a few centres.
pub(crate) fn docs(count: usize) -> Vec<Doc> {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut vector = |spread: f32| {
        (0..WIDTH)
            .map(|_| spread * random.random_range(-1.0..1.0))
            .collect::<Vec<f32>>()
    };
    let centres: Vec<_> = (0..6).map(|_| vector(1.0)).collect();
    let doc = |number: usize| Doc {
        id: format!("d{number:05}"),
        number,
        vector: centres[number % 6]
            .iter()
            .zip(vector(0.8))
            .map(|(centre, noise)| centre + noise)
            .collect(),
    };
    (0..count).map(doc).collect()
}

/// A collection and its latest manifest.
pub(crate) struct Collection {
    pub(crate) name: CollectionName,
    pub(crate) store: Store,
    pub(crate) manifest: Manifest,
    pub(crate) folder: TempDir,
    coder: Option<VectorCoder>,
}

impl Collection {
    pub(crate) fn new(shards: u32, rotated: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::local(folder.path()).unwrap();
        let name: CollectionName = "test".parse().unwrap();
        let dense = DenseSettings {
            dimensions: WIDTH as u32,
            prefix_dimensions: 16,
            prefix_depth: 100,
            rotated,
            rotation_sample: 5000,
            graph_min_passages: 100_000,
        };
        let settings = CollectionSettings {
            shards,
            stages: vec![Stage::Sparse, Stage::Dense],
            passage_tokens: 200,
            overlap_tokens: 20,
            language: "english".to_owned(),
            encoder: Some(EncoderSettings {
                fingerprint: FINGERPRINT.to_owned(),
                dimensions: WIDTH as u32,
            }),
            dense: Some(dense),
            rescore: None,
            colbert: None,
        };
        Self {
            manifest: Manifest::empty(name.clone(), settings),
            name,
            store,
            folder,
            coder: None,
        }
    }

    /// The same with the vectors of a second bundle.
    pub(crate) fn with_rescoring(shards: u32) -> Self {
        let mut collection = Self::new(shards, false);
        let settings = &mut collection.manifest.settings;
        settings.stages.push(Stage::Rescore);
        settings.rescore = Some(EncoderSettings {
            fingerprint: RESCORE_FINGERPRINT.to_owned(),
            dimensions: RESCORE_WIDTH as u32,
        });
        collection
    }

    /// Names of a segment's parts.
    fn parts(&self) -> Vec<&'static str> {
        let stages = self
            .manifest
            .settings
            .stages
            .iter()
            .map(|stage| stage.as_str());
        ["documents", "attributes"]
            .into_iter()
            .chain(stages)
            .collect()
    }

    /// Commits the documents, sorted by id, in `segments` new segments of each shard.
    pub(crate) async fn commit(&mut self, docs: &[Doc], segments: usize) {
        let mut next = self.manifest.next();
        self.make_coder(&mut next, docs).await;
        let statistics = format!("{}/statistics.fst", snapshot_folder(next.number, "run"));
        let statistics = self
            .store
            .upload_bytes(
                &self.name,
                &statistics,
                b"not for this stage".as_slice().into(),
            )
            .await;
        next.statistics = Some(statistics.unwrap());
        for shard in 0..next.settings.shards {
            let of_shard: Vec<&Doc> = docs
                .iter()
                .filter(|doc| shard_of(&doc.id, next.settings.shards) == shard)
                .collect();
            for part in 0..segments {
                let here: Vec<&Doc> = of_shard
                    .iter()
                    .skip(part)
                    .step_by(segments)
                    .copied()
                    .collect();
                if !here.is_empty() {
                    self.add_segment(&mut next, shard, &here).await;
                }
            }
        }
        self.store.commit(&next).await.unwrap();
        self.manifest = next;
    }

    async fn make_coder(&mut self, next: &mut Manifest, docs: &[Doc]) {
        let dense = next.settings.dense.clone().unwrap();
        let mut rotation = None;
        if dense.rotated {
            let samples: Vec<f32> = docs.iter().flat_map(|doc| doc.vector.clone()).collect();
            let fitted =
                Rotation::fit(&samples, WIDTH, WIDTH, dense.prefix_dimensions as usize, 3).unwrap();
            let path = format!("{}/rotation.bin", snapshot_folder(next.number, "run"));
            let file = self
                .store
                .upload_bytes(&self.name, &path, fitted.to_bytes().into())
                .await
                .unwrap();
            next.rotation = Some(file);
            rotation = Some(fitted);
        }
        let prefix = dense.prefix_dimensions as usize;
        self.coder = Some(VectorCoder::new(rotation, WIDTH, WIDTH, prefix).unwrap());
    }

    async fn add_segment(&self, next: &mut Manifest, shard: u32, docs: &[&Doc]) {
        let scratch = TempDir::new().unwrap();
        self.write_parts(scratch.path(), next, docs);
        let mut parts = BTreeMap::new();
        for part in self.parts() {
            let target = format!("{}/{part}", segment_folder(next.next_segment, "run"));
            let files = self
                .store
                .upload_dir(&self.name, &scratch.path().join(part), &target)
                .await
                .unwrap();
            parts.insert(part.to_owned(), files);
        }
        let count = docs.len() as u32;
        let (number, deletes) = (next.next_segment, None);
        let counts = SegmentEntry {
            number,
            shard,
            documents: count,
            passages: count,
            deleted_passages: 0,
            parts,
            deletes,
        };
        next.segments.push(counts);
        next.next_segment += 1;
    }

    fn write_parts(&self, folder: &Path, next: &mut Manifest, docs: &[&Doc]) {
        self.parts()
            .into_iter()
            .for_each(|part| std::fs::create_dir(folder.join(part)).unwrap());
        std::fs::write(folder.join("sparse/postings"), "not for this stage").unwrap();
        let mut documents = DocumentsWriter::new(&folder.join("documents")).unwrap();
        let mut attributes = AttributesWriter::new(&folder.join("attributes"));
        let mut dense =
            DenseWriter::new(&folder.join("dense"), next.settings.dense.as_ref().unwrap()).unwrap();
        for doc in docs {
            let metadata = serde_json::json!({"number": doc.number});
            next.attributes
                .observe(metadata.as_object().unwrap())
                .unwrap();
            attributes.push(metadata.as_object().unwrap()).unwrap();
            documents.push(&stored(doc, metadata.to_string())).unwrap();
            dense
                .push(&self.coder.as_ref().unwrap().prepare(&doc.vector).unwrap())
                .unwrap();
        }
        documents.finish().unwrap();
        attributes.finish().unwrap();
        dense.finish().unwrap();
        if next.settings.rescore.is_some() {
            write_rescore(&folder.join("rescore"), docs);
        }
    }

    /// Commits the deletion of some passages of the segment at this place.
    pub(crate) async fn delete(&mut self, place: usize, ordinals: &[u32]) {
        let mut next = self.manifest.next();
        let number = next.number;
        let entry = &mut next.segments[place];
        let mut deletes = Bitmap::new(entry.passages);
        ordinals.iter().for_each(|ordinal| deletes.set(*ordinal));
        let path = format!(
            "{}/deletes-{}.bin",
            snapshot_folder(number, "run"),
            entry.number
        );
        let content = deletes.to_bytes().into();
        entry.deletes = Some(
            self.store
                .upload_bytes(&self.name, &path, content)
                .await
                .unwrap(),
        );
        entry.deleted_passages = deletes.count();
        self.store.commit(&next).await.unwrap();
        self.manifest = next;
    }

    /// Flips a bit of a stored file.
    pub(crate) fn damage(&self, place: usize, part: &str, name: &str) {
        let files = &self.manifest.segments[place].parts[part];
        let file = files.iter().find(|file| file.path.ends_with(name)).unwrap();
        let path = self.folder.path().join("collections/test").join(&file.path);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }

    /// The newest snapshot, as requests name it.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        Some(Snapshot {
            collection: self.name.to_string(),
            number: self.manifest.number,
        })
    }

    /// Document ids of addresses.
    pub(crate) async fn ids(&self, addresses: &[u64]) -> Vec<String> {
        let mut ids = Vec::new();
        for address in addresses {
            let entry = self
                .manifest
                .segments
                .iter()
                .find(|entry| u64::from(entry.number) == address >> 32)
                .unwrap();
            let files = self
                .store
                .part_files(&self.name, entry, "documents")
                .await
                .unwrap();
            let documents = Documents::open(&files).unwrap();
            ids.push(
                documents
                    .document_id_of(*address as u32)
                    .unwrap()
                    .to_owned(),
            );
        }
        ids
    }
}

fn write_rescore(folder: &Path, docs: &[&Doc]) {
    let settings = DenseSettings::scored_only(RESCORE_WIDTH as u32);
    let mut writer = DenseWriter::new(folder, &settings).unwrap();
    let coder = VectorCoder::new(None, RESCORE_WIDTH, RESCORE_WIDTH, RESCORE_WIDTH).unwrap();
    for doc in docs {
        let coded = coder.prepare(&rescore_vector(&doc.vector)).unwrap();
        writer.push(&coded).unwrap();
    }
    writer.finish().unwrap();
}

fn stored(doc: &Doc, metadata_json: String) -> Document {
    Document {
        id: doc.id.clone(),
        title: String::new(),
        metadata_json,
        passages: vec![doc.id.clone()],
    }
}

pub(crate) type Client = DenseRetrieverServiceClient<MeshChannel>;

/// A served retriever; dropping it ends the server.
pub(crate) struct Served {
    pub(crate) app: Arc<App>,
    pub(crate) client: Client,
    server: JoinHandle<()>,
}

impl Served {
    pub(crate) async fn start(store: &Store, config: Config) -> Self {
        let app = App::start(config, store.clone()).unwrap();
        app.readiness().wait().await;
        let mut server = ServerBuilder::new(ServerLimits::default());
        app.add_to(&mut server);
        let server = server.build(FILE_DESCRIPTOR_SET).unwrap();
        let (listener, channel) = in_process("dense");
        let serving = async move {
            server
                .serve_in_process(listener, std::future::pending())
                .await
                .unwrap()
        };
        Self {
            app,
            client: Client::new(channel),
            server: tokio::spawn(serving),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}
