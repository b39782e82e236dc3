//! The replicas of a service by their standing: which of them gets a call, whether it may get an extra one, and what its end says of it.

use super::budget::Budget;
use super::latency::RecentLatencies;
use super::standing::{Ended, Standing};
use crate::error::Service;
use crate::metrics::{CallCounters, CallKind};
use search_core::ErrorKind;
use service_kit::now;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An answer that took so many times what the others take is a bad one…
const OUTLIER_FACTOR: f64 = 5.0;
/// …but not if it took less than this: among answers of a millisecond, chance makes such outliers.
const LEAST_OUTLIER: Duration = Duration::from_millis(20);

/// What the replicas of one service are known by, in the order of their positions.
#[derive(Debug)]
pub(super) struct Roster {
    standings: Vec<Arc<Mutex<Standing>>>,
    common: Arc<Common>,
}

/// What is known of a service, whoever its replicas are.
#[derive(Debug)]
struct Common {
    service: Service,
    /// Of first calls.
    latencies: Mutex<RecentLatencies>,
    budget: Budget,
    counters: CallCounters,
    turn: AtomicUsize,
}

/// How a call ended, as far as its replica can be blamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    /// An error that says something about the request, or about load.
    Refused,
    /// The replica could not be reached, or broke.
    Failed,
    /// Nobody waits any longer: the caller is gone, the time is up, or another replica has answered.
    Abandoned,
}

impl Outcome {
    pub(super) const fn of(error: ErrorKind) -> Self {
        match error {
            ErrorKind::Unavailable | ErrorKind::Internal => Self::Failed,
            ErrorKind::DeadlineExceeded | ErrorKind::Cancelled => Self::Abandoned,
            ErrorKind::InvalidArgument
            | ErrorKind::NotFound
            | ErrorKind::FailedPrecondition
            | ErrorKind::ResourceExhausted
            | ErrorKind::DataLoss
            | ErrorKind::Unimplemented => Self::Refused,
        }
    }
}

/// A call that a replica has in flight until this is dropped; it is abandoned unless it is said to have ended otherwise.
#[derive(Debug)]
pub(super) struct InFlight<'a> {
    roster: &'a Roster,
    position: usize,
    /// Who could have been called.
    holders: Box<[usize]>,
    kind: CallKind,
    began: Instant,
    outcome: Outcome,
}

impl InFlight<'_> {
    pub(super) const fn end(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Notes that this call has answered before the other one of its request.
    pub(super) fn win(&self) {
        if self.kind == CallKind::Hedge {
            self.roster.common.counters.win_hedge();
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.roster.end(self);
    }
}

impl Roster {
    pub(super) fn new(service: Service, replicas: usize) -> Self {
        let common = Common {
            service,
            latencies: Mutex::new(RecentLatencies::new()),
            budget: Budget::new(),
            counters: CallCounters::new(service),
            turn: AtomicUsize::new(0),
        };
        Self {
            standings: (0..replicas).map(|_| unknown()).collect(),
            common: Arc::new(common),
        }
    }

    /// The replicas that had these positions, and newcomers.
    pub(super) fn with_members(&self, positions: &[Option<usize>]) -> Self {
        let standing = |position: &Option<usize>| match position {
            Some(position) => Arc::clone(&self.standings[*position]),
            None => unknown(),
        };
        Self {
            standings: positions.iter().map(standing).collect(),
            common: Arc::clone(&self.common),
        }
    }

    pub(super) fn service(&self) -> Service {
        self.common.service
    }

    /// Who gets a first call. It pays into the budget for extra ones.
    pub(super) fn first(&self, holders: &[usize]) -> Option<usize> {
        let first = self.pick(holders, None)?;
        self.common.budget.deposit();
        Some(first)
    }

    /// Who gets an extra call; none where there is nobody else, or the budget is spent. A hedge goes to nobody who is left out: to wait
    /// for the first call is better.
    pub(super) fn extra(&self, holders: &[usize], first: usize, kind: CallKind) -> Option<usize> {
        let second = self.pick(holders, Some(first))?;
        if kind == CallKind::Hedge && self.standing(second).is_out(now()) {
            return None;
        }
        if !self.common.budget.withdraw(kind) {
            self.common.counters.refuse();
            return None;
        }
        Some(second)
    }

    /// What 19 of 20 calls need no longer than; none as long as too few are known.
    pub(super) fn patience(&self) -> Option<Duration> {
        lock(&self.common.latencies).p95()
    }

    pub(super) fn begin(&self, position: usize, holders: &[usize], kind: CallKind) -> InFlight<'_> {
        self.common.counters.call(kind);
        self.standing(position).begin();
        InFlight {
            roster: self,
            position,
            holders: holders.into(),
            kind,
            began: now(),
            outcome: Outcome::Abandoned,
        }
    }

    /// The less loaded of two, which are drawn evenly.
    fn pick(&self, holders: &[usize], except: Option<usize>) -> Option<usize> {
        let now = now();
        let admitted = self.admitted(holders, except, now);
        let (one, other) = two_of(self.common.turn.fetch_add(1, Ordering::Relaxed), &admitted)?;
        let cost = |position| self.standing(position).cost(now);
        Some(if cost(other) < cost(one) { other } else { one })
    }

    /// Those of the holders that there are, but for one.
    fn known(&self, holders: &[usize], except: Option<usize>) -> impl Iterator<Item = usize> {
        let is_known =
            move |position: &usize| *position < self.standings.len() && Some(*position) != except;
        holders.iter().copied().filter(is_known)
    }

    /// Those who are not left out. Where these are less than half it is all of them: so many cannot be outliers, and the rest could not
    /// bear the load.
    fn admitted(&self, holders: &[usize], except: Option<usize>, now: Instant) -> Vec<usize> {
        let holders = self.known(holders, except);
        let (out, admitted): (Vec<usize>, Vec<usize>) =
            holders.partition(|position| self.standing(*position).is_out(now));
        if admitted.len() < out.len() {
            return [admitted, out].concat();
        }
        admitted
    }

    fn end(&self, call: &InFlight<'_>) {
        let now = now();
        let took = now.saturating_duration_since(call.began);
        let is_bad = match call.outcome {
            Outcome::Answered => self.is_outlier(call, took, now),
            Outcome::Refused => false,
            Outcome::Failed => true,
            Outcome::Abandoned => self.patience().is_some_and(|patience| took >= patience),
        };
        let is_answered = call.outcome == Outcome::Answered;
        // Without those that are abandoned late, the times would be those of the fast ones only, and get shorter and shorter.
        let is_telling = is_answered || (is_bad && call.outcome == Outcome::Abandoned);
        if is_telling && call.kind == CallKind::First {
            lock(&self.common.latencies).record(took);
        }
        let ended = Ended {
            began: call.began,
            took,
            is_bad,
            is_answered,
        };
        let ejected_for = self.standing(call.position).end(ended, now);
        if let Some(length) = ejected_for {
            let (service, replica) = (self.service().name(), call.position);
            tracing::warn!(
                service,
                replica,
                ?length,
                "a replica is left out for a time"
            );
            self.common.counters.eject();
        }
    }

    /// Whether an answer took much longer than those of the other replicas do that hold the same: what others hold may be smaller.
    fn is_outlier(&self, call: &InFlight<'_>, took: Duration, now: Instant) -> bool {
        if took <= LEAST_OUTLIER {
            return false;
        }
        let others = self.known(&call.holders, Some(call.position));
        let latencies = others.filter_map(|other| self.standing(other).trusted_latency(now));
        let typical = lower_median(latencies.collect());
        typical.is_some_and(|typical| took.as_secs_f64() > OUTLIER_FACTOR * typical)
    }

    fn standing(&self, position: usize) -> MutexGuard<'_, Standing> {
        lock(&self.standings[position])
    }
}

fn unknown() -> Arc<Mutex<Standing>> {
    Arc::new(Mutex::new(Standing::new()))
}

/// What these guard is right after every statement: a thread that panicked left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lower_median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// Two of these, each pair in both orders equally often; the same one twice where there is one.
fn two_of(turn: usize, positions: &[usize]) -> Option<(usize, usize)> {
    let count = positions.len();
    if count < 2 {
        return positions.first().map(|only| (*only, *only));
    }
    let pair = spread(turn, count * (count - 1));
    let (one, step) = (pair / (count - 1), 1 + pair % (count - 1));
    Some((positions[one], positions[(one + step) % count]))
}

/// The place, of so many, where a turn begins: all of them equally often, whatever every how many turns is one's own. By counting alone a
/// query that asks two shards would ask the same replica of each with every query. (Multiplicative hashing by the golden ratio, Knuth.)
fn spread(turn: usize, places: usize) -> usize {
    const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;
    let hashed = (turn as u64).wrapping_mul(GOLDEN_RATIO);
    ((u128::from(hashed) * places as u128) >> u64::BITS) as usize
}

#[cfg(test)]
impl Roster {
    pub(super) fn in_flight(&self) -> u32 {
        let standings = self.standings.iter();
        standings.map(|standing| lock(standing).in_flight()).sum()
    }

    pub(super) fn is_out(&self, position: usize) -> bool {
        self.standing(position).is_out(now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_replica_gets_its_share_of_every_shard() {
        for (every, of_shard) in [(1, 0), (2, 0), (2, 1), (3, 2), (8, 5)] {
            for places in [1, 2, 3, 4] {
                let positions: Vec<usize> = (0..places).collect();
                let mut calls = vec![0; places];
                for query in 0..1200 {
                    let pair = two_of(query * every + of_shard, &positions);
                    calls[pair.unwrap().0] += 1;
                }
                let fair = 1200 / places;
                assert!(
                    calls
                        .iter()
                        .all(|count| *count * 10 > fair * 9 && *count * 10 < fair * 11),
                    "{calls:?} of turns {of_shard}, {of_shard} + {every}, …"
                );
            }
        }
    }

    #[test]
    fn the_two_of_a_pair_differ() {
        assert_eq!(two_of(0, &[]), None);
        assert_eq!(two_of(7, &[3]), Some((3, 3)));
        for turn in 0..1000 {
            let (one, other) = two_of(turn, &[4, 5, 9]).unwrap();
            assert_ne!(one, other);
        }
    }

    #[test]
    fn the_median_is_the_lower_of_two() {
        assert_eq!(lower_median(vec![]), None);
        assert_eq!(lower_median(vec![3.0]), Some(3.0));
        assert_eq!(lower_median(vec![9.0, 1.0]), Some(1.0));
        assert_eq!(lower_median(vec![9.0, 1.0, 5.0]), Some(5.0));
    }

    proptest! {
        /// Whatever calls end like.
        #[test]
        fn never_are_more_than_half_left_out(
            replicas in 1_usize..7,
            ends in prop::collection::vec((0_usize..7, any::<bool>()), 0..200),
        ) {
            let roster = Roster::new(Service::Encoder, replicas);
            let holders: Vec<usize> = (0..replicas).collect();
            for (position, is_answered) in ends {
                let mut call = roster.begin(position % replicas, &holders, CallKind::First);
                call.end(if is_answered { Outcome::Answered } else { Outcome::Failed });
                drop(call);
                let admitted = roster.admitted(&holders, None, now());
                prop_assert!(2 * admitted.len() >= replicas);
            }
        }
    }
}
