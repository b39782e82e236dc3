//! Windows over a passage that is longer than the model reads at once.
//!
//! Each window is scored as a passage of its own, and the passage has the score of its best one (MaxP: Dai and Callan 2019,
//! arXiv 1905.09217). Neighbours share an eighth, so that what the end of one cuts is whole in the next; the windows of a passage are of
//! one length, so that they are computed together without padding.

use std::ops::Range;

/// Neighbouring windows share this part of the largest.
const OVERLAP_PART: usize = 8;

/// How a passage is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// Tokens of the largest. At least 1.
    pub(crate) tokens: usize,
    /// The most windows. At least 1.
    pub(crate) most: usize,
}

impl Windows {
    /// Tokens of a passage that they reach together.
    pub(crate) fn reach(self) -> usize {
        self.overlap() + self.most * self.new_tokens()
    }

    /// The tokens of each window over a passage of so many, of which there are no more than [`Self::reach`].
    pub(crate) fn over(self, passage_tokens: usize) -> impl Iterator<Item = Range<usize>> {
        let overlap = self.overlap().min(passage_tokens);
        let rest = passage_tokens - overlap;
        let count = rest.div_ceil(self.new_tokens()).max(1);
        let at = move |window: usize| window * rest / count;
        (0..count).map(move |window| at(window)..at(window + 1) + overlap)
    }

    fn overlap(self) -> usize {
        self.tokens / OVERLAP_PART
    }

    /// Tokens of a window that the one before it has not.
    fn new_tokens(self) -> usize {
        self.tokens - self.overlap()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn over(tokens: usize, most: usize, passage_tokens: usize) -> Vec<Range<usize>> {
        Windows { tokens, most }.over(passage_tokens).collect()
    }

    #[test]
    fn a_passage_that_fits_is_one_window() {
        for passage_tokens in [0, 1, 7, 79, 80] {
            let windows = over(80, 9, passage_tokens);
            assert_eq!((windows.len(), windows[0].clone()), (1, 0..passage_tokens));
        }
        assert_eq!(over(80, 9, 81), [0..45, 35..81]);
        assert_eq!(over(80, 9, 220), [0..80, 70..150, 140..220]);
    }

    proptest! {
        #[test]
        fn windows_cover_the_passage_share_an_eighth_and_are_of_one_length(
            tokens in 1_usize..600, most in 1_usize..40, part in 0.0..=1.0_f64,
        ) {
            let windows = Windows { tokens, most };
            let passage_tokens = (part * windows.reach() as f64) as usize;
            let ranges = over(tokens, most, passage_tokens);
            prop_assert!((1..=most).contains(&ranges.len()));
            prop_assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, passage_tokens));
            let lengths = || ranges.iter().map(ExactSizeIterator::len);
            prop_assert!(lengths().all(|length| length <= tokens));
            prop_assert!(lengths().max().unwrap() - lengths().min().unwrap() <= 1);
            for pair in ranges.windows(2) {
                prop_assert_eq!(pair[0].end - pair[1].start, tokens / OVERLAP_PART);
                prop_assert!(pair[0].start < pair[1].start);
            }
        }

        #[test]
        fn there_are_no_more_windows_than_it_takes(tokens in 1_usize..600, passage_tokens in 1_usize..5000) {
            let count = over(tokens, usize::MAX / 1000, passage_tokens).len();
            if count > 1 {
                let fewer = Windows { tokens, most: count - 1 };
                prop_assert!(fewer.reach() < passage_tokens);
            }
        }
    }
}
