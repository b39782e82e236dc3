//! Percentiles of measured times.

/// Percentiles by nearest rank: each is a value that was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// Half of the values are at most this.
    pub p50: u64,
    /// 95 % of the values are at most this.
    pub p95: u64,
    /// 99 % of the values are at most this.
    pub p99: u64,
}

impl Percentiles {
    /// The percentiles of the values, in their unit; all 0 for none.
    pub fn of(values: &[u64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        Self {
            p50: nearest_rank(&sorted, 50),
            p95: nearest_rank(&sorted, 95),
            p99: nearest_rank(&sorted, 99),
        }
    }
}

fn nearest_rank(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_sample() {
        let values: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(
            Percentiles::of(&values),
            Percentiles {
                p50: 50,
                p95: 95,
                p99: 99
            }
        );
        assert_eq!(
            Percentiles::of(&[7]),
            Percentiles {
                p50: 7,
                p95: 7,
                p99: 7
            }
        );
        assert_eq!(Percentiles::of(&[]), Percentiles::default());
    }
}
