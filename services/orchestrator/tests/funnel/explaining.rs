//! What is told of the tokens that matched.

use crate::fakes::{FINGERPRINT, Script, documents, ids, request, stage};
use crate::late_interaction::{calls, count, mesh, plainly, stages, turned, with_max_sims};
use crate::rescoring::{check, outcome, trail};
use crate::sharding::sharded;
use search_proto::colbert::MatchResponse;
use search_proto::encoder::TokenizeResponse;
use search_proto::search::{self, StageReason, StageStatus};
use std::time::Duration;
use tonic::Code;

const STAGE: &str = "explain";

/// Tokens and similarities of a hit; none where late interaction did not score it.
fn told(hit: &search::Hit) -> Option<Vec<(&str, &str, f32)>> {
    let matches = trail(hit, "late_interaction")?.matches.iter();
    let told = matches.map(|found| {
        let tokens = (found.query_token.as_str(), found.passage_token.as_str());
        (tokens.0, tokens.1, found.similarity)
    });
    Some(told.collect())
}

/// How many hits something is told of.
fn explained(answer: &search::SearchResponse) -> usize {
    let told = answer.hits.iter().filter_map(told);
    told.filter(|matches| !matches.is_empty()).count()
}

fn without_matches(mut answer: search::SearchResponse) -> Vec<search::Hit> {
    let trails = answer.hits.iter_mut().flat_map(|hit| &mut hit.trail);
    trails.for_each(|entry| entry.matches.clear());
    answer.hits
}

#[tokio::test]
async fn each_hit_that_was_scored_says_what_matched() {
    let mesh = mesh(turned(), 3, 0.5).await;
    let answer = mesh.ask(request("colbert")).await.unwrap();
    check(&answer);
    let d = answer.hits.iter().find(|hit| hit.id == "d").unwrap();
    let expected = [("bone", "text", 0.25), ("loss", "0:3", 0.75)];
    assert_eq!(told(d).unwrap(), expected);
    for hit in &answer.hits[..3] {
        let sum: f32 = told(hit).unwrap().iter().map(|found| found.2).sum();
        let raw = trail(hit, "late_interaction").unwrap().raw;
        assert!((f64::from(sum) - raw).abs() < 1e-6);
        assert!(trail(hit, "sparse").unwrap().matches.is_empty());
    }
    assert_eq!([told(&answer.hits[3]), told(&answer.hits[4])], [None, None]);
    let report = stage(&answer, STAGE);
    assert_eq!((report.candidates_in, report.candidates_out), (3, 3));
    assert_eq!((report.shards_asked, report.shards_answered), (1, 1));
    assert_eq!(report.status(), StageStatus::Complete);
    assert!(!answer.degraded);
}

#[tokio::test]
async fn only_what_is_shown_is_explained_and_only_if_that_is_wanted() {
    let mesh = mesh(turned(), 3, 0.5).await;
    let second = search::SearchRequest {
        offset: 1,
        k: Some(1),
        ..request("colbert")
    };
    mesh.ask(second.clone()).await.unwrap();
    let asked = std::mem::take(&mut mesh.script.lock().unwrap().scorer.matched);
    assert_eq!((asked.len(), asked[0].addresses.len()), (1, 1));
    let behind = search::SearchRequest {
        offset: 3,
        ..second
    };
    calls(&mesh);
    for request in [behind, plainly("colbert"), request("hybrid")] {
        let answer = mesh.ask(request).await.unwrap();
        assert!(!stages(&answer).contains(&STAGE));
        let made = calls(&mesh);
        let asked = count(&made, "tokenize") + count(&made, "colbert.match");
        assert_eq!((explained(&answer), asked), (0, 0), "{made:?}");
    }
}

#[tokio::test]
async fn the_passage_that_is_shown_is_explained() {
    // The first passage of a is shown, the second scores best.
    let table = [
        ("a", 9.0, 0.9),
        ("a", 1.0, 0.1),
        ("b", 6.0, 0.6),
        ("c", 1.0, 0.0),
    ];
    let mut script = Script::new(documents(&table), 1);
    script.passages[1].passage = 1;
    let mut script = with_max_sims(script, &[("b", 0.5), ("c", 0.25)]);
    script.passages[0].max_sim = Some(0.75);
    script.passages[1].max_sim = Some(1.0);
    let mesh = mesh(script, 3, 0.1).await;
    let answer = mesh.ask(request("colbert")).await.unwrap();
    let a = &answer.hits[0];
    assert_eq!((ids(&answer)[0], a.passage), ("a", 0));
    assert_eq!(trail(a, "late_interaction").unwrap().raw, 1.0);
    let expected = [("bone", "text", 0.25), ("loss", "0:0", 0.5)];
    assert_eq!(told(a).unwrap(), expected);
    assert!(!answer.degraded);
}

#[tokio::test]
async fn a_title_stands_in_front_of_the_text_unless_it_may_have_been_cut() {
    let cases = [
        ("On", 3, StageReason::Unspecified),
        ("Sea level rise, a review", 3, StageReason::Unspecified),
        ("Sea level rise: a review?", 0, StageReason::Size),
        ("of seven words and one more word", 0, StageReason::Size),
    ];
    for (title, told_of, reason) in cases {
        let mesh = mesh(turned(), 3, 0.5).await;
        mesh.change(|script| script.title = title.to_owned());
        let answer = mesh.ask(request("colbert")).await.unwrap();
        assert_eq!(explained(&answer), told_of, "{title}");
        assert_eq!(outcome(&answer, STAGE).1, reason, "{title}");
        let first_word = title.split(' ').next().unwrap();
        for matches in answer
            .hits
            .iter()
            .filter_map(told)
            .filter(|it| !it.is_empty())
        {
            assert_eq!(matches[0].1, first_word);
        }
    }
}

#[tokio::test]
async fn a_passage_without_tokens_has_no_matches() {
    let mut script = turned();
    script.passages[3].max_sim = Some(0.0);
    script.scorer.spoil_matches = |matched| matched.passages[0] = Default::default();
    let mesh = mesh(script, 3, 0.1).await;
    let answer = mesh.ask(request("colbert")).await.unwrap();
    assert_eq!((ids(&answer)[0], explained(&answer)), ("d", 2));
    let report = stage(&answer, STAGE);
    assert_eq!((report.candidates_in, report.candidates_out), (3, 2));
    assert!(!answer.degraded);
}

#[tokio::test]
async fn what_cannot_be_had_is_missing_and_said() {
    let cases = [
        ("colbert.match", Code::Unavailable, StageReason::Unavailable),
        ("colbert.match", Code::Internal, StageReason::Fault),
        (
            "colbert.match",
            Code::FailedPrecondition,
            StageReason::SnapshotMissing,
        ),
        ("tokenize_query", Code::Unimplemented, StageReason::Fault),
        (
            "tokenize_query",
            Code::FailedPrecondition,
            StageReason::ModelMismatch,
        ),
        (
            "tokenize_passages",
            Code::ResourceExhausted,
            StageReason::Overloaded,
        ),
        (
            "tokenize_passages",
            Code::DeadlineExceeded,
            StageReason::Deadline,
        ),
    ];
    let mesh = mesh(turned(), 3, 0.5).await;
    let whole = without_matches(mesh.ask(request("colbert")).await.unwrap());
    for (call, code, reason) in cases {
        mesh.change(|script| script.failures = vec![(call, None, code)]);
        let answer = mesh.ask(request("colbert")).await.unwrap();
        assert_eq!(answer.hits, whole, "{call} {code}");
        let failed = (StageStatus::Failed, reason);
        assert_eq!(outcome(&answer, STAGE), failed, "{call} {code}");
        assert!(answer.degraded);
        let complete = StageStatus::Complete;
        assert_eq!(stage(&answer, "late_interaction").status(), complete);
    }
}

#[tokio::test]
async fn hits_of_a_shard_that_does_not_answer_are_not_explained() {
    let passages: Vec<_> = (0..10)
        .map(|number| (format!("d{number}"), 0, 20.0 - number as f32, 0.0, false))
        .collect();
    let mut script = sharded(&passages, 4);
    script.colbert_fingerprint = FINGERPRINT.to_owned();
    let scored = script.passages.iter_mut();
    scored.for_each(|passage| passage.max_sim = Some(passage.sparse));
    let shard = script.passages[0].shard;
    let of_shard = script.passages.iter().filter(|at| at.shard == shard);
    let missing = of_shard.count();
    let mesh = mesh(script, 10, 0.5).await;
    mesh.change(|script| {
        script.failures = vec![("colbert.match", Some(shard), Code::Unavailable)];
    });
    let answer = mesh.ask(request("colbert")).await.unwrap();
    assert_eq!(explained(&answer), 10 - missing);
    let partial = (StageStatus::Partial, StageReason::Unavailable);
    assert_eq!(outcome(&answer, STAGE), partial);
    let report = stage(&answer, STAGE);
    assert_eq!(report.candidates_out, (10 - missing) as u64);
    assert_eq!(report.shards_asked - report.shards_answered, 1);
}

/// What becomes of an answer.
type Spoiler = fn(&mut MatchResponse);

/// Ways to break the contract; how many of the three hits are explained nevertheless.
const MATCH_SPOILERS: [(Spoiler, usize); 11] = [
    (|matched| matched.passages[0].tokens[0] = 3, 2),
    (|matched| matched.passages[1].tokens[1] = u32::MAX, 2),
    (|matched| matched.passages[0].tokens.push(0), 0),
    (|matched| matched.passages[0].cosines.clear(), 0),
    (|matched| matched.passages[2].tokens.truncate(1), 0),
    (|matched| matched.passages[2].cosines[0] = f32::NAN, 0),
    (|matched| matched.passages[2].cosines[1] = f32::INFINITY, 0),
    (|matched| matched.passages.truncate(2), 0),
    // Not what was scored.
    (|matched| matched.passages[1] = Default::default(), 2),
    (|matched| matched.passages[1].cosines[0] += 0.01, 2),
    (
        |matched| matched.passages.push(matched.passages[0].clone()),
        0,
    ),
];

#[tokio::test]
async fn matches_that_are_none_are_not_told() {
    let mesh = mesh(turned(), 3, 0.5).await;
    for (number, (spoil, told)) in MATCH_SPOILERS.into_iter().enumerate() {
        mesh.change(|script| script.scorer.spoil_matches = spoil);
        let answer = mesh.ask(request("colbert")).await.unwrap();
        check(&answer);
        let status = if told == 0 {
            StageStatus::Failed
        } else {
            StageStatus::Partial
        };
        let reported = outcome(&answer, STAGE);
        assert_eq!(reported, (status, StageReason::Fault), "{number}");
        assert_eq!(explained(&answer), told, "{number}");
    }
}

const TOKEN_SPOILERS: [fn(&mut TokenizeResponse); 4] = [
    |tokenized| tokenized.texts.clear(),
    |tokenized| tokenized.texts.push(tokenized.texts[0].clone()),
    |tokenized| tokenized.fingerprint = "other".to_owned(),
    |tokenized| {
        let texts = tokenized.texts.iter_mut();
        texts.for_each(|text| text.tokens.truncate(1));
    },
];

#[tokio::test]
async fn tokens_that_are_not_those_of_the_vectors_are_not_told() {
    let mesh = mesh(turned(), 3, 0.5).await;
    for (number, spoil) in TOKEN_SPOILERS.into_iter().enumerate() {
        mesh.change(|script| script.spoil_tokens = spoil);
        let answer = mesh.ask(request("colbert")).await.unwrap();
        let failed = (StageStatus::Failed, StageReason::Fault);
        assert_eq!(outcome(&answer, STAGE), failed, "{number}");
        assert_eq!(explained(&answer), 0, "{number}");
    }
}

#[tokio::test]
async fn tokens_beyond_all_measure_are_told_of_the_first_hits() {
    let mesh = mesh(turned(), 5, 0.5).await;
    mesh.change(|script| {
        script.spoil_tokens = |tokenized| {
            let tokens = tokenized.texts.iter_mut().flat_map(|text| &mut text.tokens);
            tokens.for_each(|token| *token = token.chars().cycle().take(100_000).collect());
        };
    });
    let answer = mesh.ask(request("colbert")).await.unwrap();
    // Of each the query's two tokens and two of its own.
    assert_eq!(explained(&answer), 2);
    let partial = (StageStatus::Partial, StageReason::Size);
    assert_eq!(outcome(&answer, STAGE), partial);
}

#[tokio::test]
async fn a_long_page_is_explained_as_far_as_a_call_goes() {
    let passages: Vec<_> = (0..120)
        .map(|number| (format!("d{number}"), 0, 200.0 - number as f32, 0.0, false))
        .collect();
    let mut script = sharded(&passages, 1);
    script.colbert_fingerprint = FINGERPRINT.to_owned();
    let scored = script.passages.iter_mut();
    scored.for_each(|passage| passage.max_sim = Some(passage.sparse));
    let mesh = mesh(script, 120, 0.5).await;
    let page = search::SearchRequest {
        k: Some(120),
        ..request("colbert")
    };
    let answer = mesh.ask(page).await.unwrap();
    assert_eq!((answer.hits.len(), explained(&answer)), (120, 100));
    assert!(
        answer.hits[..100]
            .iter()
            .all(|hit| !told(hit).unwrap().is_empty())
    );
    let partial = (StageStatus::Partial, StageReason::Size);
    assert_eq!(outcome(&answer, STAGE), partial);
}

#[tokio::test(start_paused = true)]
async fn explanations_that_do_not_come_leave_time_for_the_answer() {
    for hanging in ["colbert.match", "tokenize_query", "tokenize_passages"] {
        let mesh = mesh(turned(), 3, 0.5).await;
        mesh.change(|script| script.hanging = vec![hanging]);
        let started = tokio::time::Instant::now();
        let budget = Duration::from_millis(400);
        let answer = mesh.ask_within(request("colbert"), budget).await.unwrap();
        let elapsed = started.elapsed();
        assert!(
            elapsed <= Duration::from_millis(205),
            "{hanging}: {elapsed:?}"
        );
        assert_eq!((answer.hits.len(), explained(&answer)), (5, 0));
        let failed = (StageStatus::Failed, StageReason::Deadline);
        assert_eq!(outcome(&answer, STAGE), failed, "{hanging}");
        let log = std::mem::take(&mut mesh.script.lock().unwrap().log);
        let explaining = |call: &str| call.starts_with("tokenize") || call == "colbert.match";
        let mut limits = log.iter().filter(|(call, _)| explaining(call));
        assert!(
            limits.all(|(_, left)| left.is_some_and(|left| left <= 200)),
            "{log:?}"
        );
    }
}
