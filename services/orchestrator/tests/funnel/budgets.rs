//! One deadline for the whole funnel: what its stages get of it, what is done without, and what may not be.

use crate::fakes::{
    Fake, Mesh, Script, config, dense, encoder, ids, request, small, sparse, stage,
};
use crate::reranker::{Reranker, Then};
use crate::reranking::{
    PLAIN, mesh as mesh_with_reranker, mesh_with as reranking_with, peers, set_rerank, turned,
};
use crate::rescoring::outcome;
use crate::sharding::{many, sharded};
use orchestrator::{Peers, RawConfig, RawCost, RawRequired};
use search_proto::search::{ScoreScale, SearchRequest, SearchResponse, StageReason, StageStatus};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

const LATE: (StageStatus, StageReason) = (StageStatus::Failed, StageReason::Deadline);
const COMPLETE: (StageStatus, StageReason) = (StageStatus::Complete, StageReason::Unspecified);

fn within(pipeline: &str, budget_ms: u32) -> SearchRequest {
    SearchRequest {
        budget_ms: Some(budget_ms),
        ..request(pipeline)
    }
}

async fn hanging(calls: &[&'static str]) -> Mesh {
    let mesh = Mesh::start(small()).await;
    mesh.change(|script| script.hanging = calls.to_vec());
    mesh
}

/// A mesh of the three retrieving services, configured otherwise.
async fn mesh_with(script: Script, change: impl FnOnce(&mut RawConfig)) -> Mesh {
    Mesh::with_config(script, config(1000, change), |fake| Peers {
        encoder: vec![encoder(fake.clone())],
        sparse: vec![sparse(fake.clone())],
        dense: vec![dense(fake)],
        ..Peers::default()
    })
    .await
}

fn is_left_to_sparse(answer: &SearchResponse) {
    assert!(answer.degraded);
    assert_eq!(ids(answer), ["a", "d", "c"]);
    assert_eq!(outcome(answer, "dense"), LATE);
    assert_eq!(outcome(answer, "sparse"), COMPLETE);
    assert_eq!(answer.score_scale(), ScoreScale::MinMax);
}

#[tokio::test(start_paused = true)]
async fn a_retriever_that_is_silent_is_done_without() {
    let mesh = hanging(&["dense.search"]).await;
    let started = Instant::now();
    let answer = mesh.ask(within("hybrid", 250)).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(250));
    is_left_to_sparse(&answer);
    assert_eq!(outcome(&answer, "encode"), COMPLETE);
}

#[tokio::test(start_paused = true)]
async fn an_encoder_that_is_silent_is_done_without() {
    let answer = hanging(&["encode"])
        .await
        .ask(within("hybrid", 250))
        .await
        .unwrap();
    is_left_to_sparse(&answer);
    assert_eq!(outcome(&answer, "encode"), LATE);
}

#[tokio::test(start_paused = true)]
async fn the_sparse_retriever_is_done_without_unless_it_has_to_judge() {
    let mesh = hanging(&["sparse.search"]).await;
    let answer = mesh.ask(within("hybrid", 250)).await.unwrap();
    assert_eq!(
        (outcome(&answer, "sparse"), outcome(&answer, "dense")),
        (LATE, COMPLETE)
    );
    assert_eq!(ids(&answer), ["b", "d", "c", "a", "e"]);
    let strict = SearchRequest {
        query: "+bone loss".to_owned(),
        ..within("hybrid", 250)
    };
    let status = mesh.ask(strict).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test(start_paused = true)]
async fn without_any_list_there_is_no_answer() {
    let mesh = hanging(&["sparse.search", "encode"]).await;
    let started = Instant::now();
    let status = mesh.ask(within("hybrid", 250)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(started.elapsed() <= Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn a_completion_that_is_silent_is_a_part() {
    let answer = hanging(&["sparse.score"])
        .await
        .ask(within("hybrid", 250))
        .await
        .unwrap();
    let partial = (StageStatus::Partial, StageReason::Deadline);
    assert_eq!(outcome(&answer, "complete"), partial);
    assert_eq!(ids(&answer).len(), 5);
}

/// There is time for the later stages; and nobody else can say which passages the query refuses.
#[tokio::test(start_paused = true)]
async fn a_completion_that_has_to_judge_is_waited_for() {
    let (mesh, _reranker) = mesh_with_reranker(turned(), 5, 0.5).await;
    mesh.change(|script| {
        script.delays_ms.insert("sparse.score", 100);
    });
    let answer = mesh.ask(within("full", 400)).await.unwrap();
    let partial = (StageStatus::Partial, StageReason::Deadline);
    assert_eq!(outcome(&answer, "complete"), partial);
    let strict = SearchRequest {
        query: "+bone loss".to_owned(),
        ..within("full", 400)
    };
    let answer = mesh.ask(strict).await.unwrap();
    assert_eq!(outcome(&answer, "complete"), COMPLETE);
}

#[tokio::test(start_paused = true)]
async fn no_call_outlives_the_budget_of_the_pipeline() {
    let mesh = mesh_with(small(), |raw| {
        raw.pipelines.get_mut("hybrid").unwrap().budget_ms = 120;
    })
    .await;
    for wish in [None, Some(500), Some(60)] {
        let asked = SearchRequest {
            budget_ms: wish,
            ..request("hybrid")
        };
        mesh.ask(asked).await.unwrap();
        let most = wish.unwrap_or(120).min(120);
        let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
        let is_within = |left: Option<u128>| left.is_some_and(|left| left <= most.into());
        assert!(
            log.len() >= 4 && log.iter().all(|(_, left)| is_within(*left)),
            "{log:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stage_leaves_over_is_for_the_later_ones() {
    let (mesh, _reranker) = mesh_with_reranker(turned(), 5, 0.5).await;
    let answer = mesh.ask(within("full", 400)).await.unwrap();
    // The retrieval took nothing of it.
    assert_eq!(stage(&answer, "rerank").granted_us, 350_000);
    assert!(stage(&answer, "complete").granted_us < 100_000);
    assert!(stage(&answer, "rerank").expected_us > 0);
}

#[tokio::test(start_paused = true)]
async fn a_stage_gets_as_many_candidates_as_its_cost_leaves_time_for() {
    // Long enough that what it costs is mostly a matter of tokens.
    let long = Script {
        text_bytes: Some(800),
        ..turned()
    };
    let (mesh, reranker) = mesh_with_reranker(long, 5, 1.0).await;
    reranker.change(|script| (script.batch, script.batch_ms) = (1, 100));
    for _ in 0..100 {
        assert!(!mesh.ask(request("full")).await.unwrap().degraded);
    }
    reranker.calls();
    let answer = mesh.ask(within("full", 400)).await.unwrap();
    let partial = (StageStatus::Partial, StageReason::Deadline);
    assert_eq!(outcome(&answer, "rerank"), partial);
    let [(call, _)] = reranker.calls().try_into().unwrap();
    // 350 ms, each document 100.
    assert_eq!(call.passages.len(), 3);
    assert_eq!(stage(&answer, "rerank").candidates_in, 3);
    assert_eq!(stage(&answer, "rerank").candidates_out, 3);
}

#[tokio::test(start_paused = true)]
async fn before_anything_is_learnt_a_stage_costs_what_is_configured() {
    let long = Script {
        text_bytes: Some(400),
        ..turned()
    };
    let (mesh, reranker) = reranking_with(long, |raw| {
        set_rerank(raw, 5, 1.0);
        raw.prior_costs.rerank = RawCost {
            call_us: 100_000.0,
            item_us: 1000.0,
        };
    })
    .await;
    let answer = mesh.ask(within("full", 400)).await.unwrap();
    let [(call, _)] = reranker.calls().try_into().unwrap();
    // 350 ms, of which the call takes 100, and each document of about 100 tokens 100.
    assert_eq!(call.passages.len(), 2);
    let expected_us = stage(&answer, "rerank").expected_us;
    assert!((290_000..=310_000).contains(&expected_us), "{expected_us}");
}

#[tokio::test(start_paused = true)]
async fn a_required_stage_fails_the_answer_with_its_reason() {
    let requiring = |required| {
        mesh_with(small(), move |raw: &mut RawConfig| {
            let full = raw.pipelines.get_mut("full").unwrap();
            full.required = vec![required];
        })
    };
    let mesh = requiring(RawRequired::Rerank).await;
    let status = mesh.ask(request("full")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(
        status.message().contains("rerank: not_configured"),
        "{status}"
    );
    let mesh = requiring(RawRequired::Dense).await;
    mesh.change(|script| script.hanging = vec!["dense.search"]);
    let status = mesh.ask(within("full", 250)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    mesh.change(|script| {
        script.hanging.clear();
        script.failures = vec![("dense.search", None, Code::ResourceExhausted)];
    });
    let status = mesh.ask(request("full")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(!mesh.ask(request("sparse")).await.unwrap().degraded);
}

#[tokio::test(start_paused = true)]
async fn a_required_reranker_that_is_late_fails_the_answer() {
    let mut reranker = None;
    let change = |raw: &mut RawConfig| {
        set_rerank(raw, 5, 0.5);
        raw.pipelines.get_mut("full").unwrap().required = vec![RawRequired::Rerank];
    };
    let mesh = Mesh::with_config(turned(), config(1000, change), |fake: Fake| {
        let reranker = reranker.insert(Reranker::new(&fake));
        peers(fake, reranker)
    })
    .await;
    assert!(!mesh.ask(within("full", 400)).await.unwrap().degraded);
    let reranker = reranker.unwrap();
    reranker.change(|script| (script.batches, script.then) = (0, Then::Silence));
    let status = mesh.ask(within("full", 400)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(
        status.message().contains("requires the stage rerank"),
        "{status}"
    );
}

#[tokio::test]
async fn full_coverage_is_what_whole_answers_have() {
    let mesh = Mesh::start(sharded(&many(), 4)).await;
    let whole = || SearchRequest {
        require_full_coverage: true,
        ..request("hybrid")
    };
    assert!(!mesh.ask(whole()).await.unwrap().degraded);
    mesh.change(|script| script.refused_segments = 1);
    assert_eq!(mesh.ask(whole()).await.unwrap_err().code(), Code::DataLoss);
    assert!(mesh.ask(request("hybrid")).await.unwrap().degraded);
}

#[tokio::test]
async fn the_scale_of_the_scores_is_declared() {
    let mesh = Mesh::start(small()).await;
    for (pipeline, scale) in [
        ("sparse", ScoreScale::Bm25),
        ("dense", ScoreScale::Cosine),
        ("hybrid", ScoreScale::MinMax),
    ] {
        assert_eq!(
            mesh.ask(request(pipeline)).await.unwrap().score_scale(),
            scale
        );
    }
    assert_eq!(PLAIN.len(), 5);
}
