//! What an answer is made of.

use crate::fakes::{Mesh, Script, documents, ids, request, small, stage};
use crate::sharding::{many, sharded};
use search_proto::search::{self, StageStatus};

#[tokio::test]
async fn hybrid_completes_fuses_and_explains() {
    let mesh = Mesh::with_depth(small(), 2).await;
    let answer = mesh
        .ask(search::SearchRequest {
            k: Some(2),
            ..request("")
        })
        .await
        .unwrap();
    // The pool is a and d (sparse), b and d (dense). Completed, sparse is 9, 0, 6 and dense .1, .9, .7.
    assert_eq!(ids(&answer), ["d", "a"]);
    let [d, a] = answer.hits.as_slice() else {
        panic!("{answer:?}")
    };
    let close = |left: f64, right: f64| (left - right).abs() < 1e-6;
    assert!(close(d.score, 0.5 * 6.0 / 9.0 + 0.5 * 0.75) && close(a.score, 0.5));
    assert_eq!(d.text, "text of 0:3");
    let trail: Vec<_> = a
        .trail
        .iter()
        .map(|entry| {
            (
                entry.stage.as_str(),
                entry.raw as f32,
                entry.rank,
                entry.completed,
            )
        })
        .collect();
    assert_eq!(trail, [("sparse", 9.0, 1, false), ("dense", 0.1, 3, true)]);
    let stages: Vec<&str> = answer
        .stages
        .iter()
        .map(|report| report.stage.as_str())
        .collect();
    assert_eq!(
        stages,
        ["encode", "sparse", "dense", "complete", "fuse", "fetch"]
    );
    assert!(
        !answer.degraded
            && answer
                .stages
                .iter()
                .all(|report| report.status() == StageStatus::Complete)
    );
    let complete = stage(&answer, "complete");
    assert_eq!(
        (
            complete.candidates_in,
            complete.candidates_out,
            complete.shards_asked
        ),
        (3, 3, 1)
    );
    let retrieved = stage(&answer, "sparse");
    assert_eq!((retrieved.candidates_in, retrieved.candidates_out), (5, 2));
    assert_eq!((retrieved.shards_asked, retrieved.shards_answered), (1, 1));
    assert_eq!((retrieved.queue_us, retrieved.compute_us), (3, 5));
    assert_eq!(answer.snapshot.unwrap().number, 1);
    assert_eq!(answer.pipeline, "hybrid");
}

#[tokio::test]
async fn a_single_leg_keeps_its_scores() {
    let mesh = Mesh::start(small()).await;
    let sparse = mesh.ask(request("sparse")).await.unwrap();
    assert_eq!(ids(&sparse), ["a", "d", "c"]);
    assert_eq!(sparse.hits[0].score, 9.0);
    assert_eq!(sparse.hits[0].trail[0].contribution, 9.0);
    let dense = mesh.ask(request("dense")).await.unwrap();
    assert_eq!(ids(&dense), ["b", "d", "c", "a", "e"]);
    let stages: Vec<&str> = dense
        .stages
        .iter()
        .map(|report| report.stage.as_str())
        .collect();
    assert_eq!(stages, ["encode", "dense", "fetch"]);
}

#[tokio::test]
async fn without_explain_there_is_no_trail() {
    let mesh = Mesh::start(small()).await;
    let answer = mesh
        .ask(search::SearchRequest {
            explain: false,
            ..request("")
        })
        .await
        .unwrap();
    assert!(answer.hits.iter().all(|hit| hit.trail.is_empty()));
}

#[tokio::test]
async fn excluded_passages_leave_every_pipeline() {
    let mut script = small();
    script.passages[1].excluded = true;
    let mesh = Mesh::start(script).await;
    for pipeline in ["hybrid", "dense"] {
        let query = "bone -mice".to_owned();
        let answer = mesh
            .ask(search::SearchRequest {
                query,
                ..request(pipeline)
            })
            .await
            .unwrap();
        assert!(!ids(&answer).contains(&"b"), "{pipeline}");
        assert_eq!(answer.hits.len(), 4);
        let complete = stage(&answer, "complete");
        assert_eq!((complete.candidates_in, complete.candidates_out), (5, 4));
        assert_eq!(complete.status(), StageStatus::Complete);
    }
}

#[tokio::test]
async fn a_document_is_shown_once_by_its_best_passage() {
    let mut script = Script::new(
        documents(&[("a", 1.0, 0.1), ("a", 5.0, 0.2), ("b", 2.0, 0.3)]),
        1,
    );
    script.passages[1].passage = 1;
    let mesh = Mesh::start(script).await;
    let answer = mesh.ask(request("sparse")).await.unwrap();
    assert_eq!(ids(&answer), ["a", "b"]);
    assert_eq!((answer.hits[0].passage, answer.hits[0].address), (1, 1));
}

#[tokio::test]
async fn pages_make_up_the_whole() {
    let table: Vec<(String, f32)> = (0..60)
        .map(|number| (format!("d{number:02}"), (number % 7) as f32))
        .collect();
    let table: Vec<(&str, f32, f32)> = table
        .iter()
        .map(|(id, score)| (id.as_str(), score + 1.0, 0.5))
        .collect();
    let mesh = Mesh::start(Script::new(documents(&table), 1)).await;
    let page = |offset, k| {
        mesh.ask(search::SearchRequest {
            offset,
            k: Some(k),
            ..request("hybrid")
        })
    };
    let whole = page(0, 60).await.unwrap();
    let mut pages = Vec::new();
    for offset in (0..60).step_by(9) {
        pages.extend(page(offset, 9).await.unwrap().hits);
    }
    assert_eq!(pages, whole.hits);
    assert_eq!(whole.hits.len(), 60);
    assert!(page(60, 10).await.unwrap().hits.is_empty());
}

#[tokio::test]
async fn describe_lists_collections_and_pipelines() {
    let mesh = Mesh::start(sharded(&many(), 2)).await;
    let described = mesh
        .client
        .clone()
        .describe(search::DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(described.default_pipeline, "hybrid");
    let names: Vec<&str> = described
        .pipelines
        .iter()
        .map(|pipeline| pipeline.name.as_str())
        .collect();
    assert_eq!(names, ["dense", "hybrid", "sparse"]);
    let [collection] = described.collections.as_slice() else {
        panic!("{described:?}")
    };
    assert_eq!((collection.shards, collection.passages), (2, 40));
    assert!(mesh.app.readiness().is_ready());
}
