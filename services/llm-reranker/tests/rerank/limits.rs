//! What a call may be and cost, and where the key goes.

use std::time::Duration;

use llm_reranker::{App, Method, RawConfig};
use search_proto::rerank::{DescribeRequest, RerankRequest};
use serde_json::json;
use tokio::net::TcpListener;
use tonic::Code;

use crate::endpoint::{Endpoint, Reply, http, json_body, ranks};
use crate::service::{Service, checked, pushback_ms, raw, request};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test(start_paused = true)]
async fn a_wrong_request_is_refused_with_its_path() {
    let endpoint = Endpoint::out_of_reach();
    let mut service = Service::start(&endpoint, raw());
    let with = |query: &str, passages: Vec<String>| RerankRequest {
        query: query.into(),
        passages,
        ..RerankRequest::default()
    };
    let in_windows = |max_windows| RerankRequest {
        max_windows,
        ..request(&[1])
    };
    let wrong = [
        (with("", vec!["p".into()]), "query"),
        (with(&"q".repeat(64 * 1024 + 1), vec!["p".into()]), "query"),
        (with("q", vec![]), "passages"),
        (with("q", vec!["p".into(); 1001]), "passages"),
        (with("q", vec!["p".into(), String::new()]), "passages[1]"),
        (with("q", vec!["p".repeat(1024 * 1024 + 1)]), "passages[0]"),
        (in_windows(2), "max_windows"),
        (in_windows(17), "max_windows"),
    ];
    for (request, path) in wrong {
        assert_eq!(
            service.refused(request).await,
            (Code::InvalidArgument, path.to_owned())
        );
    }
    let stream = service
        .client
        .rerank_stream(RerankRequest {
            max_results: 1,
            ..request(&[1])
        })
        .await;
    assert_eq!(stream.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn another_model_is_another_fingerprint() {
    let endpoint = Endpoint::new(|_, body| ranks(body));
    let mut service = Service::start(&endpoint, raw());
    let described = service
        .client
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (described.name.as_str(), described.max_tokens),
        ("some-model", 0)
    );
    let mut expecting = request(&[1, 2]);
    expecting
        .expected_fingerprint
        .clone_from(&described.fingerprint);
    let answer = service.rerank(expecting.clone()).await.unwrap();
    assert_eq!(answer.fingerprint, described.fingerprint);
    let others = [
        RawConfig {
            model: "other".into(),
            ..raw()
        },
        RawConfig {
            method: Method::Pointwise,
            ..raw()
        },
        RawConfig {
            window: 19,
            ..raw()
        },
        RawConfig {
            passage_chars: 100,
            ..raw()
        },
        RawConfig {
            parameters: [("seed".to_owned(), json!(1))].into(),
            ..raw()
        },
    ];
    for other in others {
        let mut other = Service::start(&endpoint, other);
        assert_eq!(
            other.refused(expecting.clone()).await.0,
            Code::FailedPrecondition
        );
    }
    let moved = RawConfig {
        endpoint: "https://elsewhere/v1".into(),
        ..raw()
    };
    assert!(
        Service::start(&endpoint, moved)
            .rerank(expecting)
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_cost_too_much_is_refused_before_it_begins() {
    for method in [Method::Listwise, Method::Pointwise] {
        let endpoint = Endpoint::out_of_reach();
        let mut service = Service::start(
            &endpoint,
            RawConfig {
                method,
                call_tokens: 1000,
                ..raw()
            },
        );
        let long = RerankRequest {
            query: "q".into(),
            passages: vec!["long ".repeat(400); 2],
            ..RerankRequest::default()
        };
        assert_eq!(
            service.refused(long).await,
            (Code::InvalidArgument, "passages".to_owned())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_beginning_of_a_passage_is_sent_and_paid() {
    let endpoint = Endpoint::new(|_, body| ranks(body));
    let mut service = Service::start(
        &endpoint,
        RawConfig {
            passage_chars: 20,
            call_tokens: 1000,
            ..raw()
        },
    );
    let mut long = request(&[1, 2, 3]);
    long.passages[1].push_str(&" and so on".repeat(50_000));
    let answer = service.rerank(long).await.unwrap();
    assert_eq!(
        (&answer.indexes[..], answer.truncated_passages),
        (&[2, 1, 0][..], 1)
    );
    assert!(
        endpoint.seen()[0]
            .user()
            .contains("\n[2] passage worth 2 and \n")
    );
}

#[tokio::test(start_paused = true)]
async fn the_days_requests_are_limited() {
    let endpoint = Endpoint::new(|_, body| ranks(body));
    let mut service = Service::start(
        &endpoint,
        RawConfig {
            day_requests: 2,
            ..raw()
        },
    );
    service.rerank(request(&[1, 2])).await.unwrap();
    service.rerank(request(&[1, 3])).await.unwrap();
    let status = service.rerank(request(&[1, 4])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(pushback_ms(&status).unwrap() > 23 * 3_600_000);
    service
        .rerank(request(&[1, 2]))
        .await
        .expect("an answer at hand costs nothing");
    assert!(service.app.readiness().is_ready());
    tokio::time::advance(DAY).await;
    service.rerank(request(&[1, 4])).await.unwrap();
    assert_eq!(endpoint.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_days_tokens_are_those_that_the_endpoint_counts() {
    let endpoint = Endpoint::new(|number, _| {
        let usage = if number == 0 {
            json!({"prompt_tokens": 5, "completion_tokens": 5})
        } else {
            json!({"prompt_tokens": 10_000, "completion_tokens": 0})
        };
        json_body(
            200,
            &json!({"choices": [{"message": {"content": "[2] > [1]"}}], "usage": usage}),
        )
    });
    let mut service = Service::start(
        &endpoint,
        RawConfig {
            day_tokens: 1000,
            ..raw()
        },
    );
    service.rerank(request(&[1, 2])).await.unwrap();
    service.rerank(request(&[1, 3])).await.unwrap();
    let status = service.rerank(request(&[1, 4])).await.unwrap_err();
    assert_eq!(
        (status.code(), endpoint.requests()),
        (Code::ResourceExhausted, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_counts_nothing_is_taken_at_the_estimate() {
    for usage in [
        json!(null),
        json!({"prompt_tokens": -1, "completion_tokens": 1}),
        json!([1]),
    ] {
        let body = json!({"choices": [{"message": {"content": "[2] > [1]"}}], "usage": usage});
        let endpoint = Endpoint::new(move |_, _| json_body(200, &body));
        let mut service = Service::start(&endpoint, raw());
        let usage = service
            .rerank(request(&[1, 2]))
            .await
            .unwrap()
            .language_model
            .unwrap();
        assert!((50..1000).contains(&usage.prompt_tokens), "{usage:?}");
        assert!(usage.completion_tokens > 0);
    }
    let wild = json!({"choices": [{"message": {"content": "[2] > [1]"}}], "usage": {"prompt_tokens": u64::MAX, "completion_tokens": u64::MAX}});
    let endpoint = Endpoint::new(move |_, _| json_body(200, &wild));
    let answer = Service::start(
        &endpoint,
        RawConfig {
            day_tokens: 0,
            window: 2,
            step: 1,
            ..raw()
        },
    )
    .rerank(request(&[1, 2, 3]))
    .await
    .unwrap();
    assert_eq!(answer.language_model.unwrap().prompt_tokens, u64::MAX);
}

#[tokio::test(start_paused = true)]
async fn the_key_is_in_one_header_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "sk-very-secret\n").unwrap();
    let endpoint = Endpoint::new(|number, body| {
        match number {
        0 => ranks(body),
        _ => Reply::Http(http(401, "content-type: application/json\r\n", b"{\"error\": {\"message\": \"bad key sk-very-secret\", \"code\": \"sk-very-secret!\"}}")),
    }
    });
    let mut service = Service::start(
        &endpoint,
        RawConfig {
            api_key_file: path,
            ..raw()
        },
    );
    service.rerank(request(&[1, 2])).await.unwrap();
    let seen = &endpoint.seen()[0];
    assert!(
        seen.head
            .starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{}",
        seen.head
    );
    assert_eq!(seen.head.matches("sk-very-secret").count(), 1);
    assert!(
        seen.head
            .contains("authorization: Bearer sk-very-secret\r\n")
    );
    assert!(!seen.body.to_string().contains("secret"));
    let status = service.rerank(request(&[1, 3])).await.unwrap_err();
    assert!(!format!("{status:?}").contains("secret"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn parameters_reach_the_endpoint() {
    let endpoint = Endpoint::new(|_, body| ranks(body));
    let parameters = [
        ("max_completion_tokens".to_owned(), json!(500)),
        ("temperature".to_owned(), json!(1)),
    ];
    let mut service = Service::start(
        &endpoint,
        RawConfig {
            parameters: parameters.into(),
            ..raw()
        },
    );
    service.rerank(request(&[1, 2])).await.unwrap();
    let body = &endpoint.seen()[0].body;
    assert_eq!(
        (
            &body["model"],
            &body["temperature"],
            &body["max_completion_tokens"]
        ),
        (&json!("some-model"), &json!(1), &json!(500))
    );
    assert_eq!(body.get("max_tokens"), None);
}

#[tokio::test]
async fn it_works_over_a_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = Endpoint::new(|_, body| ranks(body));
    let serving = endpoint.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serving.clone().serve(socket));
        }
    });
    let config = checked(RawConfig {
        endpoint: format!("http://{address}/v1/"),
        ..raw()
    });
    let mut service = Service::over(App::start(config).unwrap());
    let answer = service.rerank(request(&[1, 3, 2])).await.unwrap();
    assert_eq!(answer.indexes, [1, 2, 0]);
    assert!(
        endpoint.seen()[0]
            .head
            .contains(&format!("host: {address}\r\n"))
    );
}
