//! An open load: what is asked, and when, laid down beforehand.
//!
//! Requests of many independent users do not wait for each other's answers. A load that asks the next question when it has the last answer
//! lets a slow service choose its own load, and leaves out of the percentiles just those requests that would have waited (coordinated
//! omission: Schroeder, Wierman, Harchol-Balter, NSDI 2006; Tene). So each arrival has its time before the first one is asked, and a
//! latency counts from it.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How arrivals follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// Independently of each other: gaps are exponential.
    Poisson,
    /// In equal gaps.
    Constant,
}

/// What a load is made of. The same values make the same load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// How arrivals follow each other.
    pub process: Process,
    /// Arrivals per second on average, finite and more than 0.
    pub per_second: f64,
    /// From the beginning to the end of the arrivals.
    pub span: Duration,
    /// Queries to draw from, at least one.
    pub queries: usize,
    /// Part of the arrivals that is critical, 0 to 1.
    pub critical_share: f64,
    /// Decides every draw.
    pub seed: u64,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// From the beginning of the load.
    pub at: Duration,
    /// Place of the query among those to draw from.
    pub query: usize,
    /// Whether it is critical; the others can be shed.
    pub is_critical: bool,
}

/// Each draw has numbers of its own: the first arrivals of two rates ask the same queries.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Gap,
    Query,
    Criticality,
}

impl Load {
    /// The arrivals, ascending in time.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        let [mut gaps, mut queries, mut classes] =
            [Draw::Gap, Draw::Query, Draw::Criticality].map(|draw| self.numbers(draw));
        let mut at_seconds = 0.0;
        let times = std::iter::from_fn(|| {
            at_seconds += self.gap_seconds(&mut gaps);
            (at_seconds < self.span.as_secs_f64()).then_some(at_seconds)
        });
        let arrival = |at_seconds| Arrival {
            at: Duration::from_secs_f64(at_seconds),
            query: queries.random_range(0..self.queries),
            is_critical: classes.random::<f64>() < self.critical_share,
        };
        times.map(arrival).collect()
    }

    fn numbers(&self, draw: Draw) -> ChaCha8Rng {
        let mut numbers = ChaCha8Rng::seed_from_u64(self.seed);
        numbers.set_stream(draw as u64);
        numbers
    }

    fn gap_seconds(&self, numbers: &mut impl Rng) -> f64 {
        let mean = 1.0 / self.per_second;
        match self.process {
            Process::Constant => mean,
            // 1 - u is never 0.
            Process::Poisson => -(1.0 - numbers.random::<f64>()).ln() * mean,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(process: Process, per_second: f64) -> Load {
        Load {
            process,
            per_second,
            span: Duration::from_secs(100),
            queries: 7,
            critical_share: 0.25,
            seed: 1,
        }
    }

    #[test]
    fn constant_arrivals_are_a_gap_apart() {
        let arrivals = load(Process::Constant, 4.0).arrivals();
        assert_eq!(arrivals.len(), 399);
        assert_eq!(arrivals[1].at, Duration::from_millis(500));
    }

    /// Of a Poisson process the number of arrivals has its mean as variance, and gaps have their mean as deviation.
    #[test]
    fn poisson_arrivals_are_independent() {
        let arrivals = load(Process::Poisson, 100.0).arrivals();
        let count = arrivals.len() as f64;
        assert!((count - 10_000.0).abs() < 300.0, "{count}");
        let gaps = arrivals
            .windows(2)
            .map(|pair| (pair[1].at - pair[0].at).as_secs_f64());
        let variance = gaps.map(|gap| (gap - 0.01).powi(2)).sum::<f64>() / count;
        assert!((variance.sqrt() - 0.01).abs() < 0.0005, "{variance}");
    }

    #[test]
    fn queries_and_classes_are_drawn_evenly_and_by_the_seed() {
        let arrivals = load(Process::Poisson, 100.0).arrivals();
        for query in 0..7 {
            let share = arrivals.iter().filter(|arrival| arrival.query == query);
            assert!((share.count() as f64 / arrivals.len() as f64 - 1.0 / 7.0).abs() < 0.02);
        }
        let critical = arrivals.iter().filter(|arrival| arrival.is_critical);
        assert!((critical.count() as f64 / arrivals.len() as f64 - 0.25).abs() < 0.02);
        assert_eq!(arrivals, load(Process::Poisson, 100.0).arrivals());
        let slower = load(Process::Constant, 1.0).arrivals();
        let same = arrivals.iter().zip(&slower);
        assert!(same.clone().all(|(one, other)| one.query == other.query));
    }

    #[test]
    fn all_or_nothing_is_critical_at_the_ends() {
        for (critical_share, expected) in [(0.0, false), (1.0, true)] {
            let load = Load {
                critical_share,
                ..load(Process::Poisson, 10.0)
            };
            let mut arrivals = load.arrivals().into_iter();
            assert!(arrivals.all(|arrival| arrival.is_critical == expected));
        }
    }
}
