//! Thousands of queries over peers that fail, hang and are late at random, in virtual time: what is not the faultless answer says so.

use crate::fakes::{
    COLLECTION, Fake, Mesh, ScorerScript, Script, config, dense, encoder, request, sparse,
};
use crate::late_interaction::with_max_sims;
use crate::reranker::{RerankScript, Reranker, Then};
use crate::scorer::scorer;
use crate::sharding::{many, sharded};
use orchestrator::{Peers, RawConfig, RawHeadPart};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use search_proto::search::{SearchRequest, SearchResponse, StageStatus};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// Of each mesh, where they are not counted in thousands.
const SOME_QUERIES: usize = 500;
const MANY_QUERIES: usize = 5000;
const SEED: u64 = 41;
const PIPELINES: [&str; 5] = ["sparse", "dense", "hybrid", "colbert", "full"];
const CALLS: [&str; 8] = [
    "encode",
    "encode_tokens",
    "sparse.search",
    "dense.search",
    "sparse.score",
    "dense.score",
    "colbert.score",
    "sparse.fetch",
];
const CODES: [Code; 6] = [
    Code::Unavailable,
    Code::Internal,
    Code::ResourceExhausted,
    Code::DataLoss,
    Code::DeadlineExceeded,
    Code::Cancelled,
];

fn script() -> Script {
    let scores: Vec<(String, f32)> = (0..40)
        .map(|number| (format!("d{number}"), (number * 7 % 40) as f32))
        .collect();
    let scores: Vec<(&str, f32)> = scores
        .iter()
        .map(|(id, score)| (id.as_str(), *score))
        .collect();
    let mut script = with_max_sims(sharded(&many(), 2), &scores);
    for passage in &mut script.passages {
        passage.rescore = passage.max_sim.map(|score| -score);
    }
    script
}

/// Two replicas of each retriever and of the scorer, of which one may be dead.
async fn mesh(has_dead: bool) -> (Mesh, Reranker) {
    let mut reranker = None;
    let change = |raw: &mut RawConfig| {
        raw.pipelines.get_mut("colbert").unwrap().late_interaction =
            Some(RawHeadPart::new(20, 0.5));
        raw.pipelines.get_mut("full").unwrap().rerank = Some(RawHeadPart::new(10, 0.5));
    };
    let mesh = Mesh::with_config(script(), config(1000, change), |fake| {
        let twin = Fake {
            is_broken: has_dead,
            ..fake.clone()
        };
        Peers {
            encoder: vec![encoder(fake.clone()), encoder(twin.clone())],
            sparse: vec![sparse(fake.clone()), sparse(twin.clone())],
            dense: vec![dense(fake.clone()), dense(twin.clone())],
            colbert: vec![scorer(fake.clone()), scorer(twin)],
            cross_encoder: vec![reranker.insert(Reranker::new(&fake)).serve()],
        }
    })
    .await;
    (mesh, reranker.unwrap())
}

fn asked(pipeline: &str, budget_ms: u32) -> SearchRequest {
    SearchRequest {
        collection: COLLECTION.to_owned(),
        budget_ms: Some(budget_ms),
        ..request(pipeline)
    }
}

/// Some calls fail, some never answer, some take their time.
fn upset(mesh: &Mesh, reranker: &Reranker, random: &mut ChaCha8Rng) {
    mesh.change(|script| {
        script.failures.clear();
        script.hanging.clear();
        script.delays_ms.clear();
        script.log.clear();
        for call in CALLS {
            match random.random_range(0..20) {
                0 | 1 => {
                    let shard = random.random_bool(0.5).then(|| random.random_range(0..2));
                    let code = *CODES.choose(random).unwrap();
                    script.failures.push((call, shard, code));
                }
                2 => script.hanging.push(call),
                3..=5 => {
                    script.delays_ms.insert(call, random.random_range(1..300));
                }
                _ => {}
            }
        }
        script.scorer = ScorerScript {
            passage_ms: random.random_range(0..8) * random.random_range(0..5),
            ..ScorerScript::default()
        };
    });
    reranker.change(|script| {
        *script = RerankScript {
            batch: random.random_range(1..6),
            batch_ms: if random.random_bool(0.3) {
                random.random_range(1..120)
            } else {
                0
            },
            batches: if random.random_bool(0.1) {
                random.random_range(0..4)
            } else {
                usize::MAX
            },
            then: *[Then::End, Then::Silence, Then::Fail(Code::Internal)]
                .choose(random)
                .unwrap(),
            refusal: random
                .random_bool(0.1)
                .then(|| *CODES.choose(random).unwrap()),
            ..RerankScript::default()
        };
    });
}

/// What a user sees of it.
fn content(answer: &SearchResponse) -> Vec<(&str, f64)> {
    answer
        .hits
        .iter()
        .map(|hit| (hit.id.as_str(), hit.score))
        .collect()
}

fn is_honest(answer: &SearchResponse, faultless: &SearchResponse) -> bool {
    let lacks = |status: StageStatus| status != StageStatus::Complete;
    let says_so = answer.stages.iter().any(|report| lacks(report.status()));
    (content(answer) == content(faultless) || answer.degraded) && answer.degraded == says_so
}

async fn run(has_dead: bool, seed: u64, queries: usize) {
    let (mesh, reranker) = mesh(has_dead).await;
    let mut faultless = BTreeMap::new();
    for pipeline in PIPELINES {
        let answer = mesh.ask(asked(pipeline, 60_000)).await.unwrap();
        assert!(!answer.degraded, "{pipeline}: {:?}", answer.stages);
        faultless.insert(pipeline, answer);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut whole, mut degraded, mut failed) = (0, 0, 0);
    for query in 0..queries {
        upset(&mesh, &reranker, &mut random);
        let pipeline = *PIPELINES.choose(&mut random).unwrap();
        let budget_ms = random.random_range(20..1000);
        let started = Instant::now();
        let answer = mesh.ask(asked(pipeline, budget_ms)).await;
        let budget = Duration::from_millis(budget_ms.into());
        assert!(
            started.elapsed() <= budget,
            "query {query}: {:?} of {budget:?}",
            started.elapsed()
        );
        match answer {
            Ok(answer) => {
                let honest = is_honest(&answer, &faultless[pipeline]);
                assert!(honest, "query {query}, {pipeline}: {answer:?}");
                *(if answer.degraded {
                    &mut degraded
                } else {
                    &mut whole
                }) += 1;
            }
            Err(status) => {
                assert_ne!(status.code(), Code::Unknown, "query {query}: {status}");
                failed += 1;
            }
        }
    }
    println!("{whole} whole, {degraded} degraded, {failed} failed");
    // All of them happen, or nothing was tested.
    let some = queries / 50;
    assert!(whole > some && degraded > some && failed > some);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_faultless_answer_says_so() {
    run(false, SEED, SOME_QUERIES).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_where_a_replica_of_everything_is_dead() {
    run(true, SEED + 1, SOME_QUERIES).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "takes minutes: cargo test --workspace -- --ignored ten_thousand_queries"]
async fn ten_thousand_queries() {
    run(false, SEED + 2, MANY_QUERIES).await;
    run(true, SEED + 3, MANY_QUERIES).await;
}
