//! The service over its wire contract.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use dense_retriever::{Config, RawConfig};
use search_core::{Deadline, ErrorKind};
use search_proto::common::filter::Condition;
use search_proto::common::value::Kind;
use search_proto::common::{Candidates, DescribeRequest, FieldRange, Filter, Snapshot, Value};
use search_proto::dense::{ScoreRequest, SearchRequest};
use service_kit::status::{fields_of, kind_of};
use service_kit::{Problems, with_deadline};
use tonic::Status;

use support::{
    Collection, Doc, FINGERPRINT, RESCORE_FINGERPRINT, Served, WIDTH, docs, rescore_vector,
};

fn request(collection: &Collection, vector: &[f32]) -> SearchRequest {
    SearchRequest {
        snapshot: collection.snapshot(),
        vector: vector.to_vec(),
        encoder_fingerprint: FINGERPRINT.to_owned(),
        limit: 10,
        prefix_depth: 0,
        filter: None,
        shard: 0,
    }
}

fn score_request(collection: &Collection, vector: &[f32], addresses: Vec<u64>) -> ScoreRequest {
    ScoreRequest {
        snapshot: collection.snapshot(),
        vector: vector.to_vec(),
        encoder_fingerprint: FINGERPRINT.to_owned(),
        addresses,
        shard: 0,
    }
}

fn number_range(lower: i64, upper: i64) -> Option<Filter> {
    let value = |number| {
        Some(Value {
            kind: Some(Kind::Integer(number)),
        })
    };
    let range = FieldRange {
        field: "number".to_owned(),
        lower: value(lower),
        upper: value(upper),
        lower_exclusive: false,
        upper_exclusive: true,
    };
    Some(Filter {
        condition: Some(Condition::Range(range)),
    })
}

async fn find(served: &mut Served, request: SearchRequest) -> Candidates {
    served
        .client
        .search(request)
        .await
        .unwrap()
        .into_inner()
        .candidates
        .unwrap()
}

async fn refused(served: &mut Served, request: SearchRequest) -> Status {
    served.client.search(request).await.unwrap_err()
}

/// The best ten by cosines of the floats.
fn exact<'a>(docs: impl Iterator<Item = &'a Doc>, query: &[f32]) -> Vec<String> {
    let dot = |left: &[f32], right: &[f32]| {
        left.iter()
            .zip(right)
            .map(|(l, r)| f64::from(l * r))
            .sum::<f64>()
    };
    let cosine =
        |vector: &[f32]| dot(vector, query) / (dot(vector, vector) * dot(query, query)).sqrt();
    let mut scored: Vec<_> = docs
        .map(|doc| (cosine(&doc.vector), doc.id.clone()))
        .collect();
    scored.sort_by(|left, right| right.0.total_cmp(&left.0));
    scored.into_iter().take(10).map(|(_, id)| id).collect()
}

fn in_common(left: &[String], right: &[String]) -> usize {
    left.iter().filter(|id| right.contains(id)).count()
}

#[tokio::test]
async fn finds_what_the_floats_find_with_and_without_a_rotation() {
    let docs = docs(2000);
    for rotated in [false, true] {
        let mut collection = Collection::new(1, rotated);
        collection.commit(&docs, 3).await;
        let mut served = Served::start(&collection.store, Config::default()).await;
        let mut kept = 0;
        for query in docs.iter().step_by(200) {
            let request = SearchRequest {
                prefix_depth: 300,
                ..request(&collection, &query.vector)
            };
            let found = find(&mut served, request).await;
            let ids = collection.ids(&found.addresses).await;
            assert_eq!(ids[0], query.id);
            assert!((found.scores[0] - 1.0).abs() < 1e-3);
            kept += in_common(&exact(docs.iter(), &query.vector), &ids);
        }
        assert!(kept >= 95, "{kept} of 100, rotated: {rotated}");
    }
}

#[tokio::test]
async fn shards_and_segments_change_neither_scores_nor_order() {
    let docs = docs(300);
    let mut answers = Vec::new();
    for (shards, segments) in [(1, 1), (1, 7), (4, 1), (4, 2)] {
        let mut collection = Collection::new(shards, true);
        collection.commit(&docs, segments).await;
        let mut served = Served::start(&collection.store, Config::default()).await;
        let mut merged = Vec::new();
        for shard in 0..shards {
            let request = SearchRequest {
                shard,
                limit: 100,
                ..request(&collection, &docs[9].vector)
            };
            let found = find(&mut served, request).await;
            let ids = collection.ids(&found.addresses).await;
            merged.extend(found.scores.iter().map(|score| score.to_bits()).zip(ids));
        }
        merged.sort_by(|left, right| {
            f32::from_bits(right.0)
                .total_cmp(&f32::from_bits(left.0))
                .then_with(|| left.1.cmp(&right.1))
        });
        merged.truncate(100);
        answers.push(merged);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

#[tokio::test]
async fn given_passages_get_the_scores_of_a_search() {
    let mut collection = Collection::new(1, true);
    let docs = docs(2500);
    collection.commit(&docs, 2).await;
    collection.delete(0, &[0, 1]).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let query = &docs[77].vector;
    let found = find(
        &mut served,
        SearchRequest {
            limit: 500,
            ..request(&collection, query)
        },
    )
    .await;
    let mut addresses: Vec<u64> = found.addresses.iter().rev().copied().collect();
    // Deleted, beyond the segment, another segment.
    addresses.extend([0, 5000, 9 << 32]);
    let scored = served
        .client
        .score(score_request(&collection, query, addresses))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(scored.unknown, [500, 501, 502]);
    let expected: Vec<u32> = found
        .scores
        .iter()
        .rev()
        .map(|score| score.to_bits())
        .chain([0, 0, 0])
        .collect();
    assert_eq!(
        scored
            .scores
            .iter()
            .map(|score| score.to_bits())
            .collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test]
async fn filters_and_deletes_are_exact() {
    let mut collection = Collection::new(1, false);
    let docs = docs(1000);
    collection.commit(&docs, 4).await;
    collection.delete(1, &(0..250).collect::<Vec<_>>()).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let query = &docs[500].vector;
    let request = SearchRequest {
        filter: number_range(100, 130),
        limit: 1000,
        ..request(&collection, query)
    };
    let found = find(&mut served, request).await;
    let mut ids = collection.ids(&found.addresses).await;
    ids.sort();
    // Documents go to the segments in turn: the second has those with remainder 1.
    let live = docs[100..130].iter().filter(|doc| doc.number % 4 != 1);
    assert_eq!(ids, live.map(|doc| doc.id.clone()).collect::<Vec<_>>());
}

#[tokio::test]
async fn bad_requests_name_the_field() {
    let mut collection = Collection::new(2, false);
    let docs = docs(20);
    collection.commit(&docs, 1).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let good = request(&collection, &docs[0].vector);
    let mut with_nan = good.vector.clone();
    with_nan[17] = f32::NAN;
    let unknown_field = Filter {
        condition: Some(Condition::Exists("colour".to_owned())),
    };
    let cases = [
        (
            "snapshot",
            SearchRequest {
                snapshot: None,
                ..good.clone()
            },
        ),
        (
            "snapshot.number",
            SearchRequest {
                snapshot: Some(Snapshot {
                    number: 0,
                    ..collection.snapshot().unwrap()
                }),
                ..good.clone()
            },
        ),
        (
            "vector",
            SearchRequest {
                vector: vec![1.0; 3],
                ..good.clone()
            },
        ),
        (
            "vector",
            SearchRequest {
                vector: Vec::new(),
                ..good.clone()
            },
        ),
        (
            "vector",
            SearchRequest {
                vector: vec![0.0; WIDTH],
                ..good.clone()
            },
        ),
        (
            "vector[17]",
            SearchRequest {
                vector: with_nan,
                ..good.clone()
            },
        ),
        (
            "encoder_fingerprint",
            SearchRequest {
                encoder_fingerprint: String::new(),
                ..good.clone()
            },
        ),
        (
            "limit",
            SearchRequest {
                limit: 0,
                ..good.clone()
            },
        ),
        (
            "limit",
            SearchRequest {
                limit: 10_001,
                ..good.clone()
            },
        ),
        (
            "prefix_depth",
            SearchRequest {
                prefix_depth: 100_001,
                ..good.clone()
            },
        ),
        (
            "filter",
            SearchRequest {
                filter: Some(Filter { condition: None }),
                ..good.clone()
            },
        ),
        (
            "filter.exists",
            SearchRequest {
                filter: Some(unknown_field),
                ..good.clone()
            },
        ),
    ];
    for (path, wrong) in cases {
        let status = refused(&mut served, wrong).await;
        assert_eq!(
            kind_of(&status),
            ErrorKind::InvalidArgument,
            "{path}: {status:?}"
        );
        assert_eq!(fields_of(&status)[0].path, path, "{status:?}");
    }
    for addresses in [Vec::new(), vec![0; 65_537]] {
        let status = served
            .client
            .score(score_request(&collection, &docs[0].vector, addresses))
            .await
            .unwrap_err();
        assert_eq!(fields_of(&status)[0].path, "addresses");
    }
}

#[tokio::test]
async fn what_does_not_fit_the_state_is_a_failed_precondition() {
    let mut collection = Collection::new(2, false);
    let docs = docs(20);
    collection.commit(&docs, 1).await;
    let mut problems = Problems::default();
    let config = RawConfig {
        shards: vec![1],
        ..RawConfig::default()
    }
    .validate("dense", &mut problems);
    let mut served = Served::start(&collection.store, config).await;
    let good = SearchRequest {
        shard: 1,
        ..request(&collection, &docs[0].vector)
    };
    assert!(served.client.search(good.clone()).await.is_ok());
    let later = Snapshot {
        number: 7,
        ..collection.snapshot().unwrap()
    };
    let cases = [
        (
            "[1]",
            SearchRequest {
                snapshot: Some(later),
                ..good.clone()
            },
        ),
        (
            "[1]",
            SearchRequest {
                shard: 0,
                ..good.clone()
            },
        ),
        (
            "with another, ",
            SearchRequest {
                encoder_fingerprint: "another".to_owned(),
                ..good.clone()
            },
        ),
        (
            FINGERPRINT,
            SearchRequest {
                encoder_fingerprint: "another".to_owned(),
                ..good.clone()
            },
        ),
    ];
    for (part, wrong) in cases {
        let status = refused(&mut served, wrong).await;
        assert_eq!(
            kind_of(&status),
            ErrorKind::FailedPrecondition,
            "{status:?}"
        );
        assert!(status.message().contains(part), "{status:?}");
    }
    let nowhere = Snapshot {
        collection: "nowhere".to_owned(),
        number: 1,
    };
    let status = refused(
        &mut served,
        SearchRequest {
            snapshot: Some(nowhere),
            ..good
        },
    )
    .await;
    assert_eq!(kind_of(&status), ErrorKind::NotFound);
}

fn rescore_request(collection: &Collection, vector: &[f32], addresses: Vec<u64>) -> ScoreRequest {
    ScoreRequest {
        encoder_fingerprint: RESCORE_FINGERPRINT.to_owned(),
        ..score_request(collection, &rescore_vector(vector), addresses)
    }
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let dot =
        |left: &[f32], right: &[f32]| -> f32 { left.iter().zip(right).map(|(l, r)| l * r).sum() };
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

#[tokio::test]
async fn the_fingerprint_chooses_the_vectors_that_are_scored() {
    let mut collection = Collection::with_rescoring(1);
    let docs = docs(50);
    collection.commit(&docs, 1).await;
    collection.delete(0, &[7]).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let held = served.client.describe(DescribeRequest {}).await.unwrap();
    let held = held.into_inner().snapshots.remove(0);
    assert_eq!(
        (&*held.encoder_fingerprint, &*held.rescore_fingerprint),
        (FINGERPRINT, RESCORE_FINGERPRINT)
    );
    let query = &docs[3].vector;
    let addresses: Vec<u64> = (0..51).collect();
    let dense = score_request(&collection, query, addresses.clone());
    let rescore = rescore_request(&collection, query, addresses);
    type InSpace = fn(&[f32]) -> Vec<f32>;
    let in_spaces: [InSpace; 2] = [<[f32]>::to_vec, rescore_vector];
    for (request, in_space) in [dense, rescore].into_iter().zip(in_spaces) {
        let scored = served.client.score(request).await.unwrap().into_inner();
        assert_eq!(scored.unknown, [7, 50]);
        let live = docs
            .iter()
            .zip(&scored.scores)
            .filter(|(doc, _)| doc.number != 7);
        for (doc, score) in live {
            let exact = cosine(&in_space(query), &in_space(&doc.vector));
            assert!(
                (score - exact).abs() < 0.01,
                "{}: {score}, not {exact}",
                doc.id
            );
        }
    }
}

#[tokio::test]
async fn a_search_knows_the_first_bundle_only() {
    let mut collection = Collection::with_rescoring(1);
    let docs = docs(20);
    collection.commit(&docs, 1).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let wrong = SearchRequest {
        encoder_fingerprint: RESCORE_FINGERPRINT.to_owned(),
        ..request(&collection, &rescore_vector(&docs[0].vector))
    };
    let status = refused(&mut served, wrong).await;
    assert_eq!(kind_of(&status), ErrorKind::FailedPrecondition);
    let both = [FINGERPRINT, RESCORE_FINGERPRINT];
    assert!(
        both.iter().all(|known| status.message().contains(known)),
        "{status}"
    );
    let third = ScoreRequest {
        encoder_fingerprint: "third".to_owned(),
        ..score_request(&collection, &docs[0].vector, vec![0])
    };
    let status = served.client.score(third).await.unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::FailedPrecondition);
    let all =
        format!("with third, the passages of test with {FINGERPRINT} and {RESCORE_FINGERPRINT}");
    assert!(status.message().contains(&all), "{status}");
    let narrow = ScoreRequest {
        vector: docs[0].vector.clone(),
        ..rescore_request(&collection, &docs[0].vector, vec![0])
    };
    let status = served.client.score(narrow).await.unwrap_err();
    assert_eq!(fields_of(&status)[0].path, "vector", "{status}");
}

#[tokio::test]
async fn damaged_vectors_for_rescoring_are_unknown_and_the_segment_is_searched() {
    let mut collection = Collection::with_rescoring(1);
    let docs = docs(40);
    collection.commit(&docs, 2).await;
    collection.damage(1, "rescore", "prefix.i8");
    let mut served = Served::start(&collection.store, Config::default()).await;
    let all = SearchRequest {
        limit: 100,
        ..request(&collection, &docs[0].vector)
    };
    let found = served.client.search(all).await.unwrap().into_inner();
    assert_eq!(found.refused_segments, 0);
    let addresses = found.candidates.unwrap().addresses;
    assert_eq!(addresses.len(), 40);
    let rescored = rescore_request(&collection, &docs[0].vector, addresses.clone());
    let rescored = served.client.score(rescored).await.unwrap().into_inner();
    let unknown = rescored
        .unknown
        .iter()
        .map(|place| addresses[*place as usize] >> 32);
    assert_eq!(unknown.collect::<Vec<_>>(), [1; 20]);
}

#[tokio::test]
async fn a_damaged_segment_is_refused_by_name_and_the_rest_is_served() {
    let mut collection = Collection::new(1, false);
    let docs = docs(40);
    collection.commit(&docs, 2).await;
    collection.damage(1, "dense", "prefix.i8");
    let mut served = Served::start(&collection.store, Config::default()).await;
    let request = SearchRequest {
        limit: 100,
        ..request(&collection, &docs[0].vector)
    };
    let response = served.client.search(request).await.unwrap().into_inner();
    assert_eq!(response.refused_segments, 1);
    assert_eq!(response.candidates.unwrap().addresses.len(), 20);
    let held = served
        .client
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner()
        .snapshots
        .remove(0);
    assert_eq!(
        (held.passages, held.encoder_fingerprint.as_str()),
        (20, FINGERPRINT)
    );
    assert!(
        held.refused_segments[0].reason.contains("prefix.i8"),
        "{held:?}"
    );
}

#[tokio::test]
async fn a_passed_deadline_is_answered_as_one() {
    let mut collection = Collection::new(1, false);
    let docs = docs(20);
    collection.commit(&docs, 1).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let now = Instant::now();
    let passed = with_deadline(
        request(&collection, &docs[0].vector),
        Deadline::after(now, Duration::ZERO),
        now,
    );
    let status = served.client.search(passed).await.unwrap_err();
    assert_eq!(kind_of(&status), ErrorKind::DeadlineExceeded);
}

#[tokio::test]
async fn a_new_snapshot_is_served_beside_the_old() {
    let mut collection = Collection::new(1, false);
    let docs = docs(30);
    collection.commit(&docs, 1).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let old = request(&collection, &docs[3].vector);
    collection.delete(0, &[3]).await;
    served.app.refresh().await;
    let new = request(&collection, &docs[3].vector);
    assert_eq!(find(&mut served, old).await.addresses[0], 3);
    assert_ne!(find(&mut served, new).await.addresses[0], 3);
}
