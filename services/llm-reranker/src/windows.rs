//! Which passages a listwise prompt holds, which of them have their final rank after it, and what a rank is worth.
//!
//! As in RankGPT the windows slide from the last passages to the first, each overlapping the one before: the best of a window are
//! compared again in the next, so that a good passage rises from anywhere to the top. The worst `step` of a window are not looked at
//! again.

use std::ops::Range;

/// Windows over so many passages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Windows {
    window: usize,
    step: usize,
    /// Ranks from here on are final.
    open: usize,
}

/// One window: ranks in the order of passages as it is by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) ranks: Range<usize>,
    /// The ranks that are final when this window is ranked.
    pub(crate) finals: Range<usize>,
}

impl Windows {
    /// `step` is less than `window`, and at least 1.
    pub(crate) fn new(passages: usize, window: usize, step: usize) -> Self {
        Self {
            window,
            step,
            open: passages,
        }
    }
}

impl Iterator for Windows {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        if self.open == 0 {
            return None;
        }
        let end = self.open;
        let start = end.saturating_sub(self.window);
        self.open = if start == 0 { 0 } else { end - self.step };
        Some(Window {
            ranks: start..end,
            finals: self.open..end,
        })
    }
}

/// What the rank (0 the best) among so many passages is as a logit: the log-odds of standing before a passage drawn at random.
///
/// ```text
/// logit(rank) = ln((count − rank − ½) / (rank + ½))
/// ```
///
/// Its logistic function is the mid-rank percentile 1 − (rank + ½) / count. Logits fall with the rank, are finite and sum to 0; they
/// compare passages of one answer only, for a model that ranks does not say how good the best one is.
pub(crate) fn rank_logit(rank: usize, count: usize) -> f32 {
    let rank = rank as f64 + 0.5;
    ((count as f64 - rank) / rank).ln() as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(passages: usize, window: usize, step: usize) -> Vec<(Range<usize>, Range<usize>)> {
        let windows = Windows::new(passages, window, step);
        windows
            .map(|window| (window.ranks, window.finals))
            .collect()
    }

    #[test]
    fn windows_slide_from_the_last_to_the_first() {
        assert_eq!(windows(7, 4, 2), [(3..7, 5..7), (1..5, 3..5), (0..3, 0..3)]);
        assert_eq!(windows(4, 4, 2), [(0..4, 0..4)]);
        assert_eq!(windows(5, 4, 1), [(1..5, 4..5), (0..4, 0..4)]);
        assert_eq!(windows(1, 4, 2), [(0..1, 0..1)]);
    }

    #[test]
    fn logits_are_the_log_odds_of_the_percentile() {
        let logistic = |logit: f32| 1.0 / (1.0 + (-logit).exp());
        for (rank, percentile) in [(0, 0.875), (1, 0.625), (2, 0.375), (3, 0.125)] {
            assert!((logistic(rank_logit(rank, 4)) - percentile).abs() < 1e-6);
        }
        assert_eq!(rank_logit(0, 1), 0.0);
    }

    proptest! {
        #[test]
        fn every_rank_is_final_once_and_a_good_passage_rises_to_the_top(
            passages in 1_usize..200, window in 2_usize..30, step in 1_usize..29,
        ) {
            prop_assume!(step < window);
            // The best passage stands last at first; every window puts its best first.
            let mut best_at = passages - 1;
            let mut finals = Vec::new();
            for next in Windows::new(passages, window, step) {
                prop_assert!(next.ranks.len() <= window && !next.finals.is_empty());
                if next.ranks.contains(&best_at) {
                    best_at = next.ranks.start;
                }
                finals.extend(next.finals.rev());
            }
            prop_assert_eq!(best_at, 0);
            prop_assert_eq!(finals, (0..passages).rev().collect::<Vec<_>>());
        }

        #[test]
        fn logits_fall_with_the_rank(count in 2_usize..=1000) {
            let logits: Vec<f32> = (0..count).map(|rank| rank_logit(rank, count)).collect();
            prop_assert!(logits.iter().all(|logit| logit.is_finite()));
            prop_assert!(logits.windows(2).all(|pair| pair[0] > pair[1]));
        }
    }
}
