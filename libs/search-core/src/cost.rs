//! What a stage's work costs: a fixed part and so much for each item, learnt as it runs.
//!
//! The estimate is a line through exponentially weighted observations (items, seconds), by least squares. Where nearly all of them have
//! the same number of items the data do not tell the fixed part from the other: then the line is turned towards the shape of the prior,
//! scaled to what was seen (ridge regression, with the ridge in the units of the mean number of items).

use std::time::Duration;

/// Of a new observation, once there are enough: the last twenty or so count.
const NEWEST_WEIGHT: f64 = 0.05;
/// The prior counts as so many observations.
const PRIOR_OBSERVATIONS: f64 = 2.0;
/// Variation of the number of items, by its mean, at which the data count as much as the prior's shape: a tenth, squared.
const RIDGE: f64 = 0.01;
/// What is to come is reckoned to take this many mean deviations more than expected.
const CAUTION: f64 = 2.0;

/// What the work costs before any of it was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostPrior {
    /// Whatever the number of items.
    pub fixed: Duration,
    /// For each item.
    pub per_item: Duration,
}

impl CostPrior {
    fn line(self) -> Line {
        Line {
            fixed: self.fixed.as_secs_f64(),
            per_item: self.per_item.as_secs_f64(),
        }
    }
}

/// A running estimate.
#[derive(Clone, Debug, PartialEq)]
pub struct CostModel {
    prior: CostPrior,
    surprise: Surprise,
    /// Means, of items and seconds.
    items: f64,
    seconds: f64,
    /// Variance of the items, covariance of both.
    variance: f64,
    covariance: f64,
}

/// How far what is seen lies from what was expected, and how much a new observation counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Surprise {
    observations: f64,
    /// Mean deviation from what was expected, by the greater of both: 0 to 1, so that one surprise is not remembered for ever.
    spread: f64,
}

/// A line: seconds over items.
#[derive(Clone, Copy, Debug)]
struct Line {
    fixed: f64,
    per_item: f64,
}

impl CostModel {
    /// Knows nothing but this.
    pub fn new(prior: CostPrior) -> Self {
        Self {
            surprise: Surprise::after(PRIOR_OBSERVATIONS),
            items: 0.0,
            seconds: 0.0,
            variance: 0.0,
            covariance: 0.0,
            prior,
        }
    }

    /// Learns what so many items took. Nothing is learnt of none.
    pub fn observe(&mut self, items: f64, took: Duration) {
        if !(items > 0.0 && items.is_finite()) {
            return;
        }
        if self.items == 0.0 {
            // The prior is taken for observations of as many items: where it lies says nothing of the slope.
            (self.items, self.seconds) = (items, self.prior.line().at(items));
        }
        let seconds = took.as_secs_f64();
        let expected = self.line().at(items);
        let weight = self.surprise.observe(expected, seconds);
        let (item_step, second_step) = (items - self.items, seconds - self.seconds);
        self.items += weight * item_step;
        self.seconds += weight * second_step;
        self.variance = (1.0 - weight) * (self.variance + weight * item_step * item_step);
        self.covariance = (1.0 - weight) * (self.covariance + weight * item_step * second_step);
    }

    /// What so many items are expected to take.
    pub fn expected(&self, items: f64) -> Duration {
        duration(self.line().at(items))
    }

    /// What so many items take, with caution for the spread of what was seen.
    pub fn cautious(&self, items: f64) -> Duration {
        duration(self.line().at(items) * (1.0 + self.surprise.caution()))
    }

    /// How many items are expected to be done in this time, with caution for the spread of what was seen.
    pub fn fitting(&self, time: Duration) -> f64 {
        let line = self.line();
        let seconds = time.as_secs_f64() / (1.0 + self.surprise.caution()) - line.fixed;
        if seconds <= 0.0 {
            0.0
        } else if line.per_item <= 0.0 {
            f64::INFINITY
        } else {
            seconds / line.per_item
        }
    }

    fn line(&self) -> Line {
        let prior = self.prior.line();
        if self.items == 0.0 {
            return prior;
        }
        let prior_at_mean = prior.at(self.items);
        let scale = if prior_at_mean > 0.0 {
            self.seconds / prior_at_mean
        } else {
            0.0
        };
        let scaled_slope = prior.per_item * scale;
        let ridge = RIDGE * self.items * self.items;
        let slope = (self.covariance + ridge * scaled_slope) / (self.variance + ridge);
        // Neither part of a cost is negative.
        let per_item = slope.clamp(0.0, self.seconds / self.items);
        Line {
            fixed: self.seconds - per_item * self.items,
            per_item,
        }
    }
}

impl Surprise {
    /// After so many observations that came as expected.
    pub(crate) const fn after(observations: f64) -> Self {
        Self {
            observations,
            spread: 0.0,
        }
    }

    /// Takes another observation in. Returns what it counts for, 0 to 1.
    pub(crate) fn observe(&mut self, expected: f64, seconds: f64) -> f64 {
        self.observations += 1.0;
        let weight = NEWEST_WEIGHT.max(1.0 / self.observations);
        let greater = seconds.max(expected);
        if greater > 0.0 {
            let deviation = (seconds - expected).abs() / greater;
            self.spread += weight * (deviation - self.spread);
        }
        weight
    }

    /// By which part more than expected is to be reckoned with.
    pub(crate) fn caution(&self) -> f64 {
        CAUTION * self.spread
    }
}

impl Line {
    fn at(self, items: f64) -> f64 {
        self.fixed + self.per_item * items
    }
}

/// Of so many seconds; the longest there is where they are more.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRIOR: CostPrior = CostPrior {
        fixed: Duration::from_millis(2),
        per_item: Duration::from_millis(1),
    };

    fn millis(duration: Duration) -> f64 {
        duration.as_secs_f64() * 1e3
    }

    fn taught(observations: impl IntoIterator<Item = (f64, f64)>) -> CostModel {
        let mut model = CostModel::new(PRIOR);
        for (items, millis) in observations {
            model.observe(items, Duration::from_secs_f64(millis / 1e3));
        }
        model
    }

    #[test]
    fn a_cold_start_is_the_prior() {
        let model = CostModel::new(PRIOR);
        for items in [1.0, 20.0, 100.0] {
            assert!((millis(model.expected(items)) - (2.0 + items)).abs() < 1e-9);
        }
        assert!((model.fitting(Duration::from_millis(12)) - 10.0).abs() < 1e-9);
        assert_eq!(model.fitting(Duration::from_millis(1)), 0.0);
    }

    #[test]
    fn both_parts_are_learnt_where_the_numbers_of_items_differ() {
        let model = taught((0..200).map(|round| {
            let items = f64::from(round * 7 % 40 + 1);
            (items, 30.0 + 0.5 * items)
        }));
        assert!(
            (millis(model.expected(1.0)) - 30.5).abs() < 1.0,
            "{model:?}"
        );
        assert!(
            (millis(model.expected(40.0)) - 50.0).abs() < 1.0,
            "{model:?}"
        );
    }

    #[test]
    fn of_one_number_of_items_the_shape_is_the_priors() {
        let model = taught(std::iter::repeat_n((20.0, 220.0), 200));
        assert!((millis(model.expected(20.0)) - 220.0).abs() < 0.1);
        assert!((millis(model.expected(0.0)) - 20.0).abs() < 0.1);
    }

    #[test]
    fn what_is_unsteady_is_given_less() {
        let steady = taught(std::iter::repeat_n((20.0, 100.0), 200));
        let unsteady =
            taught((0..200).map(|round| (20.0, if round % 2 == 0 { 60.0 } else { 140.0 })));
        let time = Duration::from_millis(100);
        assert!(unsteady.fitting(time) < 0.7 * steady.fitting(time));
    }

    #[test]
    fn it_follows_a_change() {
        let before = std::iter::repeat_n((20.0, 20.0), 200);
        let model = taught(before.chain(std::iter::repeat_n((20.0, 200.0), 100)));
        assert!(millis(model.expected(20.0)) > 190.0);
    }

    proptest! {
        #[test]
        fn costs_are_never_negative_and_what_fits_is_expected_to_be_done(
            observations in prop::collection::vec((0.0_f64..500.0, 0.0_f64..1e4), 0..60),
            time_ms in 0_u64..10_000,
        ) {
            let model = taught(observations);
            let time = Duration::from_millis(time_ms);
            let items = model.fitting(time);
            prop_assert!(items >= 0.0);
            if items.is_finite() && items > 0.0 {
                prop_assert!(model.expected(items) <= time + Duration::from_micros(1));
            }
            prop_assert!(model.expected(10.0) <= model.expected(11.0));
        }
    }
}
