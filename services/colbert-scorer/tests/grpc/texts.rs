//! Scores of texts that are not indexed.

use colbert_scorer::RawConfig;
use search_core::ErrorKind;
use search_proto::colbert::{ScoreTextsRequest, ScoreTextsResponse};
use service_kit::status::{fields_of, kind_of};
use testkit::corpus::Document;

use crate::support::{FLOAT_TOLERANCE, World, bits, client, documents, float_score, serve};

const QUERY: &str = "w17 w4 w390 w250";

fn request(texts: &[&str]) -> ScoreTextsRequest {
    ScoreTextsRequest {
        query: QUERY.to_owned(),
        texts: texts.iter().map(ToString::to_string).collect(),
        expected_fingerprint: String::new(),
    }
}

async fn score(world: &World, request: ScoreTextsRequest) -> ScoreTextsResponse {
    world
        .client()
        .score_texts(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn texts_score_as_passages_do() {
    let world = World::small(&documents(40)).await;
    let passages = world.passages().await;
    let texts: Vec<&str> = passages.iter().map(|passage| &*passage.text).collect();
    let scored = score(&world, request(&texts)).await;
    assert_eq!(scored.fingerprint, "hash-64");
    // The tokens of this collection are stored as wide as they are.
    let addresses = passages.iter().map(|it| it.address.to_u64()).collect();
    let stored = world.score(QUERY, addresses).await;
    assert_eq!(bits(&scored.scores), bits(&stored.scores));
    for (text, score) in texts.iter().zip(&scored.scores) {
        let exact = float_score(&world.tokens(QUERY), &world.tokens(text));
        assert!(
            (score - exact).abs() < FLOAT_TOLERANCE,
            "{score} for {exact}"
        );
    }
}

#[tokio::test]
async fn more_texts_than_fit_into_a_message_keep_their_order() {
    let world = World::small(&documents(1)).await;
    // With 64 dimensions and 256 tokens the encoder takes 254 texts at a time.
    let documents = documents(600);
    let texts: Vec<&str> = documents.iter().map(|it: &Document| &*it.text).collect();
    let long = "w17 ".repeat(300);
    let texts: Vec<&str> = texts.into_iter().chain([&*long]).collect();
    let together = score(&world, request(&texts)).await;
    assert_eq!((together.scores.len(), together.truncated_texts), (601, 1));
    for place in [0, 253, 254, 507, 508, 600] {
        let alone = score(&world, request(&texts[place..=place])).await;
        assert_eq!(bits(&alone.scores), bits(&together.scores[place..=place]));
    }
}

#[tokio::test]
async fn a_text_that_is_wrong_is_named_as_the_caller_named_it() {
    let world = World::small(&documents(1)).await;
    let many = |place: usize, text: &str| {
        let mut texts = vec!["w1"; 300];
        texts[place] = text;
        request(&texts)
    };
    let large = "x".repeat(64 * 1024 + 1);
    let query = |query: &str| ScoreTextsRequest {
        query: query.to_owned(),
        ..request(&["w1"])
    };
    let cases = [
        ("query", query("")),
        ("query", query(" \t")),
        ("query", query(&large)),
        ("texts", request(&[])),
        ("texts", request(&["w1"; 1001])),
        ("texts[7]", many(7, "")),
        ("texts[7]", many(7, "  ")),
        ("texts[299]", many(299, "  ")),
        ("texts[299]", many(299, &large)),
    ];
    for (path, wrong) in cases {
        let status = world.client().score_texts(wrong).await.unwrap_err();
        assert_eq!(
            kind_of(&status),
            ErrorKind::InvalidArgument,
            "{path}: {status:?}"
        );
        assert_eq!(fields_of(&status)[0].path, path, "{status:?}");
    }
}

#[tokio::test]
async fn another_bundle_is_refused_with_both_names() {
    let world = World::small(&documents(1)).await;
    let expecting = |fingerprint: &str| ScoreTextsRequest {
        expected_fingerprint: fingerprint.to_owned(),
        ..request(&["w1"])
    };
    assert_eq!(score(&world, expecting("hash-64")).await.scores.len(), 1);
    let status = world
        .client()
        .score_texts(expecting("another"))
        .await
        .unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::FailedPrecondition);
    for name in ["another", "hash-64 (hash)"] {
        assert!(status.message().contains(name), "{status:?}");
    }
}

#[tokio::test]
async fn without_an_encoder_passages_are_scored_and_texts_are_not() {
    let world = World::small(&documents(4)).await;
    let served = serve(world.store(), RawConfig::default(), vec![]).await;
    let mut client = client(served.channel());
    let passages = world.request(QUERY, vec![0]).await;
    assert!(client.score(passages).await.is_ok());
    let status = client.score_texts(request(&["w1"])).await.unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::FailedPrecondition);
    assert!(status.message().contains("peers.encoder"), "{status:?}");
}
