//! How long calls take: of one replica, as an average that remembers peaks, and of a service, as the time that few calls exceed.
//!
//! The average is Peak-EWMA as of Finagle and linkerd: up at once, down with time. tower's measures a `Service`; what is called here
//! are generated clients.

use std::time::{Duration, Instant};

/// Of an average, that much is left of what was before, 1 / e, after this time.
const DECAY: Duration = Duration::from_secs(10);

/// An exponentially weighted moving average of latencies, which takes a higher one at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeakEwma {
    seconds: f64,
    updated: Instant,
}

impl PeakEwma {
    pub(super) const fn new(latency: Duration, now: Instant) -> Self {
        Self {
            seconds: latency.as_secs_f64(),
            updated: now,
        }
    }

    /// As it was left, in seconds.
    pub(super) const fn seconds(&self) -> f64 {
        self.seconds
    }

    /// In seconds, sinking to zero while nothing is called: what was slow long ago deserves a try.
    pub(super) fn at(&self, now: Instant) -> f64 {
        self.seconds * self.kept(now)
    }

    /// A call took so long.
    pub(super) fn observe(&mut self, latency: Duration, now: Instant) {
        let (latency, kept) = (latency.as_secs_f64(), self.kept(now));
        let mixed = self.seconds * kept + latency * (1.0 - kept);
        self.seconds = mixed.max(latency);
        self.updated = now;
    }

    /// A call took at least so long.
    pub(super) fn raise(&mut self, latency: Duration, now: Instant) {
        if latency.as_secs_f64() > self.at(now) {
            *self = Self::new(latency, now);
        }
    }

    fn kept(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated);
        (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

/// Buckets of a doubling: each bound is 19 % above the one before.
const BUCKETS_OF_DOUBLING: f64 = 4.0;
/// Latencies up to this are one bucket.
const LEAST_SECONDS: f64 = 50e-6;
/// The last bound is 50 µs · 2^(95 / 4), twelve minutes.
const BUCKETS: usize = 96;
/// All counts are halved at so many: the last few hundred calls are what is recent.
const MOST_COUNTED: u32 = 512;
/// Of fewer calls, those that 5 % exceed are none.
const LEAST_COUNTED: u32 = 20;

/// The latencies of recent calls, as a histogram that forgets.
#[derive(Clone, Debug)]
pub(super) struct RecentLatencies {
    counts: [u32; BUCKETS],
}

impl RecentLatencies {
    pub(super) const fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
        }
    }

    pub(super) fn record(&mut self, latency: Duration) {
        self.counts[bucket(latency)] += 1;
        if self.total() >= MOST_COUNTED {
            for count in &mut self.counts {
                *count /= 2;
            }
        }
    }

    /// What 5 % of the calls exceed, up to 19 % above it; none as long as few are counted.
    pub(super) fn p95(&self) -> Option<Duration> {
        let total = self.total();
        if total < LEAST_COUNTED {
            return None;
        }
        let within = total - total / 20;
        let below = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        let last = below.take_while(|below| *below < within).count();
        Some(bound(last))
    }

    fn total(&self) -> u32 {
        self.counts.iter().sum()
    }
}

fn bucket(latency: Duration) -> usize {
    let doublings = (latency.as_secs_f64() / LEAST_SECONDS).log2();
    let bucket = (doublings * BUCKETS_OF_DOUBLING).ceil();
    // As the cast saturates, what is shorter than the first bound is in the first bucket.
    (bucket as usize).min(BUCKETS - 1)
}

/// The longest latency of a bucket.
fn bound(bucket: usize) -> Duration {
    Duration::from_secs_f64(LEAST_SECONDS * (bucket as f64 / BUCKETS_OF_DOUBLING).exp2())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_with_time() {
        let start = Instant::now();
        let mut average = PeakEwma::new(millis(10), start);
        average.observe(millis(100), start);
        assert!((average.at(start) - 0.1).abs() < 1e-9);
        average.observe(millis(10), start);
        assert!((average.at(start) - 0.1).abs() < 1e-9, "no time has passed");
        let later = start + DECAY;
        average.observe(millis(10), later);
        let expected = 0.01 + 0.09 / 1_f64.exp();
        assert!((average.at(later) - expected).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_called_sinks() {
        let start = Instant::now();
        let average = PeakEwma::new(millis(100), start);
        assert!(average.at(start + 5 * DECAY) < 0.001);
        assert!((average.seconds() - 0.1).abs() < 1e-9);
    }

    #[test]
    fn a_call_that_took_at_least_so_long_never_lowers() {
        let start = Instant::now();
        let mut average = PeakEwma::new(millis(100), start);
        average.raise(millis(10), start);
        assert!((average.at(start) - 0.1).abs() < 1e-9);
        average.raise(millis(300), start);
        assert!((average.at(start) - 0.3).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_said_of_few_calls() {
        let mut latencies = RecentLatencies::new();
        for _ in 1..LEAST_COUNTED {
            latencies.record(millis(5));
            assert_eq!(latencies.p95(), None);
        }
        latencies.record(millis(5));
        assert!(latencies.p95().is_some());
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut latencies = RecentLatencies::new();
        for _ in 0..10_000 {
            latencies.record(millis(1000));
        }
        for _ in 0..6 * MOST_COUNTED {
            latencies.record(millis(10));
        }
        assert!(latencies.p95().unwrap() < millis(12));
    }

    #[test]
    fn the_shortest_and_the_longest_have_a_bucket() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_nanos(1)), 0);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn the_p95_is_that_of_a_sort_but_for_the_width_of_a_bucket(
            micros in prop::collection::vec(60_u64..10_000_000, 20..500),
        ) {
            let mut latencies = RecentLatencies::new();
            for latency in &micros {
                latencies.record(Duration::from_micros(*latency));
            }
            let mut sorted = micros;
            sorted.sort_unstable();
            let exact = sorted[sorted.len() - sorted.len() / 20 - 1] as f64 / 1e6;
            let told = latencies.p95().unwrap().as_secs_f64();
            prop_assert!(told >= exact * 0.999_999 && told <= exact * 1.19, "{told} of {exact}");
        }
    }
}
