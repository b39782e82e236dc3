//! One deadline over all stages of a funnel: how long each of them may take when it begins.
//!
//! A stage has a share of the time that is left and a minimum. Shares count among the stages that are still to come, so what a stage
//! does not use goes to the later ones. A part is kept back for the last steps, without which there is no answer. A minimum is what a
//! stage needs to be worth beginning: no earlier stage is given what the later minima need, and a stage that would get less than its own
//! is left out.

use std::time::{Duration, Instant};

use crate::Deadline;

/// Of a time so short that what is to be kept back is most of it, this part is kept back.
const MOST_KEPT_BACK: u32 = 4;

/// What one stage may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageShare {
    /// Its part, more than 0, by those of the stages that come after it.
    pub share: f64,
    /// With less time than this it is not worth beginning.
    pub minimum: Duration,
}

/// What a stage is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// All the time in the world: the request has no deadline.
    Unlimited,
    /// Time until then.
    Until(Deadline),
    /// Too little to begin.
    TooLittle,
}

impl Grant {
    /// When the stage has to end; none where there is no deadline, or where it does not begin.
    pub const fn deadline(self) -> Option<Deadline> {
        match self {
            Self::Until(deadline) => Some(deadline),
            Self::Unlimited | Self::TooLittle => None,
        }
    }
}

/// How the time of a request is divided over its stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// In the order of the funnel.
    stages: Vec<StageShare>,
    /// For the steps behind the last stage.
    kept_back: Duration,
}

impl Budget {
    /// Of stages in the order of the funnel.
    pub fn new(stages: Vec<StageShare>, kept_back: Duration) -> Self {
        Self { stages, kept_back }
    }

    /// The shortest time in which every stage has its minimum, and the last steps what is kept back of it.
    pub fn shortest(&self) -> Duration {
        let minima = sum_of_minima(&self.stages);
        // Of a short time a part is kept back, so the minima are the rest of it.
        minima.saturating_add(self.kept_back.min(minima / (MOST_KEPT_BACK - 1)))
    }

    /// What stage number `stage` (from 0) is given when it begins `now`, of a request with this deadline.
    pub fn grant(&self, stage: usize, now: Instant, deadline: Option<Deadline>) -> Grant {
        let (Some(deadline), Some(own)) = (deadline, self.stages.get(stage)) else {
            return Grant::Unlimited;
        };
        let free = self.free(now, deadline);
        if free.is_zero() || free < own.minimum {
            return Grant::TooLittle;
        }
        let later = &self.stages[stage + 1..];
        let all_shares: f64 = own.share + later.iter().map(|stage| stage.share).sum::<f64>();
        let fair = free.mul_f64((own.share / all_shares).clamp(0.0, 1.0));
        let granted = fair
            .min(free.saturating_sub(sum_of_minima(later)))
            .max(own.minimum);
        Deadline::after(now, granted.min(free)).map_or(Grant::Unlimited, Grant::Until)
    }

    /// When all stages have to have ended, so that there is time for what comes behind them.
    pub fn end_of_stages(&self, now: Instant, deadline: Deadline) -> Deadline {
        Deadline::after(now, self.free(now, deadline)).unwrap_or(deadline)
    }

    /// What is left for the stages together.
    fn free(&self, now: Instant, deadline: Deadline) -> Duration {
        let left = deadline.remaining(now).unwrap_or_default();
        left - self.kept_back.min(left / MOST_KEPT_BACK)
    }
}

fn sum_of_minima(stages: &[StageShare]) -> Duration {
    let minima = stages.iter().map(|stage| stage.minimum);
    minima.fold(Duration::ZERO, Duration::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn stage(share: f64, minimum_ms: u64) -> StageShare {
        StageShare {
            share,
            minimum: Duration::from_millis(minimum_ms),
        }
    }

    fn budget(stages: &[StageShare]) -> Budget {
        Budget::new(stages.to_vec(), Duration::from_millis(10))
    }

    /// Milliseconds that a stage gets of so many.
    fn granted_ms(budget: &Budget, stage: usize, left_ms: u64) -> Option<u64> {
        let now = Instant::now();
        let deadline = Deadline::after(now, Duration::from_millis(left_ms));
        let granted = budget.grant(stage, now, deadline).deadline()?;
        Some(granted.remaining(now).unwrap_or_default().as_millis() as u64)
    }

    #[test]
    fn what_is_left_over_goes_to_the_later_stages() {
        let budget = budget(&[stage(0.5, 0), stage(0.25, 0), stage(0.25, 0)]);
        assert_eq!(granted_ms(&budget, 0, 110), Some(50));
        // The first took 10 of its 50.
        assert_eq!(granted_ms(&budget, 1, 100), Some(45));
        assert_eq!(granted_ms(&budget, 2, 100), Some(90));
    }

    #[test]
    fn later_minima_are_kept_free_and_what_is_too_little_is_not_begun() {
        let budget = budget(&[stage(9.0, 5), stage(1.0, 40)]);
        assert_eq!(granted_ms(&budget, 0, 110), Some(60));
        assert_eq!(granted_ms(&budget, 1, 60), Some(50));
        assert_eq!(granted_ms(&budget, 1, 45), None);
        // One minimum is met rather than none.
        assert_eq!(granted_ms(&budget, 0, 40), Some(5));
    }

    #[test]
    fn without_a_deadline_nothing_is_limited() {
        let budget = budget(&[stage(1.0, 5)]);
        assert_eq!(budget.grant(0, Instant::now(), None), Grant::Unlimited);
    }

    #[test]
    fn the_shortest_time_has_room_for_all_minima() {
        for (minima, shortest) in [([3, 12], 20), ([30, 30], 70), ([0, 0], 0)] {
            let budget = budget(&minima.map(|minimum| stage(1.0, minimum)));
            assert_eq!(budget.shortest(), Duration::from_millis(shortest));
            if shortest > 0 {
                assert_eq!(granted_ms(&budget, 0, shortest), Some(minima[0]));
                assert!(granted_ms(&budget, 1, shortest - minima[0]).is_some());
            }
        }
    }

    proptest! {
        /// However long the stages take of what they are given, none gets time that the last steps need; and as long as none is left
        /// out, each gets as much as it would have got if the ones before it had used all of theirs.
        #[test]
        fn time_is_never_given_twice(
            shares in prop::collection::vec((0.01_f64..10.0, 0_u64..50), 1..6),
            used in prop::collection::vec(0.0_f64..=1.0, 6),
            kept_back_ms in 0_u64..100,
            total_ms in 1_u64..2000,
        ) {
            let stages = shares.iter().map(|(share, minimum)| stage(*share, *minimum)).collect();
            let budget = Budget::new(stages, Duration::from_millis(kept_back_ms));
            let (start, total) = (Instant::now(), Duration::from_millis(total_ms));
            let deadline = Deadline::after(start, total).unwrap();
            let (mut lazy, mut greedy, mut none_left_out) = (start, start, true);
            for (number, used) in used.iter().take(shares.len()).enumerate() {
                let grant = |now: Instant| {
                    let granted = budget.grant(number, now, Some(deadline)).deadline();
                    granted.map_or(Duration::ZERO, |until| until.remaining(now).unwrap_or_default())
                };
                let end = budget.end_of_stages(greedy, deadline);
                prop_assert!(greedy + grant(greedy) <= end.instant());
                none_left_out &= !grant(greedy).is_zero();
                let gets_as_much = grant(lazy) + Duration::from_nanos(10) >= grant(greedy);
                prop_assert!(gets_as_much || !none_left_out);
                (lazy, greedy) = (lazy + grant(lazy).mul_f64(*used), greedy + grant(greedy));
                prop_assert!(greedy <= deadline.instant());
            }
        }
    }
}
