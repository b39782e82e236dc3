//! One score for each candidate of the pool.

use crate::complete::{LegScores, Pool};
use crate::documents::PassageRef;
use crate::funnel::{Run, TrailEntry};
use crate::plan::{Fusion, Leg};
use search_core::StageReport;
use search_core::fusion::{Fused, StageScores, fuse, keep};

/// Candidates by their final score.
#[derive(Debug)]
pub(crate) struct Ranking {
    pool: Pool,
    fused: Fused,
    /// Positions in the pool: final score descending, then address. Equal scores are put into their final order, that of document
    /// ids, when those are known.
    order: Vec<usize>,
}

/// The ranking and the report of the stage, where it ran.
#[derive(Debug)]
pub(crate) struct FusedStage {
    pub(crate) ranking: Ranking,
    pub(crate) reports: Vec<StageReport>,
}

impl Run<'_> {
    pub(crate) fn fuse(self, pool: Pool) -> FusedStage {
        let Some(fusion) = self.plan.fusion else {
            return FusedStage {
                ranking: Ranking::new(pool, keep_first),
                reports: Vec::new(),
            };
        };
        let _span =
            tracing::info_span!("fuse", method = ?fusion.method, candidates = pool.passages.len())
                .entered();
        let mut watch = self.begin("fuse");
        watch.report.candidates_in = pool.passages.len() as u64;
        watch.report.candidates_out = pool.passages.len() as u64;
        let ranking = Ranking::new(pool, |legs| fuse_legs(fusion, legs));
        FusedStage {
            ranking,
            reports: vec![watch.end()],
        }
    }
}

fn keep_first(legs: &[LegScores]) -> Fused {
    keep(legs.first().map_or(&[], |leg| &leg.scores))
}

fn fuse_legs(fusion: Fusion, legs: &[LegScores]) -> Fused {
    let weights = weights(fusion, legs);
    let stages = legs.iter().zip(weights).map(|(leg, weight)| StageScores {
        weight,
        scores: &leg.scores,
    });
    fuse(fusion.method, &stages.collect::<Vec<_>>())
}

/// Each leg's weight; a leg that is alone because the other failed has all of it.
fn weights(fusion: Fusion, legs: &[LegScores]) -> Vec<f64> {
    match legs {
        [_] => vec![1.0],
        legs => legs.iter().map(|leg| fusion.weight(leg.leg)).collect(),
    }
}

impl Ranking {
    fn new(pool: Pool, fuse: impl FnOnce(&[LegScores]) -> Fused) -> Self {
        let fused = fuse(&pool.legs);
        let mut order: Vec<usize> = (0..fused.scores.len()).collect();
        let scores = &fused.scores;
        // Positions are in the order of addresses.
        order.sort_unstable_by(|left, right| {
            scores[*right]
                .total_cmp(&scores[*left])
                .then(left.cmp(right))
        });
        Self { pool, fused, order }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The passage at this place of the ranking.
    pub(crate) fn passage(&self, place: usize) -> PassageRef {
        self.pool.passages[self.order[place]]
    }

    /// Its final score.
    pub(crate) fn score(&self, place: usize) -> f64 {
        self.fused.scores[self.order[place]]
    }

    /// What each leg said about it.
    pub(crate) fn trail(&self, place: usize) -> Vec<TrailEntry> {
        let position = self.order[place];
        let stages = self.pool.legs.iter().zip(&self.fused.stages);
        let entry = |(leg, stage): (&LegScores, &search_core::fusion::FusedStage)| TrailEntry {
            stage: Leg::name(leg.leg),
            raw: f64::from(leg.scores[position]),
            rank: stage.rank(leg.scores[position]),
            normalized: stage.normalized[position],
            weight: stage.weight,
            contribution: stage.contribution(position),
            completed: leg.completed[position],
        };
        stages.map(entry).collect()
    }
}
