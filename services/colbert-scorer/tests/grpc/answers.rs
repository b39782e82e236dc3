//! Scores of stored passages.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use search_core::Address;
use search_proto::common::DescribeRequest;
use testkit::MeshOptions;

use crate::support::{FLOAT_TOLERANCE, World, bits, documents, float_score, options};

const QUERY: &str = "w17 w4 w390 w250 unheard w17";

#[tokio::test]
async fn scores_are_those_of_the_floats_and_to_the_bit_those_of_the_kernel() {
    let documents = documents(60);
    // Wider tokens are rotated and cut to 96 dimensions.
    for dimensions in [64, 128] {
        let options = MeshOptions {
            runs: 2,
            ..options(dimensions)
        };
        let world = World::start(dimensions, options, &documents).await;
        let (coder, passages) = (world.coder().await, world.passages().await);
        let stored = |text: &str| -> Vec<Vec<f32>> {
            let projected = coder.project(&world.tokens(text).concat()).unwrap();
            let tokens = projected.vectors.chunks(coder.layout().dimensions());
            tokens.map(<[f32]>::to_vec).collect()
        };
        let addresses = passages.iter().map(|passage| passage.address.to_u64());
        let scored = world.score(QUERY, addresses.collect()).await;
        assert_eq!((scored.scores.len(), scored.unknown), (60, vec![]));
        for (passage, score) in passages.iter().zip(&scored.scores) {
            let exact = float_score(&stored(QUERY), &stored(&passage.text));
            let off = (score - exact).abs();
            assert!(off < FLOAT_TOLERANCE, "{}: {score} for {exact}", passage.id);
            let expected = world.kernel_score(QUERY, passage.address).await;
            assert_eq!(score.to_bits(), expected.to_bits(), "{}", passage.id);
        }
    }
}

#[tokio::test]
async fn a_passage_with_the_querys_words_is_the_best() {
    let documents = documents(80);
    let world = World::small(&documents).await;
    let passages = world.passages().await;
    let addresses: Vec<u64> = passages.iter().map(|it| it.address.to_u64()).collect();
    for (place, wanted) in passages.iter().enumerate().step_by(9) {
        let scored = world.score(&wanted.text, addresses.clone()).await;
        let own = scored.scores[place];
        let words = wanted.text.split_whitespace().count() as f32;
        assert!((own - words).abs() < 0.01 * words, "{own} of {words}");
        assert!(scored.scores.iter().all(|score| *score <= own));
    }
}

#[tokio::test]
async fn the_order_asked_is_the_order_answered() {
    let world = World::small(&documents(50)).await;
    let mut asked: Vec<u64> = Vec::new();
    let mut one_by_one = BTreeMap::new();
    for passage in world.passages().await {
        let address = passage.address.to_u64();
        let alone = world.score(QUERY, vec![address]).await;
        one_by_one.insert(address, alone.scores[0]);
        asked.extend([address, address]);
    }
    // No such segment, no such passage.
    asked.extend([Address::new(90, 0), Address::new(0, 90)].map(Address::to_u64));
    for seed in 0..10 {
        asked.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let scored = world.score(QUERY, asked.clone()).await;
        let expected: Vec<f32> = asked
            .iter()
            .map(|address| one_by_one.get(address).copied().unwrap_or_default())
            .collect();
        assert_eq!(bits(&scored.scores), bits(&expected));
        let is_unknown = |(position, address)| {
            let unknown = !one_by_one.contains_key(address);
            unknown.then_some(position)
        };
        let unknown: Vec<u32> = (0..).zip(&asked).filter_map(is_unknown).collect();
        assert_eq!(scored.unknown, unknown);
    }
}

#[tokio::test]
async fn passages_of_another_shard_are_unknown() {
    let options = MeshOptions {
        shards: 2,
        ..options(64)
    };
    let world = World::start(64, options, &documents(30)).await;
    let passages = world.passages().await;
    let addresses = passages.iter().map(|it| it.address.to_u64()).collect();
    let scored = world.score(QUERY, addresses).await;
    let elsewhere = (0..).zip(&passages).filter(|(_, it)| it.shard == 1);
    let elsewhere: Vec<u32> = elsewhere.map(|(position, _)| position).collect();
    assert!(!elsewhere.is_empty());
    assert_eq!(scored.unknown, elsewhere);
}

#[tokio::test]
async fn deleted_passages_are_unknown_in_the_new_snapshot_and_scored_in_the_old() {
    let world = World::small(&documents(20)).await;
    let passages = world.passages().await;
    let addresses: Vec<u64> = passages.iter().map(|it| it.address.to_u64()).collect();
    let before = world.request(QUERY, addresses.clone()).await;
    world.mesh.delete(&["d0003", "d0011"]).await.unwrap();
    world.mesh.refresh().await;
    let scored = world.score(QUERY, addresses).await;
    let gone = (0..)
        .zip(&passages)
        .filter(|(_, it)| ["d0003", "d0011"].contains(&&*it.id));
    assert_eq!(
        scored.unknown,
        gone.map(|(position, _)| position).collect::<Vec<u32>>()
    );
    assert_eq!(scored.unknown.len(), 2);
    let old = world.client().score(before).await.unwrap().into_inner();
    assert_eq!((old.unknown, old.scores.len()), (vec![], 20));
}

#[tokio::test]
async fn a_damaged_segment_is_refused_by_name_and_the_rest_is_served() {
    for file in ["tokens.u8", "offsets.u32", "positions.u16"] {
        let world = World::small(&documents(20)).await;
        world.damage(1, file).await;
        let world = world.restarted().await;
        let held = world.client().describe(DescribeRequest {}).await.unwrap();
        let held = held.into_inner().snapshots.remove(0);
        assert_eq!((held.passages, held.refused_segments.len()), (10, 1));
        let reason = &held.refused_segments[0].reason;
        assert!(reason.contains(file), "{reason}");
        let passages = world.passages().await;
        let addresses = passages.iter().map(|it| it.address.to_u64()).collect();
        let scored = world.score(QUERY, addresses).await;
        assert_eq!(scored.unknown, (10..20).collect::<Vec<u32>>());
        let first = world.kernel_score(QUERY, passages[0].address).await;
        assert_eq!(scored.scores[0].to_bits(), first.to_bits());
    }
}

#[tokio::test]
async fn the_bundle_of_the_token_vectors_is_announced() {
    let documents = documents(5);
    for stages in [&["sparse", "colbert"][..], &["sparse", "dense", "colbert"]] {
        let options = MeshOptions {
            stages: stages.iter().map(ToString::to_string).collect(),
            ..options(64)
        };
        let world = World::start(64, options, &documents).await;
        let held = world.client().describe(DescribeRequest {}).await.unwrap();
        let held = held.into_inner().snapshots.remove(0);
        assert_eq!(held.encoder_fingerprint, "hash-64", "{stages:?}");
        assert_eq!((held.passages, held.held_shards), (5, vec![0]));
    }
}
