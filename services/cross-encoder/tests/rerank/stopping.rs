//! Deadlines and callers that leave: nothing is computed for them any more.

use std::time::Duration;

use search_core::Deadline;
use search_proto::rerank::RerankRequest;
use service_kit::with_deadline;
use tonic::{Code, Request};

use crate::scripted::{Service, in_windows, long, request};

fn within(request: RerankRequest, time: Duration) -> Request<RerankRequest> {
    let now = service_kit::now();
    with_deadline(request, Deadline::after(now, time), now)
}

#[tokio::test]
async fn nothing_is_computed_for_a_stream_that_was_dropped() {
    let mut service = Service::gated();
    let mut client = service.client.clone();
    let streaming = tokio::spawn(async move { client.rerank_stream(long(&[200; 10])).await });
    assert_eq!(service.let_go().await, [200]);
    let mut stream = streaming.await.unwrap().unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!((first.indexes, first.unscored), (vec![0], 9));
    assert_eq!(service.begun().await, [200], "the batch in flight");
    drop(stream);
    service
        .until(|app| app.stats().abandoned_passages == 8)
        .await;
    service.script.gate.send(()).unwrap();
    // The next that begins is another caller's.
    service.script.gate.send(()).unwrap();
    assert!(service.rerank(request(&["a"])).await.is_ok());
    assert_eq!(service.begun().await, [2]);
    assert_eq!(
        (
            service.app.stats().passages,
            service.app.stats().queued_passages
        ),
        (3, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_middle_brings_what_was_scored_and_ends_the_rest() {
    let mut service = Service::gated();
    let mut client = service.client.clone();
    let call = within(long(&[200; 10]), Duration::from_secs(60));
    let answer = tokio::spawn(async move { client.rerank(call).await });
    service.let_go().await;
    assert_eq!(service.begun().await, [200], "the batch in flight");
    let answer = answer.await.unwrap().unwrap().into_inner();
    assert_eq!((answer.indexes, answer.unscored), (vec![0], 9));
    assert_eq!(service.app.stats().expired_passages, 8);
    service.script.gate.send(()).unwrap();
    service.script.gate.send(()).unwrap();
    assert!(service.rerank(request(&["a"])).await.is_ok());
    assert_eq!(service.begun().await, [2]);
    assert_eq!(service.app.stats().passages, 3);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_deadline_with_what_was_scored() {
    let service = Service::gated();
    let mut client = service.client.clone();
    let call = within(long(&[200; 3]), Duration::from_secs(60));
    let streaming = tokio::spawn(async move { client.rerank_stream(call).await });
    service.let_go().await;
    service.until(|app| app.stats().passages == 1).await;
    let mut stream = streaming.await.unwrap().unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().unscored, 2);
    assert!(
        stream.message().await.unwrap().is_none(),
        "it ends without an error"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_before_the_first_score_is_an_error() {
    let mut service = Service::gated();
    let mut client = service.client.clone();
    let call = within(long(&[200; 3]), Duration::from_secs(60));
    let answer = tokio::spawn(async move { client.rerank(call).await });
    service.begun().await;
    let status = answer.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(
        status.message(),
        "the deadline passed before any passage was scored"
    );
    // Nor is there time for anything in a millisecond.
    let call = within(request(&["a"]), Duration::from_millis(1));
    let status = service.client.rerank(call).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_passage_of_which_a_window_is_missing_is_not_scored() {
    let mut service = Service::gated();
    let mut request = in_windows(&['b', 'c', 'd'], 3);
    request.passages.insert(0, "a".into());
    let mut client = service.client.clone();
    let call = within(request, Duration::from_secs(60));
    let answer = tokio::spawn(async move { client.rerank(call).await });
    assert_eq!(service.let_go().await, [2]);
    assert_eq!(service.let_go().await, [500]);
    assert_eq!(service.begun().await, [500], "the batch in flight");
    let answer = answer.await.unwrap().unwrap().into_inner();
    assert_eq!((answer.indexes, answer.unscored), (vec![0], 1));
    let stats = service.app.stats();
    assert_eq!((stats.expired_passages, stats.queued_passages), (1, 0));
    service.open();
}
