//! A collection in a folder, and a sparse retriever that serves it inside the process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use search_core::{CollectionName, shard_of};
use search_proto::FILE_DESCRIPTOR_SET;
use search_proto::common::Snapshot;
use search_proto::sparse::sparse_retriever_service_client::SparseRetrieverServiceClient;
use segment::attributes::AttributesWriter;
use segment::bitmap::Bitmap;
use segment::documents::{Document, DocumentsWriter};
use segment::manifest::{
    CollectionSettings, Manifest, SegmentEntry, Stage, segment_folder, snapshot_folder,
};
use segment::sparse::{SparseBuilder, SparseIndex, Statistics, StatisticsBuilder};
use segment::store::{PartFiles, Store};
use service_kit::{MeshChannel, ServerBuilder, ServerLimits, in_process};
use sparse_retriever::{App, Config};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A document of the tests: its metadata is `{"length": passages}`.
#[derive(Clone)]
pub(crate) struct Doc {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) passages: Vec<String>,
}

pub(crate) fn doc(id: &str, title: &str, passages: &[&str]) -> Doc {
    Doc {
        id: id.to_owned(),
        title: title.to_owned(),
        passages: passages.iter().map(|text| (*text).to_owned()).collect(),
    }
}

/// A collection and its latest manifest.
pub(crate) struct Collection {
    pub(crate) name: CollectionName,
    pub(crate) store: Store,
    pub(crate) manifest: Manifest,
    pub(crate) folder: TempDir,
}

impl Collection {
    pub(crate) fn new(shards: u32) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::local(folder.path()).unwrap();
        let name: CollectionName = "test".parse().unwrap();
        let settings = CollectionSettings {
            shards,
            stages: vec![Stage::Sparse],
            passage_tokens: 200,
            overlap_tokens: 20,
            language: "english".to_owned(),
            encoder: None,
            dense: None,
            rescore: None,
            colbert: None,
        };
        Self {
            manifest: Manifest::empty(name.clone(), settings),
            name,
            store,
            folder,
        }
    }

    /// Commits the documents, sorted by id, in `segments` new segments of each shard.
    pub(crate) async fn commit(&mut self, documents: &[Doc], segments: usize) {
        let mut next = self.manifest.next();
        let scratch = TempDir::new().unwrap();
        let mut built = Vec::new();
        for shard in 0..next.settings.shards {
            for part in 0..segments {
                let here = documents
                    .iter()
                    .filter(|doc| shard_of(&doc.id, next.settings.shards) == shard);
                let here: Vec<_> = here
                    .enumerate()
                    .filter(|(place, _)| place % segments == part)
                    .map(|(_, doc)| doc)
                    .collect();
                if !here.is_empty() {
                    let folder = scratch.path().join(next.next_segment.to_string());
                    built.push(self.add_segment(&mut next, shard, &here, &folder).await);
                }
            }
        }
        let previous = match &next.statistics {
            Some(file) => Some(
                Statistics::open(&self.store.local_file(&self.name, file).await.unwrap()).unwrap(),
            ),
            None => None,
        };
        let file = scratch.path().join("statistics.fst");
        StatisticsBuilder::new("english")
            .unwrap()
            .finish(previous.as_ref(), &built, &file)
            .unwrap();
        let path = format!("{}/statistics.fst", snapshot_folder(next.number, "run"));
        next.statistics = Some(
            self.store
                .upload_file(&self.name, &file, &path)
                .await
                .unwrap(),
        );
        self.store.commit(&next).await.unwrap();
        self.manifest = next;
    }

    async fn add_segment(
        &self,
        next: &mut Manifest,
        shard: u32,
        docs: &[&Doc],
        folder: &Path,
    ) -> SparseIndex {
        for part in ["documents", "attributes", "sparse"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        let mut documents = DocumentsWriter::new(&folder.join("documents")).unwrap();
        let mut attributes = AttributesWriter::new(&folder.join("attributes"));
        let mut sparse = SparseBuilder::new(&folder.join("sparse"), "english").unwrap();
        for doc in docs {
            let metadata = serde_json::json!({"length": doc.passages.len()});
            next.attributes
                .observe(metadata.as_object().unwrap())
                .unwrap();
            attributes.push(metadata.as_object().unwrap()).unwrap();
            documents.push(&stored(doc, metadata.to_string())).unwrap();
            doc.passages
                .iter()
                .for_each(|text| sparse.push(&doc.title, text).unwrap());
        }
        let counts = (documents.documents(), documents.passages());
        documents.finish().unwrap();
        attributes.finish().unwrap();
        sparse.finish().unwrap();
        let mut parts = BTreeMap::new();
        for part in ["documents", "attributes", "sparse"] {
            let target = format!("{}/{part}", segment_folder(next.next_segment, "run"));
            let files = self
                .store
                .upload_dir(&self.name, &folder.join(part), &target)
                .await
                .unwrap();
            parts.insert(part.to_owned(), files);
        }
        next.segments.push(SegmentEntry {
            number: next.next_segment,
            shard,
            documents: counts.0,
            passages: counts.1,
            deleted_passages: 0,
            parts,
            deletes: None,
        });
        next.next_segment += 1;
        SparseIndex::open(&PartFiles::of_folder(&folder.join("sparse")).unwrap()).unwrap()
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

    /// The newest snapshot, as requests name it.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        Some(Snapshot {
            collection: self.name.to_string(),
            number: self.manifest.number,
        })
    }
}

fn stored(doc: &Doc, metadata_json: String) -> Document {
    Document {
        id: doc.id.clone(),
        title: doc.title.clone(),
        metadata_json,
        passages: doc.passages.clone(),
    }
}

pub(crate) type Client = SparseRetrieverServiceClient<MeshChannel>;

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
        let (listener, channel) = in_process("sparse");
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
