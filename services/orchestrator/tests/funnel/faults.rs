//! What is wrong with a peer becomes a retry, a degraded answer that says so, or the right status; never a silent loss.

use crate::fakes::{
    COLLECTION, Fake, Mesh, dense, encoder, gone, ids, request, small, sparse, stage,
};
use crate::rescoring::outcome;
use crate::sharding::{many, sharded};
use orchestrator::Peers;
use search_core::{Address, shard_of};
use search_proto::common::RefusedCollection;
use search_proto::search::{self, StageReason, StageStatus};
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn a_fresh_commit_is_found_on_demand() {
    let mut script = small();
    script.sparse_held.clear();
    script.dense_held.clear();
    let mesh = Mesh::start(script).await;
    assert_eq!(
        mesh.ask(request("")).await.unwrap_err().code(),
        Code::NotFound
    );
    mesh.change(|script| {
        script.sparse_held = vec![1];
        script.dense_held = vec![1];
    });
    assert!(!mesh.ask(request("")).await.unwrap().degraded);
}

#[tokio::test]
async fn a_collection_that_all_refuse_is_told_with_the_reason_until_it_is_mended() {
    let mut script = small();
    script.sparse_held.clear();
    script.dense_held.clear();
    let mesh = Mesh::start(script).await;
    for (may_pass, code) in [(false, Code::DataLoss), (true, Code::Unavailable)] {
        mesh.change(|script| {
            script.refused_collections = vec![RefusedCollection {
                collection: COLLECTION.to_owned(),
                reason: "a.fst: is damaged".to_owned(),
                may_pass,
            }];
        });
        for pipeline in ["hybrid", "sparse", "dense"] {
            let status = mesh.ask(request(pipeline)).await.unwrap_err();
            assert_eq!(status.code(), code, "{pipeline}: {status}");
            assert_eq!(
                status.message(),
                "collection docs cannot be served: a.fst: is damaged"
            );
            assert!(status.details().is_empty());
        }
    }
    mesh.change(|script| {
        script.sparse_held = vec![1];
        script.dense_held = vec![1];
        script.refused_collections.clear();
    });
    assert!(!mesh.ask(request("")).await.unwrap().degraded);
}

#[tokio::test]
async fn vectors_that_all_refuse_degrade_hybrid_and_are_told() {
    let mut script = small();
    script.dense_held.clear();
    script.refused_collections = vec![RefusedCollection {
        collection: COLLECTION.to_owned(),
        reason: "rotation.bin: is damaged".to_owned(),
        may_pass: false,
    }];
    let mesh = Mesh::start(script).await;
    let status = mesh.ask(request("dense")).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss, "{status}");
    assert!(status.message().contains("rotation.bin"), "{status}");
    let answer = mesh.ask(request("hybrid")).await.unwrap();
    assert!(answer.degraded);
    assert_eq!(stage(&answer, "dense").status(), StageStatus::Failed);
}

#[tokio::test]
async fn many_searches_of_what_is_unknown_share_a_look() {
    let mesh = Mesh::start(small()).await;
    let before = mesh.script.lock().unwrap().describes;
    let unknown = || search::SearchRequest {
        collection: "nope".to_owned(),
        ..request("")
    };
    let asked = futures::future::join_all((0..20).map(|_| mesh.ask(unknown()))).await;
    assert!(asked.iter().all(Result::is_err));
    let looks = mesh.script.lock().unwrap().describes - before;
    assert!((1..=3).contains(&looks), "{looks}");
}

#[tokio::test]
async fn a_snapshot_that_was_retired_on_the_way_is_replaced() {
    for pipeline in ["hybrid", "sparse", "dense"] {
        let mesh = Mesh::start(small()).await;
        mesh.change(|script| {
            script.sparse_held = vec![2, 3];
            script.dense_held = vec![2, 3];
            script.accepted = BTreeSet::from([2, 3]);
        });
        let answer = mesh.ask(request(pipeline)).await.unwrap();
        assert_eq!(
            (answer.snapshot.unwrap().number, answer.degraded),
            (3, false)
        );
    }
}

#[tokio::test]
async fn a_snapshot_that_nobody_accepts_is_an_error() {
    let mesh = Mesh::start(small()).await;
    mesh.change(|script| script.accepted.clear());
    assert_eq!(
        mesh.ask(request("")).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let searches = mesh
        .script
        .lock()
        .unwrap()
        .log
        .iter()
        .filter(|(call, _)| call == "sparse.search")
        .count();
    assert_eq!(searches, 2);
}

#[tokio::test]
async fn a_shard_without_replica_makes_every_stage_a_part_or_the_answer_an_error() {
    let mut script = sharded(&many(), 2);
    script.announced_shards = vec![0];
    let mesh = Mesh::start(script).await;
    for pipeline in ["sparse", "dense", "hybrid"] {
        let answer = mesh.ask(request(pipeline)).await.unwrap();
        assert!(answer.degraded && !answer.hits.is_empty());
        let of_leg = |report: &&search::StageReport| ["sparse", "dense"].contains(&&*report.stage);
        for report in answer.stages.iter().filter(of_leg) {
            let partial = (StageStatus::Partial, StageReason::ShardMissing);
            assert_eq!((report.status(), report.reason()), partial, "{pipeline}");
            assert_eq!((report.shards_asked, report.shards_answered), (2, 1));
        }
        let whole = search::SearchRequest {
            require_full_coverage: true,
            ..request(pipeline)
        };
        let status = mesh.ask(whole).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{pipeline}: {status}");
    }
}

#[tokio::test]
async fn a_shard_that_fails_makes_its_stage_a_part_or_the_answer_an_error() {
    for (code, reason) in [
        (Code::Unavailable, StageReason::ShardMissing),
        (Code::ResourceExhausted, StageReason::Overloaded),
    ] {
        let mesh = Mesh::start(sharded(&many(), 4)).await;
        mesh.change(|script| script.failures.push(("dense.search", Some(2), code)));
        let answer = mesh.ask(request("hybrid")).await.unwrap();
        assert!(answer.degraded);
        let dense = stage(&answer, "dense");
        assert_eq!(
            (dense.status(), dense.reason()),
            (StageStatus::Partial, reason)
        );
        assert_eq!((dense.shards_asked, dense.shards_answered), (4, 3));
        assert_eq!(answer.hits[0].trail.len(), 2);
        let alone = mesh.ask(request("dense")).await.unwrap();
        assert_eq!(outcome(&alone, "dense"), (StageStatus::Partial, reason));
        for pipeline in ["hybrid", "dense"] {
            let whole = search::SearchRequest {
                require_full_coverage: true,
                ..request(pipeline)
            };
            let status = mesh.ask(whole).await.unwrap_err();
            assert_eq!(status.code(), code, "{pipeline}: {status}");
            assert!(status.message().contains("3 of 4 shards"), "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_silent_costs_no_more_than_itself() {
    let mesh = Mesh::start(sharded(&many(), 4)).await;
    for (pipeline, call, leg) in [
        ("hybrid", "dense.search", "dense"),
        ("hybrid", "sparse.search", "sparse"),
        ("dense", "dense.search", "dense"),
    ] {
        mesh.change(|script| script.hanging_on = vec![(call, 2)]);
        let budget = search::SearchRequest {
            budget_ms: Some(400),
            ..request(pipeline)
        };
        let answer = mesh.ask(budget).await.unwrap();
        let report = stage(&answer, leg);
        let partial = (StageStatus::Partial, StageReason::Deadline);
        assert_eq!((report.status(), report.reason()), partial, "{pipeline}");
        assert_eq!((report.shards_asked, report.shards_answered), (4, 3));
    }
}

/// Its documents cannot be shown; those of the others can.
#[tokio::test]
async fn a_shard_that_fails_at_the_end_costs_its_own_documents() {
    let mesh = Mesh::start(sharded(&many(), 4)).await;
    let whole = mesh.ask(request("hybrid")).await.unwrap();
    let lost = shard_of(&whole.hits[0].id, 4);
    for (code, reason) in [
        (Code::Unavailable, StageReason::ShardMissing),
        (Code::ResourceExhausted, StageReason::Overloaded),
    ] {
        let calls = ["sparse.fetch", "sparse.fetch_ids"];
        mesh.change(|script| script.failures = calls.map(|call| (call, Some(lost), code)).into());
        let answer = mesh.ask(request("hybrid")).await.unwrap();
        assert!(answer.degraded);
        assert_eq!(
            answer.hits.len(),
            whole.hits.len(),
            "others take their places"
        );
        assert!(answer.hits.iter().all(|hit| shard_of(&hit.id, 4) != lost));
        let fetch = stage(&answer, "fetch");
        assert_eq!(
            (fetch.status(), fetch.reason()),
            (StageStatus::Partial, reason)
        );
        assert_eq!(fetch.shards_answered + 1, fetch.shards_asked);
        let covered = search::SearchRequest {
            require_full_coverage: true,
            ..request("hybrid")
        };
        assert_eq!(mesh.ask(covered).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_failed_sparse_leg_degrades_unless_the_query_has_conditions() {
    let mesh = Mesh::start(sharded(&many(), 4)).await;
    mesh.change(|script| {
        script
            .failures
            .push(("sparse.search", None, Code::Internal))
    });
    let answer = mesh.ask(request("hybrid")).await.unwrap();
    assert_eq!(
        (answer.degraded, stage(&answer, "sparse").status()),
        (true, StageStatus::Failed)
    );
    let query = "bone -mice".to_owned();
    let status = mesh
        .ask(search::SearchRequest {
            query,
            ..request("hybrid")
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
}

#[tokio::test]
async fn when_both_legs_fail_there_is_no_answer() {
    let mesh = Mesh::start(small()).await;
    mesh.change(|script| {
        script.failures = vec![
            ("sparse.search", None, Code::Unavailable),
            ("encode", None, Code::Unavailable),
        ];
    });
    assert_eq!(
        mesh.ask(request("hybrid")).await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn an_encoder_that_is_gone_is_reported() {
    let mesh = Mesh::start(small()).await;
    mesh.change(|script| script.failures.push(("encode", None, Code::Unavailable)));
    let answer = mesh.ask(request("hybrid")).await.unwrap();
    let report = |name| (stage(&answer, name).status(), stage(&answer, name).reason());
    assert_eq!(
        report("encode"),
        (StageStatus::Failed, StageReason::Unavailable)
    );
    assert_eq!(
        report("dense"),
        (StageStatus::Skipped, StageReason::Unavailable)
    );
    assert_eq!(ids(&answer), ["a", "d", "c"]);
}

#[tokio::test]
async fn a_mesh_without_dense_retrievers_answers_degraded() {
    let peers = |fake: Fake| Peers {
        encoder: vec![encoder(fake.clone())],
        sparse: vec![sparse(fake)],
        dense: vec![gone("dense")],
        cross_encoder: Vec::new(),
        colbert: Vec::new(),
    };
    let mesh = Mesh::with_peers(small(), 1000, peers).await;
    let answer = mesh.ask(request("hybrid")).await.unwrap();
    assert_eq!(
        (
            stage(&answer, "dense").status(),
            stage(&answer, "dense").reason()
        ),
        (StageStatus::Failed, StageReason::Unavailable)
    );
    assert_eq!(
        mesh.ask(request("dense")).await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn another_replica_answers_for_a_broken_one() {
    let peers = |fake: Fake| {
        let broken = Fake {
            is_broken: true,
            ..fake.clone()
        };
        Peers {
            encoder: vec![encoder(broken.clone()), encoder(fake.clone())],
            sparse: vec![sparse(fake.clone()), sparse(broken.clone())],
            dense: vec![dense(broken), dense(fake)],
            cross_encoder: Vec::new(),
            colbert: Vec::new(),
        }
    };
    let mesh = Mesh::with_peers(small(), 1000, peers).await;
    for _ in 0..4 {
        let answer = mesh.ask(request("hybrid")).await.unwrap();
        assert_eq!((answer.degraded, answer.hits.len()), (false, 5));
    }
}

#[tokio::test]
async fn the_callers_fault_is_not_degraded() {
    let mesh = Mesh::start(small()).await;
    mesh.change(|script| {
        script
            .failures
            .push(("dense.search", None, Code::InvalidArgument))
    });
    assert_eq!(
        mesh.ask(request("hybrid")).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn another_model_is_refused_with_both_fingerprints() {
    let mut script = small();
    script.encoder_fingerprint = "beef".to_owned();
    let mesh = Mesh::start(script).await;
    for pipeline in ["hybrid", "dense"] {
        let status = mesh.ask(request(pipeline)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(
            status.message().contains("f00d") && status.message().contains("beef"),
            "{status}"
        );
    }
    assert!(mesh.ask(request("sparse")).await.is_ok());
}

#[tokio::test]
async fn a_collection_without_vectors_says_what_to_do() {
    let mut script = small();
    script.index_fingerprint.clear();
    let mesh = Mesh::start(script).await;
    let status = mesh.ask(request("hybrid")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("use a pipeline"), "{status}");
}

#[tokio::test]
async fn refused_segments_make_a_stage_partial() {
    let mut script = small();
    script.refused_segments = 1;
    let mesh = Mesh::start(script).await;
    let answer = mesh.ask(request("hybrid")).await.unwrap();
    let sparse = stage(&answer, "sparse");
    assert_eq!(
        (sparse.status(), sparse.reason()),
        (StageStatus::Partial, StageReason::DamagedSegment)
    );
    assert!(answer.degraded);
}

#[tokio::test]
async fn a_passage_that_nobody_can_show_is_left_out_and_said() {
    let mut script = small();
    script.unknown_to_sparse = BTreeSet::from([Address::new(0, 1).to_u64()]);
    let mesh = Mesh::start(script).await;
    let answer = mesh.ask(request("hybrid")).await.unwrap();
    assert!(!ids(&answer).contains(&"b"));
    for name in ["complete", "fetch"] {
        let report = stage(&answer, name);
        assert_eq!(
            (report.status(), report.reason()),
            (StageStatus::Partial, StageReason::DamagedSegment)
        );
    }
}

#[tokio::test]
async fn texts_that_no_message_holds_are_cut_and_it_is_said() {
    let asked = || search::SearchRequest {
        k: Some(40),
        query: "bone".to_owned(),
        ..request("dense")
    };
    for shards in [1, 4] {
        let mut script = sharded(&many(), shards);
        script.text_bytes = Some(250 * 1024);
        let mesh = Mesh::start(script).await;
        let whole = mesh.ask(asked()).await.unwrap();
        assert_eq!((whole.hits.len(), whole.degraded), (40, false));
        // Eleven of these, and their ids, are in 12 MiB.
        mesh.change(|script| script.text_bytes = Some(1 << 20));
        let cut = mesh.ask(asked()).await.unwrap();
        assert_eq!(ids(&cut), ids(&whole)[..11]);
        let fetch = stage(&cut, "fetch");
        assert_eq!(
            (fetch.status(), fetch.reason(), cut.degraded),
            (StageStatus::Partial, StageReason::Size, true)
        );
        assert_eq!(fetch.candidates_out, 11);
        // Not one of these is.
        mesh.change(|script| script.text_bytes = Some(13 << 20));
        let none = mesh.ask(asked()).await.unwrap();
        assert!(none.hits.is_empty());
        assert_eq!(stage(&none, "fetch").reason(), StageReason::Size);
    }
}

#[tokio::test]
async fn load_is_not_taken_for_size() {
    let mesh = Mesh::start(small()).await;
    mesh.change(|script| {
        let failure = ("sparse.fetch", None, Code::ResourceExhausted);
        script.failures.push(failure);
    });
    let status = mesh.ask(request("sparse")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    assert_eq!(pushback.unwrap(), "70", "as the retriever said");
    let log = &mesh.script.lock().unwrap().log;
    let fetches = log.iter().filter(|(call, _)| call == "sparse.fetch");
    assert_eq!(fetches.count(), 1);
}

#[tokio::test]
async fn a_completion_that_fails_is_said() {
    let mesh = Mesh::start(small()).await;
    mesh.change(|script| {
        script
            .failures
            .push(("sparse.score", None, Code::Unavailable))
    });
    let answer = mesh.ask(request("hybrid")).await.unwrap();
    let complete = stage(&answer, "complete");
    assert_eq!(
        (complete.status(), complete.reason()),
        (StageStatus::Partial, StageReason::Unavailable)
    );
    assert_eq!((complete.shards_asked, complete.shards_answered), (1, 0));
    // Where the true score is not known, the leg's lowest stands for it.
    let b = answer.hits.iter().find(|hit| hit.id == "b").unwrap();
    assert_eq!(b.trail[0].raw, 3.0);
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_is_obeyed_on_every_hop() {
    let mesh = Mesh::start(small()).await;
    // What is in front of the page is looked up by a call of its own.
    let page = search::SearchRequest {
        offset: 1,
        ..request("hybrid")
    };
    mesh.ask_within(page.clone(), Duration::from_millis(400))
        .await
        .unwrap();
    let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
    let calls: BTreeSet<&str> = log.iter().map(|(call, _)| call.as_str()).collect();
    let all = [
        "dense.search",
        "encode",
        "sparse.fetch",
        "sparse.fetch_ids",
        "sparse.score",
        "sparse.search",
    ];
    assert_eq!(calls, BTreeSet::from(all));
    assert!(
        log.iter()
            .all(|(_, left_ms)| left_ms.is_some_and(|left| left <= 400)),
        "{log:?}"
    );
    let hops = [
        "encode",
        "sparse.search",
        "dense.search",
        "sparse.score",
        "sparse.fetch_ids",
        "sparse.fetch",
    ];
    for hop in hops {
        mesh.change(|script| script.hanging = vec![hop]);
        let started = tokio::time::Instant::now();
        let outcome = mesh
            .ask_within(page.clone(), Duration::from_millis(400))
            .await;
        match outcome {
            Err(status) => assert_eq!(status.code(), Code::DeadlineExceeded, "{hop}: {status}"),
            // What can be done without is done without.
            Ok(answer) => assert!(answer.degraded && !hop.contains("fetch"), "{hop}"),
        }
        assert!(started.elapsed() <= Duration::from_millis(401), "{hop}");
    }
}

#[tokio::test]
async fn an_orchestrator_without_peers_is_not_ready() {
    let mesh = Mesh::with_peers(small(), 1000, |_| Peers {
        sparse: vec![gone("sparse")],
        ..Peers::default()
    })
    .await;
    assert!(!mesh.app.readiness().is_ready());
    assert_eq!(
        mesh.ask(request("sparse")).await.unwrap_err().code(),
        Code::Unavailable
    );
}
