//! One score for each document of the pool.
//!
//! In each stage a document is as good as its best passage there (MaxP: Dai, Callan, SIGIR 2019). These scores, one per document and
//! stage, are normalised over the documents of the pool and combined. A document may owe its scores to different passages; it is
//! shown by the one whose own scores would combine to the most.

use crate::complete::{LegScores, Pool};
use crate::funnel::Run;
use crate::plan::Fusion;
use crate::ranking::Ranking;
use search_core::StageReport;
use search_core::fusion::{Fused, StageScores, fuse, keep};

/// The ranking and the report of the stage, where it ran.
#[derive(Debug)]
pub(crate) struct FusedStage {
    pub(crate) ranking: Ranking,
    pub(crate) reports: Vec<StageReport>,
}

impl Run<'_> {
    /// Where the sparse leg alone answers, its scores are the answer's.
    pub(crate) fn fuse(self, pool: Pool, is_sparse_alone: bool) -> FusedStage {
        let Some(fusion) = self.plan.fusion.filter(|_| !is_sparse_alone) else {
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
