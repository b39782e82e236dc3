//! How far the pruning of the inverted index may be off, so that it never costs a result.
//!
//! Two things make its upper bounds inexact here:
//!
//! - **Rounding.** The sum of n positive floats depends on the order by a relative error of at most (n − 1)·2⁻²³. A passage
//!   whose pruned score lies that little below the best ones may belong to them.
//! - **Average length.** Each block of 128 postings carries the (length, frequency) pair that scores best *with the average length
//!   of its own segment*, while scores use the average of the snapshot. For one passage the two scores differ by the factor
//!   r = (f + k(segment)) / (f + k(snapshot)), where k = k1·(1 − b + b·length / average). r is furthest from 1 for frequency 1 in
//!   the longest passage, so that a block's true maximum exceeds the stored one by at most max(r, 1/r) there. The bound for a whole
//!   term has a similar flaw: it is taken at an infinite length, and stored lengths are rounded down by up to a ninth.

use segment::sparse::{SparseIndex, Statistics};

/// tantivy's BM25 parameters.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// How far below the worst of the best so far a passage is still looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Margin {
    /// What rounding can change: a factor of a little less than 1.
    rounding: f32,
    /// What the bounds of postings blocks can understate: a factor of at most 1.
    bounds: f32,
}

impl Margin {
    pub(crate) fn new(clauses: usize, index: &SparseIndex, statistics: &Statistics) -> Self {
        let segment = average(index.tokens(), u64::from(index.passages()));
        let snapshot = average(statistics.tokens(), statistics.passages());
        Self {
            rounding: rounding(clauses),
            bounds: bounds(f64::from(index.longest_passage_tokens()), segment, snapshot),
        }
    }

    /// Passages whose pruned score is at or below this are not among the best, when the worst of the best has this score.
    pub(crate) fn floor(self, worst: f32) -> f32 {
        (worst * self.rounding).next_down()
    }

    /// The threshold that makes pruning keep all passages above the floor.
    pub(crate) fn threshold(self, floor: f32) -> f32 {
        if floor > 0.0 {
            floor * self.bounds
        } else {
            floor
        }
    }
}

fn average(tokens: u64, passages: u64) -> f64 {
    tokens as f64 / passages.max(1) as f64
}

/// Four times the error bound: the two sums that are compared, and the products inside them.
fn rounding(clauses: usize) -> f32 {
    1.0 - (clauses as f32 + 4.0) * 4.0 * f32::EPSILON
}

fn bounds(longest: f64, segment: f64, snapshot: f64) -> f32 {
    if segment <= 0.0 || snapshot <= 0.0 {
        return 1.0;
    }
    let length_part = |average: f64| K1 * (1.0 - B + B * longest / average);
    let ratio = (1.0 + length_part(segment)) / (1.0 + length_part(snapshot));
    let block = ratio.min(ratio.recip());
    let whole_term = (1.0 + K1 * B * 8.0 / 9.0 / snapshot) / (1.0 + K1 * B / snapshot);
    (block.min(whole_term) as f32).next_down()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_segments_are_pruned_almost_as_usual() {
        assert!(bounds(200.0, 100.0, 100.0) > 0.998);
        assert!(bounds(200.0, 95.0, 100.0) > 0.95);
        assert!(rounding(8) > 0.99999);
    }

    #[test]
    fn foreign_averages_cost_at_most_their_ratio() {
        assert!(bounds(1e9, 10.0, 20.0) > 0.499);
        assert!(bounds(1e9, 20.0, 10.0) > 0.499);
        assert!(bounds(1e9, 20.0, 10.0) < 0.501);
    }

    #[test]
    fn ties_of_zero_pass() {
        let margin = Margin {
            rounding: rounding(1),
            bounds: 0.9,
        };
        assert!(margin.threshold(margin.floor(0.0)) < 0.0);
    }
}
