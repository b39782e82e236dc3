//! Stages that an answer does not need are left out, which is said and is no loss; the caller has the last word.

use crate::fakes::{Mesh, config, ids, request, small, stage};
use crate::reranker::Reranker;
use crate::reranking::{peers, set_rerank, turned};
use crate::rescoring::outcome;
use orchestrator::{RawConfig, RawRouting};
use search_proto::search::{Routing, ScoreScale, SearchRequest, StageReason, StageStatus};

const ROUTED: (StageStatus, StageReason) = (StageStatus::Skipped, StageReason::Routed);
const COMPLETE: (StageStatus, StageReason) = (StageStatus::Complete, StageReason::Unspecified);

/// `full` with these thresholds, and a gate.
async fn mesh(routing: RawRouting, gate_margin: Option<f64>) -> Mesh {
    let change = |raw: &mut RawConfig| {
        set_rerank(raw, 5, 0.5);
        let full = raw.pipelines.get_mut("full").unwrap();
        full.routing = routing;
        full.rerank.as_mut().unwrap().gate_margin = gate_margin;
    };
    Mesh::with_config(turned(), config(1000, change), |fake| {
        let reranker = Reranker::new(&fake);
        peers(fake, &reranker)
    })
    .await
}

fn asking(query: &str, routing: Routing) -> SearchRequest {
    SearchRequest {
        query: query.to_owned(),
        routing: routing.into(),
        ..request("full")
    }
}

fn calls(mesh: &Mesh) -> Vec<String> {
    let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
    log.into_iter().map(|(call, _)| call).collect()
}

const LEXICAL: RawRouting = RawRouting {
    lexical_share: Some(0.5),
    sparse_margin: None,
};

#[tokio::test]
async fn a_query_for_words_is_answered_by_the_sparse_stage_alone() {
    let mesh = mesh(LEXICAL, None).await;
    let answer = mesh
        .ask(asking("\"bone loss\"", Routing::Unspecified))
        .await
        .unwrap();
    for left_out in ["encode", "dense", "rerank"] {
        assert_eq!(outcome(&answer, left_out), ROUTED, "{left_out}");
    }
    assert!(!answer.degraded);
    assert_eq!(answer.score_scale(), ScoreScale::Bm25);
    assert_eq!(calls(&mesh), ["sparse.search", "sparse.fetch"]);
    let plain = mesh
        .ask(SearchRequest {
            query: "\"bone loss\"".to_owned(),
            ..request("sparse")
        })
        .await
        .unwrap();
    assert_eq!(answer.hits, plain.hits);
}

#[tokio::test]
async fn the_caller_has_the_last_word() {
    let mesh = mesh(LEXICAL, Some(0.001)).await;
    let all = mesh
        .ask(asking("\"bone loss\"", Routing::AllStages))
        .await
        .unwrap();
    assert!(
        all.stages
            .iter()
            .all(|report| report.status() == StageStatus::Complete)
    );
    let sparse = mesh
        .ask(asking("bone loss", Routing::SparseOnly))
        .await
        .unwrap();
    assert_eq!(outcome(&sparse, "dense"), ROUTED);
    assert_eq!(ids(&sparse), ["a", "d", "c"]);
    let whole = mesh
        .ask(asking("bone loss", Routing::Unspecified))
        .await
        .unwrap();
    assert_eq!(outcome(&whole, "dense"), COMPLETE);
    assert_eq!(
        outcome(&whole, "rerank"),
        (StageStatus::Skipped, StageReason::Gated)
    );
}

#[tokio::test(start_paused = true)]
async fn a_clear_list_of_the_sparse_stage_is_not_kept_waiting() {
    let clear = RawRouting {
        lexical_share: None,
        sparse_margin: Some(0.3),
    };
    let mesh = mesh(clear, None).await;
    mesh.change(|script| script.hanging = vec!["encode"]);
    let started = tokio::time::Instant::now();
    // 9 is a third above 6.
    let answer = mesh
        .ask(asking("bone loss", Routing::Unspecified))
        .await
        .unwrap();
    assert_eq!(started.elapsed().as_millis(), 0);
    assert_eq!(outcome(&answer, "encode"), ROUTED);
    assert!(!answer.degraded);
    assert_eq!(ids(&answer), ["a", "d", "c"]);
    mesh.change(|script| {
        script.hanging.clear();
        script.passages[3].sparse = 8.0;
    });
    let answer = mesh
        .ask(asking("bone loss", Routing::Unspecified))
        .await
        .unwrap();
    assert_eq!(outcome(&answer, "dense"), COMPLETE);
}

#[tokio::test]
async fn a_gate_leaves_out_what_would_change_nothing_and_that_is_no_loss() {
    for (margin, expected) in [
        (0.001, (StageStatus::Skipped, StageReason::Gated)),
        (9.0, COMPLETE),
    ] {
        let mesh = mesh(RawRouting::default(), Some(margin)).await;
        let answer = mesh
            .ask(asking("bone loss", Routing::Unspecified))
            .await
            .unwrap();
        assert_eq!(outcome(&answer, "rerank"), expected);
        assert!(!answer.degraded);
    }
}

#[tokio::test]
async fn a_pipeline_of_one_retriever_has_nothing_to_leave_out() {
    let mesh = Mesh::start(small()).await;
    let asked = SearchRequest {
        routing: Routing::SparseOnly.into(),
        ..request("dense")
    };
    let answer = mesh.ask(asked).await.unwrap();
    assert_eq!(stage(&answer, "dense").status(), StageStatus::Complete);
}
