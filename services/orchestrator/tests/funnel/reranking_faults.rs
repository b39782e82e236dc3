//! The head, read by a cross-encoder that is late, hostile, overloaded or gone.

use crate::fakes::{Mesh, config, gone, ids, request, stage};
use crate::reranker::{RerankScript, Reranker, Then};
use crate::reranking::{PLAIN, mesh, peers, read_ids, set_rerank, turned};
use crate::rescoring::{check, oracle, outcome, terms};
use orchestrator::Peers;
use proptest::prelude::*;
use search_proto::rerank::RerankResponse;
use search_proto::search::{self, StageReason, StageStatus};
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn a_refused_call_leaves_the_order() {
    let cases = [
        (Code::ResourceExhausted, StageReason::Overloaded),
        (Code::FailedPrecondition, StageReason::ModelMismatch),
        (Code::Unavailable, StageReason::Unavailable),
        (Code::DeadlineExceeded, StageReason::Deadline),
        (Code::Internal, StageReason::Fault),
        (Code::InvalidArgument, StageReason::Fault),
        (Code::Unimplemented, StageReason::Fault),
        (Code::NotFound, StageReason::Fault),
        (Code::Cancelled, StageReason::Fault),
        (Code::Unknown, StageReason::Fault),
        (Code::DataLoss, StageReason::Fault),
    ];
    let (mesh, reranker) = mesh(turned(), 3, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    for (code, reason) in cases {
        reranker.change(|script| script.refusal = Some(code));
        let answer = mesh.ask(request("full")).await.unwrap();
        assert_eq!(answer.hits, plain.hits, "{code}");
        assert!(answer.degraded, "{code}");
        let failed = (StageStatus::Failed, reason);
        assert_eq!(outcome(&answer, "rerank"), failed, "{code}");
        assert_eq!(stage(&answer, "rerank").candidates_out, 0);
    }
}

#[tokio::test]
async fn what_was_read_before_a_failure_counts() {
    let cases = [
        (Then::Fail(Code::Internal), StageReason::Fault),
        (Then::Fail(Code::Unavailable), StageReason::Unavailable),
        (Then::Fail(Code::ResourceExhausted), StageReason::Overloaded),
        (Then::Fail(Code::DeadlineExceeded), StageReason::Deadline),
        // It has no deadline, and no cause to stop.
        (Then::End, StageReason::Fault),
    ];
    let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
    for (then, reason) in cases {
        reranker.change(|script| (script.batches, script.then) = (1, then));
        let answer = mesh.ask(request("full")).await.unwrap();
        check(&answer);
        let partial = (StageStatus::Partial, reason);
        assert_eq!(outcome(&answer, "rerank"), partial, "{then:?}");
        // d and a change places; the rest stays below them.
        assert_eq!(ids(&answer), ["a", "d", "b", "c", "e"], "{then:?}");
        assert_eq!(read_ids(&answer), BTreeSet::from(["a", "d"]));
        let report = stage(&answer, "rerank");
        assert_eq!((report.candidates_in, report.candidates_out), (5, 2));
    }
}

/// Ways to break the contract.
const SPOILERS: [fn(&mut RerankResponse); 13] = [
    |batch| batch.indexes[0] = 5,
    |batch| batch.indexes[0] = u32::MAX,
    |batch| batch.indexes[0] = 0,
    |batch| batch.indexes.fill(4),
    |batch| batch.logits[0] = f32::NAN,
    |batch| batch.logits[0] = f32::INFINITY,
    |batch| batch.scores[0] = f32::NAN,
    |batch| batch.scores[0] = -0.1,
    |batch| batch.scores[0] = 1.1,
    |batch| batch.logits.clear(),
    |batch| batch.scores.push(0.5),
    |batch| batch.tokens.clear(),
    |batch| batch.batches.clear(),
];

#[tokio::test]
async fn who_breaks_the_contract_is_not_believed() {
    let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    for (number, spoiler) in SPOILERS.into_iter().enumerate() {
        // The first batch is well made, except that position 0 comes once more where it is what is wrong.
        let spoil = spoiler;
        reranker.change(|script| script.spoil = spoil);
        let answer = mesh.ask(request("full")).await.unwrap();
        let failed = (StageStatus::Failed, StageReason::Fault);
        assert_eq!(outcome(&answer, "rerank"), failed, "{number}");
        assert_eq!(answer.hits, plain.hits, "{number}");
        assert_eq!(read_ids(&answer), BTreeSet::new());
    }
}

#[tokio::test]
async fn a_model_that_changes_within_a_call_is_not_believed() {
    let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
    reranker.change(|script| {
        script.spoil = |batch| batch.fingerprint = format!("{:?}", batch.batches);
    });
    let answer = mesh.ask(request("full")).await.unwrap();
    let failed = (StageStatus::Failed, StageReason::Fault);
    assert_eq!(
        (ids(&answer), outcome(&answer, "rerank")),
        (PLAIN.into(), failed)
    );
}

#[tokio::test]
async fn more_than_was_asked_for_is_not_believed() {
    let (mesh, reranker) = mesh(turned(), 3, 1.0).await;
    reranker.change(|script| {
        script.batch = 3;
        script.spoil = |batch| {
            let more = [batch.clone(), batch.clone()];
            for copy in more {
                batch.indexes.extend(copy.indexes);
                batch.logits.extend(copy.logits);
                batch.scores.extend(copy.scores);
                batch.tokens.extend(copy.tokens);
                batch.batches.extend(copy.batches);
            }
        };
    });
    let answer = mesh.ask(request("full")).await.unwrap();
    let failed = (StageStatus::Failed, StageReason::Fault);
    assert_eq!(
        (ids(&answer), outcome(&answer, "rerank")),
        (PLAIN.into(), failed)
    );
}

#[tokio::test]
async fn who_says_nothing_for_ever_is_left() {
    let (mesh, reranker) = mesh(turned(), 3, 1.0).await;
    reranker.change(|script| script.canned = vec![RerankResponse::default(); 1_000]);
    reranker.change(|script| script.then = Then::Silence);
    let answer = mesh.ask(request("full")).await.unwrap();
    let failed = (StageStatus::Failed, StageReason::Fault);
    assert_eq!(
        (ids(&answer), outcome(&answer, "rerank")),
        (PLAIN.into(), failed)
    );
    reranker.ended(1).await;
}

#[tokio::test]
async fn who_has_read_all_is_not_waited_for() {
    let (mesh, reranker) = mesh(turned(), 3, 1.0).await;
    reranker.change(|script| script.then = Then::Silence);
    let answer = mesh.ask(request("full")).await.unwrap();
    assert_eq!((ids(&answer)[0], answer.degraded), ("b", false));
    reranker.ended(1).await;
}

#[tokio::test]
async fn another_replica_reads_for_one_that_is_gone() {
    let mut reranker = None;
    let config = config(1000, |raw| set_rerank(raw, 3, 1.0));
    let mesh = Mesh::with_config(turned(), config, |fake| {
        let reranker = reranker.insert(Reranker::new(&fake));
        Peers {
            cross_encoder: vec![gone("cross-encoder"), reranker.serve()],
            colbert: Vec::new(),
            ..peers(fake, reranker)
        }
    });
    let mesh = mesh.await;
    for _ in 0..4 {
        let answer = mesh.ask(request("full")).await.unwrap();
        assert_eq!((ids(&answer)[0], answer.degraded), ("b", false));
    }
}

#[tokio::test]
async fn nobody_reads_where_all_are_gone() {
    let config = config(1000, |raw| set_rerank(raw, 3, 1.0));
    let mesh = Mesh::with_config(turned(), config, |fake| Peers {
        cross_encoder: vec![gone("cross-encoder"), gone("cross-encoder")],
        colbert: Vec::new(),
        ..peers(fake.clone(), &Reranker::new(&fake))
    });
    let answer = mesh.await.ask(request("full")).await.unwrap();
    let failed = (StageStatus::Failed, StageReason::Unavailable);
    assert_eq!(
        (ids(&answer), outcome(&answer, "rerank")),
        (PLAIN.into(), failed)
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_read_when_the_time_is_up_counts_and_the_call_ends() {
    let slow = |script: &mut RerankScript| script.batch_ms = 100;
    let silent = |script: &mut RerankScript| (script.batches, script.then) = (3, Then::Silence);
    let (smaller, reranker) = mesh(turned(), 3, 1.0).await;
    reranker.change(|script| script.batch = 1);
    let smaller = smaller.ask(request("full")).await.unwrap();
    for name in ["slow", "silent"] {
        let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
        reranker.change(|script| script.batch = 1);
        reranker.change(if name == "slow" { slow } else { silent });
        let started = tokio::time::Instant::now();
        let budget = Duration::from_millis(400);
        let answer = mesh.ask_within(request("full"), budget).await.unwrap();
        let elapsed = started.elapsed();
        // All but 50 ms.
        let reading_time = Duration::from_millis(345)..=Duration::from_millis(352);
        assert!(reading_time.contains(&elapsed), "{name}: {elapsed:?}");
        let partial = (StageStatus::Partial, StageReason::Deadline);
        assert_eq!(outcome(&answer, "rerank"), partial, "{name}");
        check(&answer);
        // As if the window ended there.
        assert_eq!(answer.hits, smaller.hits, "{name}");
        let report = stage(&answer, "rerank");
        assert_eq!((report.candidates_in, report.candidates_out), (5, 3));
        assert_eq!((report.queue_us, report.compute_us), (9, 15));
        reranker.ended(1).await;
        let left = reranker.calls()[0].1.unwrap();
        assert!((340..=350).contains(&left), "{name}: {left}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_time_is_kept_too() {
    for budget_ms in [1, 2, 3, 8, 10, 20, 40, 80] {
        let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
        reranker.change(|script| script.then = Then::Silence);
        reranker.change(|script| script.batches = 0);
        let started = tokio::time::Instant::now();
        let asked = search::SearchRequest {
            budget_ms: Some(budget_ms),
            ..request("full")
        };
        let answer = mesh.ask(asked).await.unwrap();
        let budget = Duration::from_millis(budget_ms.into());
        assert!(started.elapsed() <= budget, "{budget_ms}");
        assert_eq!(stage(&answer, "rerank").reason(), StageReason::Deadline);
        // Of less the retrieval has no millisecond.
        if budget_ms >= 8 {
            assert_eq!(ids(&answer), PLAIN, "{budget_ms}");
            let failed = (StageStatus::Failed, StageReason::Deadline);
            assert_eq!(outcome(&answer, "rerank"), failed, "{budget_ms}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_ends_the_call() {
    let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
    reranker.change(|script| (script.batches, script.then) = (1, Then::Silence));
    let asking = mesh.ask(request("full"));
    let left = tokio::time::timeout(Duration::from_millis(100), asking).await;
    assert!(left.is_err());
    reranker.ended(1).await;
}

#[tokio::test(start_paused = true)]
async fn texts_that_do_not_come_leave_time_for_an_answer() {
    let (mesh, reranker) = mesh(turned(), 3, 1.0).await;
    // The window ends between equal documents, whose ids do not come.
    mesh.change(|script| {
        for passage in &mut script.passages {
            (passage.sparse, passage.dense) = (1.0, 0.5);
        }
        script.hanging = vec!["sparse.fetch_ids"];
    });
    let budget = Duration::from_millis(400);
    let asked = search::SearchRequest {
        k: Some(5),
        ..request("full")
    };
    let answer = mesh.ask_within(asked, budget).await.unwrap();
    let failed = (StageStatus::Failed, StageReason::Deadline);
    assert_eq!(outcome(&answer, "rerank"), failed);
    assert_eq!(ids(&answer), ["a", "b", "c", "d", "e"]);
    assert_eq!(reranker.calls(), []);
}

#[tokio::test]
async fn a_passage_that_the_store_lacks_is_not_read() {
    let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
    mesh.change(|script| {
        script.unknown_to_sparse = BTreeSet::from([script.passages[0].address.to_u64()]);
    });
    let answer = mesh.ask(request("full")).await.unwrap();
    assert_eq!(ids(&answer), ["e", "c", "b", "d"]);
    let partial = (StageStatus::Partial, StageReason::DamagedSegment);
    assert_eq!(outcome(&answer, "rerank"), partial);
    assert_eq!(reranker.calls()[0].0.passages.len(), 4);
}

#[tokio::test]
async fn texts_that_no_message_holds_are_not_read() {
    let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
    mesh.change(|script| script.text_bytes = Some(13 * 1024 * 1024));
    let answer = mesh.ask(request("full")).await.unwrap();
    let failed = (StageStatus::Failed, StageReason::Size);
    assert_eq!(outcome(&answer, "rerank"), failed);
    assert_eq!(reranker.calls(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a peer answers, there is an answer, and its scores are what the trail says.
    #[test]
    fn no_answer_of_a_peer_breaks_an_answer(
        indexes in prop::collection::vec(0_u32..6, 0..6),
        logits in prop::collection::vec(any::<f32>(), 0..6),
        scores in prop::collection::vec(prop_oneof![0.0..1.0_f32, any::<f32>()], 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mesh, reranker) = mesh(turned(), 5, 0.5).await;
            let answer = RerankResponse { tokens: vec![1; indexes.len()], batches: vec![0; indexes.len()], indexes, logits, scores, ..Default::default() };
            reranker.change(|script| script.canned = vec![answer]);
            let answer = mesh.ask(request("full")).await.unwrap();
            check(&answer);
            prop_assert_eq!(answer.hits.len(), 5);
            prop_assert!(answer.hits.iter().all(|hit| hit.score.is_finite()));
            Ok(())
        })?;
    }

    /// So long may an answer take, and so long does a batch.
    #[test]
    fn whenever_the_time_is_up_the_answer_is_that_of_a_smaller_window(
        budget_ms in 8_u32..400,
        batch_ms in 1_u64..90,
        batch in 1_usize..4,
        weight in prop_oneof![Just(1.0), 0.01..1.0_f64],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (whole, reranker) = mesh(turned(), 5, weight).await;
            let own = whole.script.lock().unwrap().passages.iter().map(|passage| (passage.document_id.clone(), passage.rescore.unwrap())).collect();
            let plain = whole.ask(request("hybrid")).await.unwrap();
            let ranked: Vec<_> = plain.hits.iter().map(|hit| (hit.id.clone(), terms(hit))).collect();
            reranker.change(|script| (script.batch, script.batch_ms) = (batch, batch_ms));
            let started = tokio::time::Instant::now();
            let answer = whole.ask(search::SearchRequest { budget_ms: Some(budget_ms), ..request("full") }).await.unwrap();
            prop_assert!(started.elapsed() <= Duration::from_millis(budget_ms.into()));
            check(&answer);
            let read = stage(&answer, "rerank").candidates_out as usize;
            let time_to_read = u64::from(budget_ms) - u64::from(budget_ms / 4).min(50);
            // Timers have milliseconds, and the service keeps one of them back.
            let in_time = |slack: u64| (batch * (time_to_read.saturating_sub(slack) / batch_ms) as usize).min(5);
            prop_assert!((in_time(3)..=in_time(0)).contains(&read), "{} of {} ms", read, time_to_read);
            let found: Vec<(String, f64)> = answer.hits.iter().map(|hit| (hit.id.clone(), hit.score)).collect();
            prop_assert_eq!(found, oracle(&ranked, &own, read, weight));
            Ok(())
        })?;
    }
}
