//! Metrics of one ranking against the judgements of its query, as trec_eval defines them.
//!
//! A ranking is a list of document ids, best first. A document that comes twice counts once, at its first place.

use std::collections::HashSet;

use crate::beir::Judgements;

/// Normalised discounted cumulative gain of the first `k`: gain is the grade, discount is log2(rank + 1)
/// (Järvelin and Kekäläinen, 2002; trec_eval's `ndcg_cut`). 0 where nothing is relevant.
pub fn ndcg_at(k: usize, ranking: &[&str], judged: &Judgements) -> f64 {
    let mut ideal: Vec<u32> = judged.values().copied().collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let best = discounted_gain(ideal.into_iter().take(k));
    if best == 0.0 {
        return 0.0;
    }
    discounted_gain(grades(k, ranking, judged)) / best
}

/// Share of the relevant documents that are among the first `k`. 0 where nothing is relevant.
pub fn recall_at(k: usize, ranking: &[&str], judged: &Judgements) -> f64 {
    let relevant = judged.values().filter(|grade| **grade > 0).count();
    let found = grades(k, ranking, judged)
        .filter(|grade| *grade > 0)
        .count();
    if relevant == 0 {
        0.0
    } else {
        found as f64 / relevant as f64
    }
}

/// One over the rank of the first relevant document among the first `k`; 0 where there is none.
pub fn mrr_at(k: usize, ranking: &[&str], judged: &Judgements) -> f64 {
    let first = grades(k, ranking, judged).position(|grade| grade > 0);
    first.map_or(0.0, |place| 1.0 / (place + 1) as f64)
}

/// The grades of the first `k` different documents of a ranking.
fn grades<'a>(
    k: usize,
    ranking: &'a [&'a str],
    judged: &'a Judgements,
) -> impl Iterator<Item = u32> + 'a {
    let mut seen = HashSet::new();
    let distinct = ranking.iter().filter(move |id| seen.insert(**id));
    distinct
        .take(k)
        .map(|id| judged.get(*id).copied().unwrap_or(0))
}

fn discounted_gain(grades: impl Iterator<Item = u32>) -> f64 {
    grades
        .enumerate()
        .map(|(place, grade)| f64::from(grade) / ((place + 2) as f64).log2())
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(grades: &[(&str, u32)]) -> Judgements {
        grades
            .iter()
            .map(|(id, grade)| ((*id).to_owned(), *grade))
            .collect()
    }

    #[test]
    fn golden_values() {
        // By hand: DCG = 1/log2(2) + 3/log2(4) = 2.5; ideal = 3/log2(2) + 2/log2(3) + 1/log2(4) = 4.761859…
        let judged = judged(&[("a", 1), ("b", 3), ("c", 2), ("d", 0)]);
        let ranking = ["a", "d", "b"];
        assert!((ndcg_at(10, &ranking, &judged) - 2.5 / 4.761_859_507).abs() < 1e-9);
        assert!((recall_at(10, &ranking, &judged) - 2.0 / 3.0).abs() < 1e-12);
        assert!((recall_at(1, &ranking, &judged) - 1.0 / 3.0).abs() < 1e-12);
        assert!((mrr_at(10, &["d", "x", "c"], &judged) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(mrr_at(2, &["d", "x", "c"], &judged), 0.0);
    }

    #[test]
    fn nothing_judged_or_nothing_found_is_zero() {
        assert_eq!(ndcg_at(10, &["a"], &judged(&[])), 0.0);
        assert_eq!(recall_at(10, &[], &judged(&[("a", 1)])), 0.0);
        assert_eq!(mrr_at(10, &[], &judged(&[("a", 1)])), 0.0);
    }

    #[test]
    fn a_document_that_comes_twice_counts_once() {
        let judged = judged(&[("a", 1), ("b", 1)]);
        assert_eq!(
            ndcg_at(10, &["a", "a", "b"], &judged),
            ndcg_at(10, &["a", "b"], &judged)
        );
        assert_eq!(recall_at(10, &["a", "a"], &judged), 0.5);
    }

    proptest! {
        #[test]
        fn metrics_lie_between_zero_and_one(
            grades in prop::collection::hash_map("[a-f]", 0_u32..4, 0..6),
            ranking in prop::collection::vec("[a-h]", 0..12),
            k in 1_usize..12,
        ) {
            let ranking: Vec<&str> = ranking.iter().map(String::as_str).collect();
            for value in [ndcg_at(k, &ranking, &grades), recall_at(k, &ranking, &grades), mrr_at(k, &ranking, &grades)] {
                prop_assert!((0.0..=1.0 + 1e-12).contains(&value));
            }
        }

        #[test]
        fn the_ideal_ranking_is_perfect(grades in prop::collection::hash_map("[a-f]", 0_u32..4, 1..6)) {
            let mut ideal: Vec<(&str, u32)> = grades.iter().map(|(id, grade)| (id.as_str(), *grade)).collect();
            ideal.sort_by_key(|(_, grade)| std::cmp::Reverse(*grade));
            let ranking: Vec<&str> = ideal.iter().map(|(id, _)| *id).collect();
            let expected = if ideal[0].1 > 0 { 1.0 } else { 0.0 };
            prop_assert!((ndcg_at(10, &ranking, &grades) - expected).abs() < 1e-12);
        }
    }
}
