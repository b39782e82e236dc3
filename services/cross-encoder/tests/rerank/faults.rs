//! Hostile requests, full queues and failing models.

use std::sync::atomic::Ordering;

use bytes::BufMut;
use http::uri::PathAndQuery;
use search_proto::rerank::{RerankRequest, RerankResponse};
use service_kit::status::fields_of;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::scripted::{Service, in_windows, request};

#[tokio::test]
async fn every_wrong_field_is_named() {
    let mut service = Service::free();
    let invalid = |path: &str| (Code::InvalidArgument, path.to_owned());
    let asking = |query: &str| RerankRequest {
        query: query.into(),
        ..request(&["a"])
    };
    assert_eq!(service.refused(asking("")).await, invalid("query"));
    assert_eq!(service.refused(asking(" \n")).await, invalid("query"));
    assert_eq!(
        service.refused(asking(&"x".repeat(65_537))).await,
        invalid("query")
    );
    assert_eq!(service.refused(request(&[])).await, invalid("passages"));
    assert_eq!(
        service.refused(request(&["a"; 1001])).await,
        invalid("passages")
    );
    assert_eq!(
        service.refused(request(&["a", ""])).await,
        invalid("passages[1]")
    );
    let huge = "a".repeat(1024 * 1024 + 1);
    assert_eq!(
        service.refused(request(&["a", "b", &huge])).await,
        invalid("passages[2]")
    );
    let windows = RerankRequest {
        max_windows: 17,
        ..request(&["a"])
    };
    assert_eq!(service.refused(windows).await, invalid("max_windows"));
    // Read in another part than the first.
    let mut unreadable = ["a"; 60];
    unreadable[50] = "unreadable";
    assert_eq!(
        service.refused(request(&unreadable)).await,
        invalid("passages[50]")
    );
    let limited = RerankRequest {
        max_results: 1,
        ..request(&["a"])
    };
    let status = service.client.rerank_stream(limited).await.unwrap_err();
    assert_eq!(fields_of(&status)[0].path, "max_results");
    // What is refused takes no place.
    service.until(|app| app.stats().queued_passages == 0).await;
    assert_eq!(service.rerank(request(&["a"])).await.unwrap().indexes, [0]);
}

/// Sends bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = &'static [u8];
    type Decode = RerankResponse;
    type Encoder = Self;
    type Decoder = <ProstCodec<RerankRequest, RerankResponse> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<RerankRequest, RerankResponse>::default().decoder()
    }
}

impl Encoder for Raw {
    type Item = &'static [u8];
    type Error = Status;

    fn encode(&mut self, bytes: &'static [u8], buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(bytes);
        Ok(())
    }
}

#[tokio::test]
async fn bytes_that_are_no_request_are_the_callers_fault() {
    let service = Service::free();
    let path = PathAndQuery::from_static("/finemesh.rerank.v1.RerankerService/Rerank");
    let cases: [(&[u8], &str); 4] = [
        (b"\x0a\x02\xc3\x28", "query"),
        (b"\x0a\x01q\x12\x01\xff", "passages"),
        (b"\x18\xff", "max_results"),
        (b"\xff", ""),
    ];
    for (bytes, field) in cases {
        let mut client = Grpc::new(service.channel.clone());
        client.ready().await.unwrap();
        let answer = client.unary(Request::new(bytes), path.clone(), Raw).await;
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(fields_of(&status)[0].path, field, "{status}");
    }
}

#[tokio::test]
async fn more_than_a_message_holds_is_refused() {
    let mut service = Service::free();
    let mebibyte = "a".repeat(1024 * 1024);
    let status = service
        .rerank(request(&[&*mebibyte; 17]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(
        service
            .rerank(request(&[&*mebibyte]))
            .await
            .unwrap()
            .truncated_passages,
        1
    );
}

#[tokio::test]
async fn another_bundle_is_refused_with_both_fingerprints() {
    let mut service = Service::free();
    let expecting = |fingerprint: &str| RerankRequest {
        expected_fingerprint: fingerprint.into(),
        ..request(&["a"])
    };
    assert!(service.rerank(expecting("abc")).await.is_ok());
    let status = service.rerank(expecting("def")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.message(),
        "the caller expects the bundle def, served is abc (scripted)"
    );
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let mut service = Service::with_room(4);
    let mut stream_client = service.client.clone();
    let waiting =
        tokio::spawn(async move { stream_client.rerank(request(&["a", "b", "c"])).await });
    assert_eq!(service.begun().await, [2, 2, 2]);
    let status = service.rerank(request(&["a", "b"])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let full = "the queue is full: 3 passages wait, 2 more do not fit into 4";
    assert_eq!(status.message(), full);
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert!(pushback.to_str().unwrap().parse::<u64>().unwrap() > 0);
    service.script.gate.send(()).unwrap();
    waiting.await.unwrap().unwrap();
    service.script.gate.send(()).unwrap();
    assert!(service.rerank(request(&["a", "b"])).await.is_ok());
    assert_eq!(service.app.stats().refused_calls, 1);
    // There will never be room for five.
    let status = service.rerank(request(&["a"; 5])).await.unwrap_err();
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "-1"
    );
}

#[tokio::test]
async fn each_window_needs_a_place_in_the_queue() {
    let mut service = Service::with_room(4);
    let mut client = service.client.clone();
    let waiting = tokio::spawn(async move { client.rerank(request(&["a"])).await });
    service.begun().await;
    let pushback = |status: &Status| {
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        pushback.unwrap().to_str().unwrap().parse::<i64>().unwrap()
    };
    let status = service.rerank(in_windows(&['a'; 4], 4)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let full = "the queue is full: 1 passages wait, 4 more do not fit into 4";
    assert_eq!(status.message(), full);
    assert!(pushback(&status) > 0);
    // There will never be room for five.
    let status = service.rerank(in_windows(&['a'; 5], 5)).await.unwrap_err();
    assert_eq!(pushback(&status), -1);
    let stats = service.app.stats();
    assert_eq!((stats.queued_passages, stats.refused_calls), (1, 2));
    service.open();
    waiting.await.unwrap().unwrap();
    let answer = service.rerank(in_windows(&['a'; 4], 4)).await.unwrap();
    assert_eq!(answer.tokens, [2000]);
}

#[tokio::test]
async fn a_batch_that_fails_or_panics_is_internal_and_the_service_goes_on() {
    let mut service = Service::free();
    for passage in ["#", "@"] {
        let refused = service.refused(request(&["a", passage])).await;
        assert_eq!(refused, (Code::Internal, String::new()));
        // The known pair still comes out: it was the passage's fault.
        assert!(service.app.readiness().is_ready());
        assert!(service.rerank(request(&["a"])).await.is_ok());
    }
    let status = service
        .rerank(RerankRequest {
            query: "panic".into(),
            ..request(&["a"])
        })
        .await;
    assert_eq!(status.unwrap_err().code(), Code::Internal);
    assert_eq!(service.app.stats().queued_passages, 0);
}

#[tokio::test]
async fn a_score_that_cannot_be_ranked_fails_its_own_call_only() {
    let mut service = Service::gated();
    let (mut first, mut second) = (service.client.clone(), service.client.clone());
    let blocking = tokio::spawn(async move { first.rerank(request(&["a"])).await });
    service.begun().await;
    let harmless = tokio::spawn(async move { second.rerank(request(&["b"])).await });
    service.until(|app| app.stats().queued_passages == 2).await;
    let mut third = service.client.clone();
    let nan = tokio::spawn(async move { third.rerank(request(&["c", "~"])).await });
    service.until(|app| app.stats().queued_passages == 4).await;
    service.open();
    assert!(blocking.await.unwrap().is_ok());
    assert_eq!(harmless.await.unwrap().unwrap().into_inner().logits, [-2.0]);
    let status = nan.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(status.message(), "passages[1]: the model's score is NaN");
}

#[tokio::test]
async fn a_model_that_fails_is_not_ready_until_it_computes_again() {
    let mut service = Service::free();
    service.script.broken.store(true, Ordering::SeqCst);
    assert_eq!(service.refused(request(&["a"])).await.0, Code::Internal);
    assert!(!service.app.readiness().is_ready());
    assert_eq!(
        service.refused(request(&["a"])).await.0,
        Code::Internal,
        "and does not wait"
    );
    service.script.broken.store(false, Ordering::SeqCst);
    assert!(service.rerank(request(&["a"])).await.is_ok());
    assert!(service.app.readiness().is_ready());
}

#[tokio::test]
async fn a_model_that_nobody_asks_is_checked_until_it_computes_again() {
    let mut service = Service::free();
    service.script.broken.store(true, Ordering::SeqCst);
    assert_eq!(service.refused(request(&["a"])).await.0, Code::Internal);
    service.script.broken.store(false, Ordering::SeqCst);
    service.app.readiness().wait().await;
}
