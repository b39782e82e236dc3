//! An endpoint that is slow, busy, broken or not what it should be.

use std::time::Duration;

use llm_reranker::RawConfig;
use tokio::time::Instant;
use tonic::Code;

use crate::endpoint::{Endpoint, JSON, Reply, http, ranks, says};
use crate::service::{Service, pushback_ms, raw, request};

const SECOND: Duration = Duration::from_secs(1);

fn error(status: u16, headers: &str, code: &str) -> Reply {
    let body = format!("{{\"error\": {{\"message\": \"sorry\", \"code\": \"{code}\"}}}}");
    Reply::Http(http(status, &format!("{JSON}{headers}"), body.as_bytes()))
}

/// How a call ends, how many requests it takes, and how long.
async fn outcome(endpoint: &Endpoint) -> (Result<Vec<u32>, (Code, String)>, usize, Duration) {
    let mut service = Service::start(endpoint, raw());
    let began = Instant::now();
    let answer = service.rerank(request(&[1, 2])).await;
    let answer = answer.map(|answer| answer.indexes);
    let answer = answer.map_err(|status| (status.code(), status.message().to_owned()));
    (answer, endpoint.requests(), began.elapsed())
}

/// The code of a failure after a single request.
async fn fails_at_once(script: impl Fn() -> Reply + Send + Sync + 'static) -> (Code, String) {
    let endpoint = Endpoint::new(move |_, _| script());
    let (answer, requests, _) = outcome(&endpoint).await;
    assert_eq!(requests, 1);
    answer.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_busy_endpoint_is_given_the_time_it_asks_for() {
    let endpoint = Endpoint::new(|number, body| match number {
        0 => error(429, "retry-after: 7\r\n", "rate_limit_exceeded"),
        _ => ranks(body),
    });
    let (answer, requests, time) = outcome(&endpoint).await;
    assert_eq!((answer, requests), (Ok(vec![1, 0]), 2));
    assert!((7 * SECOND..8 * SECOND).contains(&time), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    for (asked_for, budget) in [(120, 3600), (7, 5)] {
        let endpoint =
            Endpoint::new(move |_, _| error(429, &format!("retry-after: {asked_for}\r\n"), "x"));
        let mut service = Service::start(&endpoint, raw());
        let began = Instant::now();
        let status = service
            .rerank_within(budget * SECOND, request(&[1, 2]))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(pushback_ms(&status), Some(asked_for * 1000));
        assert_eq!((endpoint.requests(), began.elapsed().as_secs()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_seconds_is_outlived() {
    for status in [408, 500, 502, 503, 504, 529] {
        let endpoint = Endpoint::new(move |number, body| {
            if number < 3 {
                error(status, "", "x")
            } else {
                ranks(body)
            }
        });
        let (answer, requests, time) = outcome(&endpoint).await;
        assert_eq!((answer, requests), (Ok(vec![1, 0]), 4));
        // Half to whole of 0.5, 1 and 2 seconds.
        assert!((SECOND * 7 / 4..SECOND * 4).contains(&time), "{time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lasting_outage_is_told() {
    let endpoint = Endpoint::new(|_, _| error(503, "", "x"));
    let (answer, requests, _) = outcome(&endpoint).await;
    let (code, message) = answer.unwrap_err();
    assert_eq!((code, requests), (Code::Unavailable, 4));
    assert!(message.contains("503"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn what_will_not_change_is_not_tried_again() {
    for (status, code) in [
        (400, "context_length_exceeded"),
        (401, "invalid_api_key"),
        (403, "x"),
        (404, "model_not_found"),
        (422, "x"),
        (429, "insufficient_quota"),
        (418, "x"),
    ] {
        let (kind, message) =
            fails_at_once(move || error(status, "retry-after: 1\r\n", code)).await;
        assert_eq!(kind, Code::FailedPrecondition);
        assert!(
            message.contains(&status.to_string()) && message.contains(code),
            "{message}"
        );
        assert!(!message.contains("sorry"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_redirection_is_not_followed() {
    let (code, message) =
        fails_at_once(|| Reply::Http(http(302, "location: http://elsewhere/\r\n", b""))).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("302"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_completion_is_an_error() {
    let secret = "x".repeat(100_000);
    let bodies = [
        String::new(),
        "{\"choices\": [{\"message\": {\"content\": \"[2] > [1".into(),
        "{\"choices\": []}".into(),
        "null".into(),
        format!("{{\"choices\": \"{secret}\"}}"),
        "[".repeat(500_000),
    ];
    for body in bodies {
        let (code, message) =
            fails_at_once(move || Reply::Http(http(200, JSON, body.as_bytes()))).await;
        assert_eq!(code, Code::Internal, "{message}");
        assert!(message.len() < 200, "{message}");
    }
    let html = || Reply::Http(http(200, "content-type: text/html\r\n", b"<html>"));
    let (code, message) = fails_at_once(html).await;
    assert_eq!(code, Code::Internal);
    assert!(message.contains("content type"), "{message}");
    let gzip = || {
        Reply::Http(http(
            200,
            &format!("{JSON}content-encoding: gzip\r\n"),
            b"\x1f\x8b\x08",
        ))
    };
    assert_eq!(fails_at_once(gzip).await.0, Code::Internal);
}

#[tokio::test(start_paused = true)]
async fn an_endless_answer_is_cut_off() {
    let endless = || {
        let head = format!("HTTP/1.1 200 OK\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
        let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
        Reply::Endless(head.into_bytes(), chunk.into_bytes())
    };
    let (code, message) = fails_at_once(endless).await;
    assert_eq!(code, Code::Internal);
    assert!(message.contains("longer than 1048576 bytes"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_not_waited_for_nor_asked_for_again() {
    let unfinished = http(
        200,
        JSON,
        b"{\"choices\": [{\"message\": {\"content\": \"[2] > [1]\"}}]}",
    );
    let parts = [0, 10, unfinished.len() - 1];
    for part in parts {
        let unfinished = unfinished[..part].to_vec();
        let endpoint = Endpoint::new(move |_, _| Reply::Hang(unfinished.clone()));
        let (answer, requests, time) = outcome(&endpoint).await;
        let (code, message) = answer.unwrap_err();
        assert_eq!(
            (code, requests, time.as_secs()),
            (Code::Unavailable, 1, 60),
            "{message}"
        );
        endpoint.until_in_flight(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_that_is_in_time_counts() {
    let endpoint = Endpoint::new(|_, _| Reply::After(59 * SECOND, Box::new(says("[2] > [1]"))));
    let (answer, requests, _) = outcome(&endpoint).await;
    assert_eq!((answer, requests), (Ok(vec![1, 0]), 1));
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_tried_again() {
    let whole = http(
        200,
        JSON,
        b"{\"choices\": [{\"message\": {\"content\": \"[2] > [1]\"}}]}",
    );
    let parts: [Vec<u8>; 4] = [
        Vec::new(),
        whole[..30].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        b"220 mail.example ESMTP\r\n".to_vec(),
    ];
    for part in parts {
        let endpoint = Endpoint::new(move |number, body| match number {
            0 => Reply::Close(part.clone()),
            _ => ranks(body),
        });
        let (answer, requests, _) = outcome(&endpoint).await;
        assert_eq!((answer, requests), (Ok(vec![1, 0]), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_out_of_reach_is_unavailable() {
    let (answer, ..) = outcome(&Endpoint::out_of_reach()).await;
    let (code, message) = answer.unwrap_err();
    assert_eq!(code, Code::Unavailable);
    assert!(message.contains("connection refused"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_some_windows_ends_the_stream_with_its_reason() {
    let endpoint = Endpoint::new(|number, body| {
        if number == 0 {
            ranks(body)
        } else {
            error(401, "", "invalid_api_key")
        }
    });
    let mut service = Service::start(
        &endpoint,
        RawConfig {
            window: 2,
            step: 1,
            ..raw()
        },
    );
    let stream = service
        .client
        .rerank_stream(request(&[1, 2, 3]))
        .await
        .unwrap();
    let (messages, end) = crate::service::all(stream.into_inner()).await;
    assert_eq!((messages.len(), &messages[0].indexes[..]), (1, &[1][..]));
    assert_eq!(end.unwrap().code(), Code::FailedPrecondition);
    let status = service.rerank(request(&[1, 2, 3])).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_again_and_again_is_told_by_health() {
    let endpoint = Endpoint::new(|number, body| {
        if number < 4 {
            error(401, "", "x")
        } else {
            ranks(body)
        }
    });
    let mut service = Service::start(&endpoint, raw());
    for failures in 0..3 {
        assert!(service.app.readiness().is_ready(), "{failures}");
        service.rerank(request(&[1, 2])).await.unwrap_err();
    }
    assert!(!service.app.readiness().is_ready());
    let began = Instant::now();
    service.app.readiness().wait().await;
    assert_eq!(began.elapsed().as_secs(), 30);
    service.rerank(request(&[1, 2])).await.unwrap_err();
    assert!(
        !service.app.readiness().is_ready(),
        "one more failure is enough"
    );
    service.rerank(request(&[1, 2])).await.unwrap();
    assert!(service.app.readiness().is_ready(), "an answer is enough");
}
