//! The service over its wire contract.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use search_core::{Deadline, ErrorKind};
use search_proto::common::filter::Condition;
use search_proto::common::value::Kind;
use search_proto::common::{DescribeRequest, FieldRange, FieldValue, Filter, Snapshot, Value};
use search_proto::sparse::{FetchRequest, ScoreRequest, SearchRequest};
use service_kit::status::{fields_of, kind_of};
use service_kit::{Problems, with_deadline};
use sparse_retriever::{Config, RawConfig};
use tonic::Status;

use support::{Collection, Doc, Served, doc};

fn animals() -> Vec<Doc> {
    vec![
        doc(
            "cat",
            "Cats",
            &["A cat sat on a mat.", "Cats purr when they are happy."],
        ),
        doc(
            "dog",
            "Dogs",
            &[
                "A dog barks at the postman.",
                "Dogs and cats can be friends.",
            ],
        ),
        doc("fish", "", &["Fish swim in the sea."]),
        doc(
            "wolf",
            "Wolves",
            &["A wolf is no dog, but a dog is a wolf."],
        ),
    ]
}

/// Many short documents; every tenth says the same.
fn many() -> Vec<Doc> {
    let text = |number: usize| match number % 10 {
        0 => "the same words in every tenth".to_owned(),
        _ => format!(
            "number{} and word{} with word{}",
            number,
            number % 7,
            number % 3
        ),
    };
    let documents = (0..120).map(|number| {
        doc(
            &format!("d{number:03}"),
            "",
            &[&text(number), &text(number + 1)],
        )
    });
    documents.collect()
}

fn search_request(collection: &Collection, query: &str) -> SearchRequest {
    SearchRequest {
        snapshot: collection.snapshot(),
        query: query.to_owned(),
        limit: 10,
        filter: None,
        shard: 0,
    }
}

fn fetch_request(collection: &Collection, addresses: Vec<u64>) -> FetchRequest {
    FetchRequest {
        snapshot: collection.snapshot(),
        addresses,
        ids_only: false,
        shard: 0,
    }
}

fn score_request(collection: &Collection, query: &str, addresses: Vec<u64>) -> ScoreRequest {
    ScoreRequest {
        snapshot: collection.snapshot(),
        query: query.to_owned(),
        addresses,
        shard: 0,
    }
}

/// Score bits, document id and passage of what a shard finds.
async fn hits(served: &mut Served, request: SearchRequest) -> Vec<(u32, String, u32)> {
    let (snapshot, shard) = (request.snapshot.clone(), request.shard);
    let found = served
        .client
        .search(request)
        .await
        .unwrap()
        .into_inner()
        .candidates
        .unwrap();
    if found.addresses.is_empty() {
        return Vec::new();
    }
    let fetch = FetchRequest {
        snapshot,
        addresses: found.addresses.clone(),
        ids_only: false,
        shard,
    };
    let passages = served
        .client
        .fetch(fetch)
        .await
        .unwrap()
        .into_inner()
        .passages;
    let places = passages.iter().map(|passage| passage.passage);
    assert_eq!(found.places, places.collect::<Vec<_>>());
    let named = passages.into_iter().zip(found.scores);
    named
        .map(|(passage, score)| (score.to_bits(), passage.document_id, passage.passage))
        .collect()
}

fn ids(hits: &[(u32, String, u32)]) -> Vec<&str> {
    hits.iter().map(|(_, id, _)| id.as_str()).collect()
}

#[tokio::test]
async fn finds_words_phrases_and_exclusions() {
    let mut collection = Collection::new(1);
    collection.commit(&animals(), 2).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let mut find = async |query: &str| {
        let hits = hits(&mut served, search_request(&collection, query)).await;
        hits.into_iter()
            .map(|(_, id, passage)| format!("{id}{passage}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(find("barking").await, ["dog0"]);
    assert_eq!(find("\"cat sat\"").await, ["cat0"]);
    assert_eq!(find("\"sat cat\"").await, [""; 0]);
    assert_eq!(find("dog -bark -wolf").await, ["dog1"]);
    assert_eq!(find("+friends cats").await, ["dog1"]);
    assert_eq!(find("!?").await, [""; 0]);
    assert_eq!(find("unheard").await, [""; 0]);
}

#[tokio::test]
async fn shards_and_segments_change_neither_scores_nor_order() {
    let queries = [
        "same words tenth",
        "word1 word2 number17",
        "+word1 word2 -number3",
        "\"and word1\" every",
    ];
    let mut all = Vec::new();
    for (shards, segments) in [(1, 1), (1, 10), (4, 1), (4, 2)] {
        let mut collection = Collection::new(shards);
        collection.commit(&many(), segments).await;
        let mut served = Served::start(&collection.store, Config::default()).await;
        let mut found = Vec::new();
        for query in queries {
            let mut merged = Vec::new();
            for shard in 0..shards {
                let request = SearchRequest {
                    shard,
                    limit: 50,
                    ..search_request(&collection, query)
                };
                merged.extend(hits(&mut served, request).await);
            }
            merged.sort_by(|left, right| {
                let by_score = f32::from_bits(right.0).total_cmp(&f32::from_bits(left.0));
                by_score.then_with(|| (&left.1, left.2).cmp(&(&right.1, right.2)))
            });
            merged.truncate(50);
            assert!(merged.len() > 10, "{query}");
            found.push(merged);
        }
        all.push(found);
    }
    assert!(all.iter().all(|found| *found == all[0]));
}

#[tokio::test]
async fn given_passages_get_the_scores_of_a_search() {
    let mut collection = Collection::new(1);
    collection.commit(&many(), 3).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let query = "word1 word2 same number17 -number3";
    let request = SearchRequest {
        limit: 10_000,
        ..search_request(&collection, query)
    };
    let found = served
        .client
        .search(request)
        .await
        .unwrap()
        .into_inner()
        .candidates
        .unwrap();
    let scores: BTreeMap<u64, f32> = found.addresses.iter().copied().zip(found.scores).collect();
    let mut addresses: Vec<u64> = found.addresses.into_iter().rev().collect();
    addresses.push(99 << 32);
    let request = score_request(&collection, query, addresses.clone());
    let scored = served.client.score(request).await.unwrap().into_inner();
    assert_eq!(scored.unknown, [addresses.len() as u32 - 1]);
    assert!(scored.excluded.is_empty());
    for (address, score) in addresses.iter().zip(&scored.scores).take(scores.len()) {
        assert_eq!(scores[address].to_bits(), score.to_bits());
    }
    let excluding = score_request(&collection, "word1 +number1", addresses[..20].to_vec());
    assert!(
        served
            .client
            .score(excluding)
            .await
            .unwrap()
            .into_inner()
            .excluded
            .len()
            >= 18
    );
}

#[tokio::test]
async fn fetches_passages_and_ids() {
    let mut collection = Collection::new(1);
    collection.commit(&animals(), 1).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let addresses = vec![1, 7 << 32, 0, 9];
    let fetched = served
        .client
        .fetch(fetch_request(&collection, addresses.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(fetched.unknown, [1, 3]);
    let first = &fetched.passages[0];
    assert_eq!(
        (
            first.document_id.as_str(),
            first.passage,
            first.title.as_str()
        ),
        ("cat", 1, "Cats")
    );
    assert_eq!(
        (first.text.as_str(), first.metadata_json.as_str()),
        ("Cats purr when they are happy.", "{\"length\":2}")
    );
    assert_eq!(fetched.passages[1].document_id, "");
    let ids_only = FetchRequest {
        ids_only: true,
        ..fetch_request(&collection, addresses)
    };
    let fetched = served.client.fetch(ids_only).await.unwrap().into_inner();
    assert_eq!(
        (
            fetched.passages[2].document_id.as_str(),
            fetched.passages[2].text.as_str()
        ),
        ("cat", "")
    );
    assert_eq!(fetched.unknown, [1, 3]);
}

#[tokio::test]
async fn deleted_passages_are_gone_everywhere() {
    let mut collection = Collection::new(1);
    collection.commit(&animals(), 1).await;
    collection.delete(0, &[0, 1]).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let found = hits(&mut served, search_request(&collection, "cats")).await;
    assert_eq!(ids(&found), ["dog"]);
    let fetched = served
        .client
        .fetch(fetch_request(&collection, vec![0, 2]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(fetched.unknown, [0]);
    let scored = served
        .client
        .score(score_request(&collection, "cats", vec![0, 2]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(scored.unknown, [0]);
}

fn at_least(field: &str, least: i64) -> Option<Filter> {
    let lower = Some(Value {
        kind: Some(Kind::Integer(least)),
    });
    let range = FieldRange {
        field: field.to_owned(),
        lower,
        ..FieldRange::default()
    };
    Some(Filter {
        condition: Some(Condition::Range(range)),
    })
}

#[tokio::test]
async fn filters_are_exact() {
    let mut collection = Collection::new(1);
    collection.commit(&animals(), 2).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let request = SearchRequest {
        filter: at_least("length", 2),
        ..search_request(&collection, "dog wolf")
    };
    let found = hits(&mut served, request).await;
    assert_eq!(ids(&found), ["dog", "dog"]);
    let request = SearchRequest {
        filter: at_least("colour", 2),
        ..search_request(&collection, "dog")
    };
    let refused = served.client.search(request).await.unwrap_err();
    assert_refused(&refused, "filter.range.field");
}

fn assert_refused(status: &Status, path: &str) {
    assert_eq!(kind_of(status), ErrorKind::InvalidArgument, "{status}");
    let fields = fields_of(status);
    let paths: Vec<_> = fields.iter().map(|field| field.path.as_str()).collect();
    assert_eq!(paths, [path], "{status}");
}

#[tokio::test]
async fn bad_searches_are_refused_by_field() {
    let mut collection = Collection::new(1);
    collection.commit(&animals(), 1).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let good = || search_request(&collection, "cat");
    let snapshot = |collection: &str, number| {
        Some(Snapshot {
            collection: collection.to_owned(),
            number,
        })
    };
    let no_value = Filter {
        condition: Some(Condition::Equals(FieldValue {
            field: "length".to_owned(),
            value: None,
        })),
    };
    let bad = [
        (
            SearchRequest {
                snapshot: None,
                ..good()
            },
            "snapshot",
        ),
        (
            SearchRequest {
                snapshot: snapshot("No Name", 1),
                ..good()
            },
            "snapshot.collection",
        ),
        (
            SearchRequest {
                snapshot: snapshot("test", 0),
                ..good()
            },
            "snapshot.number",
        ),
        (
            SearchRequest {
                query: " \n".to_owned(),
                ..good()
            },
            "query",
        ),
        (
            SearchRequest {
                query: "-cat".to_owned(),
                ..good()
            },
            "query",
        ),
        (
            SearchRequest {
                query: "x".repeat(8193),
                ..good()
            },
            "query",
        ),
        (
            SearchRequest {
                query: "a ".repeat(1025),
                ..good()
            },
            "query",
        ),
        (SearchRequest { limit: 0, ..good() }, "limit"),
        (
            SearchRequest {
                limit: 10_001,
                ..good()
            },
            "limit",
        ),
        (
            SearchRequest {
                filter: Some(Filter::default()),
                ..good()
            },
            "filter",
        ),
        (
            SearchRequest {
                filter: Some(no_value),
                ..good()
            },
            "filter.equals.value",
        ),
    ];
    for (request, path) in bad {
        assert_refused(&served.client.search(request).await.unwrap_err(), path);
    }
}

#[tokio::test]
async fn bad_address_lists_are_refused() {
    let mut collection = Collection::new(1);
    collection.commit(&animals(), 1).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    for addresses in [vec![], vec![0; 65_537]] {
        let refused = served
            .client
            .score(score_request(&collection, "cat", addresses.clone()))
            .await
            .unwrap_err();
        assert_refused(&refused, "addresses");
        let ids_only = FetchRequest {
            ids_only: true,
            ..fetch_request(&collection, addresses)
        };
        assert_refused(
            &served.client.fetch(ids_only).await.unwrap_err(),
            "addresses",
        );
    }
    let texts = fetch_request(&collection, vec![0; 4097]);
    assert_refused(&served.client.fetch(texts).await.unwrap_err(), "addresses");
    let ids_only = FetchRequest {
        ids_only: true,
        ..fetch_request(&collection, vec![0; 65_536])
    };
    assert_eq!(
        served
            .client
            .fetch(ids_only)
            .await
            .unwrap()
            .into_inner()
            .passages
            .len(),
        65_536
    );
}

#[tokio::test]
async fn what_is_not_held_is_named() {
    let mut collection = Collection::new(4);
    collection.commit(&animals(), 1).await;
    let mut problems = Problems::default();
    let raw = RawConfig {
        shards: vec![1, 3],
        ..RawConfig::default()
    };
    let config = raw.validate("sparse", &mut problems);
    let mut served = Served::start(&collection.store, config).await;

    let other_shard = search_request(&collection, "cat");
    let refused = served.client.search(other_shard).await.unwrap_err();
    assert_eq!(kind_of(&refused), ErrorKind::FailedPrecondition);
    assert!(refused.message().contains("[1, 3]"), "{refused}");

    let number = 7;
    let later = Some(Snapshot {
        collection: "test".to_owned(),
        number,
    });
    let request = SearchRequest {
        snapshot: later,
        shard: 1,
        ..search_request(&collection, "cat")
    };
    let refused = served.client.search(request).await.unwrap_err();
    assert_eq!(kind_of(&refused), ErrorKind::FailedPrecondition);
    assert!(refused.message().contains("[1]"), "{refused}");

    let unknown = Some(Snapshot {
        collection: "unknown".to_owned(),
        number,
    });
    let request = SearchRequest {
        snapshot: unknown,
        ..search_request(&collection, "cat")
    };
    let refused = served.client.search(request).await.unwrap_err();
    assert_eq!(kind_of(&refused), ErrorKind::NotFound);

    let described = served
        .client
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner()
        .snapshots;
    assert_eq!(described.len(), 1);
    assert_eq!(
        (described[0].shards, described[0].held_shards.as_slice()),
        (4, [1, 3].as_slice())
    );
}

#[tokio::test]
async fn a_new_commit_is_served_beside_the_old_one() {
    let mut collection = Collection::new(1);
    collection.commit(&animals(), 1).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let old = search_request(&collection, "eagle cat");
    collection
        .commit(&[doc("eagle", "", &["An eagle flies."])], 1)
        .await;
    served.app.refresh().await;
    let new = search_request(&collection, "eagle cat");
    assert_eq!(ids(&hits(&mut served, new).await)[0], "eagle");
    assert_eq!(ids(&hits(&mut served, old).await)[0], "cat");
    let described = served
        .client
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner()
        .snapshots;
    let mut passages: Vec<_> = described.iter().map(|held| held.passages).collect();
    passages.sort_unstable();
    assert_eq!(passages, [6, 7]);
}

#[tokio::test]
async fn a_damaged_segment_is_refused_and_the_rest_is_served() {
    let mut collection = Collection::new(1);
    collection.commit(&animals(), 2).await;
    let postings = collection.manifest.segments[0].parts["sparse"]
        .iter()
        .find(|file| file.path.ends_with(".idx"))
        .unwrap();
    let path = collection
        .folder
        .path()
        .join("collections/test")
        .join(&postings.path);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut served = Served::start(&collection.store, Config::default()).await;
    let response = served
        .client
        .search(search_request(&collection, "dog wolf cat fish"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.refused_segments, 1);
    assert!(!response.candidates.unwrap().addresses.is_empty());
    let described = served
        .client
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner()
        .snapshots;
    let refused = &described[0].refused_segments;
    assert!(refused[0].reason.contains(&postings.path), "{refused:?}");
}

#[tokio::test]
async fn late_requests_are_not_computed() {
    let mut collection = Collection::new(1);
    collection.commit(&animals(), 1).await;
    let mut served = Served::start(&collection.store, Config::default()).await;
    let now = Instant::now();
    let request = with_deadline(
        search_request(&collection, "cat"),
        Some(Deadline::new(now)),
        now,
    );
    let refused = served.client.search(request).await.unwrap_err();
    assert_eq!(kind_of(&refused), ErrorKind::DeadlineExceeded);
    let in_time = Deadline::after(now, Duration::from_secs(60));
    let request = with_deadline(search_request(&collection, "cat"), in_time, now);
    let timing = served
        .client
        .search(request)
        .await
        .unwrap()
        .into_inner()
        .timing
        .unwrap();
    assert!(timing.queue_us + timing.compute_us < 60_000_000);
}
