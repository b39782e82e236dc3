use super::*;

/// Computes nothing, ever.
struct Idle;

impl ScorePairs for Idle {
    fn score(&mut self, _: &[&Pair]) -> Result<PairLogits, ScoreError> {
        unreachable!("nothing is computed")
    }

    fn check(&mut self) -> Result<(), ScoreError> {
        Ok(())
    }
}

#[test]
fn who_waits_when_the_service_ends_is_told_and_who_comes_later_too() {
    let workers = Workers::start(vec![Box::new(Idle)], 10);
    let shared = Arc::clone(workers.shared());
    let (caller, mut batches) = Caller::new(3, Instant::now());
    shared.enter(caller, None, Criticality::Critical).unwrap();
    drop(workers);
    assert!(matches!(batches.blocking_recv(), Some(Err(Error::Stopped))));
    assert!(batches.blocking_recv().is_none());
    let (late, _) = Caller::new(1, Instant::now());
    assert!(matches!(
        shared.enter(late, None, Criticality::Critical),
        Err(Error::Stopped)
    ));
    assert_eq!(shared.stats().queued_passages, 0);
}

#[test]
fn what_has_expired_is_not_computed_and_its_caller_is_let_go() {
    let workers = Workers::start(vec![Box::new(Idle)], 10);
    let (caller, mut batches) = Caller::new(2, Instant::now());
    let call = workers
        .shared()
        .enter(caller, Some(Instant::now()), Criticality::Critical)
        .unwrap();
    let passages = [0, 1].map(|index| (index, vec![Pair::new(vec![1], vec![0], false)]));
    workers.shared().push(call, passages);
    assert!(batches.blocking_recv().is_none());
    let stats = workers.shared().stats();
    assert_eq!((stats.expired_passages, stats.batches), (2, 0));
}

/// Workers that have seen tokens of a millisecond each, and whose one thread is at a thousand of them.
fn busy_workers() -> Workers {
    let workers = Workers::start(vec![Box::new(Idle)], 100);
    let mut state = workers.shared().lock();
    let size = |tokens| BatchSize {
        tokens,
        padding_tokens: 0,
    };
    state.pace.begin(size(100));
    state.pace.end(size(100), Some(Duration::from_millis(110)));
    state.pace.begin(size(1000));
    drop(state);
    workers
}

fn enter(
    workers: &Workers,
    passages: usize,
    seconds: Option<u64>,
    criticality: Criticality,
) -> Result<CallId, Error> {
    let (caller, _) = Caller::new(passages, Instant::now());
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    workers.shared().enter(caller, deadline, criticality)
}

#[test]
fn a_call_that_would_get_no_score_in_its_time_is_refused_at_once() {
    let workers = busy_workers();
    let critical = |seconds| enter(&workers, 1, Some(seconds), Criticality::Critical);
    let refused = critical(1).unwrap_err();
    assert!(
        matches!(refused, Error::TooLate { wait, retry_after: Some(_) } if wait > Duration::from_secs(1)),
        "{refused}"
    );
    assert_eq!(refused.kind(), search_core::ErrorKind::ResourceExhausted);
    assert!(refused.pushback().is_some());
    assert!(critical(600).is_ok());
    assert!(enter(&workers, 1, None, Criticality::Critical).is_ok());
    let sheddable = enter(&workers, 1, Some(4), Criticality::Sheddable);
    assert!(matches!(sheddable, Err(Error::TooLate { .. })));
    assert_eq!(workers.shared().stats().refused_calls, 2);
}

#[test]
fn sheddable_calls_find_a_quarter_of_the_places_or_an_empty_queue() {
    let workers = Workers::start(vec![Box::new(Idle)], 100);
    let sheddable = |passages| enter(&workers, passages, None, Criticality::Sheddable);
    sheddable(90).unwrap();
    assert!(matches!(sheddable(1), Err(Error::QueueFull { .. })));
    assert!(enter(&workers, 10, None, Criticality::Critical).is_ok());
}
