//! Requests that are wrong, that do not fit what is held, or that come too late.

use std::time::{Duration, Instant};

use colbert_scorer::RawConfig;
use search_core::{Deadline, ErrorKind};
use search_proto::colbert::{QueryTokens, ScoreRequest};
use search_proto::common::{DescribeRequest, Snapshot};
use service_kit::status::{fields_of, kind_of};
use service_kit::with_deadline;
use testkit::{COLLECTION, MeshOptions};

use crate::support::{World, client, documents, options, serve};

fn with_query(request: &ScoreRequest, change: impl FnOnce(&mut QueryTokens)) -> ScoreRequest {
    let mut request = request.clone();
    change(request.query.as_mut().unwrap());
    request
}

#[tokio::test]
async fn bad_requests_name_the_field() {
    let world = World::small(&documents(4)).await;
    let good = world.request("w1 w2 w3", vec![0]).await;
    let cases = [
        (
            "snapshot",
            ScoreRequest {
                snapshot: None,
                ..good.clone()
            },
        ),
        (
            "query",
            ScoreRequest {
                query: None,
                ..good.clone()
            },
        ),
        (
            "addresses",
            ScoreRequest {
                addresses: vec![],
                ..good.clone()
            },
        ),
        (
            "addresses",
            ScoreRequest {
                addresses: vec![0; 10_001],
                ..good.clone()
            },
        ),
        (
            "query.encoder_fingerprint",
            with_query(&good, |query| query.encoder_fingerprint.clear()),
        ),
        (
            "query.dimensions",
            with_query(&good, |query| query.dimensions = 0),
        ),
        // As many numbers make other tokens.
        (
            "query.dimensions",
            with_query(&good, |query| query.dimensions = 32),
        ),
        (
            "query.vectors",
            with_query(&good, |query| query.dimensions = 7),
        ),
        (
            "query.vectors",
            with_query(&good, |query| query.vectors.clear()),
        ),
        (
            "query.vectors",
            with_query(&good, |query| query.vectors = vec![1.0; 1025 * 64]),
        ),
        (
            "query.vectors",
            with_query(&good, |query| query.vectors[64..128].fill(0.0)),
        ),
        (
            "query.vectors[70]",
            with_query(&good, |query| query.vectors[70] = f32::NAN),
        ),
        (
            "query.vectors[5]",
            with_query(&good, |query| query.vectors[5] = f32::INFINITY),
        ),
    ];
    for (path, wrong) in cases {
        let status = world.client().score(wrong).await.unwrap_err();
        assert_eq!(
            kind_of(&status),
            ErrorKind::InvalidArgument,
            "{path}: {status:?}"
        );
        assert_eq!(fields_of(&status)[0].path, path, "{status:?}");
    }
    let most = with_query(&good, |query| query.vectors = vec![1.0; 1024 * 64]);
    assert!(world.client().score(most).await.is_ok());
    for (path, addresses) in [("addresses", vec![]), ("addresses", vec![0; 101])] {
        let request = world.match_request("w1", addresses).await;
        let status = world.client().r#match(request).await.unwrap_err();
        assert_eq!(fields_of(&status)[0].path, path, "{status:?}");
    }
}

#[tokio::test]
async fn what_does_not_fit_the_state_is_a_failed_precondition() {
    let options = MeshOptions {
        shards: 2,
        ..options(64)
    };
    let world = World::start(64, options, &documents(20)).await;
    let raw = RawConfig {
        shards: vec![1],
        ..RawConfig::default()
    };
    let served = serve(world.store(), raw, vec![]).await;
    let good = ScoreRequest {
        shard: 1,
        ..world.request("w1", vec![0]).await
    };
    let mut client = client(served.channel());
    assert!(client.score(good.clone()).await.is_ok());
    let later = Snapshot {
        collection: COLLECTION.to_owned(),
        number: 7,
    };
    let other_bundle = with_query(&good, |query| {
        query.encoder_fingerprint = "another".to_owned()
    });
    let cases = [
        (
            "snapshot 7 of test is not held, but [1] are",
            ScoreRequest {
                snapshot: Some(later),
                ..good.clone()
            },
        ),
        (
            "shard 0 of test is not held, but [1] are",
            ScoreRequest {
                shard: 0,
                ..good.clone()
            },
        ),
        (
            "with another, the passages of test with hash-64",
            other_bundle,
        ),
    ];
    for (part, wrong) in cases {
        let status = client.score(wrong).await.unwrap_err();
        assert_eq!(
            kind_of(&status),
            ErrorKind::FailedPrecondition,
            "{status:?}"
        );
        assert!(status.message().contains(part), "{status:?}");
    }
}

#[tokio::test]
async fn a_collection_without_token_vectors_is_not_held() {
    let options = MeshOptions {
        stages: vec!["sparse".to_owned(), "dense".to_owned()],
        ..options(64)
    };
    let world = World::start(64, options, &documents(4)).await;
    let described = world.client().describe(DescribeRequest {}).await.unwrap();
    assert_eq!(described.into_inner().snapshots, []);
    let request = world.request("w1", vec![0]).await;
    let status = world.client().score(request).await.unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_passed_deadline_is_answered_as_one() {
    let world = World::small(&documents(4)).await;
    let now = Instant::now();
    let passed = Deadline::after(now, Duration::ZERO);
    let scores = with_deadline(world.request("w1", vec![0]).await, passed, now);
    let status = world.client().score(scores).await.unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::DeadlineExceeded);
    let matches = with_deadline(world.match_request("w1", vec![0]).await, passed, now);
    let status = world.client().r#match(matches).await.unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::DeadlineExceeded);
}
