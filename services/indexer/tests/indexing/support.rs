//! A stand-in for the encoder, and a view of a collection that is compared with what should be in it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indexer::source::LineBatch;
use indexer::{
    Config, Encoders, Event, IndexError, IndexSettings, Indexer, RawConfig, StageSettings, Summary,
};
use inference::{BoxFuture, EncodeError, EncodeJob, Encoded, EncoderInfo, Task, TextEncoder};
use search_core::{CollectionName, shard_of};
use segment::SegmentError;
use segment::attributes::Attributes;
use segment::bitmap::Bitmap;
use segment::colbert::{ColbertPart, TokenCoder};
use segment::dense::DensePart;
use segment::documents::Documents;
use segment::index_text;
use segment::manifest::{ATTRIBUTES, DOCUMENTS, DenseSettings, Manifest, SegmentEntry, Stage};
use segment::store::Store;
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};
use vector_math::{Rotation, TokenQuery, VectorCoder};

pub(crate) const DIMENSIONS: usize = 16;
/// Width of the second encoder's vectors.
pub(crate) const RESCORE_DIMENSIONS: usize = 24;

/// Words are tokens; a text's vector counts its words, hashed into a few dimensions.
pub(crate) struct WordEncoder {
    info: EncoderInfo,
    /// Texts encoded so far.
    pub(crate) texts: AtomicUsize,
    /// From this many texts on, jobs never end.
    pub(crate) hangs_after: usize,
    /// Told when a job hangs.
    pub(crate) hanging: Notify,
    /// Those of the last job.
    pub(crate) last_texts: Mutex<Vec<String>>,
}

/// Words that the encoder refuses: when a text is cut, when it is encoded, by a vector without a direction, and by a token that
/// has none.
pub(crate) const UNSPLITTABLE: &str = "unsplittable";
pub(crate) const UNENCODABLE: &str = "unencodable";
pub(crate) const WITHOUT_DIRECTION: &str = "directionless";
pub(crate) const DIRECTIONLESS_TOKEN: &str = "vectorless";

fn refused(index: usize) -> EncodeError {
    let reason = "is refused".to_owned();
    EncodeError::InvalidText { index, reason }
}

impl WordEncoder {
    pub(crate) fn new() -> Self {
        Self {
            info: EncoderInfo {
                name: "words".into(),
                fingerprint: "words-1".into(),
                dimensions: DIMENSIONS,
                token_dimensions: 0,
                max_tokens: 256,
                matryoshka_dimensions: Vec::new(),
            },
            texts: AtomicUsize::new(0),
            hangs_after: usize::MAX,
            hanging: Notify::new(),
            last_texts: Mutex::default(),
        }
    }

    pub(crate) fn with_fingerprint(fingerprint: &str) -> Self {
        Self::new().named(fingerprint)
    }

    /// The same under another fingerprint.
    pub(crate) fn named(mut self, fingerprint: &str) -> Self {
        self.info.fingerprint = fingerprint.into();
        self
    }

    /// A second encoder, of other vectors.
    pub(crate) fn rescorer() -> Self {
        let mut encoder = Self::with_fingerprint("words-wide");
        encoder.info.dimensions = RESCORE_DIMENSIONS;
        encoder
    }

    /// With token vectors, and sentence vectors of this width.
    pub(crate) fn with_tokens(dimensions: usize, token_dimensions: usize) -> Self {
        let mut encoder = Self::with_fingerprint("words-tokens");
        encoder.info.dimensions = dimensions;
        encoder.info.token_dimensions = token_dimensions;
        encoder
    }

    pub(crate) fn hanging_after(texts: usize) -> Self {
        Self {
            hangs_after: texts,
            ..Self::new()
        }
    }
}

/// No second encoder.
pub(crate) fn alone(first: WordEncoder) -> Encoders {
    Encoders::from(Arc::new(first) as Arc<dyn TextEncoder>)
}

pub(crate) fn vector_of(text: &str, dimensions: usize) -> Vec<f32> {
    if text.contains(WITHOUT_DIRECTION) {
        return vec![0.0; dimensions];
    }
    let mut vector = vec![0.01; dimensions];
    for word in text.split_whitespace() {
        vector[shard_of(word, dimensions as u32) as usize] += 1.0;
    }
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / norm).collect()
}

/// One for each word.
pub(crate) fn token_vectors_of(text: &str, dimensions: usize) -> Vec<f32> {
    let of_word = |word| match word {
        DIRECTIONLESS_TOKEN => vec![0.0; dimensions],
        word => vector_of(word, dimensions),
    };
    text.split_whitespace().flat_map(of_word).collect()
}

impl TextEncoder for WordEncoder {
    fn info(&self) -> &EncoderInfo {
        &self.info
    }

    fn token_spans(&self, text: &str) -> Result<Vec<Range<usize>>, EncodeError> {
        if text.contains(UNSPLITTABLE) {
            return Err(refused(0));
        }
        let start_of = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
        Ok(text
            .split_whitespace()
            .map(|word| start_of(word)..start_of(word) + word.len())
            .collect())
    }

    fn tokens(
        &self,
        texts: Vec<String>,
        _: Task,
    ) -> BoxFuture<Result<Vec<Vec<String>>, EncodeError>> {
        let words = |text: &String| text.split_whitespace().map(str::to_owned).collect();
        let tokens = texts.iter().map(words).collect();
        Box::pin(std::future::ready(Ok(tokens)))
    }

    fn encode(&self, job: EncodeJob) -> BoxFuture<Result<Encoded, EncodeError>> {
        let before = self.texts.fetch_add(job.texts.len(), Ordering::SeqCst);
        if before + job.texts.len() > self.hangs_after {
            self.hanging.notify_one();
            return Box::pin(std::future::pending());
        }
        if let Some(index) = job.texts.iter().position(|text| text.contains(UNENCODABLE)) {
            return Box::pin(std::future::ready(Err(refused(index))));
        }
        self.last_texts.lock().unwrap().clone_from(&job.texts);
        let encoded = Encoded {
            vectors: job
                .texts
                .iter()
                .flat_map(|text| vector_of(text, self.info.dimensions))
                .collect(),
            token_vectors: job.with_token_vectors.then(|| {
                let width = self.info.token_dimensions;
                let texts = job.texts.iter();
                texts.map(|text| token_vectors_of(text, width)).collect()
            }),
            tokens: job
                .texts
                .iter()
                .map(|text| text.split_whitespace().count() as u32 + 2)
                .collect(),
            truncated_texts: 0,
            queue: Duration::ZERO,
            compute: Duration::from_millis(1),
            model: Duration::from_millis(1),
            threads: 1,
        };
        Box::pin(async move { Ok(encoded) })
    }
}

/// A store in a temporary folder, and indexers over it.
pub(crate) struct Place {
    pub(crate) root: TempDir,
    pub(crate) temporary: TempDir,
    pub(crate) store: Store,
}

impl Place {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::local(root.path()).unwrap();
        Self {
            root,
            temporary: tempfile::tempdir().unwrap(),
            store,
        }
    }

    pub(crate) fn config(&self, change: impl FnOnce(&mut RawConfig)) -> Config {
        let mut raw = RawConfig {
            passage_tokens: 16,
            overlap_tokens: 2,
            prefix_dimensions: 4,
            temporary_folder: self.temporary.path().to_owned(),
            ..RawConfig::default()
        };
        change(&mut raw);
        let mut problems = service_kit::Problems::default();
        let config = raw.validate("indexer", &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        config
    }

    pub(crate) fn indexer(&self) -> Indexer {
        self.indexer_with(WordEncoder::new(), |_| {})
    }

    pub(crate) fn indexer_with(
        &self,
        encoder: WordEncoder,
        change: impl FnOnce(&mut RawConfig),
    ) -> Indexer {
        Indexer::new(self.config(change), self.store.clone(), alone(encoder))
    }

    pub(crate) fn rescoring_indexer(&self, rescorer: Option<WordEncoder>) -> Indexer {
        let encoders = Encoders {
            rescorer: rescorer.map(|rescorer| Arc::new(rescorer) as Arc<dyn TextEncoder>),
            ..alone(WordEncoder::new())
        };
        Indexer::new(self.config(|_| {}), self.store.clone(), encoders)
    }

    pub(crate) fn indexer_and_encoder(&self) -> (Arc<WordEncoder>, Indexer) {
        self.indexer_and_its(WordEncoder::new())
    }

    pub(crate) fn indexer_and_its(&self, encoder: WordEncoder) -> (Arc<WordEncoder>, Indexer) {
        let encoder = Arc::new(encoder);
        let encoders = Encoders::from(encoder.clone() as Arc<dyn TextEncoder>);
        let indexer = Indexer::new(self.config(|_| {}), self.store.clone(), encoders);
        (encoder, indexer)
    }

    pub(crate) async fn manifest(&self) -> Manifest {
        self.store.latest_manifest(&name()).await.unwrap().unwrap()
    }

    pub(crate) async fn number(&self) -> u64 {
        self.store
            .latest_manifest(&name())
            .await
            .unwrap()
            .map_or(0, |manifest| manifest.number)
    }

    /// Nothing of a run may stay behind in the folder for temporary files.
    pub(crate) fn assert_no_temporary_files(&self) {
        let left: Vec<_> = std::fs::read_dir(self.temporary.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub(crate) fn name() -> CollectionName {
    "c".parse().unwrap()
}

pub(crate) fn settings() -> IndexSettings {
    IndexSettings::new(name())
}

pub(crate) fn line(id: &str, title: &str, text: &str) -> String {
    serde_json::json!({ "_id": id, "title": title, "text": text, "metadata": { "words": text.split(' ').count() } })
        .to_string()
}

pub(crate) fn batch(lines: &[String]) -> LineBatch {
    LineBatch {
        file: "test.jsonl".into(),
        first_line: 1,
        lines: lines.iter().map(|line| line.as_bytes().to_vec()).collect(),
    }
}

/// Runs and returns the events too.
pub(crate) async fn index(
    indexer: &Indexer,
    settings: IndexSettings,
    lines: &[String],
) -> (Result<Summary, IndexError>, Vec<Event>) {
    let (sender, mut receiver) = mpsc::channel(4);
    let collect = async {
        let mut events = Vec::new();
        while let Some(event) = receiver.recv().await {
            events.push(event);
        }
        events
    };
    let batches = futures::stream::iter(lines.chunks(3).enumerate().map(|(n, lines)| {
        let first_line = n as u64 * 3 + 1;
        Ok::<_, IndexError>(LineBatch {
            first_line,
            ..batch(lines)
        })
    }));
    tokio::join!(indexer.index(settings, Box::pin(batches), sender), collect)
}

pub(crate) async fn index_ok(
    indexer: &Indexer,
    settings: IndexSettings,
    lines: &[String],
) -> Summary {
    index(indexer, settings, lines).await.0.unwrap()
}

pub(crate) fn stages(stages: &[Stage]) -> StageSettings {
    StageSettings {
        collection: name(),
        stages: stages.to_vec(),
    }
}

/// Changes the stages and returns the events too.
pub(crate) async fn set_stages(
    indexer: &Indexer,
    wishes: &[Stage],
) -> (Result<Summary, IndexError>, Vec<Event>) {
    let (sender, mut receiver) = mpsc::channel(4);
    let collect = async {
        let mut events = Vec::new();
        while let Some(event) = receiver.recv().await {
            events.push(event);
        }
        events
    };
    tokio::join!(indexer.set_stages(stages(wishes), sender), collect)
}

pub(crate) async fn set_stages_ok(indexer: &Indexer, wishes: &[Stage]) -> Summary {
    set_stages(indexer, wishes).await.0.unwrap()
}

/// What a collection should hold: title and text by id.
pub(crate) type Model = BTreeMap<String, (String, String)>;

/// Reads a whole collection back, checking on the way that its parts fit together.
pub(crate) async fn contents(place: &Place) -> Model {
    let manifest = place.manifest().await;
    let mut found = Model::new();
    for entry in &manifest.segments {
        let documents = Documents::open(
            &place
                .store
                .part_files(&name(), entry, DOCUMENTS)
                .await
                .unwrap(),
        )
        .unwrap();
        let attributes = Attributes::open(
            &place
                .store
                .part_files(&name(), entry, ATTRIBUTES)
                .await
                .unwrap(),
        )
        .unwrap();
        assert_eq!(
            (documents.documents(), documents.passages()),
            (entry.documents, entry.passages)
        );
        assert_eq!(attributes.documents(), entry.documents);
        let deletes = deletes(place, entry).await;
        assert_eq!(deletes.count(), entry.deleted_passages);
        let living = living_passages(&documents, &deletes);
        check_vectors(place, &manifest, entry, &living).await;
        check_rescore(place, &manifest, entry, &living).await;
        check_tokens(place, &manifest, entry, &living).await;
        for document in 0..documents.documents() {
            let id = documents.document_id(document).unwrap();
            assert_eq!(shard_of(id, manifest.settings.shards), entry.shard);
            let passages = documents.passages_of(document).unwrap();
            let deleted = passages
                .clone()
                .filter(|passage| deletes.contains(*passage))
                .count();
            assert!(
                deleted == 0 || deleted == passages.len(),
                "a document is deleted as a whole"
            );
            if deleted == 0 {
                let before = found.insert(id.to_owned(), joined(&documents, passages));
                assert!(before.is_none(), "{id} lives twice");
            }
        }
    }
    found
}

/// Ordinals, and what is indexed there. What was deleted need not be in every part.
fn living_passages(documents: &Documents, deletes: &Bitmap) -> Vec<(u32, String)> {
    let living = (0..documents.passages()).filter(|ordinal| !deletes.contains(*ordinal));
    let text_of = |ordinal| {
        let passage = documents.passage(ordinal).unwrap().unwrap();
        (ordinal, index_text(&passage.title, &passage.text))
    };
    living.map(text_of).collect()
}

/// Each vector is the one of its passage's text, in the collection's rotation.
async fn check_vectors(
    place: &Place,
    manifest: &Manifest,
    entry: &SegmentEntry,
    living: &[(u32, String)],
) {
    let Some(settings) = &manifest.settings.dense else {
        return;
    };
    let files = place
        .store
        .part_files(&name(), entry, Stage::Dense.as_str())
        .await
        .unwrap();
    let part = DensePart::open(&files, settings, entry.passages).unwrap();
    let rotation = place
        .store
        .local_file(&name(), manifest.rotation.as_ref().unwrap())
        .await
        .unwrap();
    let rotation = Rotation::from_bytes(&std::fs::read(rotation).unwrap()).unwrap();
    let width = manifest.settings.encoder.as_ref().unwrap().dimensions as usize;
    let prefix = settings.prefix_dimensions as usize;
    let coder = VectorCoder::new(Some(rotation), width, width, prefix).unwrap();
    check_part(&part, &coder, living);
}

/// The same of the second encoder's vectors, which are not rotated.
async fn check_rescore(
    place: &Place,
    manifest: &Manifest,
    entry: &SegmentEntry,
    living: &[(u32, String)],
) {
    let Some(rescore) = &manifest.settings.rescore else {
        return;
    };
    let collection = name();
    let files = place.store.part_files(&collection, entry, "rescore").await;
    let settings = DenseSettings::scored_only(rescore.dimensions);
    let part = DensePart::open(&files.unwrap(), &settings, entry.passages).unwrap();
    let width = RESCORE_DIMENSIONS;
    let coder = VectorCoder::new(None, width, width, width).unwrap();
    check_part(&part, &coder, living);
}

/// Every token of a passage finds itself there, in the collection's rotation; pooled, something near it.
async fn check_tokens(
    place: &Place,
    manifest: &Manifest,
    entry: &SegmentEntry,
    living: &[(u32, String)],
) {
    let Some(settings) = &manifest.settings.colbert else {
        return;
    };
    let part = colbert_part(place, manifest, entry).await.unwrap();
    let coder = TokenCoder::new(settings, token_rotation(place, manifest).await).unwrap();
    for (ordinal, text) in living {
        let tokens = coder.project(&token_vectors_of(text, coder.width()));
        let tokens = tokens.unwrap();
        let query = TokenQuery::new(part.layout(), &tokens.vectors).unwrap();
        if settings.pooling == 1 {
            let positions = part.positions(*ordinal).unwrap();
            assert_eq!(positions, tokens.positions, "{text}");
        }
        let blocks = [part.passage(*ordinal).unwrap()];
        let score = part.rows().score_while(&query, &blocks, |_| true).unwrap()[0];
        let share = score / query.tokens() as f32;
        let least = if settings.pooling == 1 { 0.99 } else { 0.7 };
        assert!((least..1.01).contains(&share), "{text}: {share}");
    }
}

pub(crate) async fn colbert_part(
    place: &Place,
    manifest: &Manifest,
    entry: &SegmentEntry,
) -> Result<ColbertPart, SegmentError> {
    let part = Stage::Colbert.as_str();
    let files = place.store.part_files(&name(), entry, part).await?;
    let settings = manifest.settings.colbert.as_ref().unwrap();
    ColbertPart::open(&files, settings, entry.passages)
}

async fn token_rotation(place: &Place, manifest: &Manifest) -> Option<Rotation> {
    let file = manifest.token_rotation.as_ref()?;
    let path = place.store.local_file(&name(), file).await.unwrap();
    Some(Rotation::from_bytes(&std::fs::read(path).unwrap()).unwrap())
}

fn check_part(part: &DensePart, coder: &VectorCoder, living: &[(u32, String)]) {
    for (ordinal, text) in living {
        let vector = vector_of(text, coder.width());
        let itself = part
            .rows()
            .score(&coder.query(&vector).unwrap(), *ordinal as usize)
            .unwrap();
        assert!((itself - 1.0).abs() < 1e-3, "{text}: {itself}");
    }
}

pub(crate) async fn deletes(place: &Place, entry: &SegmentEntry) -> Bitmap {
    match &entry.deletes {
        None => Bitmap::new(entry.passages),
        Some(file) => {
            let path = place.store.local_file(&name(), file).await.unwrap();
            Bitmap::from_bytes("deletes", &std::fs::read(path).unwrap()).unwrap()
        }
    }
}

/// Title and text; the words that neighbouring passages share are taken once.
fn joined(documents: &Documents, passages: Range<u32>) -> (String, String) {
    let mut text = String::new();
    let mut title = String::new();
    for ordinal in passages {
        let passage = documents.passage(ordinal).unwrap().unwrap();
        let shared = (0..=passage.text.len().min(text.len()))
            .rev()
            .find(|bytes| {
                passage.text.is_char_boundary(*bytes) && text.ends_with(&passage.text[..*bytes])
            });
        text.push_str(&passage.text[shared.unwrap_or(0)..]);
        title = passage.title;
    }
    (title, text)
}

/// The statistics file of the newest snapshot.
pub(crate) async fn statistics(place: &Place) -> Option<Vec<u8>> {
    let manifest = place.manifest().await;
    let path = place
        .store
        .local_file(&name(), manifest.statistics.as_ref()?)
        .await
        .unwrap();
    Some(std::fs::read(path).unwrap())
}

/// The statistics that these documents have when they are indexed at once, into one segment.
pub(crate) async fn recounted(model: &Model) -> Option<Vec<u8>> {
    let place = Place::new();
    let lines: Vec<String> = model
        .iter()
        .map(|(id, (title, text))| line(id, title, text))
        .collect();
    let mut settings = settings();
    settings.stages = vec![segment::manifest::Stage::Sparse];
    index_ok(&place.indexer(), settings, &lines).await;
    statistics(&place).await
}

pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path))
        } else {
            files.push(path)
        }
    }
    files.sort();
    files
}
