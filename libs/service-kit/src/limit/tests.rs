use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A server in virtual time.
struct Server {
    limit: ConcurrencyLimit,
    now: Instant,
}

impl Server {
    fn new(most: usize) -> Self {
        Self {
            limit: ConcurrencyLimit::new(most),
            now: Instant::now(),
        }
    }

    /// So many calls at once that take this long, and those of them that were let in.
    fn round(&mut self, calls: usize, criticality: Criticality, took: Duration) -> usize {
        let let_in = (0..calls).filter(|_| self.limit.enter(criticality).is_ok());
        let let_in = let_in.count();
        self.now += took;
        for _ in 0..let_in {
            self.limit.leave("Search", Ended::Answered, took, self.now);
        }
        let_in
    }

    fn critical(&mut self, calls: usize, took: Duration) -> usize {
        self.round(calls, Criticality::Critical, took)
    }

    /// Knows that a call usually takes 10 ms.
    fn that_knows_its_pace(most: usize) -> Self {
        let mut server = Self::new(most);
        for _ in 0..200 {
            server.critical(4, 10 * MS);
        }
        server
    }
}

#[test]
fn a_cold_start_refuses_nothing_below_the_most() {
    let mut server = Server::new(1000);
    assert_eq!(server.critical(1001, 10 * MS), 1000);
}

#[test]
fn the_usual_pace_never_lowers_the_limit() {
    let mut server = Server::that_knows_its_pace(1000);
    for _ in 0..1000 {
        server.critical(500, 15 * MS);
    }
    assert_eq!(server.critical(1000, 10 * MS), 1000);
}

#[test]
fn a_slow_server_takes_less_and_a_fast_one_more_again() {
    let mut server = Server::that_knows_its_pace(1000);
    for _ in 0..3 {
        server.critical(800, 400 * MS);
    }
    let slow = server.critical(1000, 10 * MS);
    assert!((64..=400).contains(&slow), "{slow}");
    for _ in 0..2000 {
        server.critical(1000, 10 * MS);
    }
    assert_eq!(server.critical(1000, 10 * MS), 1000);
}

#[test]
fn the_limit_has_a_floor() {
    let mut server = Server::that_knows_its_pace(1000);
    for _ in 0..50 {
        server.critical(1000, 1000 * MS);
    }
    assert_eq!(server.critical(1000, 1000 * MS), LEAST_CALLS as usize);
    assert_eq!(Server::new(3).critical(10, MS), 3);
}

#[test]
fn what_is_sheddable_is_refused_first() {
    let mut server = Server::new(100);
    assert_eq!(server.round(100, Criticality::Sheddable, MS), 75);
    for _ in 0..75 {
        server.limit.enter(Criticality::Critical).unwrap();
    }
    assert!(server.limit.enter(Criticality::Sheddable).is_err());
    assert!(server.limit.enter(Criticality::Critical).is_ok());
    assert_eq!(Server::new(1).round(2, Criticality::Sheddable, MS), 1);
}

#[test]
fn a_refusal_says_when_to_try_again() {
    let mut server = Server::new(1);
    server.limit.enter(Criticality::Critical).unwrap();
    let refused = server.limit.enter(Criticality::Critical);
    assert_eq!(refused, Err(FIRST_RETRY_AFTER));
    let mut server = Server::that_knows_its_pace(4);
    for _ in 0..4 {
        server.limit.enter(Criticality::Critical).unwrap();
    }
    let after = server.limit.enter(Criticality::Critical).unwrap_err();
    assert!(after.abs_diff(10 * MS) < MS, "{after:?}");
}

#[test]
fn a_method_that_is_slow_by_nature_says_nothing_of_a_fast_one() {
    let mut server = Server::that_knows_its_pace(1000);
    for _ in 0..200 {
        server.limit.enter(Criticality::Critical).unwrap();
        server.now += 20 * MS;
        server
            .limit
            .leave("Rerank", Ended::Answered, 900 * MS, server.now);
    }
    assert_eq!(server.critical(1000, 10 * MS), 1000);
}

#[test]
fn calls_that_fail_at_once_do_not_make_the_rest_look_slow() {
    let mut server = Server::that_knows_its_pace(1000);
    for _ in 0..1000 {
        server.limit.enter(Criticality::Critical).unwrap();
        server.now += MS;
        let (failed, given_up) = (Ended::Otherwise, Ended::Late);
        server.limit.leave("Search", failed, MS, server.now);
        server.limit.enter(Criticality::Critical).unwrap();
        server.limit.leave("Search", given_up, MS, server.now);
    }
    for _ in 0..100 {
        server.critical(500, 10 * MS);
    }
    assert_eq!(server.critical(1000, 10 * MS), 1000);
}

#[test]
fn late_calls_say_that_the_server_is_slow() {
    let mut server = Server::that_knows_its_pace(1000);
    for _ in 0..3 {
        let enter = |_: &usize| server.limit.enter(Criticality::Critical).is_ok();
        let let_in = (0..500).filter(enter).count();
        server.now += 300 * MS;
        for _ in 0..let_in {
            let (late, took) = (Ended::Late, 300 * MS);
            server.limit.leave("Search", late, took, server.now);
        }
    }
    assert!(server.critical(1000, 10 * MS) < 1000);
}

proptest! {
    #[test]
    fn the_limit_stays_between_its_bounds_and_nobody_is_lost(
        rounds in prop::collection::vec((1_usize..300, 1_u64..2000, any::<bool>()), 1..80), most in 1_usize..500,
    ) {
        let mut server = Server::new(most);
        for (calls, took_ms, is_sheddable) in rounds {
            let criticality = if is_sheddable { Criticality::Sheddable } else { Criticality::Critical };
            let let_in = server.round(calls, criticality, Duration::from_millis(took_ms));
            prop_assert!(let_in <= most);
            prop_assert!(let_in >= 1);
            prop_assert_eq!(server.limit.in_flight, 0);
            let least = LEAST_CALLS.min(most as f64);
            prop_assert!((least..=most as f64).contains(&server.limit.limit));
        }
    }
}
