//! Several stages' scores of the same candidates become one.
//!
//! Every candidate has a score from every stage (missing ones are completed before), each stage has a weight, and
//!
//! ```text
//! score = Σ weight · normalized,   with normalized =
//!   min-max   (x − min) / (max − min)                 convex combination: Bruch, Gai, Ingber, arXiv 2210.11934
//!   z-score   (x − mean) / sd                         the same, over z-scores
//!   RRF       1 / (rank_constant + rank)              Cormack, Clarke, Büttcher, SIGIR 2009; one-based ranks
//!   DBSF      (x − (mean − 3 sd)) / (6 sd)            distribution-based score fusion: Mazzeo 2023; not clipped
//! ```
//!
//! Equal scores have equal ranks (1, 2, 2, 4), and sums run in the order of the scores: the result depends on the scores
//! alone, not on the order in which candidates arrive, and so not on sharding. `sd` is the population's.
//!
//! A list without spread (all equal, one candidate) says nothing about order: each value is put into the middle of the scale,
//! which is 0.5 for min-max and DBSF and 0 for z-scores. An empty list gives an empty result.
//!
//! Scores are `f64` sums of the contributions in the order of the stages, so that the contributions of a score trail add up to the
//! score exactly.

use std::cmp::Ordering;

/// How a stage's scores are brought to a common scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// By minimum and maximum, to 0..1.
    MinMax,
    /// By mean and standard deviation.
    ZScore,
    /// By rank.
    Rrf {
        /// Larger: the head counts for less. 60 in the paper.
        rank_constant: u32,
    },
    /// By mean ± 3 standard deviations.
    Dbsf,
}

/// What goes in: one stage.
#[derive(Clone, Copy, Debug)]
pub struct StageScores<'a> {
    /// The weight of the stage.
    pub weight: f64,
    /// Finite scores, one per candidate; candidates stand in the same order in every stage.
    pub scores: &'a [f32],
}

/// What comes out for one stage: what becomes of a raw score there, be it a candidate's or another one.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedStage {
    /// The weight of the stage.
    pub weight: f64,
    scale: Scale,
    /// The raw scores, best first.
    descending: Vec<f32>,
}

impl FusedStage {
    /// The score on the common scale.
    pub fn normalized(&self, score: f32) -> f64 {
        match self.scale {
            Scale::Raw => f64::from(score),
            Scale::Linear(linear) => linear.value(score),
            Scale::Reciprocal { rank_constant } => reciprocal(rank_constant, self.rank(score)),
        }
    }

    /// What the stage adds to the final score of a candidate with this raw score.
    pub fn contribution(&self, score: f32) -> f64 {
        self.weight * self.normalized(score)
    }

    /// One-based rank of a candidate with this raw score; equal scores have equal ranks.
    pub fn rank(&self, score: f32) -> u32 {
        let greater = self
            .descending
            .partition_point(|other| other.total_cmp(&score) == Ordering::Greater);
        u32::try_from(greater + 1).unwrap_or(u32::MAX)
    }
}

/// What comes out.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    /// Final score of each candidate: the sum of the contributions, in the order of the stages.
    pub scores: Vec<f64>,
    /// The stages, in the order they were given.
    pub stages: Vec<FusedStage>,
}

/// Fuses. Stages of different lengths are cut to the shortest.
pub fn fuse(method: Method, stages: &[StageScores<'_>]) -> Fused {
    let candidates = stages
        .iter()
        .map(|stage| stage.scores.len())
        .min()
        .unwrap_or(0);
    let fused: Vec<FusedStage> = stages
        .iter()
        .map(|stage| fuse_stage(method, stage.weight, &stage.scores[..candidates]))
        .collect();
    let sum = |candidate: usize| {
        let both = fused.iter().zip(stages);
        both.fold(0.0, |sum, (fused, stage)| {
            sum + fused.contribution(stage.scores[candidate])
        })
    };
    Fused {
        scores: (0..candidates).map(sum).collect(),
        stages: fused,
    }
}

/// The scores of a lone stage as they are, in the same form.
pub fn keep(scores: &[f32]) -> Fused {
    let stage = FusedStage {
        weight: 1.0,
        scale: Scale::Raw,
        descending: descending(scores),
    };
    Fused {
        scores: scores.iter().copied().map(f64::from).collect(),
        stages: vec![stage],
    }
}

fn fuse_stage(method: Method, weight: f64, scores: &[f32]) -> FusedStage {
    let descending = descending(scores);
    let scale = match method {
        Method::MinMax => Scale::Linear(min_max(&descending)),
        Method::ZScore => Scale::Linear(z_score(&descending)),
        Method::Dbsf => Scale::Linear(distribution(&descending)),
        Method::Rrf { rank_constant } => Scale::Reciprocal { rank_constant },
    };
    FusedStage {
        weight,
        scale,
        descending,
    }
}

fn descending(scores: &[f32]) -> Vec<f32> {
    let mut descending = scores.to_vec();
    descending.sort_unstable_by(|left, right| right.total_cmp(left));
    descending
}

fn reciprocal(rank_constant: u32, rank: u32) -> f64 {
    1.0 / (f64::from(rank_constant) + f64::from(rank))
}

/// From a stage's own scores to the common scale.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Raw,
    Linear(Linear),
    Reciprocal { rank_constant: u32 },
}

/// A linear scale: `low` becomes 0 and `low + width` becomes 1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Linear {
    low: f64,
    width: f64,
    /// What every value becomes when there is no width.
    middle: f64,
}

impl Linear {
    fn value(self, score: f32) -> f64 {
        // Written so that a width that is not a number is no width either.
        if self.width > 0.0 {
            (f64::from(score) - self.low) / self.width
        } else {
            self.middle
        }
    }
}

fn min_max(descending: &[f32]) -> Linear {
    let at = |score: Option<&f32>| score.copied().map_or(0.0, f64::from);
    let (max, min) = (at(descending.first()), at(descending.last()));
    Linear {
        low: min,
        width: max - min,
        middle: 0.5,
    }
}

fn z_score(descending: &[f32]) -> Linear {
    let (mean, deviation) = mean_and_deviation(descending);
    Linear {
        low: mean,
        width: deviation,
        middle: 0.0,
    }
}

fn distribution(descending: &[f32]) -> Linear {
    let (mean, deviation) = mean_and_deviation(descending);
    Linear {
        low: mean - 3.0 * deviation,
        width: 6.0 * deviation,
        middle: 0.5,
    }
}

/// Mean and population standard deviation; a deviation of 0 when all are equal, whatever rounding says.
fn mean_and_deviation(descending: &[f32]) -> (f64, f64) {
    if descending.first() == descending.last() {
        return (descending.first().copied().map_or(0.0, f64::from), 0.0);
    }
    let count = descending.len() as f64;
    let mean = descending.iter().copied().map(f64::from).sum::<f64>() / count;
    let squares = descending
        .iter()
        .map(|score| (f64::from(*score) - mean).powi(2))
        .sum::<f64>();
    (mean, (squares / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DENSE: [f32; 4] = [0.9, 0.5, 0.5, 0.1];
    const SPARSE: [f32; 4] = [0.0, 12.0, 3.0, 6.0];

    fn fuse_both(method: Method, alpha: f64) -> Fused {
        fuse(
            method,
            &[
                StageScores {
                    weight: alpha,
                    scores: &DENSE,
                },
                StageScores {
                    weight: 1.0 - alpha,
                    scores: &SPARSE,
                },
            ],
        )
    }

    fn ranks(stage: &FusedStage, scores: &[f32]) -> Vec<u32> {
        scores.iter().map(|score| stage.rank(*score)).collect()
    }

    fn normalized(stage: &FusedStage, scores: &[f32]) -> Vec<f64> {
        scores
            .iter()
            .map(|score| stage.normalized(*score))
            .collect()
    }

    fn assert_close(actual: &[f64], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(expected) {
            assert!(
                (actual - expected).abs() < 1e-6,
                "{actual} is not {expected}"
            );
        }
    }

    #[test]
    fn golden_min_max() {
        let fused = fuse_both(Method::MinMax, 0.6);
        assert_close(&normalized(&fused.stages[0], &DENSE), &[1.0, 0.5, 0.5, 0.0]);
        assert_close(
            &normalized(&fused.stages[1], &SPARSE),
            &[0.0, 1.0, 0.25, 0.5],
        );
        assert_close(&fused.scores, &[0.6, 0.7, 0.4, 0.2]);
    }

    #[test]
    fn golden_z_score() {
        let fused = fuse_both(Method::ZScore, 0.5);
        assert_close(
            &normalized(&fused.stages[0], &DENSE),
            &[2.0_f64.sqrt(), 0.0, 0.0, -(2.0_f64.sqrt())],
        );
        // mean 5.25, variance (27.5625 + 45.5625 + 5.0625 + 0.5625) / 4
        let deviation = 19.6875_f64.sqrt();
        assert_close(
            &normalized(&fused.stages[1], &SPARSE),
            &[-5.25, 6.75, -2.25, 0.75].map(|x| x / deviation),
        );
    }

    #[test]
    fn golden_rrf() {
        let fused = fuse_both(Method::Rrf { rank_constant: 60 }, 0.5);
        assert_eq!(ranks(&fused.stages[0], &DENSE), [1, 2, 2, 4]);
        assert_eq!(ranks(&fused.stages[1], &SPARSE), [4, 1, 3, 2]);
        let half_sum = |left: f64, right: f64| 0.5 / (60.0 + left) + 0.5 / (60.0 + right);
        assert_close(
            &fused.scores,
            &[
                half_sum(1.0, 4.0),
                half_sum(2.0, 1.0),
                half_sum(2.0, 3.0),
                half_sum(4.0, 2.0),
            ],
        );
    }

    #[test]
    fn golden_dbsf() {
        let fused = fuse_both(Method::Dbsf, 0.5);
        let deviation = 0.08_f64.sqrt();
        assert_close(
            &normalized(&fused.stages[0], &DENSE),
            &[
                0.5 + 0.4 / (6.0 * deviation),
                0.5,
                0.5,
                0.5 - 0.4 / (6.0 * deviation),
            ],
        );
    }

    #[test]
    fn lists_without_spread_sit_in_the_middle() {
        for (method, middle) in [
            (Method::MinMax, 0.5),
            (Method::ZScore, 0.0),
            (Method::Dbsf, 0.5),
        ] {
            for scores in [vec![3.0], vec![0.1; 7], vec![-2.5, -2.5]] {
                let fused = fuse(
                    method,
                    &[StageScores {
                        weight: 1.0,
                        scores: &scores,
                    }],
                );
                assert_eq!(fused.scores, vec![middle; scores.len()]);
            }
        }
    }

    #[test]
    fn a_lone_stage_keeps_its_scores() {
        let kept = keep(&SPARSE);
        assert_eq!(kept.scores, [0.0, 12.0, 3.0, 6.0]);
        assert_eq!(ranks(&kept.stages[0], &SPARSE), [4, 1, 3, 2]);
        assert_eq!(kept.stages[0].contribution(SPARSE[1]), 12.0);
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(
            fuse(Method::MinMax, &[]),
            Fused {
                scores: vec![],
                stages: vec![]
            }
        );
        assert!(
            fuse(
                Method::ZScore,
                &[StageScores {
                    weight: 1.0,
                    scores: &[]
                }]
            )
            .scores
            .is_empty()
        );
    }

    fn any_method() -> impl Strategy<Value = Method> {
        prop_oneof![
            Just(Method::MinMax),
            Just(Method::ZScore),
            (1_u32..10_000).prop_map(|rank_constant| Method::Rrf { rank_constant }),
            Just(Method::Dbsf),
        ]
    }

    fn any_pairs() -> impl Strategy<Value = Vec<(f32, f32)>> {
        let score = || prop_oneof![-4_i8..4, Just(0)].prop_map(f32::from).boxed();
        let wide = || (-1e6_f32..1e6).boxed();
        prop_oneof![
            prop::collection::vec((score(), score()), 0..60),
            prop::collection::vec((wide(), wide()), 0..60)
        ]
    }

    /// The formulas once more, naively.
    fn oracle(method: Method, scores: &[f32], candidate: usize) -> f64 {
        let values: Vec<f64> = scores.iter().map(|score| f64::from(*score)).collect();
        let x = values[candidate];
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let deviation =
            (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count).sqrt();
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let flat = max == min;
        match method {
            Method::MinMax | Method::Dbsf if flat => 0.5,
            Method::ZScore if flat => 0.0,
            Method::MinMax => (x - min) / (max - min),
            Method::ZScore => (x - mean) / deviation,
            Method::Dbsf => (x - (mean - 3.0 * deviation)) / (6.0 * deviation),
            Method::Rrf { rank_constant } => {
                let greater = values.iter().filter(|value| **value > x).count();
                1.0 / (f64::from(rank_constant) + greater as f64 + 1.0)
            }
        }
    }

    proptest! {
        #[test]
        fn equals_the_naive_oracle(method in any_method(), pairs in any_pairs(), alpha in 0.0..=1.0) {
            let (dense, sparse): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let stages = [StageScores { weight: alpha, scores: &dense }, StageScores { weight: 1.0 - alpha, scores: &sparse }];
            let fused = fuse(method, &stages);
            for candidate in 0..dense.len() {
                let expected = alpha * oracle(method, &dense, candidate) + (1.0 - alpha) * oracle(method, &sparse, candidate);
                prop_assert!((fused.scores[candidate] - expected).abs() < 1e-6);
            }
        }

        #[test]
        fn contributions_sum_to_the_bit(method in any_method(), pairs in any_pairs(), alpha in 0.0..=1.0) {
            let (dense, sparse): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let stages = [StageScores { weight: alpha, scores: &dense }, StageScores { weight: 1.0 - alpha, scores: &sparse }];
            let fused = fuse(method, &stages);
            for (candidate, score) in fused.scores.iter().enumerate() {
                let sum: f64 = fused.stages.iter().zip(&stages).map(|(fused, stage)| fused.weight * fused.normalized(stage.scores[candidate])).sum();
                prop_assert_eq!(sum, *score);
                prop_assert!(score.is_finite());
            }
        }

        #[test]
        fn the_order_of_candidates_does_not_matter(method in any_method(), pairs in any_pairs(), turn: usize) {
            let mut turned = pairs.clone();
            turned.rotate_left(turn.checked_rem(pairs.len()).unwrap_or(0));
            turned.reverse();
            let run = |pairs: &[(f32, f32)]| {
                let (dense, sparse): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
                fuse(method, &[StageScores { weight: 0.3, scores: &dense }, StageScores { weight: 0.7, scores: &sparse }]).scores
            };
            let mut turned_scores = run(&turned);
            turned_scores.reverse();
            turned_scores.rotate_right(turn.checked_rem(pairs.len()).unwrap_or(0));
            prop_assert_eq!(turned_scores, run(&pairs));
        }
    }
}
