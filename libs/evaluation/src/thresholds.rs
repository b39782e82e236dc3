//! Fits a threshold from which on queries are answered without a stage, and lets few queries turn nothing on.
//!
//! Of each query a *feature* is known before the stage runs, as how clear its first hit is; where the feature is at least the threshold, the
//! stage is left out. The *regret* of a threshold is the quality that it costs, as the mean over all queries: those that are not left out
//! lose nothing by it. Thresholds are tried from the highest down, one for each value that was seen, beginning with the first that leaves out
//! enough to be worth it, and ending before the first whose regret, with what the thresholds before it have lost, may be more than is
//! tolerated:
//!
//! ```text
//! may be = max(0, mean + 1.96 · deviation / √n) + 3 · 0.369 / n
//! ```
//!
//! The first part is the upper end of the usual 95 % interval. The second is the rule of three (Hanley and Lippman-Hand, JAMA 1983): what
//! none of `n` queries shows may still happen to 3 of them, and costs what it costs when the first hit falls to the second place. Most queries
//! lose nothing, so without it the interval of a few would have no width. No gain makes up for it: fewer than 1.107 / tolerance queries, 222
//! for .005, turn nothing on, whatever they say.
//!
//! Trying many thresholds does not make it likelier that a wrong one is taken, for the order is fixed and the first refusal ends it
//! (fixed-sequence testing, as in Angelopoulos et al., Learn then Test, 2021).

use crate::significance::{Difference, paired_bootstrap};

/// What leaves out less than this part of the queries is not worth a setting.
const LEAST_SHARE: f64 = 0.05;
/// Deviations of a mean to either end of its 95 % interval.
const NORMAL_95: f64 = 1.96;
/// What may happen to so many queries of a sample that does not show it, at 95 %.
const UNSEEN_QUERIES: f64 = 3.0;
/// What that costs: 1 − 1 / log₂ 3, the nDCG that is lost when the one relevant document falls from the first place to the second.
const UNSEEN_LOSS: f64 = 0.369_070_246_428_542_6;
/// Thresholds are whole multiples of one over this: no further digit matters.
const ROUNDED_TO: f64 = 1000.0;

/// A query, and what leaving a stage out does to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// What the threshold is compared with, finite, 0 or more. None: the stage always runs.
    pub feature: Option<f64>,
    /// Quality that is lost already, by thresholds that were fitted before.
    pub lost: f64,
    /// Quality with the stage less that without it; less than 0 where it is better without.
    pub regret: f64,
    /// Milliseconds that are saved.
    pub saved_ms: f64,
}

/// What a threshold does to queries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// Part of the queries that are answered without the stage, 0 to 1.
    pub share: f64,
    /// Quality that is lost, over all queries, with its 95 % interval.
    pub regret: Difference,
    /// Milliseconds that are saved, mean over all queries.
    pub saved_ms: f64,
}

/// The lowest threshold that may be taken, more than 0. None: the stage is better never left out.
#[must_use]
pub fn fit(cases: &[Case], tolerance: f64) -> Option<f64> {
    let mut thresholds: Vec<f64> = cases.iter().filter_map(|case| case.feature).collect();
    thresholds.retain(|feature| *feature > 0.0);
    thresholds.iter_mut().for_each(round_up);
    thresholds.sort_by(|left, right| right.total_cmp(left));
    thresholds.dedup();
    let worth_it = thresholds
        .into_iter()
        .skip_while(|threshold| share(cases, *threshold) < LEAST_SHARE);
    worth_it
        .take_while(|threshold| greatest_regret(cases, *threshold) <= tolerance)
        .last()
}

impl Effect {
    /// What a threshold does; none: the stage is never left out. The seed is the interval's. None where there are no cases.
    #[must_use]
    pub fn of(cases: &[Case], threshold: Option<f64>, seed: u64) -> Option<Self> {
        let threshold = threshold.unwrap_or(f64::INFINITY);
        let regrets = regrets(cases, threshold);
        let nothing = vec![0.0; regrets.len()];
        let saved_ms = left_out(cases, threshold).map(|case| case.saved_ms);
        Some(Self {
            share: share(cases, threshold),
            regret: paired_bootstrap(&regrets, &nothing, seed)?,
            saved_ms: saved_ms.sum::<f64>() / cases.len() as f64,
        })
    }
}

impl Case {
    fn is_left_out(&self, threshold: f64) -> bool {
        self.feature.is_some_and(|feature| feature >= threshold)
    }
}

fn left_out(cases: &[Case], threshold: f64) -> impl Iterator<Item = &Case> {
    let cases = cases.iter();
    cases.filter(move |case| case.is_left_out(threshold))
}

fn share(cases: &[Case], threshold: f64) -> f64 {
    left_out(cases, threshold).count() as f64 / cases.len().max(1) as f64
}

/// What each query loses.
fn regrets(cases: &[Case], threshold: f64) -> Vec<f64> {
    let regret = |case: &Case| match case.is_left_out(threshold) {
        true => case.regret,
        false => 0.0,
    };
    cases.iter().map(regret).collect()
}

/// What the regret may be, with what was lost before, see the head of this module.
fn greatest_regret(cases: &[Case], threshold: f64) -> f64 {
    let regrets = regrets(cases, threshold).into_iter();
    let losses: Vec<f64> = regrets
        .zip(cases)
        .map(|(regret, case)| case.lost + regret)
        .collect();
    let count = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / count;
    let squares = losses.iter().map(|loss| (loss - mean).powi(2));
    let variance = squares.sum::<f64>() / (count - 1.0).max(1.0);
    let seen = mean + NORMAL_95 * (variance / count).sqrt();
    seen.max(0.0) + UNSEEN_QUERIES * UNSEEN_LOSS / count
}

/// Fewer queries are left out by it, never more.
fn round_up(feature: &mut f64) {
    let nearest = (*feature * ROUNDED_TO).round();
    *feature = if nearest / ROUNDED_TO >= *feature {
        nearest / ROUNDED_TO
    } else {
        (nearest + 1.0) / ROUNDED_TO
    };
}

#[cfg(test)]
#[path = "thresholds_tests.rs"]
mod tests;
