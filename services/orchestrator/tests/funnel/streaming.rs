//! An answer told as it comes: the fused list first, the best last.

use crate::fakes::{Mesh, ids, request};
use crate::reranker::Then;
use crate::reranking::{mesh, turned};
use futures::StreamExt;
use search_proto::search::{SearchRequest, SearchResponse, SearchStreamResponse};
use std::time::Duration;
use tonic::{Code, Status};

async fn told(mesh: &Mesh, request: SearchRequest) -> Vec<Result<SearchStreamResponse, Status>> {
    let stream = mesh.client.clone().search_stream(request).await;
    stream.unwrap().into_inner().collect().await
}

fn answers(told: Vec<Result<SearchStreamResponse, Status>>) -> Vec<(SearchResponse, bool)> {
    let read = |message: Result<SearchStreamResponse, Status>| {
        let message = message.unwrap();
        (message.answer.unwrap(), message.is_last)
    };
    told.into_iter().map(read).collect()
}

/// All but times.
fn same(left: &SearchResponse, right: &SearchResponse) {
    assert_eq!(left.hits, right.hits);
    let stages = |answer: &SearchResponse| {
        let stages = answer.stages.iter();
        stages
            .map(|report| (report.stage.clone(), report.status, report.candidates_out))
            .collect::<Vec<_>>()
    };
    assert_eq!(stages(left), stages(right));
    assert_eq!(
        (left.degraded, left.score_scale),
        (right.degraded, right.score_scale)
    );
}

#[tokio::test(start_paused = true)]
async fn the_fused_list_comes_first_and_the_answer_last() {
    let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
    reranker.change(|script| script.batch_ms = 50);
    let whole = mesh.ask(request("full")).await.unwrap();
    let fused = mesh.ask(request("hybrid")).await.unwrap();
    let told = answers(told(&mesh, request("full")).await);
    let [(first, false), (last, true)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(first.hits, fused.hits);
    assert_ne!(ids(first), ids(last));
    assert_eq!(first.pipeline, "full");
    assert!(first.stages.iter().all(|report| report.stage != "rerank"));
    same(last, &whole);
}

#[tokio::test(start_paused = true)]
async fn a_list_is_there_while_a_late_stage_is_silent() {
    let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
    reranker.change(|script| (script.batches, script.then) = (0, Then::Silence));
    let asked = SearchRequest {
        budget_ms: Some(5000),
        ..request("full")
    };
    let started = tokio::time::Instant::now();
    let mut stream = mesh
        .client
        .clone()
        .search_stream(asked)
        .await
        .unwrap()
        .into_inner();
    let first = stream.next().await.unwrap().unwrap();
    assert!(!first.is_last && started.elapsed() < Duration::from_millis(50));
    let last = stream.next().await.unwrap().unwrap();
    assert!(last.is_last && last.answer.unwrap().degraded);
    assert!(stream.next().await.is_none());
    assert!(started.elapsed() <= Duration::from_millis(5000));
    // Whoever leaves ends the call.
    let asked = SearchRequest {
        budget_ms: Some(5000),
        ..request("full")
    };
    let mut stream = mesh
        .client
        .clone()
        .search_stream(asked)
        .await
        .unwrap()
        .into_inner();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    reranker.ended(2).await;
}

#[tokio::test]
async fn a_pipeline_without_later_stages_has_one_message() {
    let (mesh, _reranker) = mesh(turned(), 5, 1.0).await;
    for pipeline in ["sparse", "dense", "hybrid"] {
        let told = answers(told(&mesh, request(pipeline)).await);
        assert_eq!(told.len(), 1);
        same(&told[0].0, &mesh.ask(request(pipeline)).await.unwrap());
    }
}

#[tokio::test]
async fn what_is_wrong_ends_the_stream() {
    let (mesh, _reranker) = mesh(turned(), 5, 1.0).await;
    let invalid = SearchRequest {
        k: Some(0),
        ..request("full")
    };
    let refused = mesh
        .client
        .clone()
        .search_stream(invalid)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    mesh.change(|script| {
        script.failures = vec![
            ("sparse.search", None, Code::Internal),
            ("encode", None, Code::Internal),
        ]
    });
    let told = told(&mesh, request("full")).await;
    let [Err(status)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(status.code(), Code::Internal);
}
