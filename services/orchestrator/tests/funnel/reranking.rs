//! The head, read by a cross-encoder.

use crate::fakes::{
    FINGERPRINT, Fake, Mesh, RESCORE_FINGERPRINT, Script, config, dense, documents, encoder, ids,
    request, small, sparse, stage,
};
use crate::reranker::{Reranker, Then};
use crate::rescoring::{check, close, oracle, outcome, terms, trail, with_rescores};
use crate::sharding::sharded;
use orchestrator::{Peers, RawConfig, RawHeadPart, RawStage};
use proptest::prelude::*;
use search_proto::search::{self, StageReason, StageStatus};
use std::collections::{BTreeMap, BTreeSet};
use tonic::Code;

pub(crate) const PLAIN: [&str; 5] = ["d", "a", "b", "c", "e"];
const COMPLETE: (StageStatus, StageReason) = (StageStatus::Complete, StageReason::Unspecified);

/// The five documents, which hybrid ranks d, a, b, c, e and the cross-encoder the other way round.
pub(crate) fn turned() -> Script {
    let logits = [("d", -2.0), ("a", -1.0), ("b", 0.0), ("c", 1.0), ("e", 2.0)];
    with_rescores(small(), &logits)
}

pub(crate) fn set_rerank(raw: &mut RawConfig, window: u32, weight: f64) {
    let full = raw.pipelines.get_mut("full").unwrap();
    full.rerank = Some(RawHeadPart::new(window, weight));
}

pub(crate) fn peers(fake: Fake, reranker: &Reranker) -> Peers {
    Peers {
        encoder: vec![encoder(fake.clone())],
        sparse: vec![sparse(fake.clone())],
        dense: vec![dense(fake)],
        cross_encoder: vec![reranker.serve()],
        colbert: Vec::new(),
    }
}

pub(crate) async fn mesh_with(
    script: Script,
    change: impl FnOnce(&mut RawConfig),
) -> (Mesh, Reranker) {
    let mut reranker = None;
    let mesh = Mesh::with_config(script, config(1000, change), |fake| {
        let reranker = reranker.insert(Reranker::new(&fake));
        peers(fake, reranker)
    });
    (mesh.await, reranker.unwrap())
}

pub(crate) async fn mesh(script: Script, window: u32, weight: f64) -> (Mesh, Reranker) {
    mesh_with(script, |raw| set_rerank(raw, window, weight)).await
}

fn stages(answer: &search::SearchResponse) -> Vec<&str> {
    let stages = answer.stages.iter();
    stages.map(|report| report.stage.as_str()).collect()
}

pub(crate) fn read_ids(answer: &search::SearchResponse) -> BTreeSet<&str> {
    let read = |hit: &&search::Hit| trail(hit, "rerank").is_some();
    let hits = answer.hits.iter().filter(read);
    hits.map(|hit| hit.id.as_str()).collect()
}

#[tokio::test]
async fn a_weight_of_one_replaces_the_scores_of_the_window() {
    let (mesh, _reranker) = mesh(turned(), 3, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    assert_eq!(ids(&plain), PLAIN);
    let answer = mesh.ask(request("full")).await.unwrap();
    check(&answer);
    assert_eq!(ids(&answer), ["b", "a", "d", "c", "e"]);
    assert!(close(answer.hits[0].score, plain.hits[0].score));
    assert_eq!(answer.hits[2].score, plain.hits[2].score);
    assert_eq!(answer.hits[3..], plain.hits[3..]);
    assert!(!answer.degraded);
}

#[tokio::test]
async fn the_trail_and_the_report_say_how_passages_were_read() {
    let (mesh, reranker) = mesh(turned(), 3, 0.25).await;
    let answer = mesh.ask(request("full")).await.unwrap();
    check(&answer);
    let expected = [
        "encode", "sparse", "dense", "complete", "fuse", "rerank", "fetch",
    ];
    assert_eq!(stages(&answer), expected);
    let report = stage(&answer, "rerank");
    assert_eq!((report.candidates_in, report.candidates_out), (3, 3));
    // Of two batches.
    assert_eq!((report.queue_us, report.compute_us), (6, 10));
    let [(call, left)] = reranker.calls().try_into().unwrap();
    assert_eq!(call.query, "bone loss");
    // Of a minute, less what is kept back.
    assert!(left.is_some_and(|left| left <= 59_950), "{left:?}");
    assert_eq!(call.passages, ["text of 0:3", "text of 0:0", "text of 0:1"]);
    let hit = answer.hits.iter().find(|hit| hit.id == "b").unwrap();
    let entry = trail(hit, "rerank").unwrap();
    assert_eq!((entry.raw, entry.rank, entry.weight), (0.0, 1, 0.25));
    let reading = entry.reading.as_ref().unwrap();
    assert_eq!(
        (reading.calibrated, reading.tokens, reading.batch),
        (0.5, 12, 1)
    );
    assert_eq!(trail(hit, "sparse").unwrap().reading, None);
    assert_eq!(trail(hit, "sparse").unwrap().weight, 0.5 * 0.75);
}

#[tokio::test]
async fn texts_of_the_head_are_fetched_once() {
    let (mesh, _reranker) = mesh(turned(), 3, 0.5).await;
    let page = |k| search::SearchRequest {
        k: Some(k),
        ..request("full")
    };
    let fetches = || {
        let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
        let fetches = log.into_iter().filter(|(call, _)| call.contains("fetch"));
        fetches.map(|(call, _)| call).collect::<Vec<_>>()
    };
    let answer = mesh.ask(page(3)).await.unwrap();
    assert_eq!(fetches(), ["sparse.fetch"]);
    assert_eq!(stage(&answer, "fetch").shards_asked, 0);
    assert!(
        answer
            .hits
            .iter()
            .all(|hit| hit.text.starts_with("text of"))
    );
    let answer = mesh.ask(page(5)).await.unwrap();
    assert_eq!(fetches(), ["sparse.fetch", "sparse.fetch"]);
    assert!(
        answer
            .hits
            .iter()
            .all(|hit| hit.text.starts_with("text of"))
    );
    assert_eq!(stage(&answer, "fetch").shards_asked, 1);
}

#[tokio::test]
async fn operators_are_not_read() {
    let (mesh, reranker) = mesh(turned(), 3, 0.5).await;
    let query = "+bone \"hip loss\" -mice".to_owned();
    let asked = search::SearchRequest {
        query,
        ..request("full")
    };
    mesh.ask(asked).await.unwrap();
    assert_eq!(reranker.calls()[0].0.query, "bone hip loss");
}

#[tokio::test]
async fn the_passage_that_is_shown_is_read() {
    // The second passage of a is the better one.
    let table = [("a", 1.0, 0.1), ("a", 9.0, 0.9), ("b", 6.0, 0.6)];
    let mut script = Script::new(documents(&table), 1);
    script.passages[1].passage = 1;
    let (mesh, reranker) = mesh(script, 20, 1.0).await;
    reranker.change(|script| script.batch = 1);
    let answer = mesh.ask(request("full")).await.unwrap();
    let [(call, _)] = reranker.calls().try_into().unwrap();
    assert_eq!(call.passages, ["text of 0:1", "text of 0:2"]);
    let a = &answer.hits[0];
    assert_eq!((a.id.as_str(), a.passage), ("a", 1));
    // Both get the logit 0: a model that says nothing changes nothing.
    assert_eq!(trail(a, "rerank").unwrap().weight, 0.0);
    check(&answer);
}

#[tokio::test]
async fn pages_make_up_the_whole_and_those_behind_the_window_are_as_they_were() {
    let (mesh, _reranker) = mesh(turned(), 3, 0.5).await;
    let page = |offset, k| search::SearchRequest {
        offset,
        k: Some(k),
        ..request("full")
    };
    let whole = mesh.ask(page(0, 5)).await.unwrap();
    let mut pages = Vec::new();
    for offset in [0, 2, 4] {
        pages.extend(mesh.ask(page(offset, 2)).await.unwrap().hits);
    }
    assert_eq!(pages, whole.hits);
    let behind = mesh.ask(page(3, 2)).await.unwrap();
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    assert_eq!(behind.hits, plain.hits[3..]);
    assert_eq!(mesh.ask(page(9, 2)).await.unwrap().hits, []);
}

#[tokio::test]
async fn a_window_ends_where_the_hits_end() {
    let (mesh, reranker) = mesh(turned(), 500, 1.0).await;
    let answer = mesh.ask(request("full")).await.unwrap();
    assert_eq!(ids(&answer), ["e", "c", "b", "a", "d"]);
    let report = stage(&answer, "rerank");
    assert_eq!((report.candidates_in, report.candidates_out), (5, 5));
    assert_eq!(reranker.calls().len(), 1);
    mesh.change(|script| script.passages.clear());
    let nothing = mesh.ask(request("full")).await.unwrap();
    assert_eq!(
        (nothing.hits.len(), outcome(&nothing, "rerank")),
        (0, COMPLETE)
    );
    assert_eq!(reranker.calls(), []);
}

#[tokio::test]
async fn equal_logits_change_nothing() {
    let (mesh, _reranker) = mesh(small(), 20, 1.0).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    let answer = mesh.ask(request("full")).await.unwrap();
    check(&answer);
    assert_eq!(ids(&answer), PLAIN);
    for (hit, before) in answer.hits.iter().zip(&plain.hits) {
        assert_eq!(hit.score, before.score);
        let entry = trail(hit, "rerank").unwrap();
        assert_eq!(
            (entry.rank, entry.weight, entry.contribution),
            (1, 0.0, 0.0)
        );
    }
}

#[tokio::test]
async fn a_second_encoder_and_a_cross_encoder_score_one_after_the_other() {
    let both = |raw: &mut RawConfig| {
        set_rerank(raw, 3, 0.5);
        let full = raw.pipelines.get_mut("full").unwrap();
        full.rescore = Some(RawHeadPart::new(5, 0.5));
    };
    let (mesh, _reranker) = {
        let mut reranker = None;
        let mesh = Mesh::with_config(turned(), config(1000, both), |fake| {
            let with_bundles = Fake {
                bundles: vec![FINGERPRINT, RESCORE_FINGERPRINT],
                ..fake.clone()
            };
            let reranker = reranker.insert(Reranker::new(&fake));
            Peers {
                encoder: vec![encoder(with_bundles)],
                ..peers(fake, reranker)
            }
        });
        (mesh.await, reranker)
    };
    let answer = mesh.ask(request("full")).await.unwrap();
    check(&answer);
    assert_eq!(stages(&answer)[5..], ["fuse", "rescore", "rerank", "fetch"]);
    assert_eq!(answer.hits[0].trail.len(), 4);
    let weights = answer.hits[0].trail.iter().map(|entry| entry.weight);
    assert_eq!(weights.collect::<Vec<_>>(), [0.125, 0.125, 0.25, 0.5]);
    assert_eq!(answer.hits[4].trail.len(), 3);
    assert!(!answer.degraded);
}

#[tokio::test]
async fn without_a_cross_encoder_the_answer_says_so() {
    let mesh = Mesh::start(turned()).await;
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    let answer = mesh.ask(request("full")).await.unwrap();
    assert_eq!((answer.hits, answer.degraded), (plain.hits, true));
    let skipped = (StageStatus::Skipped, StageReason::NotConfigured);
    let report = answer.stages.iter().find(|report| report.stage == "rerank");
    let report = report.unwrap();
    assert_eq!((report.status(), report.reason()), skipped);
}

#[tokio::test]
async fn pipelines_that_rerank_are_offered_where_a_service_does() {
    let (with, _reranker) = mesh(turned(), 3, 0.5).await;
    let without = Mesh::start(turned()).await;
    for (mesh, offered) in [(with, true), (without, false)] {
        let mut client = mesh.client.clone();
        let described = client.describe(search::DescribeRequest {}).await.unwrap();
        let pipelines = described.into_inner().pipelines;
        let full = pipelines.iter().find(|pipeline| pipeline.name == "full");
        assert_eq!(full.is_some(), offered);
        let reranks = |full: &search::PipelineInfo| full.stages.contains(&"rerank".to_owned());
        assert!(full.is_none_or(reranks));
    }
}

#[tokio::test]
async fn a_passage_without_text_keeps_its_place() {
    let (mesh, _reranker) = mesh(turned(), 5, 1.0).await;
    mesh.change(|script| {
        let a = script.passages[0].address.to_u64();
        script.blank.insert(a);
    });
    let plain = mesh.ask(request("hybrid")).await.unwrap();
    let answer = mesh.ask(request("full")).await.unwrap();
    check(&answer);
    assert_eq!(read_ids(&answer), BTreeSet::from(["b", "c", "d", "e"]));
    let a = answer.hits.iter().find(|hit| hit.id == "a").unwrap();
    assert_eq!(*a, plain.hits[1]);
    // There is nothing that could have been read.
    assert_eq!(outcome(&answer, "rerank"), COMPLETE);
}

#[tokio::test]
async fn long_texts_are_cut_to_what_a_message_holds() {
    let (mesh, reranker) = mesh(turned(), 5, 1.0).await;
    mesh.change(|script| script.text_bytes = Some(2 * 1024 * 1024));
    let page = search::SearchRequest {
        k: Some(2),
        ..request("full")
    };
    let answer = mesh.ask(page).await.unwrap();
    assert_eq!((answer.hits.len(), answer.degraded), (2, false));
    let [(call, _)] = reranker.calls().try_into().unwrap();
    assert_eq!(call.passages.len(), 5);
    assert!(call.passages.iter().all(|text| text.len() == 1024 * 1024));
}

#[tokio::test]
async fn long_pages_have_the_texts_of_the_head_too() {
    let (mesh, _reranker) = mesh(turned(), 3, 0.5).await;
    let long = |pipeline| search::SearchRequest {
        k: Some(150),
        ..request(pipeline)
    };
    let answer = mesh.ask(long("full")).await.unwrap();
    let short = mesh.ask(request("full")).await.unwrap();
    assert_eq!((answer.hits.len(), answer.hits), (5, short.hits));
}

#[tokio::test]
async fn a_ranking_by_words_can_be_read_too() {
    let words = |raw: &mut RawConfig| {
        set_rerank(raw, 3, 1.0);
        raw.pipelines.get_mut("full").unwrap().stages = vec![RawStage::Sparse];
    };
    let (mesh, _reranker) = mesh_with(turned(), words).await;
    let answer = mesh.ask(request("full")).await.unwrap();
    check(&answer);
    assert_eq!(ids(&answer), ["c", "a", "d"]);
    assert_eq!(stages(&answer), ["sparse", "rerank", "fetch"]);
}

/// Documents of one passage each, of few distinct scores, so that ties are everywhere, at the window's end too.
fn any_documents() -> impl Strategy<Value = BTreeMap<String, (u8, u8, i8)>> {
    prop::collection::btree_map("[a-z]{1,3}", (0_u8..4, 0_u8..3, -2_i8..3), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// So many batches of two come before the call fails.
    #[test]
    fn the_answer_is_the_oracles_whatever_the_sharding_and_wherever_it_stops(
        documents in any_documents(),
        window in 1_u32..20,
        batches in 0_usize..12,
        weight in prop_oneof![Just(1.0), 0.01..1.0_f64],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let passages: Vec<_> = documents
            .iter()
            .map(|(id, (sparse, dense, _))| (id.clone(), 0, f32::from(*sparse), f32::from(*dense) / 4.0, false))
            .collect();
        let logits: Vec<(&str, f32)> = documents
            .iter()
            .map(|(id, (_, _, logit))| (id.as_str(), f32::from(*logit)))
            .collect();
        let own: BTreeMap<String, f32> = logits.iter().map(|(id, logit)| ((*id).to_owned(), *logit)).collect();
        runtime.block_on(async {
            for shards in [1, 4] {
                let script = with_rescores(sharded(&passages, shards), &logits);
                let (mesh, reranker) = mesh(script, window, weight).await;
                reranker.change(|script| (script.batches, script.then) = (batches, Then::Fail(Code::Internal)));
                let whole = |pipeline| search::SearchRequest { k: Some(100), ..request(pipeline) };
                let plain = mesh.ask(whole("hybrid")).await.unwrap();
                let ranked: Vec<_> = plain.hits.iter().map(|hit| (hit.id.clone(), terms(hit))).collect();
                let read = (2 * batches).min(window as usize);
                let expected = oracle(&ranked, &own, read, weight);
                let answer = mesh.ask(whole("full")).await.unwrap();
                check(&answer);
                let found: Vec<(String, f64)> = answer.hits.iter().map(|hit| (hit.id.clone(), hit.score)).collect();
                prop_assert_eq!(found, expected, "{} shards", shards);
            }
            Ok(())
        })?;
    }
}
