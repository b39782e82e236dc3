//! From ranked passages to documents, and their texts.
//!
//! A document is represented by its best passage. Document ids are looked up from the top down, as many as the page needs, always
//! whole groups of equal scores: so the page is exact, and equal scores are ordered by document id whatever the sharding. Texts are
//! fetched for the page alone.

use crate::documents::{LookedUp, PassageRef};
use crate::error::SearchError;
use crate::funnel::{Hit, Run, StageWatch};
use crate::fuse::Ranking;
use search_core::{StageReason, StageReport, StageStatus};
use std::collections::HashSet;
use tracing::Instrument;

/// Passages looked up beyond the page at first: some are of documents that are on it already.
const FIRST_MARGIN: usize = 8;

/// The page and the report of the stage.
#[derive(Debug)]
pub(crate) struct Responded {
    pub(crate) hits: Vec<Hit>,
    pub(crate) reports: Vec<StageReport>,
}

/// A document's best passage.
#[derive(Debug)]
struct Best {
    document_id: String,
    place: usize,
}

impl Run<'_> {
    pub(crate) async fn respond(self, ranking: Ranking) -> Result<Responded, SearchError> {
        let mut watch = self.begin("fetch");
        watch.report.candidates_in = ranking.len() as u64;
        let span = tracing::info_span!(
            "fetch",
            candidates = ranking.len(),
            hits = tracing::field::Empty
        );
        let hits = self
            .page(&ranking, &mut watch)
            .instrument(span.clone())
            .await?;
        span.record("hits", hits.len());
        watch.report.candidates_out = hits.len() as u64;
        Ok(Responded {
            hits,
            reports: vec![watch.end()],
        })
    }

    async fn page(
        self,
        ranking: &Ranking,
        watch: &mut StageWatch,
    ) -> Result<Vec<Hit>, SearchError> {
        let request = &self.plan.request;
        let needed = request.offset + request.k;
        let best = self.best_passages(ranking, needed, watch).await?;
        let page: Vec<usize> = best
            .iter()
            .skip(request.offset)
            .take(request.k)
            .map(|best| best.place)
            .collect();
        let refs: Vec<PassageRef> = page.iter().map(|place| ranking.passage(*place)).collect();
        let looked_up = self.fetch(&refs, false).await?;
        note(&looked_up, watch);
        let hits = page
            .into_iter()
            .zip(looked_up.passages)
            .filter_map(|(place, passage)| {
                let trail = if request.explain {
                    ranking.trail(place)
                } else {
                    Vec::new()
                };
                let address = ranking.passage(place).address.to_u64();
                Some(Hit {
                    address,
                    score: ranking.score(place),
                    passage: passage?,
                    trail,
                })
            });
        Ok(hits.collect())
    }

    /// The best `needed` documents in the canonical order, or more, or all there are.
    async fn best_passages(
        self,
        ranking: &Ranking,
        needed: usize,
        watch: &mut StageWatch,
    ) -> Result<Vec<Best>, SearchError> {
        let mut best = Vec::new();
        let mut seen = HashSet::new();
        let mut start = 0;
        let mut size = needed + needed / 4 + FIRST_MARGIN;
        while best.len() < needed && start < ranking.len() {
            let end = end_of_ties(ranking, start.saturating_add(size).min(ranking.len()));
            for candidate in self.in_canonical_order(ranking, start..end, watch).await? {
                if seen.insert(candidate.document_id.clone()) {
                    best.push(candidate);
                }
            }
            start = end;
            size *= 2;
        }
        Ok(best)
    }

    /// These places of the ranking, equal scores by document id. Passages that no replica can show are left out.
    async fn in_canonical_order(
        self,
        ranking: &Ranking,
        places: std::ops::Range<usize>,
        watch: &mut StageWatch,
    ) -> Result<Vec<Best>, SearchError> {
        let refs: Vec<PassageRef> = places.clone().map(|place| ranking.passage(place)).collect();
        let looked_up = self.fetch(&refs, true).await?;
        note(&looked_up, watch);
        let known = places.zip(looked_up.passages);
        let mut candidates: Vec<Best> = known
            .filter_map(|(place, passage)| {
                Some(Best {
                    document_id: passage?.document_id,
                    place,
                })
            })
            .collect();
        // Stable, and places of equal scores are in the order of addresses, which is the passages' order in a document.
        candidates.sort_by(|left, right| {
            let by_score = ranking
                .score(right.place)
                .total_cmp(&ranking.score(left.place));
            by_score.then_with(|| left.document_id.cmp(&right.document_id))
        });
        Ok(candidates)
    }
}

/// Notes who was asked, and what no replica can show.
fn note(looked_up: &LookedUp, watch: &mut StageWatch) {
    for (shard, timing) in &looked_up.calls {
        watch.ask(*shard);
        watch.time(*timing);
    }
    if looked_up.passages.iter().any(Option::is_none) {
        watch.lessen(StageStatus::Partial, StageReason::DamagedSegment);
    }
}

/// The first place at or behind `end` whose score differs from the one before it.
fn end_of_ties(ranking: &Ranking, end: usize) -> usize {
    let last = ranking.score(end - 1);
    (end..ranking.len())
        .find(|place| ranking.score(*place) != last)
        .unwrap_or(ranking.len())
}
