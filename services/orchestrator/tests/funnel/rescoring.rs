//! The head, scored again by the vectors of a second encoder.

use crate::fakes::{
    FINGERPRINT, Fake, Mesh, RESCORE_FINGERPRINT, Script, config, dense, documents, encoder, gone,
    ids, request, small, sparse, stage,
};
use crate::sharding::sharded;
use orchestrator::{Peers, RawConfig, RawHeadPart, RawMethod, RawPipeline, RawStage};
use proptest::prelude::*;
use search_core::rerank::{Term, merge, total};
use search_proto::search::{self, StageReason, StageStatus};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Code;

const BOTH: [RawStage; 2] = [RawStage::Sparse, RawStage::Dense];

/// Adds the pipeline `rescored`.
fn rescored(raw: &mut RawConfig, stages: &[RawStage], window: u32, weight: f64) {
    let mut pipeline = RawPipeline {
        stages: stages.to_vec(),
        rescore: Some(RawHeadPart::new(window, weight)),
        ..RawPipeline::default()
    };
    pipeline.fusion.method = RawMethod::MinMax;
    pipeline.fusion.alpha = 0.5;
    raw.pipelines.insert("rescored".to_owned(), pipeline);
}

/// One replica of each service; the encoder serves both bundles.
fn peers(fake: Fake) -> Peers {
    Peers {
        encoder: vec![encoder(with_bundles(
            &fake,
            &[FINGERPRINT, RESCORE_FINGERPRINT],
        ))],
        sparse: vec![sparse(fake.clone())],
        dense: vec![dense(fake)],
        cross_encoder: Vec::new(),
        colbert: Vec::new(),
    }
}

fn with_bundles(fake: &Fake, bundles: &[&'static str]) -> Fake {
    Fake {
        bundles: bundles.to_vec(),
        ..fake.clone()
    }
}

async fn mesh(script: Script, stages: &[RawStage], window: u32, weight: f64) -> Mesh {
    let config = config(1000, |raw| rescored(raw, stages, window, weight));
    Mesh::with_config(script, config, peers).await
}

/// The five documents; hybrid ranks them d, a, b, c, e, the second encoder the other way round.
fn indexed() -> Script {
    with_rescores(
        small(),
        &[("d", 0.1), ("a", 0.2), ("b", 0.4), ("c", 0.5), ("e", 0.6)],
    )
}

pub(crate) fn with_rescores(mut script: Script, scores: &[(&str, f32)]) -> Script {
    script.rescore_fingerprint = RESCORE_FINGERPRINT.to_owned();
    let scores: BTreeMap<&str, f32> = scores.iter().copied().collect();
    for passage in &mut script.passages {
        passage.rescore = scores.get(passage.document_id.as_str()).copied();
    }
    script
}

pub(crate) fn close(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-6
}

/// What holds for every answer.
pub(crate) fn check(answer: &search::SearchResponse) {
    let scores: Vec<f64> = answer.hits.iter().map(|hit| hit.score).collect();
    assert!(
        scores.is_sorted_by(|left, right| left >= right),
        "{scores:?}"
    );
    for hit in &answer.hits {
        let sum: f64 = hit.trail.iter().map(|entry| entry.contribution).sum();
        assert_eq!(sum, hit.score, "{hit:?}");
        assert!(
            hit.trail
                .iter()
                .all(|entry| entry.contribution == entry.weight * entry.normalized)
        );
    }
}

pub(crate) fn trail<'a>(hit: &'a search::Hit, stage: &str) -> Option<&'a search::ScoreTrail> {
    hit.trail.iter().find(|entry| entry.stage == stage)
}

#[tokio::test]
async fn a_weight_of_one_replaces_the_scores_of_the_window() {
    let mesh = mesh(indexed(), &BOTH, 3, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    assert_eq!(ids(&plain), ["d", "a", "b", "c", "e"]);
    let answer = mesh.ask(request("rescored")).await.unwrap();
    check(&answer);
    assert_eq!(ids(&answer), ["b", "a", "d", "c", "e"]);
    // The window has the scores that it had, given to others; what is below is as it was.
    assert!(close(answer.hits[0].score, plain.hits[0].score));
    assert_eq!(answer.hits[2].score, plain.hits[2].score);
    assert_eq!(answer.hits[3..], plain.hits[3..]);
    let entry = trail(&answer.hits[1], "rescore").unwrap();
    assert_eq!((entry.raw as f32, entry.rank, entry.weight), (0.2, 2, 1.0));
    assert!(close(entry.normalized, answer.hits[1].score));
    assert_eq!(trail(&answer.hits[1], "sparse").unwrap().contribution, 0.0);
    assert!(trail(&answer.hits[3], "rescore").is_none());
}

#[tokio::test]
async fn a_blend_is_told_stage_by_stage() {
    let mesh = mesh(indexed(), &BOTH, 4, 0.25).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    let answer = mesh.ask(request("rescored")).await.unwrap();
    check(&answer);
    let earlier: BTreeMap<_, _> = plain
        .hits
        .iter()
        .map(|hit| (hit.id.as_str(), hit))
        .collect();
    let (high, low) = (plain.hits[0].score, plain.hits[3].score);
    for hit in &answer.hits[..4] {
        let before = earlier[hit.id.as_str()];
        let own = trail(hit, "rescore").unwrap();
        let scaled = low + (own.raw - 0.1) / 0.4 * (high - low);
        assert!(
            (own.normalized - scaled).abs() < 1e-6,
            "{own:?}, not {scaled}"
        );
        assert!(close(hit.score, 0.75 * before.score + 0.25 * scaled));
        for entry in &before.trail {
            let kept = trail(hit, &entry.stage).unwrap();
            assert_eq!(
                (kept.raw, kept.rank, kept.normalized),
                (entry.raw, entry.rank, entry.normalized)
            );
            assert_eq!(kept.weight, entry.weight * 0.75);
        }
    }
    assert_eq!(answer.hits[4], plain.hits[4]);
    let stages: Vec<&str> = answer
        .stages
        .iter()
        .map(|report| report.stage.as_str())
        .collect();
    let expected = [
        "encode",
        "encode_rescore",
        "sparse",
        "dense",
        "complete",
        "fuse",
        "rescore",
        "fetch",
    ];
    assert_eq!(stages, expected);
    assert!(!answer.degraded);
    let report = stage(&answer, "rescore");
    assert_eq!((report.candidates_in, report.candidates_out), (4, 4));
    assert_eq!((report.shards_asked, report.shards_answered), (1, 1));
    assert_eq!((report.queue_us, report.compute_us), (3, 5));
    let described = mesh
        .client
        .clone()
        .describe(search::DescribeRequest {})
        .await
        .unwrap();
    let pipelines = described.into_inner().pipelines;
    let described = pipelines
        .iter()
        .find(|pipeline| pipeline.name == "rescored")
        .unwrap();
    assert_eq!(described.stages, expected);
}

#[tokio::test]
async fn only_passages_of_the_window_are_asked_for_and_the_best_one_counts() {
    // Both passages of a are found; the second is the better one for the second encoder.
    let table = [
        ("a", 9.0, 0.9),
        ("a", 1.0, 0.1),
        ("b", 6.0, 0.6),
        ("c", 1.0, 0.0),
    ];
    let mut script = Script::new(documents(&table), 1);
    script.passages[1].passage = 1;
    let mut script = with_rescores(script, &[("b", 0.5), ("c", 0.9)]);
    (script.passages[0].rescore, script.passages[1].rescore) = (Some(0.1), Some(0.7));
    let mesh = mesh(script, &BOTH, 2, 1.0).await;
    let answer = mesh.ask(request("rescored")).await.unwrap();
    check(&answer);
    assert_eq!(ids(&answer), ["a", "b", "c"]);
    assert_eq!(trail(&answer.hits[0], "rescore").unwrap().raw as f32, 0.7);
    // It is shown by the passage that counts.
    assert_eq!(answer.hits[0].passage, 1);
    assert!(trail(&answer.hits[2], "rescore").is_none());
}

#[tokio::test]
async fn sparse_alone_can_be_rescored() {
    let mesh = mesh(indexed(), &[RawStage::Sparse], 10, 1.0).await;
    let answer = mesh.ask(request("rescored")).await.unwrap();
    check(&answer);
    assert_eq!(ids(&answer), ["c", "a", "d"]);
    let stages: Vec<&str> = answer
        .stages
        .iter()
        .map(|report| report.stage.as_str())
        .collect();
    assert_eq!(stages, ["encode_rescore", "sparse", "rescore", "fetch"]);
    assert!(!answer.degraded);
}

#[tokio::test]
async fn pages_of_a_rescored_ranking_make_up_the_whole() {
    let mesh = mesh(indexed(), &BOTH, 3, 0.5).await;
    let page = |offset, k| search::SearchRequest {
        offset,
        k: Some(k),
        ..request("rescored")
    };
    let whole = mesh.ask(page(0, 5)).await.unwrap();
    let mut pages = Vec::new();
    for offset in [0, 2, 4] {
        pages.extend(mesh.ask(page(offset, 2)).await.unwrap().hits);
    }
    assert_eq!(pages, whole.hits);
}

/// The status and reason of a stage.
pub(crate) fn outcome(answer: &search::SearchResponse, name: &str) -> (StageStatus, StageReason) {
    (stage(answer, name).status(), stage(answer, name).reason())
}

#[tokio::test]
async fn an_index_without_the_vectors_says_so_and_keeps_the_order() {
    let mesh = mesh(small(), &BOTH, 3, 1.0).await;
    let answer = mesh.ask(request("rescored")).await.unwrap();
    assert_eq!(ids(&answer), ["d", "a", "b", "c", "e"]);
    assert!(answer.degraded);
    let skipped = (StageStatus::Skipped, StageReason::NotIndexed);
    assert_eq!(outcome(&answer, "rescore"), skipped);
    assert!(
        answer
            .stages
            .iter()
            .all(|report| report.stage != "encode_rescore")
    );
}

#[tokio::test]
async fn without_any_vectors_sparse_is_answered() {
    let mut script = small();
    script.index_fingerprint.clear();
    let mesh = mesh(script, &[RawStage::Sparse], 3, 1.0).await;
    let answer = mesh.ask(request("rescored")).await.unwrap();
    assert_eq!(ids(&answer), ["a", "d", "c"]);
    let skipped = (StageStatus::Skipped, StageReason::NotIndexed);
    assert_eq!(outcome(&answer, "rescore"), skipped);
}

#[tokio::test]
async fn peers_that_fail_leave_the_order_and_are_reported() {
    let cases = [
        (
            "dense.rescore",
            Code::Unavailable,
            StageStatus::Failed,
            StageReason::Unavailable,
        ),
        (
            "dense.rescore",
            Code::ResourceExhausted,
            StageStatus::Failed,
            StageReason::Overloaded,
        ),
        (
            "dense.rescore",
            Code::InvalidArgument,
            StageStatus::Failed,
            StageReason::ShardMissing,
        ),
        (
            "dense.rescore",
            Code::FailedPrecondition,
            StageStatus::Failed,
            StageReason::SnapshotMissing,
        ),
        (
            "encode_rescore",
            Code::Unavailable,
            StageStatus::Skipped,
            StageReason::Unavailable,
        ),
        (
            "encode_rescore",
            Code::FailedPrecondition,
            StageStatus::Skipped,
            StageReason::ModelMismatch,
        ),
        (
            "encode_rescore",
            Code::InvalidArgument,
            StageStatus::Skipped,
            StageReason::Fault,
        ),
    ];
    let mesh = mesh(indexed(), &BOTH, 3, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    for (call, code, status, reason) in cases {
        mesh.change(|script| script.failures = vec![(call, None, code)]);
        let answer = mesh.ask(request("rescored")).await.unwrap();
        assert_eq!(answer.hits, plain.hits, "{call} {code}");
        assert!(answer.degraded, "{call} {code}");
        assert_eq!(
            outcome(&answer, "rescore"),
            (status, reason),
            "{call} {code}"
        );
        let encoded = outcome(&answer, "encode_rescore").0;
        assert_eq!(encoded == StageStatus::Failed, call == "encode_rescore");
    }
}

#[tokio::test]
async fn an_encoder_of_another_model_is_a_mismatch() {
    let only_first = |fake: Fake| Peers {
        encoder: vec![encoder(with_bundles(&fake, &[FINGERPRINT]))],
        ..peers(fake)
    };
    let config = config(1000, |raw| rescored(raw, &BOTH, 3, 1.0));
    let mesh = Mesh::with_config(indexed(), config, only_first).await;
    let answer = mesh.ask(request("rescored")).await.unwrap();
    assert_eq!(ids(&answer), ["d", "a", "b", "c", "e"]);
    let mismatch = (StageStatus::Skipped, StageReason::ModelMismatch);
    assert_eq!(outcome(&answer, "rescore"), mismatch);
    let failed = (StageStatus::Failed, StageReason::ModelMismatch);
    assert_eq!(outcome(&answer, "encode_rescore"), failed);
    assert_eq!(outcome(&answer, "encode").0, StageStatus::Complete);
}

#[tokio::test]
async fn each_query_goes_to_an_encoder_that_serves_its_bundle() {
    let apart = |fake: Fake| Peers {
        encoder: vec![
            encoder(with_bundles(&fake, &[FINGERPRINT])),
            gone("encoder"),
            encoder(with_bundles(&fake, &[RESCORE_FINGERPRINT])),
        ],
        ..peers(fake)
    };
    let config = config(1000, |raw| rescored(raw, &BOTH, 3, 1.0));
    let mesh = Mesh::with_config(indexed(), config, apart).await;
    for _ in 0..4 {
        let answer = mesh.ask(request("rescored")).await.unwrap();
        assert_eq!((ids(&answer)[0], answer.degraded), ("b", false));
    }
}

#[tokio::test]
async fn documents_without_a_score_keep_theirs() {
    let mut script = indexed();
    script.passages[0].rescore = None;
    let mesh = mesh(script, &BOTH, 4, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    let answer = mesh.ask(request("rescored")).await.unwrap();
    check(&answer);
    // d, b and c are turned round; a stays where it was.
    assert_eq!(ids(&answer), ["c", "b", "a", "d", "e"]);
    assert_eq!(answer.hits[2], plain.hits[1]);
    let partial = (StageStatus::Partial, StageReason::DamagedSegment);
    assert_eq!(outcome(&answer, "rescore"), partial);
    let report = stage(&answer, "rescore");
    assert_eq!((report.candidates_in, report.candidates_out), (4, 3));
}

/// Twenty documents of falling scores, which the second encoder likes the other way round.
fn turned(shards: u32) -> Script {
    let passages: Vec<_> = (0..20)
        .map(|number| (format!("d{number:02}"), 0, 20.0 - number as f32, 0.0, false))
        .collect();
    let mut script = sharded(&passages, shards);
    script.rescore_fingerprint = RESCORE_FINGERPRINT.to_owned();
    for passage in &mut script.passages {
        passage.rescore = Some(1.0 - passage.sparse / 100.0);
    }
    script
}

#[tokio::test]
async fn a_shard_that_does_not_answer_leaves_its_documents_where_they_were() {
    let mesh = mesh(turned(4), &BOTH, 10, 1.0).await;
    let whole = mesh.ask(request("rescored")).await.unwrap();
    let turned_round = (0..10).rev().map(|number| format!("d{number:02}"));
    assert_eq!(ids(&whole), turned_round.collect::<Vec<_>>());
    let report = stage(&whole, "rescore");
    assert_eq!((report.shards_asked, report.shards_answered), (4, 4));
    let failure = ("dense.rescore", Some(2), Code::Unavailable);
    mesh.change(|script| script.failures = vec![failure]);
    let answer = mesh.ask(request("rescored")).await.unwrap();
    check(&answer);
    let partial = (StageStatus::Partial, StageReason::Unavailable);
    assert_eq!(outcome(&answer, "rescore"), partial);
    let report = stage(&answer, "rescore");
    assert_eq!((report.shards_asked, report.shards_answered), (4, 3));
    let unscored = answer
        .hits
        .iter()
        .filter(|hit| trail(hit, "rescore").is_none());
    let unscored = unscored.count() as u64;
    assert_eq!((unscored > 0, report.candidates_out), (true, 10 - unscored));
}

#[tokio::test]
async fn another_replica_rescores_for_a_broken_one() {
    let with_broken = |fake: Fake| {
        let broken = Fake {
            is_broken: true,
            ..fake.clone()
        };
        Peers {
            dense: vec![dense(broken), dense(fake.clone())],
            ..peers(fake)
        }
    };
    let config = config(1000, |raw| rescored(raw, &BOTH, 3, 1.0));
    let mesh = Mesh::with_config(indexed(), config, with_broken).await;
    for _ in 0..3 {
        let answer = mesh.ask(request("rescored")).await.unwrap();
        assert_eq!((ids(&answer)[0], answer.degraded), ("b", false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rescorer_that_is_too_slow_leaves_time_for_the_answer() {
    let cases = [
        ("dense.rescore", StageStatus::Failed),
        ("encode_rescore", StageStatus::Skipped),
    ];
    for (hanging, status) in cases {
        let mesh = mesh(indexed(), &BOTH, 3, 1.0).await;
        mesh.change(|script| script.hanging = vec![hanging]);
        let started = tokio::time::Instant::now();
        let budget = Duration::from_millis(400);
        let answer = mesh.ask_within(request("rescored"), budget).await.unwrap();
        // All but what is kept back.
        let elapsed = started.elapsed();
        let most = Duration::from_millis(345)..=Duration::from_millis(355);
        assert!(most.contains(&elapsed), "{hanging}: {elapsed:?}");
        assert_eq!(ids(&answer), ["d", "a", "b", "c", "e"]);
        assert_eq!(outcome(&answer, "rescore"), (status, StageReason::Deadline));
        if hanging == "encode_rescore" {
            let failed = (StageStatus::Failed, StageReason::Deadline);
            assert_eq!(outcome(&answer, hanging), failed);
        }
        let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
        let limits = log.iter().filter(|(call, _)| call == "dense.rescore");
        assert!(
            limits
                .clone()
                .all(|(_, left)| left.is_some_and(|left| left <= 350)),
            "{log:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_too_late_does_not_lose_the_others() {
    let mesh = mesh(turned(4), &BOTH, 10, 1.0).await;
    mesh.change(|script| {
        script.failures = vec![("dense.rescore", Some(1), Code::DeadlineExceeded)]
    });
    let budget = Duration::from_millis(400);
    let answer = mesh.ask_within(request("rescored"), budget).await.unwrap();
    let partial = (StageStatus::Partial, StageReason::Deadline);
    assert_eq!(outcome(&answer, "rescore"), partial);
    check(&answer);
}

#[tokio::test]
async fn the_second_encoding_runs_beside_the_retrieval() {
    let mesh = mesh(indexed(), &BOTH, 3, 1.0).await;
    mesh.ask(request("rescored")).await.unwrap();
    let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
    let place = |name: &str| log.iter().position(|(call, _)| call == name).unwrap();
    assert!(place("encode_rescore") < place("sparse.score"), "{log:?}");
    assert!(place("dense.rescore") > place("sparse.score"), "{log:?}");
}

#[tokio::test]
async fn equal_documents_at_the_end_of_the_window_go_by_their_ids() {
    // Addresses fall where ids rise, as they do over shards.
    let table: Vec<(String, f32)> = (0..6)
        .map(|number| {
            (
                format!("d{}", 9 - number),
                if number == 5 { 9.0 } else { 2.0 },
            )
        })
        .collect();
    let table: Vec<(&str, f32, f32)> = table
        .iter()
        .map(|(id, sparse)| (id.as_str(), *sparse, 0.0))
        .collect();
    let scores = [
        ("d4", 0.0),
        ("d5", 0.3),
        ("d6", 0.9),
        ("d7", 1.0),
        ("d8", 1.0),
        ("d9", 1.0),
    ];
    let script = with_rescores(Script::new(documents(&table), 1), &scores);
    let mesh = mesh(script, &[RawStage::Sparse], 3, 1.0).await;
    let answer = mesh.ask(request("rescored")).await.unwrap();
    check(&answer);
    // The window is d4, d5 and d6; d4 falls to the score of what is below, among which ids decide.
    assert_eq!(ids(&answer), ["d6", "d5", "d4", "d7", "d8", "d9"]);
    assert_eq!(stage(&answer, "rescore").candidates_in, 3);
}

/// The funnel behind the fusion in a few lines: `ranked` is the fused ranking, best first, with its terms. The head ends with the last
/// document that has a score.
pub(crate) fn oracle(
    ranked: &[(String, Vec<Term>)],
    own: &BTreeMap<String, f32>,
    window: usize,
    weight: f64,
) -> Vec<(String, f64)> {
    let window = window.min(ranked.len());
    let has_score = |(id, _): &(String, Vec<Term>)| own.contains_key(id);
    let last = ranked[..window].iter().rposition(has_score);
    let window = last.map_or(0, |last| last + 1);
    let head: Vec<Vec<Term>> = ranked[..window]
        .iter()
        .map(|(_, terms)| terms.clone())
        .collect();
    let scores: Vec<Option<f32>> = ranked[..window]
        .iter()
        .map(|(id, _)| own.get(id).copied())
        .collect();
    let merged = merge(&head, &scores, weight).terms;
    let rest = ranked[window..].iter().map(|(_, terms)| terms);
    let terms = merged.iter().chain(rest).map(|terms| total(terms));
    let mut answer: Vec<(String, f64)> =
        ranked.iter().map(|(id, _)| id.clone()).zip(terms).collect();
    answer.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    answer
}

pub(crate) fn terms(hit: &search::Hit) -> Vec<Term> {
    let term = |entry: &search::ScoreTrail| Term {
        normalized: entry.normalized,
        weight: entry.weight,
    };
    hit.trail.iter().map(term).collect()
}

/// Few distinct scores, so that ties are everywhere, at the window's end too.
fn any_documents() -> impl Strategy<Value = BTreeMap<String, Vec<(u8, u8, Option<i8>)>>> {
    let passage = (0_u8..4, 0_u8..3, prop::option::weighted(0.8, -2_i8..3));
    let passages = prop::collection::vec(passage, 1..3);
    prop::collection::btree_map("[a-z]{1,3}", passages, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_rescored_answer_is_the_oracles_whatever_the_sharding(
        documents in any_documents(),
        window in 1_u32..20,
        weight in prop_oneof![Just(1.0), 0.01..1.0_f64],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut passages = Vec::new();
        let mut own = BTreeMap::new();
        for (id, of_document) in &documents {
            for (number, (sparse, dense, rescore)) in (0..).zip(of_document) {
                passages.push((id.clone(), number, f32::from(*sparse), f32::from(*dense) / 4.0, false));
                if let Some(rescore) = rescore {
                    own.insert((id.clone(), number), f32::from(*rescore));
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
                script.rescore_fingerprint = RESCORE_FINGERPRINT.to_owned();
                for passage in &mut script.passages {
                    passage.rescore = own.get(&(passage.document_id.clone(), passage.passage)).copied();
                }
                let mesh = mesh(script, &BOTH, window, weight).await;
                let whole = |pipeline| search::SearchRequest { k: Some(100), ..request(pipeline) };
                let plain = mesh.ask(whole("hybrid")).await.unwrap();
                let ranked: Vec<_> = plain.hits.iter().map(|hit| (hit.id.clone(), terms(hit))).collect();
                let expected = oracle(&ranked, &best, window as usize, weight);
                let answer = mesh.ask(whole("rescored")).await.unwrap();
                check(&answer);
                let found: Vec<(String, f64)> = answer.hits.iter().map(|hit| (hit.id.clone(), hit.score)).collect();
                prop_assert_eq!(found, expected, "{} shards", shards);
            }
            Ok(())
        })?;
    }
}
