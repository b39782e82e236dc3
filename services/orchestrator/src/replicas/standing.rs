//! How one replica stands: what it has in flight, how long it takes, and whether it is trusted. Time is an argument.
//!
//! Trust is the share of recent calls that went well, each a fifth of it: it is 1 at first, and below a third after five bad calls in a
//! row, or at a rate of bad ones that is near it. Then the replica is ejected: left out for a time, that doubles while it gets no
//! better. After that one call probes it, and decides whether it is back. (As outlier detection in Envoy, and gRPC's proposal A50.)

use super::latency::PeakEwma;
use std::time::{Duration, Instant};

/// What a call counts in the trust.
const SHARE_OF_CALL: f64 = 0.2;
/// Below this a replica is ejected: 0.8⁵ is 0.328.
const LEAST_TRUST: f64 = 1.0 / 3.0;
/// What a probe that went well gives at least: two bad calls take it away.
const TRUST_AFTER_PROBE: f64 = 0.5;
/// How long a replica is left out first.
const FIRST_EJECTION: Duration = Duration::from_secs(1);
/// How long at most; and when it was well for as long, earlier ejections are forgiven.
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// A call costs at least this: below it chance decides which replica is faster, and those are that fail at once.
const LEAST_COST_SECONDS: f64 = 0.001;

/// One replica, as seen by who calls it.
#[derive(Debug)]
pub(super) struct Standing {
    in_flight: u32,
    /// None: no call has ended yet.
    latency: Option<PeakEwma>,
    /// 0 to 1.
    trust: f64,
    /// The last one.
    ejection: Option<Ejection>,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Instant,
    in_a_row: u32,
    /// A probe went well.
    is_over: bool,
}

/// Whether calls may go to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Trusted,
    Ejected,
    /// One call may, and those that began since then decide.
    Probed {
        since: Instant,
    },
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) began: Instant,
    pub(super) took: Duration,
    /// It failed, or took too long, by the replica's fault.
    pub(super) is_bad: bool,
    /// It took no longer: an answer came.
    pub(super) is_answered: bool,
}

impl Standing {
    pub(super) const fn new() -> Self {
        Self {
            in_flight: 0,
            latency: None,
            trust: 1.0,
            ejection: None,
        }
    }

    /// Whether no further call should go there.
    pub(super) fn is_out(&self, now: Instant) -> bool {
        match self.phase(now) {
            Phase::Trusted => false,
            Phase::Ejected => true,
            Phase::Probed { .. } => self.in_flight > 0,
        }
    }

    /// Seconds until an answer is to be expected, roughly; zero of a replica that gets a first chance, or another one.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        let waiting = f64::from(self.in_flight);
        let is_probe = self.in_flight == 0 && matches!(self.phase(now), Phase::Probed { .. });
        let seconds = match self.latency {
            _ if is_probe => 0.0,
            None => LEAST_COST_SECONDS * waiting,
            Some(latency) => latency.at(now).max(LEAST_COST_SECONDS) * (waiting + 1.0),
        };
        seconds / self.trust.max(f64::MIN_POSITIVE)
    }

    /// Its latency in seconds as it was seen last, where it is trusted.
    pub(super) fn trusted_latency(&self, now: Instant) -> Option<f64> {
        let latency = self.latency.filter(|_| self.phase(now) == Phase::Trusted);
        latency.map(|latency| latency.seconds())
    }

    pub(super) const fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// Returns for how long the replica is ejected now, where this call was one too many.
    pub(super) fn end(&mut self, call: Ended, now: Instant) -> Option<Duration> {
        self.in_flight -= 1;
        let went_well = f64::from(!call.is_bad);
        self.trust += SHARE_OF_CALL * (went_well - self.trust);
        let ejected_for = match self.phase(now) {
            Phase::Probed { since } if call.began >= since => self.end_probe(call, now),
            Phase::Trusted if self.trust < LEAST_TRUST => Some(self.eject(now)),
            Phase::Probed { .. } | Phase::Trusted | Phase::Ejected => None,
        };
        self.learn(call, now);
        ejected_for
    }

    fn phase(&self, now: Instant) -> Phase {
        match self.ejection {
            Some(ejection) if !ejection.is_over && now < ejection.until => Phase::Ejected,
            Some(ejection) if !ejection.is_over => Phase::Probed {
                since: ejection.until,
            },
            _ => Phase::Trusted,
        }
    }

    fn end_probe(&mut self, probe: Ended, now: Instant) -> Option<Duration> {
        if probe.is_bad {
            return Some(self.eject(now));
        }
        if let Some(ejection) = &mut self.ejection {
            ejection.is_over = true;
        }
        self.trust = self.trust.max(TRUST_AFTER_PROBE);
        // What it was like before says nothing now.
        self.latency = None;
        None
    }

    fn eject(&mut self, now: Instant) -> Duration {
        let recent = self
            .ejection
            .filter(|ejection| now < ejection.until + LONGEST_EJECTION);
        let before = recent.map_or(0, |ejection| ejection.in_a_row);
        let length = FIRST_EJECTION
            .saturating_mul(2_u32.saturating_pow(before))
            .min(LONGEST_EJECTION);
        self.ejection = Some(Ejection {
            until: now + length,
            in_a_row: before.saturating_add(1),
            is_over: false,
        });
        length
    }

    /// Only answers may lower the latency: to fail fast is no merit, and to refuse fast neither.
    fn learn(&mut self, call: Ended, now: Instant) {
        match &mut self.latency {
            Some(latency) if call.is_answered => latency.observe(call.took, now),
            Some(latency) => latency.raise(call.took, now),
            latency @ None if call.is_answered || call.is_bad => {
                *latency = Some(PeakEwma::new(call.took, now));
            }
            None => {}
        }
    }
}

#[cfg(test)]
impl Standing {
    pub(super) const fn in_flight(&self) -> u32 {
        self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica and its clock.
    struct Case {
        standing: Standing,
        now: Instant,
    }

    impl Case {
        fn new() -> Self {
            Self {
                standing: Standing::new(),
                now: Instant::now(),
            }
        }

        /// A call of ten milliseconds. Returns for how many seconds it ejected.
        fn call(&mut self, is_bad: bool) -> Option<u64> {
            self.standing.begin();
            let began = self.now;
            self.pass(Duration::from_millis(10));
            let ended = Ended {
                began,
                took: self.now - began,
                is_bad,
                is_answered: !is_bad,
            };
            let ejected_for = self.standing.end(ended, self.now);
            ejected_for.map(|length| length.as_secs())
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }

        fn is_out(&self) -> bool {
            self.standing.is_out(self.now)
        }
    }

    #[test]
    fn five_bad_calls_in_a_row_eject() {
        let mut case = Case::new();
        for _ in 0..4 {
            assert_eq!(case.call(true), None);
            assert!(!case.is_out());
        }
        assert_eq!(case.call(true), Some(1));
        assert!(case.is_out());
    }

    #[test]
    fn a_bad_call_now_and_then_does_not_eject_and_two_of_three_do() {
        let mut case = Case::new();
        assert!((0..1000).all(|call| case.call(call % 4 == 0).is_none()));
        let mut case = Case::new();
        assert!((0..100).any(|call| case.call(call % 3 != 0).is_some()));
    }

    #[test]
    fn one_probe_decides() {
        let mut case = Case::new();
        while case.call(true).is_none() {}
        case.pass(FIRST_EJECTION);
        assert!(!case.is_out());
        assert!(case.standing.cost(case.now) == 0.0, "a chance");
        case.standing.begin();
        assert!(case.is_out(), "one at a time");
        case.standing.in_flight = 0;
        assert_eq!(case.call(false), None);
        assert!(!case.is_out());
        assert_eq!(case.call(true), None);
        assert_eq!(case.call(true), Some(2), "trust is not whole again");
    }

    #[test]
    fn ejections_double_up_to_the_longest_and_are_forgiven() {
        let mut case = Case::new();
        while case.call(true).is_none() {}
        for expected in [2, 4, 8, 16, 30, 30] {
            case.pass(LONGEST_EJECTION);
            assert_eq!(case.call(true), Some(expected));
        }
        case.pass(LONGEST_EJECTION);
        assert_eq!(case.call(false), None);
        case.pass(LONGEST_EJECTION);
        let ejected_for = (0..5).find_map(|_| case.call(true));
        assert_eq!(ejected_for, Some(1));
    }

    #[test]
    fn calls_from_before_the_ejection_are_no_probe() {
        let mut case = Case::new();
        case.standing.begin();
        let hung_since = case.now;
        while case.call(true).is_none() {}
        case.pass(FIRST_EJECTION);
        let hung = Ended {
            began: hung_since,
            took: case.now - hung_since,
            is_bad: true,
            is_answered: false,
        };
        assert_eq!(case.standing.end(hung, case.now), None);
        assert!(!case.is_out());
    }

    #[test]
    fn cost_is_of_load_latency_and_trust() {
        let mut case = Case::new();
        assert!(case.standing.cost(case.now) == 0.0, "a first chance");
        case.call(false);
        let idle = case.standing.cost(case.now);
        assert!((idle - 0.010).abs() < 1e-9, "{idle}");
        case.standing.begin();
        let busy = case.standing.cost(case.now);
        assert!((busy - 2.0 * idle).abs() < 1e-9, "{busy}");
        case.standing.in_flight = 0;
        case.call(true);
        assert!(case.standing.cost(case.now) > 1.2 * idle);
    }

    #[test]
    fn failing_fast_lowers_no_latency() {
        let mut case = Case::new();
        case.call(false);
        case.standing.begin();
        let refused = Ended {
            began: case.now,
            took: Duration::ZERO,
            is_bad: false,
            is_answered: false,
        };
        case.standing.end(refused, case.now);
        assert!((case.standing.cost(case.now) - 0.010).abs() < 1e-9);
    }
}
