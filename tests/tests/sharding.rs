//! How a collection is cut never changes an answer: 1 or 4 shards, 1 or 10 segments, one replica or many, ties included.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use search_proto::search::SearchRequest;
use testkit::corpus::{Document, ties, wordy};
use testkit::{HashEncoder, Mesh, MeshOptions, filter, request};

const QUERIES: [&str; 6] = [
    "search",
    "search index deadline",
    "\"search index\"",
    "+recall fusion -query",
    "bundle snapshot codes rotation",
    "same words",
];

/// A mesh of this cut. The encoder says that it was trained for prefixes: a rotation is fitted on the first run, and the
/// first of ten runs is not the whole.
async fn cut(shards: u32, runs: usize, replicas: Vec<Vec<u32>>, documents: &[Document]) -> Mesh {
    let options = MeshOptions {
        shards,
        runs,
        replicas,
        encoder: Arc::new(HashEncoder::new(64).with_matryoshka_dimensions(&[16, 32])),
        ..MeshOptions::default()
    };
    Mesh::start_with(options, documents).await.unwrap()
}

fn everywhere() -> Vec<Vec<u32>> {
    vec![Vec::new()]
}

/// Every hit as bytes; addresses say where a passage lies, which is what differs.
async fn bytes(mesh: &Mesh, pipeline: &str, query: &str, condition: Option<&str>) -> Vec<Vec<u8>> {
    let asked = SearchRequest {
        pipeline: pipeline.to_owned(),
        k: Some(1000),
        explain: true,
        filter: condition.map(filter),
        ..request(query)
    };
    let answer = mesh.ask(asked).await.unwrap();
    assert!(!answer.degraded, "{:#?}", answer.stages);
    let without_address = answer.hits.into_iter().map(|mut hit| {
        hit.address = 0;
        hit.encode_to_vec()
    });
    without_address.collect()
}

/// What a mesh answers to everything: by question.
async fn answers(mesh: &Mesh) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut answers = BTreeMap::new();
    for pipeline in ["sparse", "dense", "hybrid"] {
        for query in QUERIES {
            for condition in [None, Some("number < 200")] {
                let hits = bytes(mesh, pipeline, query, condition).await;
                answers.insert(format!("{pipeline} {query} {condition:?}"), hits);
            }
        }
    }
    answers
}

/// Fails with the questions that are answered otherwise: a difference of bytes says nothing to a reader.
async fn assert_answers(mesh: &Mesh, expected: &BTreeMap<String, Vec<Vec<u8>>>, what: &str) {
    let got = answers(mesh).await;
    let differ = expected
        .iter()
        .filter(|(question, hits)| got[*question] != **hits);
    let differ: Vec<&String> = differ.map(|(question, _)| question).collect();
    assert!(differ.is_empty(), "{what}: {differ:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_and_segments_change_nothing() {
    let documents = wordy(400);
    let whole = answers(&cut(1, 1, everywhere(), &documents).await).await;
    for (shards, runs) in [(4, 1), (1, 10), (4, 10)] {
        let parts = cut(shards, runs, everywhere(), &documents).await;
        assert_answers(&parts, &whole, &format!("{shards} shards, {runs} runs")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_share_the_shards_change_nothing() {
    let documents = wordy(300);
    let whole = answers(&cut(1, 1, everywhere(), &documents).await).await;
    let spread = cut(4, 2, vec![vec![0, 1], vec![2, 3], vec![1, 2]], &documents).await;
    assert_answers(&spread, &whole, "3 replicas").await;
}

/// The rotation is fitted on a sample of the collection, not of a shard.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_knows_no_shards() {
    let documents = wordy(300);
    let start = |shards| {
        let options = MeshOptions {
            shards,
            ..MeshOptions::default()
        };
        Mesh::start_with(options, &documents)
    };
    let (whole, parts) = (start(1).await.unwrap(), start(4).await.unwrap());
    assert_answers(&parts, &answers(&whole).await, "rotated, 4 shards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_ties_are_ordered_by_id() {
    let documents = ties(3000);
    let mut expected: Vec<&str> = documents
        .iter()
        .map(|document| document.id.as_str())
        .collect();
    expected.sort_unstable();
    let whole = cut(1, 1, everywhere(), &documents).await;
    let parts = cut(4, 10, everywhere(), &documents).await;
    for mesh in [&whole, &parts] {
        for pipeline in ["sparse", "dense", "hybrid"] {
            let asked = SearchRequest {
                pipeline: pipeline.to_owned(),
                k: Some(500),
                ..request("same words")
            };
            let answer = mesh.ask(asked).await.unwrap();
            let ids: Vec<&str> = answer.hits.iter().map(|hit| hit.id.as_str()).collect();
            assert_eq!(ids, expected[..500], "{pipeline}");
        }
    }
    for pipeline in ["sparse", "dense", "hybrid"] {
        let left = bytes(&whole, pipeline, "same words", None).await;
        assert_eq!(
            left,
            bytes(&parts, pipeline, "same words", None).await,
            "{pipeline}"
        );
    }
}
