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
    shared.enter(caller, None).unwrap();
    drop(workers);
    assert!(matches!(batches.blocking_recv(), Some(Err(Error::Stopped))));
    assert!(batches.blocking_recv().is_none());
    let (late, _) = Caller::new(1, Instant::now());
    assert!(matches!(shared.enter(late, None), Err(Error::Stopped)));
    assert_eq!(shared.stats().queued_passages, 0);
}

#[test]
fn what_has_expired_is_not_computed_and_its_caller_is_let_go() {
    let workers = Workers::start(vec![Box::new(Idle)], 10);
    let (caller, mut batches) = Caller::new(2, Instant::now());
    let call = workers
        .shared()
        .enter(caller, Some(Instant::now()))
        .unwrap();
    let passages = [0, 1].map(|index| (index, vec![Pair::new(vec![1], vec![0], false)]));
    workers.shared().push(call, passages);
    assert!(batches.blocking_recv().is_none());
    let stats = workers.shared().stats();
    assert_eq!((stats.expired_passages, stats.batches), (2, 0));
}
