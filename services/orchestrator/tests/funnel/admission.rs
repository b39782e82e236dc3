//! More searches than the mesh can answer: those that would come too late are done with less, or refused before anything is done for
//! them.

use crate::fakes::{Mesh, request, small};
use crate::rescoring::outcome as outcome_of;
use search_core::Criticality;
use search_proto::search::{
    Routing, ScoreScale, SearchRequest, SearchResponse, StageReason, StageStatus,
};
use service_kit::criticality;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Status};

const BUDGET_MS: u32 = 200;
/// What one service takes for each, one after the other: a hundred a second.
const SEARCH_MS: u64 = 10;
/// Between two arrivals: five hundred a second.
const INTERVAL: Duration = Duration::from_millis(2);
const ARRIVALS: u64 = 2000;
/// Until it is known what an answer takes.
const WARM_UP: u64 = 500;

/// What became of the searches of a class after the first ones.
#[derive(Debug, Default)]
struct Outcome {
    asked: u64,
    answers: Vec<SearchResponse>,
    late: u64,
    refused: Vec<Status>,
    other: Vec<Status>,
}

/// A mesh in which this call is the narrow place.
async fn narrow_mesh(call: &'static str) -> Mesh {
    let mesh = Mesh::start(small()).await;
    mesh.change(|script| {
        script.delays_ms.insert(call, SEARCH_MS);
        script.queues.insert(call, Arc::default());
    });
    mesh
}

fn search(pipeline: &str) -> SearchRequest {
    SearchRequest {
        budget_ms: Some(BUDGET_MS),
        explain: false,
        ..request(pipeline)
    }
}

fn count(mesh: &Mesh, call: &str) -> usize {
    let script = mesh.script.lock().unwrap();
    let calls = script.log.iter().filter(|(name, _)| name == call);
    calls.count()
}

/// All of them critical.
async fn storm(mesh: &Mesh, search: &SearchRequest) -> Outcome {
    let mut outcomes = storm_of(mesh, search, |_| Criticality::Critical).await;
    outcomes.remove(&Criticality::Critical).unwrap()
}

async fn storm_of(
    mesh: &Mesh,
    search: &SearchRequest,
    class: fn(u64) -> Criticality,
) -> BTreeMap<Criticality, Outcome> {
    let start = Instant::now();
    let mut searches = JoinSet::new();
    for number in 0..ARRIVALS {
        let (mut client, class) = (mesh.client.clone(), class(number));
        let mut search = tonic::Request::new(search.clone());
        if search.get_ref().budget_ms.is_none() {
            search.set_timeout(Duration::from_millis(BUDGET_MS.into()));
        }
        searches.spawn(async move {
            tokio::time::sleep_until(start + INTERVAL * number as u32).await;
            let asked = Instant::now();
            let answer = criticality::scope(class, client.search(search)).await;
            (number, class, answer, asked.elapsed())
        });
    }
    let mut outcomes = BTreeMap::<Criticality, Outcome>::new();
    for (number, class, answer, took) in searches.join_all().await {
        if number < WARM_UP {
            continue;
        }
        let outcome = outcomes.entry(class).or_default();
        outcome.asked += 1;
        match answer {
            Ok(_) if took > Duration::from_millis(BUDGET_MS.into()) => outcome.late += 1,
            Ok(answer) => outcome.answers.push(answer.into_inner()),
            Err(status) if status.code() == Code::ResourceExhausted => outcome.refused.push(status),
            Err(status) => outcome.other.push(status),
        }
    }
    outcomes
}

/// Of a caller that sets no budget the server sees the end of its patience: the search is dropped then, wherever it stands.
#[tokio::test(start_paused = true)]
async fn searches_that_their_callers_gave_up_say_how_long_answers_take() {
    let mesh = narrow_mesh("sparse.search").await;
    let without_budget = SearchRequest {
        budget_ms: None,
        ..search("sparse")
    };
    let outcome = storm(&mesh, &without_budget).await;
    let (answered, most) = (outcome.answers.len() as f64, capacity(&outcome));
    assert!(answered >= 0.95 * most, "{answered} of {most}");
    let given_up = outcome.late + outcome.other.len() as u64;
    assert_eq!(given_up, 0, "{:?}", outcome.other.first());
}

/// What the narrow place can do after the first searches.
fn capacity(outcome: &Outcome) -> f64 {
    INTERVAL.as_secs_f64() * outcome.asked as f64 * 1e3 / SEARCH_MS as f64
}

#[tokio::test(start_paused = true)]
async fn at_five_times_the_load_what_is_let_in_is_answered_in_time() {
    let mesh = narrow_mesh("sparse.search").await;
    let outcome = storm(&mesh, &search("sparse")).await;
    assert_eq!(outcome.late, 0);
    assert!(outcome.other.is_empty(), "{:?}", outcome.other.first());
    let (answered, most) = (outcome.answers.len() as f64, capacity(&outcome));
    assert!(answered >= 0.95 * most, "{answered} of {most}");
    for status in &outcome.refused {
        let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
        let millis: u32 = pushback.to_str().unwrap().parse().unwrap();
        assert!((1..1000).contains(&millis), "{millis}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_for_what_is_refused() {
    let mesh = narrow_mesh("sparse.search").await;
    storm(&mesh, &search("sparse")).await;
    let most = ARRIVALS as f64 * INTERVAL.as_secs_f64() * 1e3 / SEARCH_MS as f64;
    // And those of the beginning that nobody knew better than to let in.
    let searched = count(&mesh, "sparse.search") as f64;
    assert!(searched < most + WARM_UP as f64, "{searched}");
}

#[tokio::test(start_paused = true)]
async fn what_is_critical_is_let_in_while_the_rest_is_refused() {
    let mesh = narrow_mesh("sparse.search").await;
    let one_in_ten = |number| match number % 10 {
        0 => Criticality::Critical,
        _ => Criticality::Sheddable,
    };
    let outcomes = storm_of(&mesh, &search("sparse"), one_in_ten).await;
    let critical = &outcomes[&Criticality::Critical];
    assert_eq!(critical.answers.len() as u64, critical.asked);
    let sheddable = &outcomes[&Criticality::Sheddable];
    assert!(!sheddable.answers.is_empty() && !sheddable.refused.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_there_is_no_time_for_is_done_with_less_and_says_so() {
    let mesh = narrow_mesh("encode").await;
    let outcome = storm(&mesh, &search("hybrid")).await;
    assert_eq!(outcome.answers.len() as u64, outcome.asked, "all answered");
    let (lesser, whole): (Vec<_>, Vec<_>) =
        outcome.answers.iter().partition(|answer| answer.degraded);
    assert!(
        whole.len() as f64 > 0.5 * capacity(&outcome),
        "{}",
        whole.len()
    );
    for answer in lesser {
        let is_by_the_door = answer.score_scale() == ScoreScale::Bm25;
        if is_by_the_door {
            let overloaded = (StageStatus::Skipped, StageReason::Overloaded);
            assert_eq!(outcome_of(answer, "dense"), overloaded);
            assert_eq!(outcome_of(answer, "encode"), overloaded);
        }
    }
    // The others were encoded in vain.
    let in_vain = count(&mesh, "encode") - whole.len();
    assert!(in_vain as u64 <= WARM_UP, "{in_vain}");
}

#[tokio::test(start_paused = true)]
async fn who_wants_all_stages_is_refused_rather_than_answered_with_less() {
    let mesh = narrow_mesh("encode").await;
    let all_stages = SearchRequest {
        routing: Routing::AllStages.into(),
        ..search("hybrid")
    };
    let outcome = storm(&mesh, &all_stages).await;
    assert!(!outcome.refused.is_empty());
    for answer in &outcome.answers {
        assert_eq!(answer.score_scale(), ScoreScale::MinMax);
    }
}

#[tokio::test(start_paused = true)]
async fn searches_that_were_given_up_hold_no_place() {
    let mesh = narrow_mesh("sparse.search").await;
    storm(&mesh, &search("sparse")).await;
    mesh.change(|script| script.hanging = vec!["sparse.search"]);
    for _ in 0..100 {
        let asked = mesh.ask(search("sparse"));
        let given_up = tokio::time::timeout(Duration::from_millis(5), asked).await;
        assert!(given_up.is_err() || given_up.unwrap().is_err());
    }
    mesh.change(|script| script.hanging = Vec::new());
    tokio::time::sleep(Duration::from_secs(1)).await;
    mesh.ask(search("sparse")).await.unwrap();
}
