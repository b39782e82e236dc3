//! The best rows of a scan, kept so cheaply that choosing costs little beside reading.

/// The best `limit` rows by score, equal scores by row number.
///
/// Rows are collected unsorted in a buffer of twice the limit; whenever it is full, a partial selection
/// throws the worse half away and raises the threshold that further rows must exceed. Rows must
/// be offered in ascending order, so that of two equal scores the one that is there already wins.
#[derive(Debug, Clone)]
pub struct TopRows {
    limit: usize,
    threshold: f32,
    /// Ascending keys are: better score first, then smaller row first.
    keys: Vec<u64>,
}

impl TopRows {
    /// An empty selection of at most `limit` rows.
    pub fn new(limit: usize) -> Self {
        let threshold = if limit == 0 {
            f32::INFINITY
        } else {
            f32::NEG_INFINITY
        };
        Self {
            limit,
            threshold,
            keys: Vec::new(),
        }
    }

    /// A row whose score doesn't exceed this has no place any more.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Offers a row. NaN is never taken.
    pub fn push(&mut self, row: u32, score: f32) {
        if score > self.threshold {
            self.keep(row, score);
        }
    }

    /// Takes a row that is known to exceed the threshold.
    pub(crate) fn keep(&mut self, row: u32, score: f32) {
        self.keys.push(key(row, score));
        if self.keys.len() >= self.limit.saturating_mul(2).max(MIN_BUFFER) {
            self.shrink();
        }
    }

    /// Throws away what is worse than the best `limit` rows, and raises the threshold.
    fn shrink(&mut self) {
        if self.keys.len() < self.limit || self.limit == 0 {
            return;
        }
        let (_, &mut last, _) = self.keys.select_nth_unstable(self.limit - 1);
        self.keys.truncate(self.limit);
        self.threshold = score_of(last);
    }

    /// The selected rows with their scores, best first.
    pub fn into_sorted(mut self) -> Vec<(u32, f32)> {
        self.shrink();
        self.keys.sort_unstable();
        self.keys
            .iter()
            .map(|&key| (key as u32, score_of(key)))
            .collect()
    }
}

/// Below this a selection isn't worth its call.
const MIN_BUFFER: usize = 64;

fn key(row: u32, score: f32) -> u64 {
    (u64::from(!ascending_bits(score)) << 32) | u64::from(row)
}

fn score_of(key: u64) -> f32 {
    let ascending = !((key >> 32) as u32);
    let sign = ascending >> 31;
    f32::from_bits(if sign == 1 {
        ascending & 0x7fff_ffff
    } else {
        !ascending
    })
}

/// Bits that compare as unsigned integers like the floats do.
fn ascending_bits(score: f32) -> u32 {
    // −0 and 0 are equal scores.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 {
        bits | 0x8000_0000
    } else {
        !bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_a_full_sort(
            scores in prop::collection::vec(-20_i8..20, 0..600),
            limit in 0_usize..200,
        ) {
            let mut top = TopRows::new(limit);
            let mut all = Vec::new();
            for (row, score) in scores.iter().enumerate() {
                let score = f32::from(*score) * 0.25;
                top.push(row as u32, score);
                all.push((row as u32, score));
            }
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(limit);
            prop_assert_eq!(top.into_sorted(), all);
        }

        #[test]
        fn a_key_gives_its_score_back(score in prop::num::f32::NORMAL | prop::num::f32::ZERO, row: u32) {
            prop_assert_eq!(score_of(key(row, score)), score);
        }
    }

    #[test]
    fn nan_is_never_taken() {
        let mut top = TopRows::new(3);
        top.push(0, f32::NAN);
        top.push(1, f32::NEG_INFINITY);
        assert!(top.into_sorted().is_empty());
    }

    #[test]
    fn signed_zeros_are_equal_scores() {
        let mut top = TopRows::new(2);
        top.push(0, -0.0);
        top.push(1, 0.0);
        assert_eq!(top.into_sorted(), vec![(0, 0.0), (1, 0.0)]);
    }
}
