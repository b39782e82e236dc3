//! What an answer is made of.

use crate::fakes::{Mesh, Script, documents, ids, request, small, stage};
use crate::sharding::{many, sharded};
use search_proto::search::{self, StageReason, StageStatus};

#[tokio::test]
async fn hybrid_completes_fuses_and_explains() {
    let mesh = Mesh::with_depth(small(), 2).await;
    let answer = mesh
        .ask(search::SearchRequest {
            k: Some(3),
            ..request("")
        })
        .await
        .unwrap();
    // The dense leg finds all, the sparse leg a, c and d: it is asked about b and e.
    assert_eq!(ids(&answer), ["d", "a", "b"]);
    let [d, a, b] = answer.hits.as_slice() else {
        panic!("{answer:?}")
    };
    let close = |left: f64, right: f64| (left - right).abs() < 1e-6;
    assert!(close(d.score, 0.5 * 6.0 / 9.0 + 0.5 * 0.8) && close(a.score, 0.6));
    assert_eq!(d.text, "text of 0:3");
    let trail: Vec<_> = b
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
    assert_eq!(trail, [("sparse", 0.0, 4, true), ("dense", 0.9, 1, false)]);
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
        (5, 5, 1)
    );
    let retrieved = stage(&answer, "sparse");
    assert_eq!((retrieved.candidates_in, retrieved.candidates_out), (5, 3));
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
async fn a_document_has_the_best_score_that_each_leg_gave_it() {
    // Of document a, the first passage has the words and the second the meaning.
    let table = [("a", 6.0, 0.1), ("a", 1.0, 0.9), ("b", 4.0, 0.5)];
    let mut script = Script::new(documents(&table), 1);
    script.passages[1].passage = 1;
    let mesh = Mesh::start(script).await;
    let by_alpha = async |alpha| {
        let fusion = search::Fusion {
            method: search::FusionMethod::MinMax.into(),
            alpha: Some(alpha),
            rank_constant: None,
        };
        mesh.ask(search::SearchRequest {
            fusion: Some(fusion),
            explain: true,
            ..request("hybrid")
        })
        .await
        .unwrap()
    };
    let answer = by_alpha(0.7).await;
    assert_eq!(ids(&answer), ["a", "b"]);
    let raw: Vec<f64> = answer.hits[0].trail.iter().map(|entry| entry.raw).collect();
    assert_eq!(raw, [6.0, f64::from(0.9_f32)]);
    assert_eq!(answer.hits[0].score, 1.0);
    // It is shown by the passage that counts for more.
    assert_eq!(answer.hits[0].passage, 1);
    assert_eq!(by_alpha(0.3).await.hits[0].passage, 0);
    let fused = stage(&answer, "fuse");
    assert_eq!((fused.candidates_in, fused.candidates_out), (3, 2));
}

/// Document a has so many passages that match best, b and c one each.
fn long_document(passages: u32) -> Script {
    let best = (0..passages).map(|_| ("a", 9.0, 0.9));
    let table: Vec<_> = best.chain([("b", 2.0, 0.2), ("c", 0.0, 0.1)]).collect();
    let mut script = Script::new(documents(&table), 1);
    for (number, passage) in (0..passages).zip(&mut script.passages) {
        passage.passage = number;
    }
    script
}

#[tokio::test]
async fn a_page_that_the_depth_does_not_fill_says_so() {
    let page = |k, pipeline: &str| search::SearchRequest {
        k: Some(k),
        ..request(pipeline)
    };
    let mesh = Mesh::with_depth(long_document(8), 2).await;
    for pipeline in ["sparse", "dense", "hybrid"] {
        // Eight passages for two documents: all are a's.
        let answer = mesh.ask(page(2, pipeline)).await.unwrap();
        let fetch = stage(&answer, "fetch");
        assert_eq!(ids(&answer), ["a"]);
        assert_eq!(
            (fetch.status(), fetch.reason(), answer.degraded),
            (StageStatus::Partial, StageReason::Depth, true)
        );
        // Four for one do.
        let answer = mesh.ask(page(1, pipeline)).await.unwrap();
        assert_eq!((ids(&answer), answer.degraded), (vec!["a"], false));
        // Twelve for three are all there are.
        let answer = mesh.ask(page(3, pipeline)).await.unwrap();
        let expected = ["a", "b", "c"];
        let found = if pipeline == "sparse" { 2 } else { 3 };
        assert_eq!(
            (ids(&answer).as_slice(), answer.degraded),
            (&expected[..found], false)
        );
    }
}

#[tokio::test]
async fn few_documents_with_a_required_word_are_all_there_are() {
    let table: Vec<(String, f32)> = (0..20)
        .map(|number| (format!("d{number:02}"), f32::from(u8::from(number < 3))))
        .collect();
    let table: Vec<_> = table
        .iter()
        .map(|(id, score)| (id.as_str(), *score, 0.5))
        .collect();
    let mut script = Script::new(documents(&table), 1);
    for passage in &mut script.passages {
        passage.excluded = passage.sparse == 0.0;
    }
    let mesh = Mesh::with_depth(script, 2).await;
    let asked = |query: &str| search::SearchRequest {
        query: query.to_owned(),
        k: Some(4),
        ..request("hybrid")
    };
    // The dense list is full, but whatever has the word is in the sparse one.
    let required = mesh.ask(asked("+bone")).await.unwrap();
    assert_eq!((required.hits.len(), required.degraded), (3, false));
    let excluding = mesh.ask(asked("bone -mice")).await.unwrap();
    assert_eq!((excluding.hits.len(), excluding.degraded), (3, true));
    assert_eq!(stage(&excluding, "fetch").reason(), StageReason::Depth);
}

#[tokio::test]
async fn a_small_page_is_fetched_in_one_hop() {
    let fetches = |mesh: &Mesh| {
        let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
        let calls = log.into_iter().map(|(call, _)| call);
        calls
            .filter(|call| call.starts_with("sparse.fetch"))
            .collect::<Vec<_>>()
    };
    let mesh = Mesh::start(small()).await;
    mesh.ask(request("hybrid")).await.unwrap();
    assert_eq!(fetches(&mesh), ["sparse.fetch"]);
    // Of equal documents at the end of the page the one with the smaller id is on it.
    let tied = documents(&[("z", 2.0, 0.5), ("y", 2.0, 0.5)]);
    let mesh = Mesh::start(Script::new(tied, 1)).await;
    let answer = mesh
        .ask(search::SearchRequest {
            k: Some(1),
            ..request("hybrid")
        })
        .await
        .unwrap();
    assert_eq!(ids(&answer), ["y"]);
    assert!(answer.hits.iter().all(|hit| !hit.text.is_empty()));
    assert_eq!(
        fetches(&mesh),
        ["sparse.fetch", "sparse.fetch_ids", "sparse.fetch"]
    );
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
