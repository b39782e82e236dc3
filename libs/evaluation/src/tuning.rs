//! Fits weights on judged queries, and keeps few queries from moving them far.
//!
//! Weights are fitted one after the other, each with those before it as they were fitted and those behind it at their defaults. Of the values
//! on a grid the best is that with the highest mean quality over the fitting queries; of equally good ones it is the nearest to the default.
//! From `n` queries it is then drawn back:
//!
//! ```text
//! tuned = default + n / (n + 50) · (best − default)
//! ```
//!
//! Over few queries the best of a grid is mostly chance, and a default that was measured on whole collections knows more. This is the
//! posterior mean of a normal model in which the default counts for as much as 50 queries: ten queries move a weight by a sixth of the
//! way, a hundred by two thirds, a thousand by nineteen twentieths. (The other rules that are usual, one standard error and a penalty, need
//! an estimate of the noise, which few queries do not give either.) Tests hold it to what it is for: on simulated collections ten queries
//! do less harm than they do without it, and hundreds find what is there to be found.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Queries that the default counts for.
const PRIOR_QUERIES: f64 = 50.0;
/// Steps of the grid from 0 to 1.
const GRID_STEPS: u32 = 20;
/// Tuned weights are whole multiples of one over this: no further digit matters.
const ROUNDED_TO: f64 = 1000.0;
/// Draws for one point of a curve.
const CURVE_DRAWS: usize = 20;

/// A weight that can be fitted, at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weight {
    /// Where it is now.
    pub default: f64,
    /// Whether it may be 0.
    pub may_be_zero: bool,
}

/// Weights, and what they make of each query.
pub struct Tuning<'a> {
    /// The weights, in the order in which they are fitted.
    pub weights: Vec<Weight>,
    /// Quality of the answer to one query, by its number, under the values of the weights.
    pub quality: &'a dyn Fn(usize, &[f64]) -> f64,
}

/// What was fitted, in the order of the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// The best on the grid.
    pub best: Vec<f64>,
    /// The same, drawn back to the defaults.
    pub tuned: Vec<f64>,
}

/// Queries, by their numbers, to fit on and to measure on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// To fit on.
    pub fitting: Vec<usize>,
    /// Never fitted on.
    pub held_out: Vec<usize>,
}

/// What fitting on so many queries is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Fitting queries.
    pub queries: usize,
    /// Held-out quality of the tuned weights above that of the defaults: mean over draws of the queries.
    pub gain: f64,
    /// One draw in twenty is below.
    pub low: f64,
    /// One draw in twenty is above.
    pub high: f64,
}

/// Parts queries at random, at least one on either side. `queries` is at least 2; `held_out` is between 0 and 1.
#[must_use]
pub fn split(queries: usize, held_out: f64, seed: u64) -> Split {
    let mut numbers: Vec<usize> = (0..queries).collect();
    numbers.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let wanted = (queries as f64 * held_out).round() as usize;
    let fitting = numbers.split_off(wanted.clamp(1, queries - 1));
    Split {
        fitting,
        held_out: numbers,
    }
}

impl Tuning<'_> {
    /// The weights as they are now.
    #[must_use]
    pub fn defaults(&self) -> Vec<f64> {
        self.weights.iter().map(|weight| weight.default).collect()
    }

    /// Each query's quality under these values.
    #[must_use]
    pub fn qualities(&self, queries: &[usize], values: &[f64]) -> Vec<f64> {
        let quality = |query: &usize| (self.quality)(*query, values);
        queries.iter().map(quality).collect()
    }

    /// Fits every weight on these queries.
    #[must_use]
    pub fn fit(&self, queries: &[usize]) -> Fitted {
        let mut values = self.defaults();
        let mut best = Vec::with_capacity(values.len());
        for (place, weight) in self.weights.iter().enumerate() {
            let found = self.best_value(queries, &mut values, place);
            values[place] = drawn_back(weight.default, found, queries.len());
            best.push(found);
        }
        Fitted {
            best,
            tuned: values,
        }
    }

    /// The best value of one weight, the others being as they are.
    fn best_value(&self, queries: &[usize], values: &mut [f64], place: usize) -> f64 {
        let mut best = (f64::NEG_INFINITY, 0.0);
        for value in self.weights[place].nearest_first() {
            values[place] = value;
            let qualities = queries.iter().map(|query| (self.quality)(*query, values));
            let quality = qualities.sum::<f64>();
            if quality > best.0 {
                best = (quality, value);
            }
        }
        best.1
    }

    /// What fitting on fewer queries is worth: for each size, many draws from the fitting part. Sizes are at most that part's.
    #[must_use]
    pub fn curve(&self, sizes: &[usize], split: &Split, seed: u64) -> Vec<CurvePoint> {
        let before = mean(&self.qualities(&split.held_out, &self.defaults()));
        let mut numbers = ChaCha8Rng::seed_from_u64(seed);
        let mut point = |size: &usize| {
            let gain = |_| self.gain_of_draw(*size, split, &mut numbers) - before;
            let gains: Vec<f64> = (0..CURVE_DRAWS).map(gain).collect();
            curve_point(*size, gains)
        };
        sizes.iter().map(&mut point).collect()
    }

    /// Held-out quality of what these many queries, drawn at random, tune.
    fn gain_of_draw(&self, size: usize, split: &Split, numbers: &mut impl Rng) -> f64 {
        let mut queries = split.fitting.clone();
        queries.shuffle(numbers);
        queries.truncate(size);
        let fitted = self.fit(&queries);
        mean(&self.qualities(&split.held_out, &fitted.tuned))
    }
}

impl Weight {
    /// The default and the values of the grid, the nearest to the default first.
    fn nearest_first(self) -> Vec<f64> {
        let first = u32::from(!self.may_be_zero);
        let steps = (first..=GRID_STEPS).map(|step| f64::from(step) / f64::from(GRID_STEPS));
        let mut values: Vec<f64> = [self.default].into_iter().chain(steps).collect();
        let distance = |value: f64| (value - self.default).abs();
        values.sort_by(|left, right| distance(*left).total_cmp(&distance(*right)));
        values
    }
}

fn drawn_back(default: f64, best: f64, queries: usize) -> f64 {
    let queries = queries as f64;
    let tuned = default + queries / (queries + PRIOR_QUERIES) * (best - default);
    (tuned * ROUNDED_TO).round() / ROUNDED_TO
}

fn curve_point(queries: usize, mut gains: Vec<f64>) -> CurvePoint {
    gains.sort_by(f64::total_cmp);
    let outside = gains.len() / 20;
    CurvePoint {
        queries,
        gain: mean(&gains),
        low: gains[outside],
        high: gains[gains.len() - 1 - outside],
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
#[path = "tuning_tests.rs"]
mod tests;
