//! Whether work that comes to a queue can be done in its time. What cannot is refused when it comes, not when its time is over: until then
//! it would take the place of work that can (Google SRE, "Handling Overload"; Zhou et al. 2018, "Overload Control for Scaling WeChat
//! Microservices").
//!
//! The wait is what stands in the queue by what it costs, as learnt, over the threads that compute. Where a thread is free nobody waits and
//! nobody is refused, whatever the estimate: so a wrong one meets new observations, and does not refuse for ever. Before anything was
//! seen there is no wait.

use std::time::Duration;

use crate::cost::{CostModel, CostPrior, duration};
use crate::criticality::Criticality;

/// Who computes, and in which pieces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workshop {
    /// That compute, at least one.
    pub threads: usize,
    /// Items that one thread computes together, at most; at least 1.
    pub batch_items: f64,
    /// The cost of a batch whatever is in it, in items; 0 where there is none.
    pub fixed_items: f64,
}

/// What stands before a newcomer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Items that are computed before those of the newcomer and that no thread has taken.
    pub waiting_items: f64,
    /// Items that threads have taken.
    pub computing_items: f64,
    /// Batches that these are in: as many threads are busy.
    pub computing_batches: usize,
}

/// Work that wants to be let in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Newcomer {
    /// Items that have to be computed in its time, one thread's share of them. 0: any part of the work is worth having.
    pub items: f64,
    /// None: it waits as long as it takes.
    pub time_left: Option<Duration>,
    /// Whether it may use all of its time for waiting.
    pub criticality: Criticality,
}

/// The work would come too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLate {
    /// How long it would wait.
    pub wait: Duration,
    /// When there would be time for it, if nothing else comes; none: never, for it alone takes more.
    pub fits_after: Option<Duration>,
}

/// What the work in a queue costs, learnt from what was done.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueCost {
    workshop: Workshop,
    /// None until something was seen.
    cost: Option<CostModel>,
}

impl QueueCost {
    /// Knows nothing yet.
    pub const fn new(workshop: Workshop) -> Self {
        Self {
            workshop,
            cost: None,
        }
    }

    /// Learns what a thread took for so many items. Nothing is learnt of none.
    pub fn observe(&mut self, items: f64, took: Duration) {
        match &mut self.cost {
            Some(cost) => cost.observe(items, took),
            None if items > 0.0 => self.cost = Some(CostModel::new(self.first_prior(items, took))),
            None => {}
        }
    }

    /// Learns of work that was broken off: it would have taken longer, so it only counts where that is news.
    pub fn observe_broken_off(&mut self, items: f64, took: Duration) {
        let is_news = |cost: &CostModel| took > cost.expected(items);
        if self.cost.as_ref().is_some_and(is_news) {
            self.observe(items, took);
        }
    }

    /// The first observation in the shape that batches have.
    fn first_prior(&self, items: f64, took: Duration) -> CostPrior {
        let per_item = took.as_secs_f64() / (items + self.workshop.fixed_items);
        CostPrior {
            fixed: duration(per_item * self.workshop.fixed_items),
            per_item: duration(per_item),
        }
    }

    /// How long until a thread is free for a newcomer.
    pub fn wait(&self, load: Load) -> Duration {
        let is_thread_free = load.computing_batches < self.workshop.threads;
        if is_thread_free && load.waiting_items <= 0.0 {
            return Duration::ZERO;
        }
        // Of the batches that are being computed one has to end, not all.
        let computing = load.computing_items / load.computing_batches.max(1) as f64;
        duration(self.seconds(load.waiting_items + computing) / self.workshop.threads as f64)
    }

    /// Lets the newcomer in if there is time for its work.
    ///
    /// # Errors
    /// [`TooLate`] where there is not.
    pub fn admit(&self, load: Load, newcomer: Newcomer) -> Result<(), TooLate> {
        let Some(time_left) = newcomer.time_left else {
            return Ok(());
        };
        let before_own = time_left.saturating_sub(self.own(newcomer.items));
        let time_to_wait = newcomer.criticality.waiting_time(before_own);
        let wait = self.wait(load);
        if wait <= time_to_wait {
            return Ok(());
        }
        Err(TooLate {
            wait,
            fits_after: (!time_to_wait.is_zero()).then(|| wait - time_to_wait),
        })
    }

    /// With caution: an item that takes longer than expected is done in vain.
    fn own(&self, items: f64) -> Duration {
        match &self.cost {
            Some(cost) if items > 0.0 => cost.cautious(items),
            _ => Duration::ZERO,
        }
    }

    /// One thread's time for so many items, in as few batches as hold them.
    fn seconds(&self, items: f64) -> f64 {
        let Some(cost) = &self.cost else {
            return 0.0;
        };
        let seconds = |items| cost.expected(items).as_secs_f64();
        let batches = (items / self.workshop.batch_items).floor();
        let rest = items - batches * self.workshop.batch_items;
        let of_rest = if rest > 0.0 { seconds(rest) } else { 0.0 };
        batches * seconds(self.workshop.batch_items) + of_rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POOL: Workshop = Workshop {
        threads: 4,
        batch_items: 1.0,
        fixed_items: 0.0,
    };
    const MS: Duration = Duration::from_millis(1);

    fn taught(workshop: Workshop, items: f64, took: Duration) -> QueueCost {
        let mut cost = QueueCost::new(workshop);
        cost.observe(items, took);
        cost
    }

    /// So many requests wait or are computed.
    fn load(requests: usize) -> Load {
        let computing = requests.min(POOL.threads);
        Load {
            waiting_items: (requests - computing) as f64,
            computing_items: computing as f64,
            computing_batches: computing,
        }
    }

    fn newcomer(time_left: Duration) -> Newcomer {
        Newcomer {
            items: 1.0,
            time_left: Some(time_left),
            criticality: Criticality::Critical,
        }
    }

    #[test]
    fn a_cold_start_refuses_nothing() {
        let cost = QueueCost::new(POOL);
        assert_eq!(cost.admit(load(1000), newcomer(Duration::ZERO)), Ok(()));
    }

    #[test]
    fn work_without_a_deadline_is_always_let_in() {
        let cost = taught(POOL, 1.0, 10 * MS);
        let patient = Newcomer {
            time_left: None,
            ..newcomer(MS)
        };
        assert_eq!(cost.admit(load(1000), patient), Ok(()));
    }

    #[test]
    fn the_wait_is_what_stands_in_the_queue_over_the_threads() {
        let cost = taught(POOL, 1.0, 10 * MS);
        assert_eq!(cost.wait(load(3)), Duration::ZERO);
        assert_eq!(cost.wait(load(4)), 10 * MS / 4);
        assert_eq!(cost.wait(load(11)), 20 * MS);
    }

    #[test]
    fn there_has_to_be_time_for_the_wait_and_the_work() {
        let cost = taught(POOL, 1.0, 10 * MS);
        assert_eq!(cost.admit(load(11), newcomer(30 * MS)), Ok(()));
        let too_late = TooLate {
            wait: 20 * MS,
            fits_after: Some(MS),
        };
        assert_eq!(cost.admit(load(11), newcomer(29 * MS)), Err(too_late));
        let never = cost.admit(load(11), newcomer(9 * MS)).unwrap_err();
        assert_eq!(never.fits_after, None);
    }

    #[test]
    fn of_work_whose_parts_are_worth_having_only_the_wait_counts() {
        let cost = taught(POOL, 1.0, 10 * MS);
        let anytime = |time_left| Newcomer {
            items: 0.0,
            ..newcomer(time_left)
        };
        assert_eq!(cost.admit(load(11), anytime(20 * MS)), Ok(()));
        assert!(cost.admit(load(11), anytime(19 * MS)).is_err());
    }

    #[test]
    fn who_finds_a_free_thread_is_never_refused() {
        let cost = taught(POOL, 1.0, Duration::from_secs(3600));
        assert_eq!(cost.admit(load(3), newcomer(MS)), Ok(()));
    }

    #[test]
    fn sheddable_work_may_wait_for_a_quarter_of_its_time() {
        let cost = taught(POOL, 1.0, 10 * MS);
        let sheddable = |time_left| Newcomer {
            criticality: Criticality::Sheddable,
            ..newcomer(time_left)
        };
        assert_eq!(cost.admit(load(11), sheddable(90 * MS)), Ok(()));
        assert!(cost.admit(load(11), sheddable(89 * MS)).is_err());
    }

    #[test]
    fn full_batches_cost_what_full_batches_do() {
        let workshop = Workshop {
            threads: 1,
            batch_items: 100.0,
            fixed_items: 10.0,
        };
        // A single item takes eleven tenths of what a hundred and ten would each.
        let cost = taught(workshop, 1.0, 11 * MS);
        let waiting = |waiting_items| {
            let wait = cost.wait(Load {
                waiting_items,
                ..Load::default()
            });
            wait.as_secs_f64() * 1e3
        };
        assert!((waiting(100.0) - 110.0).abs() < 0.01);
        assert!((waiting(250.0) - 280.0).abs() < 0.01);
    }

    #[test]
    fn broken_off_work_never_lowers_the_estimate() {
        let mut cost = taught(POOL, 1.0, 10 * MS);
        cost.observe_broken_off(1.0, MS);
        assert_eq!(cost.wait(load(4)), 10 * MS / 4);
        cost.observe_broken_off(1.0, 100 * MS);
        assert!(cost.wait(load(4)) > 20 * MS / 4);
    }

    proptest! {
        #[test]
        fn more_work_never_means_less_wait_and_what_fits_later_fits(
            took_us in prop::collection::vec(0_u64..1_000_000, 1..50),
            requests in 0_usize..500, left_us in 0_u64..10_000_000,
        ) {
            let mut cost = QueueCost::new(POOL);
            for took in took_us {
                cost.observe(1.0, Duration::from_micros(took));
            }
            prop_assert!(cost.wait(load(requests)) <= cost.wait(load(requests + 1)));
            let time_left = Duration::from_micros(left_us);
            if let Err(TooLate { fits_after: Some(after), .. }) = cost.admit(load(requests), newcomer(time_left)) {
                let with_more_time = newcomer(time_left + after);
                prop_assert_eq!(cost.admit(load(requests), with_more_time), Ok(()));
            }
        }
    }
}
