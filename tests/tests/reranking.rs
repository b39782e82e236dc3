//! The pipeline `full` through every service: the head that the retrievers found is read by a cross-encoder, batch by batch, and what
//! it says changes the head of the ranking and nothing else. What the cross-encoder thinks is written down here.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use orchestrator::{RawHeadPart, RawPipeline, RawStage};
use search_proto::search::{
    DescribeRequest, Hit, ScoreTrail, SearchRequest, SearchResponse, StageReason, StageReport,
    StageStatus,
};
use testkit::corpus::{Document, wordy};
use testkit::{Judge, Mesh, MeshOptions, request};

const QUERY: &str = "deadline recall search";
/// Of the pipeline `decided`.
const DEFAULT_WINDOW: usize = 50;
const WINDOW: usize = 8;

/// A mesh with this cross-encoder, and beside `full` a pipeline in which it decides alone about fewer documents.
fn options(judge: Option<Judge>) -> MeshOptions {
    let mut options = MeshOptions {
        judge,
        ..MeshOptions::default()
    };
    let decided = RawPipeline {
        stages: vec![RawStage::Sparse, RawStage::Dense],
        rerank: Some(RawHeadPart {
            window: Some(WINDOW as u32),
            weight: Some(1.0),
            ..RawHeadPart::default()
        }),
        ..RawPipeline::default()
    };
    options
        .orchestrator
        .pipelines
        .insert("decided".to_owned(), decided);
    options
}

async fn started(judge: Judge) -> Mesh {
    Mesh::start_with(options(Some(judge)), &wordy(60))
        .await
        .unwrap()
}

fn asked(pipeline: &str) -> SearchRequest {
    SearchRequest {
        pipeline: pipeline.to_owned(),
        k: Some(100),
        explain: true,
        ..request(QUERY)
    }
}

/// What says nothing of how good an answer is, so that it is at odds with the retrievers.
fn whim(text: &str) -> f32 {
    let hash = text.bytes().fold(7_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    (hash % 1000) as f32 / 100.0 - 5.0
}

fn whimsical() -> Judge {
    Judge::new(|query, passage| {
        assert_eq!(query, QUERY);
        whim(passage)
    })
}

/// As the cross-encoder gets it.
fn read_text(hit: &Hit) -> String {
    format!("{} {}", hit.title, hit.text).trim().to_owned()
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.id.as_str()).collect()
}

fn report<'a>(answer: &'a SearchResponse, stage: &str) -> &'a StageReport {
    let report = answer.stages.iter().find(|report| report.stage == stage);
    report.unwrap()
}

fn outcome(answer: &SearchResponse) -> (StageStatus, StageReason) {
    let report = report(answer, "rerank");
    (report.status(), report.reason())
}

fn reading(hit: &Hit) -> Option<&ScoreTrail> {
    hit.trail.iter().find(|entry| entry.stage == "rerank")
}

#[tokio::test]
async fn the_cross_encoder_decides_the_head_and_only_the_head() {
    let mesh = started(whimsical()).await;
    let plain = mesh.ask(asked("hybrid")).await.unwrap();
    let answer = mesh.ask(asked("decided")).await.unwrap();
    assert!(!answer.degraded, "{:#?}", answer.stages);
    let (head, rest) = answer.hits.split_at(WINDOW);
    assert_eq!(rest, &plain.hits[WINDOW..]);
    let mut expected: Vec<&Hit> = plain.hits[..WINDOW].iter().collect();
    expected.sort_by(|left, right| whim(&read_text(right)).total_cmp(&whim(&read_text(left))));
    let expected: Vec<&str> = expected.into_iter().map(|hit| hit.id.as_str()).collect();
    assert_eq!(ids(head), expected);
    assert_ne!(
        ids(head),
        ids(&plain.hits[..WINDOW]),
        "it is of another opinion"
    );
}

#[tokio::test]
async fn the_trail_says_what_was_read_and_the_report_how_long_it_took() {
    let mesh = started(whimsical()).await;
    let answer = mesh.ask(asked("full")).await.unwrap();
    assert!(!answer.degraded, "{:#?}", answer.stages);
    let read: Vec<&Hit> = answer
        .hits
        .iter()
        .filter(|hit| reading(hit).is_some())
        .collect();
    assert_eq!(
        ids(&answer.hits[..DEFAULT_WINDOW]),
        read.iter().map(|hit| &*hit.id).collect::<Vec<_>>()
    );
    for hit in read {
        let entry = reading(hit).unwrap();
        let text = read_text(hit);
        assert_eq!(entry.raw, f64::from(whim(&text)));
        let reading = entry.reading.unwrap();
        // A character is a token, and one stands between query and passage.
        assert_eq!(
            reading.tokens as usize,
            QUERY.len() + 1 + text.chars().count()
        );
        let logistic = 1.0 / (1.0 + (-entry.raw).exp());
        assert!((reading.calibrated - logistic).abs() < 1e-6, "{entry:?}");
        let sum: f64 = hit.trail.iter().map(|entry| entry.contribution).sum();
        assert!((sum - hit.score).abs() < 1e-9, "{hit:#?}");
    }
    let rerank = report(&answer, "rerank");
    assert_eq!((rerank.candidates_in, rerank.candidates_out), (50, 50));
    assert!(
        rerank.queue_us + rerank.compute_us <= rerank.wall_us,
        "{rerank:?}"
    );
}

#[tokio::test]
async fn shards_replicas_and_segments_change_no_reranked_score() {
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
            encoder: Arc::new(testkit::HashEncoder::new(64).with_matryoshka_dimensions(&[32, 64])),
            ..options(Some(whimsical()))
        };
        let mesh = Mesh::start_with(options, &wordy(60)).await.unwrap();
        let answer = mesh.ask(asked("full")).await.unwrap();
        assert!(!answer.degraded, "{:#?}", answer.stages);
        let hits = answer.hits.into_iter();
        answers.push(hits.map(|hit| (hit.id, hit.score)).collect::<Vec<_>>());
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn it_reads_what_the_snapshot_holds() {
    let mesh = started(Judge::new(|_, passage| {
        if passage.contains("violin") {
            5.0
        } else {
            -5.0
        }
    }))
    .await;
    let before = mesh.ask(asked("decided")).await.unwrap();
    let last = before.hits[WINDOW - 1].id.clone();
    let newer = Document::new(&last, "", format!("{QUERY} played on the violin"));
    mesh.index(&[newer]).await.unwrap();
    mesh.delete(&[&before.hits[0].id]).await.unwrap();
    mesh.refresh().await;
    let answer = mesh.ask(asked("decided")).await.unwrap();
    assert_eq!(answer.hits[0].id, last);
    assert!(!ids(&answer.hits).contains(&before.hits[0].id.as_str()));
}

/// A judge that hangs over one passage until the sender is dropped.
fn hanging_over(text: String) -> (Judge, Sender<()>) {
    let (gate, gated) = channel::<()>();
    let gated = Mutex::new(gated);
    let judge = Judge::new(move |_, passage| {
        if passage == text {
            // The end of the test.
            let _ = gated.lock().unwrap().recv();
        }
        whim(passage)
    });
    (judge, gate)
}

#[tokio::test]
async fn when_the_time_is_up_what_was_read_counts_and_the_rest_stays_below_in_its_order() {
    let mesh = started(whimsical()).await;
    let plain = mesh.ask(asked("hybrid")).await.unwrap();
    let (judge, gate) = hanging_over(read_text(&plain.hits[12]));
    let mesh = mesh.restart_with(|options| options.judge = Some(judge));
    let mesh = mesh.await.unwrap();
    let in_time = SearchRequest {
        budget_ms: Some(2000),
        ..asked("full")
    };
    let answer = mesh.ask(in_time).await.unwrap();
    assert!(answer.degraded);
    assert_eq!(
        outcome(&answer),
        (StageStatus::Partial, StageReason::Deadline)
    );
    let read = report(&answer, "rerank").candidates_out as usize;
    assert!((1..DEFAULT_WINDOW).contains(&read), "{read}");
    let is_read = |hit: &&Hit| reading(hit).is_some();
    assert_eq!(answer.hits.iter().filter(is_read).count(), read);
    // What was not read is in its earlier order.
    let unread = |hits: &[Hit]| -> Vec<String> {
        let read: Vec<&Hit> = answer.hits.iter().filter(is_read).collect();
        let hits = hits
            .iter()
            .filter(|hit| read.iter().all(|read| read.id != hit.id));
        hits.map(|hit| hit.id.clone()).collect()
    };
    assert_eq!(unread(&answer.hits), unread(&plain.hits));
    assert_eq!(answer.hits.len(), plain.hits.len());
    drop(gate);
}

#[tokio::test]
async fn without_a_cross_encoder_full_is_hybrid_and_says_so() {
    let mesh = Mesh::start_with(options(None), &wordy(60)).await.unwrap();
    let plain = mesh.ask(asked("hybrid")).await.unwrap();
    let answer = mesh.ask(asked("full")).await.unwrap();
    assert_eq!(answer.hits, plain.hits);
    assert_eq!(
        outcome(&answer),
        (StageStatus::Skipped, StageReason::NotConfigured)
    );
    let offered = |mesh: &Mesh| {
        let mut client = mesh.search_client();
        async move {
            let described = client.describe(DescribeRequest {}).await.unwrap();
            let pipelines = described.into_inner().pipelines;
            pipelines.iter().any(|pipeline| pipeline.name == "full")
        }
    };
    assert!(!offered(&mesh).await);
    assert!(offered(&started(whimsical()).await).await);
}

#[tokio::test]
async fn a_cross_encoder_that_dies_or_talks_nonsense_costs_its_scores_only() {
    let mut mesh = started(whimsical()).await;
    let plain = mesh.ask(asked("hybrid")).await.unwrap();
    mesh.cross_encoder.as_mut().unwrap().kill().await;
    let answer = mesh.ask(asked("full")).await.unwrap();
    assert_eq!(answer.hits, plain.hits);
    assert_eq!(
        outcome(&answer),
        (StageStatus::Failed, StageReason::Unavailable)
    );

    for nonsense in [f32::NAN, f32::INFINITY] {
        let judge = Judge::new(move |_, _| nonsense);
        mesh = mesh
            .restart_with(|options| options.judge = Some(judge))
            .await
            .unwrap();
        let answer = mesh.ask(asked("full")).await.unwrap();
        assert_eq!(answer.hits, plain.hits);
        assert_eq!(outcome(&answer), (StageStatus::Failed, StageReason::Fault));
    }
}
