//! Simulated collections: each query has documents with a signal in two stages, and one relevant document. How much better the one stage
//! tells it than the other decides which weight is best, and how many queries it takes to see it.

use super::*;

const QUERIES: usize = 1000;
const DOCUMENTS: usize = 50;

/// The scores of one query's documents in two stages; the first document is the relevant one.
type Query = Vec<[f64; 2]>;

/// How far the relevant document stands out in each stage, in deviations.
fn collection(signals: [f64; 2], seed: u64) -> Vec<Query> {
    let mut numbers = ChaCha8Rng::seed_from_u64(seed);
    let mut query = || -> Query {
        let noise = (0..DOCUMENTS).map(|_| [normal(&mut numbers), normal(&mut numbers)]);
        let mut documents: Query = noise.collect();
        documents[0] = [0, 1].map(|stage| documents[0][stage] + signals[stage]);
        documents
    };
    (0..QUERIES).map(|_| query()).collect()
}

/// Irwin and Hall's.
fn normal(numbers: &mut impl Rng) -> f64 {
    (0..12).map(|_| numbers.random::<f64>()).sum::<f64>() - 6.0
}

/// nDCG@10 with one relevant document.
fn quality(query: &Query, alpha: f64) -> f64 {
    let score = |document: &[f64; 2]| alpha * document[0] + (1.0 - alpha) * document[1];
    let relevant = score(&query[0]);
    let above = query
        .iter()
        .filter(|document| score(document) > relevant)
        .count();
    if above < 10 {
        1.0 / (above as f64 + 2.0).log2()
    } else {
        0.0
    }
}

fn tuned_on<T>(queries: &[Query], default: f64, use_it: impl FnOnce(&Tuning<'_>) -> T) -> T {
    let weight = Weight {
        default,
        may_be_zero: true,
    };
    use_it(&Tuning {
        weights: vec![weight],
        quality: &|query, values| quality(&queries[query], values[0]),
    })
}

#[test]
fn few_queries_move_a_weight_little_and_many_to_where_it_belongs() {
    // The first stage is worthless: the best alpha is 0.
    let queries = collection([0.0, 3.0], 1);
    tuned_on(&queries, 0.6, |tuning| {
        for start in (0..QUERIES).step_by(10) {
            let ten: Vec<usize> = (start..start + 10).collect();
            let tuned = tuning.fit(&ten).tuned[0];
            assert!((0.5..=0.667).contains(&tuned), "{tuned}");
        }
        let all: Vec<usize> = (0..QUERIES).collect();
        let fitted = tuning.fit(&all);
        assert!(
            fitted.best[0] <= 0.1 && fitted.tuned[0] < 0.15,
            "{fitted:?}"
        );
    });
}

/// Where the default is right, all that a fit can do is harm: little from ten queries, and less than half of what it would be if the
/// fitted values were taken as they are.
#[test]
fn a_right_default_is_not_harmed() {
    let queries = collection([2.0, 2.0], 2);
    let (mut drawn_back, mut as_fitted) = (0.0, 0.0);
    tuned_on(&queries, 0.5, |tuning| {
        let all: Vec<usize> = (0..QUERIES).collect();
        let quality = |value| mean(&tuning.qualities(&all, &[value]));
        let right = quality(0.5);
        for start in (0..QUERIES).step_by(10) {
            let ten: Vec<usize> = (start..start + 10).collect();
            let fitted = tuning.fit(&ten);
            drawn_back += (right - quality(fitted.tuned[0])) / 100.0;
            as_fitted += (right - quality(fitted.best[0])) / 100.0;
        }
    });
    assert!(drawn_back < 0.005, "{drawn_back}");
    assert!(
        drawn_back < as_fitted / 2.0,
        "{drawn_back} against {as_fitted}"
    );
}

#[test]
fn more_queries_are_worth_more() {
    let queries = collection([0.5, 3.0], 3);
    tuned_on(&queries, 0.6, |tuning| {
        let split = split(QUERIES, 0.75, 1);
        let curve = tuning.curve(&[5, 50, 250], &split, 1);
        assert_eq!(curve[..1], tuning.curve(&[5], &split, 1));
        let gains: Vec<f64> = curve.iter().map(|point| point.gain).collect();
        assert!(
            0.0 < gains[0] && gains[0] < gains[1] && gains[1] < gains[2],
            "{curve:?}"
        );
        assert!(curve[0].low < curve[0].gain && curve[0].gain < curve[0].high);
        assert_eq!(
            curve[2].low, curve[2].high,
            "all draws of all queries are the same"
        );
    });
}

#[test]
fn weights_that_make_no_difference_stay() {
    let tuning = Tuning {
        weights: [0.6, 0.33]
            .map(|default| Weight {
                default,
                may_be_zero: false,
            })
            .to_vec(),
        quality: &|_, _| 0.5,
    };
    let fitted = tuning.fit(&[0, 1, 2]);
    assert_eq!(fitted.best, [0.6, 0.33]);
    assert_eq!(fitted.tuned, [0.6, 0.33]);
}

#[test]
fn a_weight_is_fitted_beside_those_before_it() {
    let weight = |default, may_be_zero| Weight {
        default,
        may_be_zero,
    };
    let tuning = Tuning {
        weights: vec![weight(0.5, true), weight(0.5, false)],
        // Best where the first is 0, and the second what the first one is then.
        quality: &|_, values| -values[0] - (values[1] - values[0]).abs() / 10.0,
    };
    let queries: Vec<usize> = (0..50).collect();
    let fitted = tuning.fit(&queries);
    assert_eq!(fitted.best, [0.0, 0.25]);
    assert_eq!(fitted.tuned, [0.25, 0.375]);
}

#[test]
fn a_split_has_every_query_once() {
    for (queries, held_out, expected) in [(10, 0.3, 3), (2, 0.01, 1), (2, 0.99, 1), (301, 0.5, 151)]
    {
        let split = split(queries, held_out, 7);
        assert_eq!(split.held_out.len(), expected);
        let mut all = [split.fitting, split.held_out].concat();
        all.sort_unstable();
        assert_eq!(all, (0..queries).collect::<Vec<_>>());
    }
    assert_ne!(split(20, 0.5, 1), split(20, 0.5, 2));
}
