//! A second encoder through every service: its vectors are made in the run that makes the others, its query vector beside the
//! retrieval, and its scores change the head of the ranking and nothing else.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use orchestrator::{RawHeadPart, RawPipeline, RawStage};
use search_proto::index::IndexSettings;
use search_proto::search::{Hit, SearchRequest, SearchResponse, StageReason, StageStatus};
use testkit::corpus::{Document, wordy};
use testkit::{HashEncoder, Mesh, MeshOptions, request};
use tonic::Code;

const WINDOW: u32 = 6;
const WEIGHT: f64 = 0.5;

fn first() -> HashEncoder {
    HashEncoder::new(64)
}

/// Of another width, and knows that a feline is a cat.
fn second() -> HashEncoder {
    HashEncoder::named("knowing", 96).with_synonyms(&[("feline", "cat"), ("rug", "mat")])
}

fn options(stages: &[&str], rescorer: Option<HashEncoder>) -> MeshOptions {
    let pipeline = |weight| RawPipeline {
        stages: vec![RawStage::Sparse, RawStage::Dense],
        rescore: Some(RawHeadPart::new(WINDOW, weight)),
        ..RawPipeline::default()
    };
    let mut options = MeshOptions {
        stages: stages.iter().map(ToString::to_string).collect(),
        encoder: Arc::new(first()),
        rescorer: rescorer.map(|rescorer| Arc::new(rescorer) as Arc<_>),
        ..MeshOptions::default()
    };
    let pipelines = &mut options.orchestrator.pipelines;
    pipelines.insert("blended".to_owned(), pipeline(WEIGHT));
    pipelines.insert("replaced".to_owned(), pipeline(1.0));
    options
}

const ALL: [&str; 3] = ["sparse", "dense", "rescore"];

/// One document says it in words that only the second encoder understands; the rest is noise around it.
fn documents() -> Vec<Document> {
    let mut documents = wordy(40);
    documents.extend([
        Document::new(
            "words",
            "",
            "cat mat cat mat nothing else of any interest to anybody",
        ),
        Document::new("meaning", "", "the feline sat on the rug"),
        Document::new("half", "", "the cat sat on a chair beside the mat"),
    ]);
    documents
}

/// A mesh with both encoders, and a collection of these stages.
async fn started(stages: &[&str]) -> Mesh {
    let options = options(stages, Some(second()));
    Mesh::start_with(options, &documents()).await.unwrap()
}

const QUERY: &str = "the cat sat on the mat";

fn asked(pipeline: &str) -> SearchRequest {
    SearchRequest {
        pipeline: pipeline.to_owned(),
        k: Some(100),
        explain: true,
        ..request(QUERY)
    }
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.id.as_str()).collect()
}

fn outcome(answer: &SearchResponse, stage: &str) -> (StageStatus, StageReason) {
    let report = answer.stages.iter().find(|report| report.stage == stage);
    let report = report.unwrap();
    (report.status(), report.reason())
}

fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let products = left.iter().zip(right).map(|(left, right)| left * right);
    products.map(f64::from).sum()
}

/// What the second encoder says of a hit, by its text.
fn second_opinion(hit: &Hit) -> f64 {
    let text = format!("{} {}", hit.title, hit.text);
    cosine(&second().vector(QUERY), &second().vector(text.trim()))
}

#[tokio::test]
async fn the_second_encoder_decides_the_head_and_only_the_head() {
    let mesh = started(&ALL).await;
    let plain = mesh.ask(asked("hybrid")).await.unwrap();
    let (head, rest) = plain.hits.split_at(WINDOW as usize);
    assert!(
        ids(head).contains(&"meaning") && head[0].id != "meaning",
        "{:?}",
        ids(head)
    );
    let replaced = mesh.ask(asked("replaced")).await.unwrap();
    assert!(!replaced.degraded, "{:#?}", replaced.stages);
    assert_eq!(replaced.hits[0].id, "meaning");
    assert_eq!(&replaced.hits[WINDOW as usize..], rest);
    let mut expected: Vec<(f64, &str)> = head
        .iter()
        .map(|hit| (second_opinion(hit), hit.id.as_str()))
        .collect();
    expected.sort_by(|left, right| right.0.total_cmp(&left.0));
    let found = &replaced.hits[..WINDOW as usize];
    assert_eq!(
        ids(found),
        expected.iter().map(|(_, id)| *id).collect::<Vec<_>>()
    );
    for hit in found {
        let own = hit
            .trail
            .iter()
            .find(|entry| entry.stage == "rescore")
            .unwrap();
        assert!((own.raw - second_opinion(hit)).abs() < 0.01, "{hit:#?}");
        let sum: f64 = hit.trail.iter().map(|entry| entry.contribution).sum();
        assert_eq!(sum, hit.score);
    }
}

#[tokio::test]
async fn a_blend_lies_between_both() {
    let mesh = started(&ALL).await;
    let plain = mesh.ask(asked("hybrid")).await.unwrap();
    let replaced = mesh.ask(asked("replaced")).await.unwrap();
    let blended = mesh.ask(asked("blended")).await.unwrap();
    let score = |answer: &SearchResponse, id: &str| {
        let hit = answer.hits.iter().find(|hit| hit.id == id);
        hit.unwrap().score
    };
    for hit in &blended.hits[..WINDOW as usize] {
        let between = WEIGHT * score(&replaced, &hit.id) + (1.0 - WEIGHT) * score(&plain, &hit.id);
        assert!((hit.score - between).abs() < 1e-9, "{hit:#?}");
    }
    assert_eq!(
        blended.hits[WINDOW as usize..],
        plain.hits[WINDOW as usize..]
    );
}

#[tokio::test]
async fn shards_replicas_and_segments_change_no_rescored_score() {
    let mut answers = Vec::new();
    for (shards, runs, replicas) in [
        (1, 1, vec![vec![]]),
        (3, 2, vec![vec![0, 1], vec![1, 2], vec![2, 0]]),
    ] {
        let options = MeshOptions {
            shards,
            runs,
            replicas,
            // Fitted on the first run's documents, the rotation depends on how they came.
            encoder: Arc::new(first().with_matryoshka_dimensions(&[32, 64])),
            ..options(&ALL, Some(second()))
        };
        let mesh = Mesh::start_with(options, &documents()).await.unwrap();
        let answer = mesh.ask(asked("blended")).await.unwrap();
        assert!(!answer.degraded);
        let hits = answer.hits.into_iter();
        answers.push(hits.map(|hit| (hit.id, hit.score)).collect::<Vec<_>>());
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn what_is_replaced_or_deleted_is_so_for_the_rescorer_too() {
    let mesh = started(&ALL).await;
    let newer = Document::new("half", "", "the feline sat on the mat");
    mesh.index(&[newer]).await.unwrap();
    mesh.delete(&["meaning"]).await.unwrap();
    mesh.refresh().await;
    let answer = mesh.ask(asked("replaced")).await.unwrap();
    assert!(!answer.degraded, "{:#?}", answer.stages);
    let own = answer.hits[0]
        .trail
        .iter()
        .find(|entry| entry.stage == "rescore");
    assert_eq!(answer.hits[0].id, "half");
    assert!(own.unwrap().raw > 0.99, "{own:?}");
    assert!(!ids(&answer.hits).contains(&"meaning"));
}

#[tokio::test]
async fn a_collection_without_its_vectors_is_answered_without_it() {
    let mesh = started(&[]).await;
    let plain = mesh.ask(asked("hybrid")).await.unwrap();
    let answer = mesh.ask(asked("replaced")).await.unwrap();
    assert_eq!(answer.hits, plain.hits);
    assert!(answer.degraded);
    let skipped = (StageStatus::Skipped, StageReason::NotIndexed);
    assert_eq!(outcome(&answer, "rescore"), skipped);
}

#[tokio::test]
async fn a_mesh_without_the_second_bundle_says_so_and_refuses_to_index() {
    let with = started(&ALL).await;
    let without = with.restart_with(|options| options.rescorer = None);
    let mesh = without.await.unwrap();
    let plain = mesh.ask(asked("hybrid")).await.unwrap();
    let answer = mesh.ask(asked("replaced")).await.unwrap();
    assert_eq!(answer.hits, plain.hits);
    let skipped = (StageStatus::Skipped, StageReason::ModelMismatch);
    assert_eq!(outcome(&answer, "rescore"), skipped);
    let status = mesh.index(&documents()[..1]).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(
        status.message().contains("knowing-96") && status.message().contains("none"),
        "{status}"
    );
    // Nor does another one fit.
    let other = mesh
        .restart_with(|options| options.rescorer = Some(Arc::new(HashEncoder::named("other", 96))));
    let mesh = other.await.unwrap();
    let status = mesh.index(&documents()[..1]).await.unwrap_err();
    assert!(
        status.message().contains("knowing-96") && status.message().contains("other-96"),
        "{status}"
    );
    let settings = IndexSettings {
        collection: "new".to_owned(),
        stages: vec!["sparse".to_owned(), "rescore".to_owned()],
        ..IndexSettings::default()
    };
    let refused = mesh.index_lines(settings, Vec::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(
        refused.message().contains("must include dense"),
        "{refused}"
    );
}

#[tokio::test]
async fn damaged_vectors_for_rescoring_are_left_out_and_it_is_said() {
    let options = MeshOptions {
        runs: 2,
        ..options(&ALL, Some(second()))
    };
    let mesh = Mesh::start_with(options, &documents()).await.unwrap();
    let whole = mesh.ask(asked("replaced")).await.unwrap();
    assert!(!whole.degraded);
    let segments = mesh
        .store_folder()
        .join("collections")
        .join(testkit::COLLECTION)
        .join("segments");
    let mut folders: Vec<_> = std::fs::read_dir(segments)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    let file = folders[1].join("rescore/prefix.i8");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mesh = mesh.restart().await.unwrap();
    let plain = mesh.ask(asked("hybrid")).await.unwrap();
    assert!(!plain.degraded, "{:#?}", plain.stages);
    let answer = mesh.ask(asked("replaced")).await.unwrap();
    let partial = (StageStatus::Partial, StageReason::DamagedSegment);
    assert_eq!(outcome(&answer, "rescore"), partial);
    let scored = answer
        .hits
        .iter()
        .filter(|hit| hit.trail.iter().any(|entry| entry.stage == "rescore"));
    assert!(scored.count() < WINDOW as usize);
}
