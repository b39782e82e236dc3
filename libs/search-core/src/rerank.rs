//! A later stage scores the head of a ranking; its scores and the earlier ones become one.
//!
//! A score is a sum of *terms*, one for each stage that scored the candidate: a value on the common scale times the stage's weight.
//! The head is a prefix of the ranking, best first. Of the earlier scores of the whole head let `low` be the least and `high` the
//! greatest; of the stage's own scores let `least` and `greatest` be the same. With the stage's weight `w` (1 replaces the earlier
//! score):
//!
//! ```text
//! normalized = low + (own − least) / (greatest − least) · (high − low)
//! score      = (1 − w) · earlier + w · normalized
//! ```
//!
//! So the blend is that of both scores scaled by minimum and maximum within the head, brought back to the scale of the earlier score:
//! a later stage, a threshold and the rest of the ranking go on with the scale that they know. What is below the head is not touched.
//! Nothing in the head falls below `low`, and nothing below the head is above it: the rest stays below, in its order. (Where rounding
//! would let a candidate fall below `low`, all `normalized` are raised by as little as prevents it. Equal scores are equal: their
//! order is that of equal scores everywhere.)
//!
//! * A candidate without a score of the stage keeps the score and the terms that it has: no opinion, no change.
//! * A stage that gives all the same score says nothing about order: its weight is 0.
//! * A head of equal scores has no scale to go back to: `high` is `low + 1` then.

/// One addend of a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// The stage's score on the common scale.
    pub normalized: f64,
    /// The weight of the stage, less what later stages took of it.
    pub weight: f64,
}

impl Term {
    /// What it adds to the score.
    #[must_use]
    pub fn contribution(self) -> f64 {
        self.weight * self.normalized
    }

    fn times(self, share: f64) -> Self {
        Self {
            weight: self.weight * share,
            ..self
        }
    }
}

/// A score: its terms, in the order of the stages.
#[must_use]
pub fn total(terms: &[Term]) -> f64 {
    terms
        .iter()
        .fold(0.0, |sum, term| sum + term.contribution())
}

/// From the stage's own scores to the scale of the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    least: f64,
    /// Never 0.
    span: f64,
    low: f64,
    width: f64,
}

impl Scale {
    /// Where this score of the stage is on the common scale.
    #[must_use]
    pub fn normalized(self, own: f32) -> f64 {
        self.low + (f64::from(own) - self.least) / self.span * self.width
    }
}

/// A head with one more stage in its scores.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The terms of each candidate, in the order of the head that was given. The stage's own is the last of those that it scored.
    pub terms: Vec<Vec<Term>>,
    /// The scale of the stage's scores.
    pub scale: Scale,
    /// The weight that the stage has got: 0 where its scores are all the same.
    pub weight: f64,
}

/// Merges the stage's scores, finite or none, into the head, whose candidates stand best first with their terms. `weight` is more
/// than 0 and at most 1. The arguments are cut to the shorter of them.
#[must_use]
pub fn merge(head: &[Vec<Term>], own: &[Option<f32>], weight: f64) -> Merged {
    let earlier: Vec<f64> = head.iter().map(|terms| total(terms)).collect();
    let (low, high) = range(earlier.into_iter());
    let (least, greatest) = range(own.iter().flatten().copied().map(f64::from));
    let tells = greatest > least;
    let mut scale = Scale {
        least,
        span: if tells { greatest - least } else { 1.0 },
        low,
        width: if high > low { high - low } else { 1.0 },
    };
    let weight = if tells { weight } else { 0.0 };
    let mut lift = 0.0_f64;
    loop {
        let terms = blend(head, own, scale, weight);
        let (lowest, _) = range(terms.iter().map(|terms| total(terms)));
        if lowest >= low || weight == 0.0 {
            return Merged {
                terms,
                scale,
                weight,
            };
        }
        lift = (2.0 * lift).max(2.0 * (low - lowest) / weight);
        scale.low = low + lift;
    }
}

fn blend(head: &[Vec<Term>], own: &[Option<f32>], scale: Scale, weight: f64) -> Vec<Vec<Term>> {
    let one = |(earlier, own): (&Vec<Term>, &Option<f32>)| match own {
        None => earlier.clone(),
        Some(own) => {
            let kept = earlier.iter().map(|term| term.times(1.0 - weight));
            let normalized = scale.normalized(*own);
            kept.chain([Term { normalized, weight }]).collect()
        }
    };
    head.iter().zip(own).map(one).collect()
}

/// Least and greatest; zeros where there is nothing.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let widened = values.fold(None, |range: Option<(f64, f64)>, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    widened.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(score: f64) -> Vec<Term> {
        vec![Term {
            normalized: score,
            weight: 1.0,
        }]
    }

    fn totals(merged: &Merged) -> Vec<f64> {
        merged.terms.iter().map(|terms| total(terms)).collect()
    }

    fn merge_plain(earlier: &[f64], own: &[Option<f32>], weight: f64) -> Merged {
        let head: Vec<_> = earlier.iter().copied().map(plain).collect();
        merge(&head, own, weight)
    }

    #[test]
    fn replaced_scores_span_what_the_earlier_ones_did() {
        let merged = merge_plain(&[8.0, 5.0, 4.0], &[Some(0.1), Some(0.9), Some(0.5)], 1.0);
        let totals = totals(&merged);
        assert_eq!((totals[0], totals[1]), (4.0, 8.0));
        assert!((totals[2] - 6.0).abs() < 1e-6, "{totals:?}");
    }

    #[test]
    fn a_blend_is_that_of_both_scaled_by_minimum_and_maximum() {
        let merged = merge_plain(&[8.0, 5.0, 4.0], &[Some(0.0), Some(1.0), Some(0.5)], 0.25);
        // .75 · (1, .25, 0) + .25 · (0, 1, .5), on the scale from 4 to 8.
        assert_eq!(
            totals(&merged),
            [4.0 + 4.0 * 0.75, 4.0 + 4.0 * 0.4375, 4.0 + 4.0 * 0.125]
        );
        let [kept, own] = merged.terms[1].as_slice() else {
            panic!("{merged:?}")
        };
        assert_eq!((kept.weight, kept.normalized), (0.75, 5.0));
        assert_eq!((own.weight, own.normalized), (0.25, 8.0));
    }

    #[test]
    fn who_has_no_score_keeps_its_place() {
        let merged = merge_plain(
            &[8.0, 7.0, 6.0, 4.0],
            &[Some(0.0), None, Some(2.0), Some(1.0)],
            1.0,
        );
        assert_eq!(totals(&merged), [4.0, 7.0, 8.0, 6.0]);
        assert_eq!(merged.terms[1], plain(7.0));
    }

    #[test]
    fn a_stage_that_says_nothing_changes_nothing() {
        let earlier = [0.3, 0.2, 0.1];
        for own in [[Some(5.0); 3], [None; 3], [None, Some(1.0), None]] {
            for weight in [0.3, 1.0] {
                let merged = merge_plain(&earlier, &own, weight);
                assert_eq!((totals(&merged), merged.weight), (earlier.to_vec(), 0.0));
            }
        }
        assert!(merge_plain(&[], &[], 1.0).terms.is_empty());
    }

    #[test]
    fn an_undecided_head_is_decided_by_the_stage() {
        let merged = merge_plain(&[2.0; 3], &[Some(-1.0), Some(3.0), Some(1.0)], 0.5);
        assert_eq!(totals(&merged), [2.0, 2.5, 2.25]);
    }

    #[test]
    fn stages_are_merged_one_after_the_other() {
        let first = merge_plain(&[4.0, 2.0, 0.0], &[Some(0.0), Some(1.0), Some(0.5)], 0.5);
        assert_eq!(totals(&first), [2.0, 3.0, 1.0]);
        let head = [first.terms[1].clone(), first.terms[0].clone()];
        let second = merge(&head, &[Some(-7.0), Some(7.0)], 0.5);
        assert_eq!(totals(&second), [2.5, 2.5]);
        let weights = |terms: &[Term]| terms.iter().map(|term| term.weight).collect::<Vec<_>>();
        assert_eq!(weights(&second.terms[0]), [0.25, 0.25, 0.5]);
    }

    /// The formula once more, naively, over earlier and own scores of a head.
    fn oracle(earlier: &[f64], own: &[Option<f32>], weight: f64) -> Vec<f64> {
        let scored: Vec<f64> = own.iter().flatten().map(|own| f64::from(*own)).collect();
        let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = (least(earlier), most(earlier));
        let width = if high == low { 1.0 } else { high - low };
        let blended = |(earlier, own): (&f64, &Option<f32>)| match own {
            Some(own) if most(&scored) > least(&scored) => {
                let share = (f64::from(*own) - least(&scored)) / (most(&scored) - least(&scored));
                (1.0 - weight) * earlier + weight * (low + share * width)
            }
            _ => *earlier,
        };
        earlier.iter().zip(own).map(blended).collect()
    }

    /// Heads as two fused stages make them, with ties, cancellation and large numbers; best first.
    fn any_head() -> impl Strategy<Value = Vec<(Vec<Term>, Option<f32>)>> {
        let number = || prop_oneof![(-4_i8..4).prop_map(f64::from), -1.0..1.0_f64, -1e6..1e6_f64];
        let term = |weight| number().prop_map(move |normalized| Term { normalized, weight });
        let own = prop_oneof![(-3_i8..3).prop_map(f32::from), -1e6_f32..1e6];
        let candidate = (term(0.6), term(0.4), prop::option::weighted(0.8, own));
        let candidate = candidate.prop_map(|(dense, sparse, own)| (vec![dense, sparse], own));
        prop::collection::vec(candidate, 0..40).prop_map(|mut head| {
            head.sort_by(|left, right| total(&right.0).total_cmp(&total(&left.0)));
            head
        })
    }

    fn any_weight() -> impl Strategy<Value = f64> {
        prop_oneof![Just(1.0), Just(0.5), 1e-3..1.0_f64]
    }

    proptest! {
        #[test]
        fn equals_the_naive_oracle(head in any_head(), weight in any_weight()) {
            let (head, own): (Vec<_>, Vec<_>) = head.into_iter().unzip();
            let earlier: Vec<f64> = head.iter().map(|terms| total(terms)).collect();
            let merged = merge(&head, &own, weight);
            let expected = oracle(&earlier, &own, weight);
            for (found, expected) in totals(&merged).iter().zip(&expected) {
                prop_assert!((found - expected).abs() < 1e-6, "{} is not {}", found, expected);
            }
            prop_assert_eq!(merged.terms.len(), head.len());
        }

        #[test]
        fn nothing_falls_out_of_the_head(head in any_head(), weight in any_weight()) {
            let (head, own): (Vec<_>, Vec<_>) = head.into_iter().unzip();
            let low = head.last().map_or(0.0, |terms| total(terms));
            let merged = merge(&head, &own, weight);
            prop_assert!(totals(&merged).iter().all(|score| *score >= low));
        }

        #[test]
        fn terms_are_the_stages_and_their_weights(head in any_head(), weight in any_weight()) {
            let (head, own): (Vec<_>, Vec<_>) = head.into_iter().unzip();
            let merged = merge(&head, &own, weight);
            for ((before, own), after) in head.iter().zip(&own).zip(&merged.terms) {
                let Some(own) = own else {
                    prop_assert_eq!(before, after);
                    continue;
                };
                let (last, kept) = after.split_last().unwrap();
                let expected = Term { normalized: merged.scale.normalized(*own), weight: merged.weight };
                prop_assert_eq!(*last, expected);
                let kept_before = before.iter().map(|term| term.times(1.0 - merged.weight));
                prop_assert_eq!(kept, kept_before.collect::<Vec<_>>());
            }
        }

        #[test]
        fn replaced_scores_have_the_stages_order(head in any_head()) {
            let (head, own): (Vec<_>, Vec<_>) = head.into_iter().unzip();
            let merged = merge(&head, &own, 1.0);
            let scored = own.iter().zip(totals(&merged)).filter_map(|(own, score)| Some(((*own)?, score)));
            let scored: Vec<(f32, f64)> = scored.collect();
            for (left, left_score) in &scored {
                for (right, right_score) in &scored {
                    prop_assert!(merged.weight == 0.0 || left <= right || left_score >= right_score);
                }
            }
        }
    }
}
