//! The head, scored by the vectors of its tokens.

use crate::fakes::{
    FINGERPRINT, Fake, Mesh, RESCORE_FINGERPRINT, Script, TOKEN_FINGERPRINT, config, dense,
    documents, encoder, ids, request, small, sparse, stage,
};
use crate::reranker::Reranker;
use crate::rescoring::{check, close, oracle, outcome, terms, trail};
use crate::scorer::scorer;
use crate::sharding::sharded;
use orchestrator::{Peers, RawConfig, RawHeadPart, RawStage};
use proptest::prelude::*;
use search_core::Address;
use search_proto::search::{self, StageReason, StageStatus};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const PLAIN: [&str; 5] = ["d", "a", "b", "c", "e"];

pub(crate) fn with_max_sims(mut script: Script, scores: &[(&str, f32)]) -> Script {
    script.colbert_fingerprint = FINGERPRINT.to_owned();
    let scores: BTreeMap<&str, f32> = scores.iter().copied().collect();
    for passage in &mut script.passages {
        passage.max_sim = scores.get(passage.document_id.as_str()).copied();
    }
    script
}

/// The five documents, which hybrid ranks d, a, b, c, e and MaxSim the other way round.
pub(crate) fn turned() -> Script {
    let scores = [("d", 1.0), ("a", 1.25), ("b", 1.5), ("c", 1.75), ("e", 2.0)];
    with_max_sims(small(), &scores)
}

pub(crate) fn set_part(raw: &mut RawConfig, window: u32, weight: f64) {
    let colbert = raw.pipelines.get_mut("colbert").unwrap();
    colbert.late_interaction = Some(RawHeadPart::new(window, weight));
}

/// One replica of each service; the encoder serves all bundles.
pub(crate) fn peers(fake: Fake) -> Peers {
    let bundles = vec![FINGERPRINT, RESCORE_FINGERPRINT, TOKEN_FINGERPRINT];
    Peers {
        encoder: vec![encoder(Fake {
            bundles,
            ..fake.clone()
        })],
        sparse: vec![sparse(fake.clone())],
        dense: vec![dense(fake.clone())],
        colbert: vec![scorer(fake)],
        cross_encoder: Vec::new(),
    }
}

pub(crate) async fn mesh_with(script: Script, change: impl FnOnce(&mut RawConfig)) -> Mesh {
    Mesh::with_config(script, config(1000, change), peers).await
}

pub(crate) async fn mesh(script: Script, window: u32, weight: f64) -> Mesh {
    mesh_with(script, |raw| set_part(raw, window, weight)).await
}

pub(crate) fn stages(answer: &search::SearchResponse) -> Vec<&str> {
    let stages = answer.stages.iter();
    stages.map(|report| report.stage.as_str()).collect()
}

/// The calls since this was asked last; Describe is not among them.
pub(crate) fn calls(mesh: &Mesh) -> Vec<String> {
    let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
    log.into_iter().map(|(call, _)| call).collect()
}

/// Calls whose names begin so: "encode" counts "encode_tokens", too.
pub(crate) fn count(calls: &[String], name: &str) -> usize {
    calls.iter().filter(|call| call.starts_with(name)).count()
}

pub(crate) fn matched_ids(answer: &search::SearchResponse) -> BTreeSet<&str> {
    let matched = |hit: &&search::Hit| trail(hit, "late_interaction").is_some();
    let hits = answer.hits.iter().filter(matched);
    hits.map(|hit| hit.id.as_str()).collect()
}

/// Without explanations, whose calls would be counted, too.
pub(crate) fn plainly(pipeline: &str) -> search::SearchRequest {
    search::SearchRequest {
        explain: false,
        ..request(pipeline)
    }
}

#[tokio::test]
async fn a_weight_of_one_replaces_the_scores_of_the_window() {
    let mesh = mesh(turned(), 3, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    assert_eq!(ids(&plain), PLAIN);
    let answer = mesh.ask(request("colbert")).await.unwrap();
    check(&answer);
    assert_eq!(ids(&answer), ["b", "a", "d", "c", "e"]);
    assert!(close(answer.hits[0].score, plain.hits[0].score));
    assert_eq!(answer.hits[2].score, plain.hits[2].score);
    assert_eq!(answer.hits[3..], plain.hits[3..]);
    assert!(!answer.degraded);
}

#[tokio::test]
async fn the_built_in_pipeline_blends_a_fifth_into_the_first_hundred() {
    let mesh = mesh_with(turned(), |_| {}).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    let answer = mesh.ask(request("colbert")).await.unwrap();
    check(&answer);
    let (high, low) = (plain.hits[0].score, plain.hits[4].score);
    for hit in &answer.hits {
        let before = plain.hits.iter().find(|before| before.id == hit.id);
        let own = trail(hit, "late_interaction").unwrap();
        let scaled = low + (own.raw - 1.0) * (high - low);
        assert!(close(own.normalized, scaled), "{own:?}, not {scaled}");
        assert_eq!((own.weight, own.completed, own.reading), (0.2, false, None));
        assert!(close(hit.score, 0.8 * before.unwrap().score + 0.2 * scaled));
    }
    let expected = [
        "encode",
        "sparse",
        "dense",
        "complete",
        "fuse",
        "late_interaction",
        "fetch",
        "explain",
    ];
    assert_eq!(stages(&answer), expected);
    let report = stage(&answer, "late_interaction");
    assert_eq!((report.candidates_in, report.candidates_out), (5, 5));
    assert_eq!((report.shards_asked, report.shards_answered), (1, 1));
    assert_eq!((report.queue_us, report.compute_us), (3, 5));
    let e = answer.hits.iter().find(|hit| hit.id == "e").unwrap();
    assert_eq!(trail(e, "late_interaction").unwrap().rank, 1);
}

#[tokio::test]
async fn it_is_offered_where_a_service_does() {
    let with = mesh(turned(), 3, 1.0).await;
    let without = Mesh::start(turned()).await;
    for (mesh, offered) in [(with, true), (without, false)] {
        let mut client = mesh.client.clone();
        let described = client.describe(search::DescribeRequest {}).await.unwrap();
        let pipelines = described.into_inner().pipelines;
        let colbert = pipelines.iter().find(|pipeline| pipeline.name == "colbert");
        assert_eq!(colbert.is_some(), offered);
        let matches = |colbert: &search::PipelineInfo| {
            colbert.stages.contains(&"late_interaction".to_owned())
        };
        assert!(colbert.is_none_or(matches));
    }
}

#[tokio::test]
async fn the_query_is_encoded_once_for_both_vectors() {
    let mesh = mesh(turned(), 3, 1.0).await;
    mesh.ask(plainly("colbert")).await.unwrap();
    let made = calls(&mesh);
    assert_eq!(count(&made, "encode"), 1, "{made:?}");
    assert_eq!(count(&made, "encode_tokens"), 1);
    let [call] = std::mem::take(&mut mesh.script.lock().unwrap().scorer.scored)
        .try_into()
        .unwrap();
    let query = call.query.unwrap();
    assert_eq!((query.dimensions, query.vectors.len()), (3, 6));
    assert_eq!(query.encoder_fingerprint, FINGERPRINT);
    // Who does not match tokens does not ask for their vectors.
    mesh.ask(plainly("hybrid")).await.unwrap();
    let made = calls(&mesh);
    assert_eq!(
        (count(&made, "encode"), count(&made, "encode_tokens")),
        (1, 0)
    );
}

#[tokio::test]
async fn a_bundle_of_its_own_is_encoded_beside_the_retrieval() {
    let mut script = turned();
    script.colbert_fingerprint = TOKEN_FINGERPRINT.to_owned();
    let mesh = mesh(script, 3, 1.0).await;
    let answer = mesh.ask(plainly("colbert")).await.unwrap();
    assert_eq!((ids(&answer)[0], answer.degraded), ("b", false));
    assert_eq!(stages(&answer)[..2], ["encode", "encode_late_interaction"]);
    let made = calls(&mesh);
    assert_eq!(
        (count(&made, "encode"), count(&made, "encode_tokens")),
        (2, 1)
    );
    let place = |name: &str| made.iter().position(|call| call == name).unwrap();
    assert!(place("encode_tokens") < place("sparse.score"), "{made:?}");
    let scored = &mesh.script.lock().unwrap().scorer.scored;
    let query = scored[0].query.as_ref().unwrap();
    assert_eq!(query.encoder_fingerprint, TOKEN_FINGERPRINT);
}

#[tokio::test]
async fn a_ranking_by_words_can_be_matched_too() {
    let words = |raw: &mut RawConfig| {
        set_part(raw, 10, 1.0);
        raw.pipelines.get_mut("colbert").unwrap().stages = vec![RawStage::Sparse];
    };
    let mesh = mesh_with(turned(), words).await;
    let answer = mesh.ask(plainly("colbert")).await.unwrap();
    assert_eq!(ids(&answer), ["c", "a", "d"]);
    let expected = [
        "encode_late_interaction",
        "sparse",
        "late_interaction",
        "fetch",
    ];
    assert_eq!(stages(&answer), expected);
    assert!(!answer.degraded);
    let made = calls(&mesh);
    assert_eq!(count(&made, "encode"), 1, "{made:?}");
}

#[tokio::test]
async fn where_the_dense_leg_is_lost_the_query_is_encoded_all_the_same() {
    let mut script = turned();
    script.dense_held.clear();
    script.index_fingerprint = FINGERPRINT.to_owned();
    let mesh = mesh(script, 10, 1.0).await;
    let answer = mesh.ask(plainly("colbert")).await.unwrap();
    assert_eq!(ids(&answer), ["c", "a", "d"]);
    assert_eq!(stage(&answer, "dense").status(), StageStatus::Failed);
    let complete = (StageStatus::Complete, StageReason::Unspecified);
    assert_eq!(outcome(&answer, "late_interaction"), complete);
}

#[tokio::test]
async fn the_best_documents_are_sent_first_and_of_each_its_shown_passage() {
    // The second passage of a is the better one; c is behind the window.
    let table = [
        ("a", 1.0, 0.1),
        ("a", 9.0, 0.9),
        ("b", 9.5, 0.95),
        ("c", 0.5, 0.0),
    ];
    let mut script = Script::new(documents(&table), 1);
    script.passages[1].passage = 1;
    let mut script = with_max_sims(script, &[("b", 1.0), ("c", 9.0)]);
    (script.passages[0].max_sim, script.passages[1].max_sim) = (Some(2.0), Some(0.5));
    let mesh = mesh(script, 2, 1.0).await;
    let answer = mesh.ask(request("colbert")).await.unwrap();
    check(&answer);
    let asked: Vec<Address> = mesh.script.lock().unwrap().scorer.scored[0]
        .addresses
        .iter()
        .map(|address| Address::from_u64(*address))
        .collect();
    assert_eq!(asked, [2, 1, 0].map(|ordinal| Address::new(0, ordinal)));
    // The best passage counts, and is shown.
    assert_eq!(ids(&answer), ["a", "b", "c"]);
    let a = &answer.hits[0];
    assert_eq!(
        (trail(a, "late_interaction").unwrap().raw, a.passage),
        (2.0, 0)
    );
    assert!(trail(&answer.hits[2], "late_interaction").is_none());
}

#[tokio::test]
async fn pages_of_a_matched_ranking_make_up_the_whole() {
    let mesh = mesh(turned(), 3, 0.5).await;
    let page = |offset, k| search::SearchRequest {
        offset,
        k: Some(k),
        ..request("colbert")
    };
    let whole = mesh.ask(page(0, 5)).await.unwrap();
    let mut pages = Vec::new();
    for offset in [0, 2, 4] {
        pages.extend(mesh.ask(page(offset, 2)).await.unwrap().hits);
    }
    assert_eq!(pages, whole.hits);
}

#[tokio::test]
async fn all_stages_of_the_head_work_in_one_pipeline() {
    let all = |raw: &mut RawConfig| {
        let full = raw.pipelines.get_mut("full").unwrap();
        full.rescore = Some(RawHeadPart::new(5, 0.5));
        full.late_interaction = Some(RawHeadPart::new(4, 0.5));
        full.rerank = Some(RawHeadPart::new(3, 0.5));
    };
    let mut script = turned();
    script.rescore_fingerprint = RESCORE_FINGERPRINT.to_owned();
    for passage in &mut script.passages {
        passage.rescore = passage.max_sim;
    }
    let mut reranker = None;
    let mesh = Mesh::with_config(script, config(1000, all), |fake| {
        let reranker = reranker.insert(Reranker::new(&fake));
        Peers {
            cross_encoder: vec![reranker.serve()],
            ..peers(fake)
        }
    });
    let mesh = mesh.await;
    let answer = mesh.ask(request("full")).await.unwrap();
    check(&answer);
    let expected = [
        "encode",
        "encode_rescore",
        "sparse",
        "dense",
        "complete",
        "fuse",
        "rescore",
        "late_interaction",
        "rerank",
        "fetch",
        "explain",
    ];
    assert_eq!(stages(&answer), expected);
    let weights = answer.hits[0].trail.iter().map(|entry| entry.weight);
    let expected = [0.0625, 0.0625, 0.125, 0.25, 0.5];
    assert_eq!(weights.collect::<Vec<_>>(), expected);
    let scored = answer.hits.iter().map(|hit| hit.trail.len());
    assert_eq!(scored.collect::<Vec<_>>(), [5, 5, 5, 4, 3]);
    assert!(!answer.degraded);
}

#[tokio::test]
async fn the_snapshot_is_one_that_the_scorers_hold_too() {
    let mut script = turned();
    (script.sparse_held, script.dense_held) = (vec![1, 2], vec![1, 2]);
    script.accepted = BTreeSet::from([1, 2]);
    let mesh = mesh(script, 3, 1.0).await;
    for (pipeline, number) in [("hybrid", 2), ("colbert", 1)] {
        let answer = mesh.ask(plainly(pipeline)).await.unwrap();
        let found = (answer.snapshot.unwrap().number, answer.degraded);
        assert_eq!(found, (number, false), "{pipeline}");
    }
    // What was committed since they were asked is found.
    mesh.change(|script| {
        (script.sparse_held, script.dense_held) = (vec![3], vec![3]);
        script.colbert_held = vec![3];
        script.accepted.insert(3);
    });
    mesh.app.poke().await;
    mesh.change(|script| script.accepted = BTreeSet::from([3]));
    let answer = mesh.ask(plainly("colbert")).await.unwrap();
    assert_eq!(
        (answer.snapshot.unwrap().number, answer.degraded),
        (3, false)
    );
}

/// Passages of few distinct scores, so that ties are everywhere, at the window's end too.
fn any_documents() -> impl Strategy<Value = BTreeMap<String, Vec<(u8, u8, Option<i8>)>>> {
    let passage = (0_u8..4, 0_u8..3, prop::option::weighted(0.8, -2_i8..3));
    let passages = prop::collection::vec(passage, 1..3);
    prop::collection::btree_map("[a-z]{1,3}", passages, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_answer_is_the_oracles_whatever_the_sharding(
        documents in any_documents(),
        window in 1_u32..20,
        weight in prop_oneof![Just(1.0), 0.01..1.0_f64],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut passages = Vec::new();
        let mut own = BTreeMap::new();
        for (id, of_document) in &documents {
            for (number, (sparse, dense, score)) in (0..).zip(of_document) {
                passages.push((id.clone(), number, f32::from(*sparse), f32::from(*dense) / 4.0, false));
                if let Some(score) = score {
                    own.insert((id.clone(), number), f32::from(*score));
                }
            }
        }
        let mut best = BTreeMap::new();
        for ((id, _), score) in &own {
            let entry = best.entry(id.clone()).or_insert(*score);
            *entry = score.max(*entry);
        }
        runtime.block_on(async {
            for shards in [1, 4] {
                let mut script = sharded(&passages, shards);
                script.colbert_fingerprint = FINGERPRINT.to_owned();
                for passage in &mut script.passages {
                    passage.max_sim = own.get(&(passage.document_id.clone(), passage.passage)).copied();
                }
                let mesh = mesh(script, window, weight).await;
                let whole = |pipeline| search::SearchRequest { k: Some(100), ..request(pipeline) };
                let plain = mesh.ask(whole("hybrid")).await.unwrap();
                let ranked: Vec<_> = plain.hits.iter().map(|hit| (hit.id.clone(), terms(hit))).collect();
                let expected = oracle(&ranked, &best, window as usize, weight);
                let answer = mesh.ask(whole("colbert")).await.unwrap();
                check(&answer);
                let found: Vec<(String, f64)> = answer.hits.iter().map(|hit| (hit.id.clone(), hit.score)).collect();
                prop_assert_eq!(found, expected, "{} shards", shards);
                let again = mesh.ask(whole("colbert")).await.unwrap();
                prop_assert_eq!(again.hits, answer.hits);
            }
            Ok(())
        })?;
    }
}
