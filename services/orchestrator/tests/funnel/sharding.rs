//! The answer equals a naive oracle's, and does not depend on the number of shards.

use crate::fakes::{Mesh, Passage, Script, request};
use proptest::prelude::*;
use search_core::fusion::{Method, StageScores, fuse};
use search_core::{Address, shard_of};
use search_proto::search::{self, FusionMethod};
use std::collections::BTreeSet;

/// The same documents on so many shards; inside a shard addresses follow ids.
pub(crate) fn sharded(passages: &[(String, u32, f32, f32, bool)], shards: u32) -> Script {
    let mut sorted = passages.to_vec();
    sorted.sort_by(|left, right| (&left.0, left.1).cmp(&(&right.0, right.1)));
    let mut next = vec![0; shards as usize];
    let place = |(document_id, passage, sparse, dense, excluded): (String, u32, f32, f32, bool)| {
        let shard = shard_of(&document_id, shards);
        next[shard as usize] += 1;
        // Later shards have smaller segment numbers, so that addresses disagree with ids across shards.
        let address = Address::new(shards - shard, next[shard as usize]);
        Passage {
            address,
            shard,
            document_id,
            passage,
            sparse,
            dense,
            rescore: None,
            max_sim: None,
            excluded,
        }
    };
    Script::new(sorted.into_iter().map(place).collect(), shards)
}

pub(crate) fn many() -> Vec<(String, u32, f32, f32, bool)> {
    (0..40)
        .map(|number| {
            (
                format!("d{number}"),
                0,
                (number % 5) as f32,
                (number % 3) as f32,
                false,
            )
        })
        .collect()
}

/// The funnel in a few lines over sorted maps.
fn oracle(
    passages: &[(String, u32, f32, f32, bool)],
    depth: usize,
    method: Method,
) -> Vec<(String, f64)> {
    let best = |score: &dyn Fn(usize) -> Option<f32>| {
        let mut found: Vec<usize> = (0..passages.len())
            .filter(|index| score(*index).is_some())
            .collect();
        found.sort_by(|left, right| {
            let by_id = (&passages[*left].0, passages[*left].1)
                .cmp(&(&passages[*right].0, passages[*right].1));
            score(*right)
                .unwrap()
                .total_cmp(&score(*left).unwrap())
                .then(by_id)
        });
        found.truncate(depth);
        found
    };
    let sparse =
        best(&|index| (passages[index].2 > 0.0 && !passages[index].4).then_some(passages[index].2));
    let dense = best(&|index| Some(passages[index].3));
    let pool: BTreeSet<usize> = sparse
        .into_iter()
        .chain(dense)
        .filter(|index| !passages[*index].4)
        .collect();
    let documents: BTreeSet<&String> = pool.iter().map(|index| &passages[*index].0).collect();
    let best_of = |document: &String, score: &dyn Fn(usize) -> f32| {
        let of_document = pool.iter().filter(|index| passages[**index].0 == *document);
        of_document
            .map(|index| score(*index))
            .fold(f32::NEG_INFINITY, f32::max)
    };
    let scores = |score: &dyn Fn(usize) -> f32| -> Vec<f32> {
        documents
            .iter()
            .map(|document| best_of(document, score))
            .collect()
    };
    let sparse_scores = scores(&|index| passages[index].2);
    let dense_scores = scores(&|index| passages[index].3);
    let fused = fuse(
        method,
        &[
            StageScores {
                weight: 0.5,
                scores: &sparse_scores,
            },
            StageScores {
                weight: 0.5,
                scores: &dense_scores,
            },
        ],
    );
    let mut ranked: Vec<(String, f64)> = documents.into_iter().cloned().zip(fused.scores).collect();
    ranked.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    ranked
}

/// Few distinct scores, so that ties are everywhere, at the cuts too.
fn any_passages() -> impl Strategy<Value = Vec<(String, u32, f32, f32, bool)>> {
    let document = (
        prop::collection::vec((0_u8..4, 0_u8..3, prop::bool::weighted(0.1)), 1..3),
        "[a-z]{1,3}",
    );
    prop::collection::vec(document, 0..40).prop_map(|documents| {
        let unique: std::collections::BTreeMap<String, Vec<(u8, u8, bool)>> = documents
            .into_iter()
            .map(|(passages, id)| (id, passages))
            .collect();
        let rows = unique.into_iter().flat_map(|(id, passages)| {
            (0..)
                .zip(passages)
                .map(move |(number, (sparse, dense, excluded))| {
                    (
                        id.clone(),
                        number,
                        f32::from(sparse),
                        f32::from(dense) / 4.0,
                        excluded,
                    )
                })
        });
        rows.collect()
    })
}

fn any_method() -> impl Strategy<Value = (FusionMethod, Method)> {
    prop_oneof![
        Just((FusionMethod::MinMax, Method::MinMax)),
        Just((FusionMethod::ZScore, Method::ZScore)),
        Just((FusionMethod::Rrf, Method::Rrf { rank_constant: 60 })),
        Just((FusionMethod::Dbsf, Method::Dbsf)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_answer_is_the_oracles_whatever_the_sharding(passages in any_passages(), depth in 1_u32..20, k in 1_u32..12, methods in any_method()) {
        let (wire_method, method) = methods;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut expected = oracle(&passages, depth.max(4 * k) as usize, method);
            expected.truncate(k as usize);
            for shards in [1, 4] {
                let mesh = Mesh::with_depth(sharded(&passages, shards), depth).await;
                let fusion = search::Fusion { method: wire_method.into(), ..Default::default() };
                let query = "a +b".to_owned();
                let answer = mesh.ask(search::SearchRequest { k: Some(k), query, fusion: Some(fusion), ..request("hybrid") }).await.unwrap();
                let found: Vec<(String, f64)> = answer.hits.iter().map(|hit| (hit.id.clone(), hit.score)).collect();
                prop_assert_eq!(&found, &expected, "{} shards", shards);
                for hit in &answer.hits {
                    let sum: f64 = hit.trail.iter().map(|entry| entry.contribution).sum();
                    prop_assert_eq!(sum, hit.score);
                    prop_assert!(hit.trail.iter().all(|entry| entry.contribution == entry.weight * entry.normalized));
                }
            }
            Ok(())
        })?;
    }
}
