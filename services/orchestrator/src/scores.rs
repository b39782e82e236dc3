//! Scores of given passages, from the shards that hold them.

use crate::clients::Scored;
use crate::documents::{PassageRef, by_shard};
use crate::error::SearchError;
use crate::funnel::StageWatch;
use futures::future::join_all;
use search_core::{Address, StageReason, StageStatus};
use std::collections::BTreeSet;

/// What one shard said about passages that it was asked about.
#[derive(Debug)]
pub(crate) struct ShardAnswer {
    pub(crate) shard: u32,
    /// Their positions in the pool.
    pub(crate) positions: Vec<usize>,
    pub(crate) scored: Result<Scored, SearchError>,
}

/// Asks each shard for scores of its passages, in the order given, all shards at the same time. One call has at most so many addresses.
pub(crate) async fn ask_shards<Answer>(
    passages: impl IntoIterator<Item = (usize, PassageRef)>,
    most_addresses: usize,
    score: impl Fn(u32, Vec<Address>) -> Answer,
) -> Vec<ShardAnswer>
where
    Answer: Future<Output = Result<Scored, SearchError>>,
{
    let shards = by_shard(passages);
    let parts = shards.iter().flat_map(|(shard, places)| {
        let parts = places.chunks(most_addresses);
        parts.map(|part| (*shard, part))
    });
    let calls = parts.map(|(shard, places)| {
        let (positions, addresses) = places.iter().copied().unzip();
        let answer = score(shard, addresses);
        async move {
            ShardAnswer {
                shard,
                positions,
                scored: answer.await,
            }
        }
    });
    join_all(calls).await
}

impl ShardAnswer {
    /// The passages that the shard scored, by their positions in the pool, and their scores. What is amiss goes to the report.
    pub(crate) fn known(&self, watch: &mut StageWatch) -> Vec<(usize, f32)> {
        watch.ask(self.shard);
        match &self.scored {
            Ok(scored) => {
                watch.time(scored.timing);
                if !scored.unknown.is_empty() {
                    watch.lessen(StageStatus::Partial, StageReason::DamagedSegment);
                }
                self.scores(scored)
            }
            Err(error) => {
                tracing::warn!(%error, stage = watch.report.stage, "some scores are missing");
                watch.miss(self.shard);
                watch.lessen(StageStatus::Partial, error.reason());
                Vec::new()
            }
        }
    }

    /// Whether the shard answered before it had scored all.
    pub(crate) fn is_cut_short(&self) -> bool {
        let scored = self.scored.as_ref();
        scored.is_ok_and(|scored| scored.scores.len() < self.positions.len())
    }

    fn scores(&self, scored: &Scored) -> Vec<(usize, f32)> {
        let unknown: BTreeSet<usize> = scored.unknown.iter().copied().collect();
        let scores = self.positions.iter().zip(&scored.scores).enumerate();
        let known = scores.filter(|(index, _)| !unknown.contains(index));
        known
            .map(|(_, (position, score))| (*position, score.get()))
            .collect()
    }
}
