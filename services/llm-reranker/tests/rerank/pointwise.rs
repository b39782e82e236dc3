//! The model says yes or no about each passage.

use std::time::Duration;

use llm_reranker::{Method, RawConfig};
use search_proto::rerank::LanguageModelUse;
use serde_json::Value;
use tonic::Code;

use crate::endpoint::{Endpoint, Reply, says, says_with, user, worth};
use crate::service::{Service, all, raw, request};

fn pointwise() -> RawConfig {
    RawConfig {
        method: Method::Pointwise,
        concurrent_requests: 2,
        ..raw()
    }
}

/// Yes with this many percent.
fn judges(body: &Value) -> Reply {
    let yes = worth(user(body)) as f64 / 100.0;
    says_with(&[("Yes", yes), ("No", 1.0 - yes)])
}

#[tokio::test(start_paused = true)]
async fn a_score_is_how_likely_yes_is() {
    let endpoint = Endpoint::new(|_, body| judges(body));
    let mut service = Service::start(&endpoint, pointwise());
    let answer = service.rerank(request(&[20, 90, 50])).await.unwrap();
    assert_eq!(
        (&answer.indexes[..], &answer.batches[..]),
        (&[1, 2, 0][..], &[1, 2, 0][..])
    );
    for (score, expected) in answer.scores.iter().zip([0.9, 0.5, 0.2]) {
        assert!((score - expected).abs() < 1e-6);
    }
    assert_eq!(
        (&answer.tokens[..], answer.unscored),
        (&[50, 50, 50][..], 0)
    );
    let expected = LanguageModelUse {
        requests: 3,
        prompt_tokens: 150,
        completion_tokens: 3,
        ..LanguageModelUse::default()
    };
    assert_eq!(answer.language_model, Some(expected));
    let body = &endpoint.seen()[0].body;
    assert_eq!(
        (
            &body["max_tokens"],
            &body["logprobs"],
            &body["top_logprobs"]
        ),
        (&1.into(), &true.into(), &20.into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_keeps_the_callers_order_whoever_is_faster() {
    let endpoint = Endpoint::new(|_, body| {
        let time = Duration::from_millis(100 - worth(user(body)) as u64);
        Reply::After(time, Box::new(judges(body)))
    });
    let mut service = Service::start(&endpoint, pointwise());
    let stream = service
        .client
        .rerank_stream(request(&[10, 60, 30, 90, 20]))
        .await
        .unwrap();
    let (messages, end) = all(stream.into_inner()).await;
    assert!(end.is_none());
    let told: Vec<&[u32]> = messages
        .iter()
        .map(|message| &message.indexes[..])
        .collect();
    assert_eq!(told, [[0], [1], [2], [3], [4]]);
    let unscored: Vec<u32> = messages.iter().map(|message| message.unscored).collect();
    assert_eq!(unscored, [4, 3, 2, 1, 0]);
    assert_eq!(endpoint.most_in_flight(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_passage_about_which_nothing_is_said_stays_unscored() {
    let endpoint = Endpoint::new(|_, body| match worth(user(body)) {
        7 => says_with(&[("Maybe", 0.9), ("I", 0.1)]),
        8 => says("Yes"),
        _ => judges(body),
    });
    let mut service = Service::start(&endpoint, pointwise());
    let answer = service.rerank(request(&[7, 30, 8])).await.unwrap();
    assert_eq!((&answer.indexes[..], answer.unscored), (&[1][..], 2));
    assert_eq!(answer.language_model.unwrap().unusable_answers, 2);
    let stream = service
        .client
        .rerank_stream(request(&[7, 30, 8]))
        .await
        .unwrap();
    let (messages, end) = all(stream.into_inner()).await;
    assert!(end.is_none());
    assert_eq!((messages.len(), messages[0].unscored), (1, 2));
    let usage = messages[0].language_model.unwrap();
    assert_eq!((usage.unusable_answers, usage.cached_answers), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_without_probabilities_is_an_error() {
    let endpoint = Endpoint::new(|_, _| says("Yes"));
    let mut service = Service::start(&endpoint, pointwise());
    let status = service.rerank(request(&[1, 2])).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("probability"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn what_was_scored_before_the_deadline_comes_back() {
    let endpoint = Endpoint::new(|_, body| match worth(user(body)) {
        9 => Reply::Hang(Vec::new()),
        _ => judges(body),
    });
    let mut service = Service::start(&endpoint, pointwise());
    let answer = service
        .rerank_within(Duration::from_secs(1), request(&[30, 60, 9, 20]))
        .await
        .unwrap();
    assert_eq!((&answer.indexes[..], answer.unscored), (&[1, 0][..], 2));
    endpoint.until_in_flight(0).await;
}

#[tokio::test(start_paused = true)]
async fn calls_share_the_requests_in_flight() {
    let endpoint =
        Endpoint::new(|_, body| Reply::After(Duration::from_secs(1), Box::new(judges(body))));
    let service = Service::start(&endpoint, pointwise());
    let mut clients = [
        service.client.clone(),
        service.client.clone(),
        service.client,
    ];
    let [first, second, third] = &mut clients;
    let (first, second, third) = tokio::join!(
        first.rerank(request(&[1, 2, 3])),
        second.rerank(request(&[4, 5, 6])),
        third.rerank(request(&[7, 8, 9])),
    );
    assert_eq!(endpoint.most_in_flight(), 2);
    let answers = [first, second, third].map(|answer| answer.unwrap().into_inner());
    let longest_wait = answers
        .iter()
        .map(|answer| answer.timing.unwrap().queue_us)
        .max()
        .unwrap();
    assert!(longest_wait >= 1_000_000, "{longest_wait}");
}
