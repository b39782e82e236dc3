//! Late interaction with scorers and encoders that are late, hostile, overloaded or gone.

use crate::fakes::{
    FINGERPRINT, Fake, Mesh, TOKEN_FINGERPRINT, config, encoder, ids, request, stage,
};
use crate::late_interaction::{
    PLAIN, calls, count, matched_ids, mesh, mesh_with, peers, plainly, set_part, turned,
    with_max_sims,
};
use crate::rescoring::{check, oracle, outcome, terms, trail};
use crate::scorer::scorer;
use crate::sharding::sharded;
use orchestrator::Peers;
use proptest::prelude::*;
use search_proto::colbert::ScoreResponse;
use search_proto::encoder::EncodeResponse;
use search_proto::search::{self, StageReason, StageStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

const STAGE: &str = "late_interaction";

#[tokio::test]
async fn scorers_that_fail_leave_the_order_and_are_reported() {
    let cases = [
        (Code::Unavailable, StageReason::Unavailable),
        (Code::ResourceExhausted, StageReason::Overloaded),
        (Code::DeadlineExceeded, StageReason::Deadline),
        (Code::FailedPrecondition, StageReason::SnapshotMissing),
        (Code::NotFound, StageReason::SnapshotMissing),
        (Code::DataLoss, StageReason::DamagedSegment),
        (Code::InvalidArgument, StageReason::Fault),
        (Code::Internal, StageReason::Fault),
        (Code::Unimplemented, StageReason::Fault),
        (Code::Cancelled, StageReason::Fault),
        (Code::Unknown, StageReason::Fault),
    ];
    let mesh = mesh(turned(), 3, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    for (code, reason) in cases {
        mesh.change(|script| script.failures = vec![("colbert.score", None, code)]);
        let answer = mesh.ask(request("colbert")).await.unwrap();
        assert_eq!(answer.hits, plain.hits, "{code}");
        assert!(answer.degraded, "{code}");
        let failed = (StageStatus::Failed, reason);
        assert_eq!(outcome(&answer, STAGE), failed, "{code}");
        let report = stage(&answer, STAGE);
        assert_eq!((report.candidates_in, report.candidates_out), (3, 0));
    }
}

#[tokio::test]
async fn without_a_scorer_nothing_is_asked_and_the_answer_says_so() {
    let mesh = Mesh::start(turned()).await;
    let plain = mesh.ask(plainly("hybrid")).await.unwrap();
    calls(&mesh);
    let answer = mesh.ask(plainly("colbert")).await.unwrap();
    assert_eq!((answer.hits.clone(), answer.degraded), (plain.hits, true));
    let skipped = (StageStatus::Skipped, StageReason::NotConfigured);
    assert_eq!(outcome(&answer, STAGE), skipped);
    let made = calls(&mesh);
    assert_eq!(
        (count(&made, "encode"), count(&made, "encode_tokens")),
        (1, 0)
    );
}

#[tokio::test]
async fn what_is_not_held_is_told() {
    let cases: [(&str, &[u64], StageReason); 3] = [
        ("", &[], StageReason::NotIndexed),
        (FINGERPRINT, &[], StageReason::SnapshotMissing),
        (FINGERPRINT, &[7], StageReason::SnapshotMissing),
    ];
    for (fingerprint, held, reason) in cases {
        let mut script = turned();
        script.colbert_fingerprint = fingerprint.to_owned();
        script.colbert_held = held.to_vec();
        let mesh = mesh(script, 3, 1.0).await;
        let plain = mesh.ask(plainly("hybrid")).await.unwrap();
        let answer = mesh.ask(plainly("colbert")).await.unwrap();
        assert_eq!((answer.hits.clone(), answer.degraded), (plain.hits, true));
        assert_eq!(outcome(&answer, STAGE), (StageStatus::Skipped, reason));
        let made = calls(&mesh);
        assert_eq!(count(&made, "encode_tokens"), 0, "{made:?}");
    }
}

#[tokio::test]
async fn a_fresh_commit_is_found_on_demand() {
    let mut script = turned();
    script.colbert_held.clear();
    let mesh = mesh(script, 3, 1.0).await;
    mesh.change(|script| script.colbert_held = vec![1]);
    let answer = mesh.ask(plainly("colbert")).await.unwrap();
    assert_eq!((ids(&answer)[0], answer.degraded), ("b", false));
}

#[tokio::test(start_paused = true)]
async fn what_is_lacking_for_long_is_looked_for_once_and_not_waited_for() {
    let mut script = turned();
    script.colbert_held.clear();
    let mesh = mesh(script, 3, 1.0).await;
    let looks = || mesh.script.lock().unwrap().describes;
    let lacking = (StageStatus::Skipped, StageReason::SnapshotMissing);
    mesh.ask(plainly("colbert")).await.unwrap();
    let before = looks();
    for _ in 0..10 {
        let answer = mesh.ask(plainly("colbert")).await.unwrap();
        assert_eq!(outcome(&answer, STAGE), lacking);
    }
    assert_eq!(looks(), before);

    mesh.app.poke().await;
    mesh.change(|script| script.hanging = vec!["colbert.describe"]);
    for patience_ms in [60, 10] {
        let began = Instant::now();
        let answer = mesh.ask(plainly("colbert")).await.unwrap();
        assert_eq!(outcome(&answer, STAGE), lacking);
        assert!(began.elapsed() < Duration::from_millis(patience_ms));
    }
}

#[tokio::test]
async fn another_replica_scores_for_a_broken_one() {
    let with_broken = |fake: Fake| {
        let broken = Fake {
            is_broken: true,
            ..fake.clone()
        };
        Peers {
            colbert: vec![scorer(broken), scorer(fake.clone())],
            ..peers(fake)
        }
    };
    let config = config(1000, |raw| set_part(raw, 3, 1.0));
    let mesh = Mesh::with_config(turned(), config, with_broken).await;
    for _ in 0..3 {
        let answer = mesh.ask(request("colbert")).await.unwrap();
        assert_eq!((ids(&answer)[0], answer.degraded), ("b", false));
    }
}

#[tokio::test]
async fn documents_whose_tokens_are_damaged_keep_their_score() {
    let mut script = turned();
    script.passages[0].max_sim = None;
    let mesh = mesh(script, 4, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    let answer = mesh.ask(request("colbert")).await.unwrap();
    check(&answer);
    // d, b and c are turned round; a stays where it was.
    assert_eq!(ids(&answer), ["c", "b", "a", "d", "e"]);
    assert_eq!(answer.hits[2], plain.hits[1]);
    let partial = (StageStatus::Partial, StageReason::DamagedSegment);
    assert_eq!(outcome(&answer, STAGE), partial);
    let report = stage(&answer, STAGE);
    assert_eq!((report.candidates_in, report.candidates_out), (4, 3));
    // Nothing came of it where all are.
    mesh.change(|script| {
        let passages = script.passages.iter_mut();
        passages.for_each(|passage| passage.max_sim = None);
    });
    let answer = mesh.ask(request("colbert")).await.unwrap();
    assert_eq!(answer.hits, plain.hits);
    let failed = (StageStatus::Failed, StageReason::DamagedSegment);
    assert_eq!(outcome(&answer, STAGE), failed);
}

#[tokio::test]
async fn a_scorer_may_name_what_it_lacks_in_any_order() {
    let mesh = mesh(turned(), 5, 1.0).await;
    mesh.change(|script| script.scorer.spoil_scores = |scored| scored.unknown = vec![4, 1, 4]);
    let answer = mesh.ask(request("colbert")).await.unwrap();
    check(&answer);
    assert_eq!(matched_ids(&answer), BTreeSet::from(["d", "b", "c"]));
    let partial = (StageStatus::Partial, StageReason::DamagedSegment);
    assert_eq!(outcome(&answer, STAGE), partial);
}

/// Ways to break the contract.
const SPOILERS: [fn(&mut ScoreResponse); 6] = [
    |scored| scored.scores.push(1.0),
    |scored| scored.scores[0] = f32::NAN,
    |scored| scored.scores[4] = f32::INFINITY,
    |scored| scored.scores[2] = f32::NEG_INFINITY,
    |scored| scored.unknown = vec![5],
    |scored| scored.unknown = vec![u32::MAX, 0],
];

#[tokio::test]
async fn who_breaks_the_contract_is_not_believed() {
    let mesh = mesh(turned(), 5, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    for (number, spoil) in SPOILERS.into_iter().enumerate() {
        mesh.change(|script| script.scorer.spoil_scores = spoil);
        let answer = mesh.ask(request("colbert")).await.unwrap();
        let failed = (StageStatus::Failed, StageReason::Fault);
        assert_eq!(outcome(&answer, STAGE), failed, "{number}");
        assert_eq!(answer.hits, plain.hits, "{number}");
    }
}

/// Ways in which the vectors of tokens are none, while the vector is right.
const TOKEN_SPOILERS: [fn(&mut EncodeResponse); 9] = [
    |encoded| encoded.token_vectors.clear(),
    |encoded| encoded.token_vectors.push(encoded.token_vectors[0].clone()),
    |encoded| encoded.token_vectors[0].dimensions = 0,
    |encoded| encoded.token_vectors[0].dimensions = 4,
    |encoded| encoded.token_vectors[0].dimensions = u32::MAX,
    |encoded| encoded.token_vectors[0].vectors.clear(),
    |encoded| encoded.token_vectors[0].vectors[1] = f32::NAN,
    |encoded| encoded.token_vectors[0].vectors[..3].fill(0.0),
    |encoded| encoded.token_vectors[0].vectors = vec![1.0; 3 * 1025],
];

#[tokio::test]
async fn wrong_vectors_of_tokens_cost_nothing_but_late_interaction() {
    let mesh = mesh(turned(), 5, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    for (number, spoil) in TOKEN_SPOILERS.into_iter().enumerate() {
        mesh.change(|script| {
            script.spoil_encoding = spoil;
        });
        let answer = mesh.ask(request("colbert")).await.unwrap();
        assert_eq!(answer.hits, plain.hits, "{number}");
        let skipped = (StageStatus::Skipped, StageReason::Fault);
        assert_eq!(outcome(&answer, STAGE), skipped, "{number}");
        let complete = (StageStatus::Complete, StageReason::Unspecified);
        assert_eq!(outcome(&answer, "encode"), complete, "{number}");
        assert_eq!(outcome(&answer, "dense"), complete, "{number}");
    }
}

#[tokio::test]
async fn an_encoder_that_refuses_tokens_is_searched_by_all_the_same() {
    let mesh = mesh(turned(), 5, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    mesh.change(|script| script.refuses_tokens = true);
    calls(&mesh);
    let answer = mesh.ask(plainly("colbert")).await.unwrap();
    assert_eq!(ids(&answer), ids(&plain));
    let skipped = (StageStatus::Skipped, StageReason::Fault);
    assert_eq!(outcome(&answer, STAGE), skipped);
    let made = calls(&mesh);
    assert_eq!(
        (count(&made, "encode"), count(&made, "encode_tokens")),
        (2, 1)
    );
}

#[tokio::test]
async fn an_encoder_of_another_model_is_a_mismatch() {
    let only_first = |fake: Fake| Peers {
        encoder: vec![encoder(Fake {
            bundles: vec![FINGERPRINT],
            ..fake.clone()
        })],
        ..peers(fake)
    };
    let mut script = turned();
    script.colbert_fingerprint = TOKEN_FINGERPRINT.to_owned();
    let config = config(1000, |raw| set_part(raw, 3, 1.0));
    let mesh = Mesh::with_config(script, config, only_first).await;
    let answer = mesh.ask(request("colbert")).await.unwrap();
    assert_eq!(ids(&answer), PLAIN);
    let skipped = (StageStatus::Skipped, StageReason::ModelMismatch);
    assert_eq!(outcome(&answer, STAGE), skipped);
    let failed = (StageStatus::Failed, StageReason::ModelMismatch);
    assert_eq!(outcome(&answer, "encode_late_interaction"), failed);
    assert_eq!(outcome(&answer, "encode").0, StageStatus::Complete);
}

#[tokio::test]
async fn an_encoder_that_fails_both_says_why_for_both() {
    let mesh = mesh(turned(), 3, 1.0).await;
    mesh.change(|script| script.failures = vec![("encode_tokens", None, Code::Unavailable)]);
    let answer = mesh.ask(request("colbert")).await.unwrap();
    assert_eq!(ids(&answer), ["a", "d", "c"]);
    let skipped = (StageStatus::Skipped, StageReason::Unavailable);
    assert_eq!(outcome(&answer, "dense"), skipped);
    assert_eq!(outcome(&answer, STAGE), skipped);
}

#[tokio::test]
async fn who_stops_without_cause_is_at_fault_and_what_it_scored_counts() {
    let smaller = mesh(turned(), 2, 1.0).await;
    let smaller = smaller.ask(plainly("colbert")).await.unwrap();
    let mesh = mesh(turned(), 5, 1.0).await;
    mesh.change(|script| script.scorer.prefixes = BTreeMap::from([(0, 2)]));
    let answer = mesh.ask(plainly("colbert")).await.unwrap();
    assert_eq!(answer.hits, smaller.hits);
    let partial = (StageStatus::Partial, StageReason::Fault);
    assert_eq!(outcome(&answer, STAGE), partial);
    let report = stage(&answer, STAGE);
    assert_eq!((report.candidates_in, report.candidates_out), (5, 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_scored_when_the_time_is_up_counts() {
    let smaller = mesh(turned(), 4, 1.0).await;
    let smaller = smaller.ask(plainly("colbert")).await.unwrap();
    let mesh = mesh(turned(), 5, 1.0).await;
    mesh.change(|script| script.scorer.passage_ms = 84);
    let started = tokio::time::Instant::now();
    let budget = Duration::from_millis(400);
    let answer = mesh.ask_within(plainly("colbert"), budget).await.unwrap();
    // All but what is kept back is enough for four of them.
    let elapsed = started.elapsed();
    assert!(elapsed <= Duration::from_millis(355), "{elapsed:?}");
    let partial = (StageStatus::Partial, StageReason::Deadline);
    assert_eq!(outcome(&answer, STAGE), partial);
    // As if the window ended there.
    assert_eq!(answer.hits, smaller.hits);
    let report = stage(&answer, STAGE);
    assert_eq!((report.candidates_in, report.candidates_out), (5, 4));
    assert_eq!((report.shards_asked, report.shards_answered), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_scorer_that_is_silent_leaves_time_for_the_answer() {
    let apart = || {
        let mut script = turned();
        script.colbert_fingerprint = TOKEN_FINGERPRINT.to_owned();
        script
    };
    let cases = [
        (turned(), "colbert.score", StageStatus::Failed),
        (apart(), "encode_tokens", StageStatus::Skipped),
    ];
    for (script, hanging, status) in cases {
        let mesh = mesh(script, 3, 1.0).await;
        mesh.change(|script| script.hanging = vec![hanging]);
        let started = tokio::time::Instant::now();
        let budget = Duration::from_millis(400);
        let answer = mesh.ask_within(request("colbert"), budget).await.unwrap();
        let elapsed = started.elapsed();
        // All but what is kept back.
        let most = Duration::from_millis(345)..=Duration::from_millis(355);
        assert!(most.contains(&elapsed), "{hanging}: {elapsed:?}");
        assert_eq!(ids(&answer), PLAIN);
        assert_eq!(outcome(&answer, STAGE), (status, StageReason::Deadline));
        if hanging == "encode_tokens" {
            let failed = (StageStatus::Failed, StageReason::Deadline);
            assert_eq!(outcome(&answer, "encode_late_interaction"), failed);
        }
        let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
        let mut limits = log.iter().filter(|(call, _)| call == "colbert.score");
        assert!(
            limits.all(|(_, left)| left.is_some_and(|left| left <= 350)),
            "{log:?}"
        );
    }
}

/// The encoder gave the vectors of both at once, before the dense retriever was waited for in vain.
#[tokio::test(start_paused = true)]
async fn a_dense_retriever_that_is_silent_does_not_cost_the_tokens() {
    let mesh = mesh(turned(), 5, 1.0).await;
    mesh.change(|script| script.hanging = vec!["dense.search"]);
    let budget = Duration::from_millis(400);
    let answer = mesh.ask_within(request("colbert"), budget).await.unwrap();
    let late = (StageStatus::Failed, StageReason::Deadline);
    assert_eq!(outcome(&answer, "dense"), late);
    let complete = (StageStatus::Complete, StageReason::Unspecified);
    assert_eq!(outcome(&answer, "encode"), complete);
    assert_eq!(outcome(&answer, STAGE), complete);
}

#[tokio::test(start_paused = true)]
async fn a_short_time_is_kept_too() {
    // Three quarters of it, in whole milliseconds, leave one for the answer.
    for budget_ms in [4, 5, 10, 20, 40, 80] {
        let mesh = mesh(turned(), 5, 1.0).await;
        mesh.change(|script| script.hanging = vec!["colbert.score"]);
        let started = tokio::time::Instant::now();
        let asked = search::SearchRequest {
            budget_ms: Some(budget_ms),
            ..request("colbert")
        };
        let answer = mesh.ask(asked).await.unwrap();
        let budget = Duration::from_millis(budget_ms.into());
        assert!(started.elapsed() <= budget, "{budget_ms}");
        assert_eq!(ids(&answer), PLAIN, "{budget_ms}");
        let failed = (StageStatus::Failed, StageReason::Deadline);
        assert_eq!(outcome(&answer, STAGE), failed, "{budget_ms}");
    }
}

/// Twenty documents of falling scores, which MaxSim likes the other way round.
fn twenty(shards: u32) -> crate::fakes::Script {
    let passages: Vec<_> = (0..20)
        .map(|number| (format!("d{number:02}"), 0, 20.0 - number as f32, 0.0, false))
        .collect();
    let mut script = sharded(&passages, shards);
    script.colbert_fingerprint = FINGERPRINT.to_owned();
    for passage in &mut script.passages {
        passage.max_sim = Some(1.0 - passage.sparse / 100.0);
    }
    script
}

#[tokio::test]
async fn a_shard_that_does_not_answer_leaves_its_documents_their_scores() {
    let mesh = mesh(twenty(4), 10, 1.0).await;
    let whole = mesh.ask(plainly("colbert")).await.unwrap();
    let turned_round = (0..10).rev().map(|number| format!("d{number:02}"));
    assert_eq!(ids(&whole), turned_round.collect::<Vec<_>>());
    let report = stage(&whole, STAGE);
    assert_eq!((report.shards_asked, report.shards_answered), (4, 4));
    let failure = ("colbert.score", Some(2), Code::Unavailable);
    mesh.change(|script| script.failures = vec![failure]);
    let answer = mesh.ask(request("colbert")).await.unwrap();
    check(&answer);
    let partial = (StageStatus::Partial, StageReason::Unavailable);
    assert_eq!(outcome(&answer, STAGE), partial);
    let report = stage(&answer, STAGE);
    assert_eq!((report.shards_asked, report.shards_answered), (4, 3));
    let unmatched = answer.hits.iter().filter(|hit| trail(hit, STAGE).is_none());
    let unmatched = unmatched.count() as u64;
    assert!(unmatched > 0);
    assert_eq!(report.candidates_out, 10 - unmatched);
}

#[tokio::test(start_paused = true)]
async fn shards_that_are_late_give_what_they_have() {
    let mesh = mesh(twenty(4), 10, 1.0).await;
    mesh.change(|script| script.scorer.passage_ms = 170);
    let budget = Duration::from_millis(400);
    let answer = mesh.ask_within(request("colbert"), budget).await.unwrap();
    check(&answer);
    let partial = (StageStatus::Partial, StageReason::Deadline);
    assert_eq!(outcome(&answer, STAGE), partial);
    // Two of each shard, where it has so many.
    let scored = stage(&answer, STAGE).candidates_out;
    assert!((4..=8).contains(&scored), "{scored}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Wherever the shards stop, the answer is that of the oracle with the scores that came.
    #[test]
    fn what_was_scored_counts_and_nothing_else(
        documents in prop::collection::btree_map("[a-z]{1,3}", (0_u8..4, 0_u8..3, -2_i8..3), 0..30),
        window in 1_u32..20,
        prefixes in prop::collection::btree_map(0_u32..4, 0_usize..6, 0..4),
        weight in prop_oneof![Just(1.0), 0.01..1.0_f64],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let passages: Vec<_> = documents
            .iter()
            .map(|(id, (sparse, dense, _))| (id.clone(), 0, f32::from(*sparse), f32::from(*dense) / 4.0, false))
            .collect();
        let scores: Vec<(&str, f32)> = documents.iter().map(|(id, (_, _, score))| (id.as_str(), f32::from(*score))).collect();
        runtime.block_on(async {
            let mut script = with_max_sims(sharded(&passages, 4), &scores);
            script.scorer.prefixes = prefixes;
            let mesh = mesh(script, window, weight).await;
            let whole = |pipeline| search::SearchRequest { k: Some(100), ..request(pipeline) };
            let plain = mesh.ask(whole("hybrid")).await.unwrap();
            let ranked: Vec<_> = plain.hits.iter().map(|hit| (hit.id.clone(), terms(hit))).collect();
            let answer = mesh.ask(whole("colbert")).await.unwrap();
            check(&answer);
            let matched = matched_ids(&answer);
            let own: BTreeMap<String, f32> = scores
                .iter()
                .filter(|(id, _)| matched.contains(id))
                .map(|(id, score)| ((*id).to_owned(), *score))
                .collect();
            let expected = oracle(&ranked, &own, window as usize, weight);
            let found: Vec<(String, f64)> = answer.hits.iter().map(|hit| (hit.id.clone(), hit.score)).collect();
            prop_assert_eq!(found, expected);
            let report = stage(&answer, STAGE);
            prop_assert_eq!(report.candidates_out, matched.len() as u64);
            prop_assert_eq!(report.candidates_out < report.candidates_in, answer.degraded);
            Ok(())
        })?;
    }

    /// Whatever a scorer gives as scores, and however few, there is an answer, and its scores are what the trail says.
    #[test]
    fn no_answer_of_a_scorer_breaks_an_answer(
        scores in prop::collection::vec(prop::num::f32::ANY, 0..6),
        scored in 0_usize..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut script = turned();
            let passages = script.passages.iter_mut().zip(scores.iter().map(|score| Some(*score)).chain(std::iter::repeat(None)));
            passages.for_each(|(passage, score)| passage.max_sim = score);
            script.scorer.prefixes = BTreeMap::from([(0, scored)]);
            let mesh = mesh_with(script, |raw| set_part(raw, 5, 0.5)).await;
            let answer = mesh.ask(request("colbert")).await.unwrap();
            check(&answer);
            prop_assert_eq!(answer.hits.len(), 5);
            prop_assert!(answer.hits.iter().all(|hit| hit.score.is_finite()));
            Ok(())
        })?;
    }
}
