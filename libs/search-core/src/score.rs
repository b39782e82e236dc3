//! Finite scores with a total order, and the canonical order of candidates.

use crate::Address;
use std::cmp::Ordering;
use std::fmt;

/// A finite score. Negative zero becomes zero, so that equal scores are equal bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Score(f32);

/// A score that is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a score must be finite, not {0}")]
pub struct ScoreError(f32);

impl Score {
    /// The score of a passage that matches nothing.
    pub const ZERO: Self = Self(0.0);

    /// The number.
    pub const fn get(self) -> f32 {
        self.0
    }
}

impl TryFrom<f32> for Score {
    type Error = ScoreError;

    fn try_from(value: f32) -> Result<Self, ScoreError> {
        if value.is_finite() {
            Ok(Self(value + 0.0))
        } else {
            Err(ScoreError(value))
        }
    }
}

impl From<Score> for f32 {
    fn from(score: Score) -> Self {
        score.0
    }
}

impl Eq for Score {}

#[expect(
    clippy::derive_ord_xor_partial_ord,
    reason = "finite floats without negative zero: both orders are one"
)]
impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl fmt::Display for Score {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A passage with the score that one stage gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The passage.
    pub address: Address,
    /// Its document, named by the address of the document's first passage.
    pub document: Address,
    /// Its score.
    pub score: Score,
}

/// The order of candidates inside one segment: score descending, then address ascending, which is document id
/// ascending there. Across segments equal scores are ordered by document id instead.
pub fn best_first(left: &Candidate, right: &Candidate) -> Ordering {
    right
        .score
        .cmp(&left.score)
        .then_with(|| left.address.cmp(&right.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_finite() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(Score::try_from(value).is_err());
        }
        assert_eq!(
            Score::try_from(f32::INFINITY).unwrap_err().to_string(),
            "a score must be finite, not inf"
        );
    }

    #[test]
    fn both_zeros_are_one() {
        let negative = Score::try_from(-0.0).unwrap();
        assert_eq!(negative.cmp(&Score::ZERO), Ordering::Equal);
        assert_eq!(negative.get().to_bits(), 0.0_f32.to_bits());
    }

    #[test]
    fn best_comes_first_and_ties_go_by_address() {
        let candidate = |score: f32, ordinal| Candidate {
            address: Address::new(0, ordinal),
            document: Address::new(0, ordinal),
            score: score.try_into().unwrap(),
        };
        let mut list = [
            candidate(1.0, 2),
            candidate(-1.0, 0),
            candidate(2.0, 9),
            candidate(1.0, 1),
        ];
        list.sort_by(best_first);
        assert_eq!(
            list.map(|candidate| candidate.address.ordinal()),
            [9, 1, 2, 0]
        );
    }
}
