//! What breaks: replicas that die, files that are damaged, runs that are interrupted, committers that race. Nothing
//! crashes, nothing is silent, and what can be answered is.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use search_proto::common::{DescribeRequest, RefusedSegment};
use search_proto::dense::dense_retriever_service_client::DenseRetrieverServiceClient;
use search_proto::index::{
    IndexEvent, IndexProgress, IndexRequest, Lines, index_event, index_request,
};
use search_proto::search::{SearchRequest, SearchResponse, StageReason, StageReport, StageStatus};
use search_proto::sparse::sparse_retriever_service_client::SparseRetrieverServiceClient;
use testkit::corpus::{Document, animals, wordy};
use testkit::{COLLECTION, Mesh, MeshOptions, end_of_lines, request};
use tokio_stream::StreamExt;
use tonic::{Code, Streaming};

fn with_pipeline(query: &str, pipeline: &str) -> SearchRequest {
    SearchRequest {
        pipeline: pipeline.to_owned(),
        k: Some(1000),
        ..request(query)
    }
}

fn stage<'a>(answer: &'a SearchResponse, name: &str) -> &'a StageReport {
    answer
        .stages
        .iter()
        .find(|stage| stage.stage == name)
        .unwrap()
}

fn two_replicas() -> MeshOptions {
    MeshOptions {
        shards: 2,
        replicas: vec![Vec::new(), Vec::new()],
        ..MeshOptions::default()
    }
}

#[tokio::test]
async fn another_replica_answers_for_a_killed_one() {
    let mut mesh = Mesh::start_with(two_replicas(), &animals()).await.unwrap();
    let before = mesh.ask(with_pipeline("the cat", "hybrid")).await.unwrap();
    mesh.sparse[0].kill().await;
    mesh.dense[1].kill().await;
    // In turn, the dead ones are asked too.
    for _ in 0..6 {
        let answer = mesh.ask(with_pipeline("the cat", "hybrid")).await.unwrap();
        assert_eq!(answer.hits, before.hits);
        assert!(!answer.degraded, "{:#?}", answer.stages);
    }
}

#[tokio::test]
async fn without_its_vectors_a_hybrid_answer_is_marked() {
    let mut mesh = Mesh::start_with(two_replicas(), &animals()).await.unwrap();
    for replica in &mut mesh.dense {
        replica.kill().await;
    }
    for known in [false, true] {
        if known {
            mesh.refresh().await;
        }
        let answer = mesh
            .ask(with_pipeline("cat on the mat", "hybrid"))
            .await
            .unwrap();
        assert_eq!(answer.hits[0].id, "cat");
        assert!(answer.degraded);
        let dense = stage(&answer, "dense");
        assert_eq!(
            (dense.status(), dense.reason()),
            (StageStatus::Failed, StageReason::Unavailable),
            "known: {known}"
        );
        assert_eq!(stage(&answer, "sparse").status(), StageStatus::Complete);
        let refused = mesh
            .ask(with_pipeline("cat on the mat", "dense"))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    }
}

#[tokio::test]
async fn without_an_encoder_a_hybrid_answer_is_marked() {
    let mut mesh = Mesh::start(&animals()).await.unwrap();
    mesh.encoder.kill().await;
    let answer = mesh
        .ask(with_pipeline("cat on the mat", "hybrid"))
        .await
        .unwrap();
    assert_eq!(answer.hits[0].id, "cat");
    assert!(answer.degraded);
    assert_eq!(stage(&answer, "encode").status(), StageStatus::Failed);
    assert_eq!(stage(&answer, "encode").reason(), StageReason::Unavailable);
    let refused = mesh
        .ask(with_pipeline("cat on the mat", "dense"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let sparse = mesh
        .ask(with_pipeline("cat on the mat", "sparse"))
        .await
        .unwrap();
    assert!(!sparse.degraded);
}

#[tokio::test]
async fn without_stored_documents_there_is_no_answer() {
    let mut mesh = Mesh::start(&animals()).await.unwrap();
    mesh.sparse[0].kill().await;
    for pipeline in ["sparse", "dense", "hybrid"] {
        let refused = mesh.ask(with_pipeline("cat", pipeline)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{pipeline}: {refused}");
    }
}

#[tokio::test]
async fn a_budget_that_is_spent_is_told_in_time() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let mut asked = tonic::Request::new(request("cat"));
    asked.set_timeout(Duration::from_nanos(1));
    let start = Instant::now();
    let refused = mesh.search_client().search(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// Every file of this folder and those below it.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

async fn refused_segments(mesh: &Mesh) -> Vec<RefusedSegment> {
    let mut sparse = SparseRetrieverServiceClient::new(mesh.sparse[0].channel());
    let mut dense = DenseRetrieverServiceClient::new(mesh.dense[0].channel());
    let sparse = sparse
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    let dense = dense
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    let snapshots = sparse.snapshots.into_iter().chain(dense.snapshots);
    let newest = snapshots.filter(|held| {
        held.snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.number == 2)
    });
    newest.flat_map(|held| held.refused_segments).collect()
}

/// How a file can be damaged.
type Damage = fn(Vec<u8>) -> Option<Vec<u8>>;

const DAMAGES: [(&str, Damage); 4] = [
    ("a flipped byte", |mut bytes| {
        let middle = bytes.len() / 2;
        *bytes.get_mut(middle)? ^= 0x40;
        Some(bytes)
    }),
    ("cut in half", |bytes| {
        Some(bytes[..bytes.len() / 2].to_vec())
    }),
    ("a byte more", |mut bytes| {
        bytes.push(0);
        Some(bytes)
    }),
    ("gone", |_| None),
];

fn write(path: &Path, bytes: Option<Vec<u8>>) {
    match bytes {
        Some(bytes) => std::fs::write(path, bytes).unwrap(),
        None => std::fs::remove_file(path).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_refused_by_name_and_the_rest_is_served() {
    let options = MeshOptions {
        runs: 2,
        ..MeshOptions::default()
    };
    let documents = wordy(60);
    let mut mesh = Mesh::start_with(options, &documents).await.unwrap();
    let segments = mesh
        .store_folder()
        .join("collections")
        .join(COLLECTION)
        .join("segments");
    let files = files_below(&segments);
    let first_segment = files[0]
        .strip_prefix(&segments)
        .unwrap()
        .components()
        .next()
        .unwrap();
    let of_first = files
        .iter()
        .filter(|file| file.starts_with(segments.join(first_segment)));
    for (index, path) in of_first.enumerate() {
        // Damaged in place while it is mapped it may not be: files are replaced, as a restored disk would.
        let (what, damage) = &DAMAGES[index % DAMAGES.len()];
        let intact = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        if let Some(bytes) = damage(intact.clone()) {
            write(path, Some(bytes));
        }
        mesh = mesh.restart().await.unwrap();
        assert_served_without(&mesh, path, what).await;
        write(path, Some(intact));
    }
    mesh = mesh.restart().await.unwrap();
    let whole = mesh.ask(with_pipeline("search", "hybrid")).await.unwrap();
    assert!(!whole.degraded);
    assert_eq!(refused_segments(&mesh).await, vec![]);
}

/// The segment of this file is refused with the file's name, and a hybrid answer has the other segment and says so.
async fn assert_served_without(mesh: &Mesh, path: &Path, what: &str) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let refused = refused_segments(mesh).await;
    assert!(!refused.is_empty(), "{name}, {what}: nothing was refused");
    assert!(
        refused.iter().all(|segment| segment.reason.contains(name)),
        "{name}, {what}: {refused:#?}"
    );
    let answer = mesh.ask(with_pipeline("search", "hybrid")).await.unwrap();
    assert!(answer.degraded, "{name}, {what}: {:#?}", answer.stages);
    assert!(!answer.hits.is_empty(), "{name}, {what}");
    let told = answer
        .stages
        .iter()
        .filter(|stage| stage.reason() == StageReason::DamagedSegment);
    assert!(
        told.clone().count() > 0,
        "{name}, {what}: {:#?}",
        answer.stages
    );
    assert!(
        told.clone()
            .all(|stage| stage.status() == StageStatus::Partial),
        "{name}, {what}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_leaves_its_predecessor_in_service() {
    let options = MeshOptions {
        runs: 2,
        ..MeshOptions::default()
    };
    let mut mesh = Mesh::start_with(options, &wordy(60)).await.unwrap();
    let collection = mesh.store_folder().join("collections").join(COLLECTION);
    let manifest = collection.join("manifests").join(format!("{:020}.json", 2));
    let mut newest = vec![manifest];
    newest.extend(
        files_below(&collection.join("snapshots"))
            .into_iter()
            .filter(|path| is_of_snapshot_2(path)),
    );
    assert!(newest.len() >= 2, "{newest:?}");
    for path in newest {
        for (what, damage) in DAMAGES {
            if what == "a byte more"
                && path
                    .extension()
                    .is_some_and(|extension| extension == "json")
            {
                continue;
            }
            let intact = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            if let Some(bytes) = damage(intact.clone()) {
                write(&path, Some(bytes));
            }
            mesh = mesh.restart().await.unwrap();
            let answer = mesh.ask(with_pipeline("search", "sparse")).await.unwrap();
            assert_eq!(
                answer.snapshot.unwrap().number,
                1,
                "{}, {what}",
                path.display()
            );
            assert!(!answer.hits.is_empty());
            write(&path, Some(intact));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_leaves_no_snapshot_is_told_by_the_name_of_the_file() {
    let mut mesh = Mesh::start(&animals()).await.unwrap();
    let collection = mesh.store_folder().join("collections").join(COLLECTION);
    let files = files_below(&collection);
    let needed = files.iter().filter(|path| {
        path.ends_with("statistics.fst") || path.parent().unwrap().ends_with("manifests")
    });
    let needed: Vec<&PathBuf> = needed.collect();
    assert_eq!(needed.len(), 2, "{files:?}");
    for path in needed {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (_, flip_a_byte) = DAMAGES[0];
        let intact = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        write(path, flip_a_byte(intact.clone()));
        mesh = mesh.restart().await.unwrap();
        for pipeline in ["sparse", "dense", "hybrid"] {
            let refused = mesh.ask(with_pipeline("cat", pipeline)).await.unwrap_err();
            assert_eq!(refused.code(), Code::DataLoss, "{pipeline}: {refused}");
            let message = refused.message();
            assert!(
                message.contains(name) && message.contains(COLLECTION),
                "{pipeline}: {message}"
            );
        }
        write(path, Some(intact));
        mesh.refresh().await;
        assert!(mesh.ask(with_pipeline("cat", "sparse")).await.is_ok());
    }
}

/// The folder is named by number and run.
fn is_of_snapshot_2(path: &Path) -> bool {
    let folder = path
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap();
    folder.split('-').next().unwrap().parse::<u64>() == Ok(2)
}

fn manifests(mesh: &Mesh) -> usize {
    files_below(
        &mesh
            .store_folder()
            .join("collections")
            .join(COLLECTION)
            .join("manifests"),
    )
    .len()
}

fn zebras() -> Vec<Document> {
    (0..50)
        .map(|number| Document::new(format!("zebra-{number}"), "Zebra", "a zebra has stripes"))
        .collect()
}

/// A run of [`zebras`] whose caller has sent all lines.
fn zebra_messages(mesh: &Mesh) -> [IndexRequest; 3] {
    let lines = zebras().iter().map(Document::line).collect();
    let lines = Lines {
        file: "zebras.jsonl".to_owned(),
        first_line: 1,
        lines,
    };
    let settings = IndexRequest {
        part: Some(index_request::Part::Settings(mesh.settings())),
    };
    [
        settings,
        IndexRequest {
            part: Some(index_request::Part::Lines(lines)),
        },
        end_of_lines(),
    ]
}

/// Reads events until a phase has made progress. False: the run ended before.
async fn reached(phase: &str, events: &mut Streaming<IndexEvent>) -> bool {
    while let Some(event) = events.message().await.unwrap() {
        let is_phase = |progress: &IndexProgress| progress.phase == phase;
        if matches!(&event.event, Some(index_event::Event::Progress(progress)) if is_phase(progress))
        {
            return true;
        }
    }
    false
}

async fn assert_completes_when_repeated(mesh: &Mesh) {
    let summary = mesh.index(&zebras()).await.unwrap();
    assert_eq!(summary.documents, 50);
    mesh.refresh().await;
    let found = mesh.ask(with_pipeline("zebra", "sparse")).await.unwrap();
    assert_eq!(found.hits.len(), 50);
    assert_eq!(found.snapshot, summary.snapshot);
    let all = mesh.ask(with_pipeline("the zebra", "dense")).await.unwrap();
    assert_eq!(all.hits.len(), 58, "each document once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_changes_nothing_and_completes_when_repeated() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let before = mesh
        .ask(with_pipeline("the zebra", "hybrid"))
        .await
        .unwrap();
    // The caller goes away before it has ended its lines.
    let unended = tokio_stream::iter(zebra_messages(&mesh))
        .take(2)
        .chain(tokio_stream::pending());
    let mut events = mesh
        .index_client()
        .index(unended)
        .await
        .unwrap()
        .into_inner();
    assert!(reached("read", &mut events).await);
    drop(events);

    mesh.refresh().await;
    assert_eq!(manifests(&mesh), 1);
    let after = mesh
        .ask(with_pipeline("the zebra", "hybrid"))
        .await
        .unwrap();
    assert_eq!((after.hits, after.snapshot), (before.hits, before.snapshot));
    assert_completes_when_repeated(&mesh).await;
}

/// Later than that the run may win the race against its caller's leave: all of it is visible, or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_interrupted_late_is_whole_or_not_there() {
    for phase in ["encode", "build"] {
        let mesh = Mesh::start(&animals()).await.unwrap();
        let ended = tokio_stream::iter(zebra_messages(&mesh));
        let mut events = mesh.index_client().index(ended).await.unwrap().into_inner();
        assert!(reached(phase, &mut events).await, "{phase}");
        drop(events);

        mesh.refresh().await;
        let answer = mesh.ask(with_pipeline("zebra", "sparse")).await.unwrap();
        let expected = if answer.snapshot.unwrap().number == 1 {
            0
        } else {
            50
        };
        assert_eq!(answer.hits.len(), expected, "{phase}");
        assert_completes_when_repeated(&mesh).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn committers_that_race_both_get_in() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let left: Vec<Document> = (0..20)
        .map(|number| Document::new(format!("left-{number}"), "", "zebra left"))
        .collect();
    let right: Vec<Document> = (0..20)
        .map(|number| Document::new(format!("right-{number}"), "", "zebra right"))
        .collect();
    let (left_done, right_done) = tokio::join!(mesh.index(&left), mesh.index(&right));
    let (left_done, deleted) = (left_done.unwrap(), mesh.delete(&["cat"]).await.unwrap());
    let numbers: BTreeSet<u64> = [
        left_done.snapshot,
        right_done.unwrap().snapshot,
        deleted.snapshot,
    ]
    .into_iter()
    .map(|snapshot| snapshot.unwrap().number)
    .collect();
    assert_eq!(numbers, BTreeSet::from([2, 3, 4]));
    mesh.refresh().await;
    let found = mesh.ask(with_pipeline("zebra", "sparse")).await.unwrap();
    assert_eq!(found.hits.len(), 40);
    let all = mesh.ask(with_pipeline("the zebra", "dense")).await.unwrap();
    assert_eq!(all.hits.len(), 47);
    assert_eq!(all.snapshot.unwrap().number, 4);
}

/// The same documents twice at once: one version of each stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_race_for_the_same_documents_leaves_one_version() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let version = |word: &str| -> Vec<Document> {
        (0..10)
            .map(|number| Document::new(format!("same-{number}"), "", format!("zebra {word}")))
            .collect()
    };
    let (red, blue) = (version("red"), version("blue"));
    let (red_done, blue_done) = tokio::join!(mesh.index(&red), mesh.index(&blue));
    let last = if red_done.unwrap().snapshot.unwrap().number == 3 {
        "red"
    } else {
        "blue"
    };
    assert!(blue_done.is_ok());
    mesh.refresh().await;
    let found = mesh.ask(with_pipeline("zebra", "sparse")).await.unwrap();
    assert_eq!(found.hits.len(), 10);
    assert!(
        found.hits.iter().all(|hit| hit.text.ends_with(last)),
        "{last}: {:#?}",
        found.hits
    );
}
