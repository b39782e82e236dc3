//! Whether one pipeline is better than another on the same queries, and by how much.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Resamples: enough that the interval's ends move in their third digit only.
const RESAMPLES: usize = 10_000;

/// Mean difference with a 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Mean of `a - b`.
    pub mean: f64,
    /// 2.5 % of the resampled means are below.
    pub low: f64,
    /// 2.5 % of the resampled means are above.
    pub high: f64,
}

/// Paired bootstrap over queries (Efron's percentile interval; Sakai, SIGIR 2006): `a[i]` and `b[i]` belong to the
/// same query. None where the lists are empty or differ in length.
pub fn paired_bootstrap(a: &[f64], b: &[f64], seed: u64) -> Option<Difference> {
    if a.is_empty() || a.len() != b.len() {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| resampled_mean(&differences, &mut random))
        .collect();
    means.sort_by(f64::total_cmp);
    Some(Difference {
        mean: mean(&differences),
        low: means[RESAMPLES / 40],
        high: means[RESAMPLES - 1 - RESAMPLES / 40],
    })
}

fn resampled_mean(values: &[f64], random: &mut impl Rng) -> f64 {
    let total: f64 = (0..values.len())
        .map(|_| values[random.random_range(0..values.len())])
        .sum();
    total / values.len() as f64
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clear_gain_has_an_interval_above_zero() {
        let a: Vec<f64> = (0..200).map(|i| f64::from(i % 10) / 10.0 + 0.1).collect();
        let b: Vec<f64> = (0..200).map(|i| f64::from(i % 10) / 10.0).collect();
        let gain = paired_bootstrap(&a, &b, 1).unwrap();
        assert!((gain.mean - 0.1).abs() < 1e-9 && gain.low > 0.09 && gain.high < 0.11);
    }

    #[test]
    fn noise_has_an_interval_around_zero() {
        let a: Vec<f64> = (0..200).map(|i| f64::from(i * 7919 % 101)).collect();
        let b: Vec<f64> = (0..200).map(|i| f64::from(i * 104_729 % 101)).collect();
        let noise = paired_bootstrap(&a, &b, 1).unwrap();
        assert!(noise.low < 0.0 && noise.high > 0.0);
        assert_eq!(Some(noise), paired_bootstrap(&a, &b, 1), "the seed decides");
    }

    #[test]
    fn lists_that_cannot_be_paired_have_no_difference() {
        assert_eq!(paired_bootstrap(&[], &[], 1), None);
        assert_eq!(paired_bootstrap(&[1.0], &[1.0, 2.0], 1), None);
    }
}
