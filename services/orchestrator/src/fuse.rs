//! One score for each document of the pool.
//!
//! In each stage a document is as good as its best passage there (MaxP: Dai, Callan, SIGIR 2019). These scores, one per document and
//! stage, are normalised over the documents of the pool and combined. A document may owe its scores to different passages; it is
//! shown by the one whose own scores would combine to the most.

use crate::complete::{LegScores, Pool};
use crate::documents::PassageRef;
use crate::funnel::{Run, TrailEntry};
use crate::plan::Fusion;
use search_core::StageReport;
use search_core::fusion::{Fused, StageScores, fuse, keep};
use std::ops::Range;

/// Documents by their final score.
#[derive(Debug)]
pub(crate) struct Ranking {
    pool: Pool,
    /// Where the passages of each document are in the pool.
    documents: Vec<Range<usize>>,
    /// For each leg, where the best passage of each document is in the pool.
    best: Vec<Vec<usize>>,
    fused: Fused,
    /// Documents: final score descending, then address. Equal scores are put into their final order, that of document ids, when those
    /// are known.
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
                ranking: Ranking::new(pool, |_, scores| keep_first(scores)),
                reports: Vec::new(),
            };
        };
        let _span =
            tracing::info_span!("fuse", method = ?fusion.method, candidates = pool.passages.len())
                .entered();
        let mut watch = self.begin("fuse");
        watch.report.candidates_in = pool.passages.len() as u64;
        let ranking = Ranking::new(pool, |legs, scores| fuse_legs(fusion, legs, scores));
        watch.report.candidates_out = ranking.len() as u64;
        FusedStage {
            ranking,
            reports: vec![watch.end()],
        }
    }
}

fn keep_first(scores: &[Vec<f32>]) -> Fused {
    keep(scores.first().map_or(&[], Vec::as_slice))
}

fn fuse_legs(fusion: Fusion, legs: &[LegScores], scores: &[Vec<f32>]) -> Fused {
    let weights = weights(fusion, legs);
    let stages = scores
        .iter()
        .zip(weights)
        .map(|(scores, weight)| StageScores { weight, scores });
    fuse(fusion.method, &stages.collect::<Vec<_>>())
}

/// Each leg's weight; a leg that is alone because the other failed has all of it.
fn weights(fusion: Fusion, legs: &[LegScores]) -> Vec<f64> {
    match legs {
        [_] => vec![1.0],
        legs => legs.iter().map(|leg| fusion.weight(leg.leg)).collect(),
    }
}

/// Neighbours in the pool that are passages of one document.
fn documents(passages: &[PassageRef]) -> Vec<Range<usize>> {
    let mut start = 0;
    let groups = passages.chunk_by(|left, right| left.document == right.document);
    let range = |group: &[PassageRef]| {
        let range = start..start + group.len();
        start = range.end;
        range
    };
    groups.map(range).collect()
}

/// The position of the greatest value, the first of equal ones.
fn position_of_best(positions: Range<usize>, value: impl Fn(usize) -> f64) -> usize {
    let first = positions.start;
    positions.fold(first, |best, position| {
        if value(position) > value(best) {
            position
        } else {
            best
        }
    })
}

impl Ranking {
    fn new(pool: Pool, fuse: impl FnOnce(&[LegScores], &[Vec<f32>]) -> Fused) -> Self {
        let documents = documents(&pool.passages);
        let best_of = |leg: &LegScores| -> Vec<usize> {
            let best = |range: &Range<usize>| {
                position_of_best(range.clone(), |position| f64::from(leg.scores[position]))
            };
            documents.iter().map(best).collect()
        };
        let best: Vec<Vec<usize>> = pool.legs.iter().map(best_of).collect();
        let scores_of = |(leg, best): (&LegScores, &Vec<usize>)| {
            best.iter().map(|position| leg.scores[*position]).collect()
        };
        let scores: Vec<Vec<f32>> = pool.legs.iter().zip(&best).map(scores_of).collect();
        let fused = fuse(&pool.legs, &scores);
        Self {
            order: best_first(&fused.scores),
            pool,
            documents,
            best,
            fused,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The final score of the document at this place of the ranking.
    pub(crate) fn score(&self, place: usize) -> f64 {
        self.fused.scores[self.order[place]]
    }

    /// The passage that it is shown by.
    pub(crate) fn passage(&self, place: usize) -> PassageRef {
        let passages = self.documents[self.order[place]].clone();
        let combined = |position: usize| -> f64 {
            let stages = self.pool.legs.iter().zip(&self.fused.stages);
            let contributions = stages.map(|(leg, stage)| stage.contribution(leg.scores[position]));
            contributions.sum()
        };
        self.pool.passages[position_of_best(passages, combined)]
    }

    /// What each leg said about it.
    pub(crate) fn trail(&self, place: usize) -> Vec<TrailEntry> {
        let document = self.order[place];
        let entry = |(leg, (best, stage)): (&LegScores, (&Vec<usize>, &_))| {
            trail_entry(leg, best[document], stage)
        };
        let stages = self.best.iter().zip(&self.fused.stages);
        self.pool.legs.iter().zip(stages).map(entry).collect()
    }
}

fn trail_entry(
    leg: &LegScores,
    position: usize,
    stage: &search_core::fusion::FusedStage,
) -> TrailEntry {
    let raw = leg.scores[position];
    TrailEntry {
        stage: leg.leg.name(),
        raw: f64::from(raw),
        rank: stage.rank(raw),
        normalized: stage.normalized(raw),
        weight: stage.weight,
        contribution: stage.contribution(raw),
        completed: leg.completed[position],
    }
}

/// Documents by score; equal scores stay in the order of addresses.
fn best_first(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|left, right| {
        scores[*right]
            .total_cmp(&scores[*left])
            .then(left.cmp(right))
    });
    order
}
