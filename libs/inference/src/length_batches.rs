//! Cutting work into batches of about one length, bounded by tokens.

use crate::batcher::WORTHWHILE_PADDING_TOKENS;

/// The rows of each batch, given all rows' lengths: neighbours in length, for padding is computed like any token. A batch
/// has at most `batch_tokens`, padding included, or one longer row. Longest first; rows of one length in their order.
pub(crate) fn length_batches(lengths: &[usize], batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<usize> = (0..lengths.len()).collect();
    rows.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for row in rows {
        match batches.last_mut() {
            Some(batch) if fits(lengths[batch[0]], batch.len(), lengths[row], batch_tokens) => {
                batch.push(row);
            }
            _ => batches.push(vec![row]),
        }
    }
    batches
}

/// Whether a row of `length` may join `count` rows of up to `longest`.
fn fits(longest: usize, count: usize, length: usize, batch_tokens: usize) -> bool {
    (count + 1) * longest <= batch_tokens && longest - length <= WORTHWHILE_PADDING_TOKENS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn padding_share(lengths: &[usize], batches: &[Vec<usize>]) -> f64 {
        let computed = |batch: &Vec<usize>| lengths[batch[0]] * batch.len();
        let computed: usize = batches.iter().map(computed).sum();
        let real: usize = lengths.iter().sum();
        1.0 - real as f64 / computed as f64
    }

    proptest! {
        #[test]
        fn every_row_is_computed_once_within_the_bound(
            lengths in prop::collection::vec(1_usize..200, 0..120), batch_tokens in 1_usize..1000,
        ) {
            let batches = length_batches(&lengths, batch_tokens);
            let mut rows = batches.concat();
            rows.sort_unstable();
            prop_assert!(rows.into_iter().eq(0..lengths.len()));
            for batch in &batches {
                let longest = batch.iter().map(|&row| lengths[row]).max().unwrap();
                prop_assert!(batch.len() == 1 || longest * batch.len() <= batch_tokens);
                for &row in batch {
                    prop_assert!(longest - lengths[row] <= WORTHWHILE_PADDING_TOKENS);
                }
            }
        }
    }

    #[test]
    fn mixed_lengths_are_computed_with_little_padding() {
        // Every length from 20 to 159 once, in no order.
        let lengths: Vec<usize> = (0..140).map(|row| 20 + row * 37 % 140).collect();
        let batches = length_batches(&lengths, 512);
        let share = padding_share(&lengths, &batches);
        assert!(share < 0.04, "{share}");
        assert!(batches.len() < 35, "{}", batches.len());
    }

    #[test]
    fn rows_of_one_length_fill_their_batches() {
        let batches = length_batches(&[100; 7], 512);
        assert_eq!(batches, [vec![0, 1, 2, 3, 4], vec![5, 6]]);
        assert_eq!(length_batches(&[900, 3], 512), [vec![0], vec![1]]);
        assert!(length_batches(&[], 512).is_empty());
    }
}
