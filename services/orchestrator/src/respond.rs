//! From ranked passages to documents, and their texts.
//!
//! A document is represented by its best passage. Document ids are looked up from the top down, as many as the page needs, always
//! whole groups of equal scores: so the page is exact, and equal scores are ordered by document id whatever the sharding.
//!
//! Texts are fetched for the page alone. Mostly it is the next passages of the ranking, each of another document: their texts are
//! asked for together with the ids, which saves a small page a hop; what turns out otherwise is fetched afterwards.

use crate::clients::Passage;
use crate::documents::{LookedUp, MAX_ANSWER_BYTES, PassageRef, Wanted};
use crate::error::SearchError;
use crate::funnel::{Hit, Run, StageWatch};
use crate::fuse::Ranking;
use search_core::{StageReason, StageReport, StageStatus};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use tracing::Instrument;

/// Passages looked up beyond the page at first: some are of documents that are on it already.
const FIRST_MARGIN: usize = 8;
/// Longest page whose texts are asked for before it is known: a text too many costs more than an id.
const MAX_EARLY_TEXTS: usize = 100;

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

/// Texts by the place of their passage in the ranking.
type Texts = HashMap<usize, Passage>;

impl Run<'_> {
    /// `is_exhaustive`: no document can be an answer but those of the ranking.
    pub(crate) async fn respond(
        self,
        ranking: Ranking,
        is_exhaustive: bool,
    ) -> Result<Responded, SearchError> {
        let mut watch = self.begin("fetch");
        watch.report.candidates_in = ranking.len() as u64;
        let span = tracing::info_span!(
            "fetch",
            candidates = ranking.len(),
            hits = tracing::field::Empty
        );
        let hits = self
            .page(&ranking, is_exhaustive, &mut watch)
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
        is_exhaustive: bool,
        watch: &mut StageWatch,
    ) -> Result<Vec<Hit>, SearchError> {
        let request = &self.plan.request;
        let mut texts = Texts::new();
        let best = self.best_passages(ranking, &mut texts, watch).await?;
        if best.len() < request.page_end() && !is_exhaustive {
            watch.lessen(StageStatus::Partial, StageReason::Depth);
        }
        let places = best.iter().map(|best| best.place);
        let page: Vec<usize> = places.skip(request.offset).take(request.k).collect();
        let missing = page.iter().filter(|place| !texts.contains_key(place));
        let missing: Vec<usize> = missing.copied().collect();
        let looked_up = self.look_up(ranking, &missing, Wanted::Texts).await?;
        note(&looked_up, watch);
        keep(&mut texts, &missing, looked_up);
        let found = page
            .into_iter()
            .filter_map(|place| Some((place, texts.remove(&place)?)));
        let mut hits = found
            .map(|(place, passage)| self.hit(ranking, place, passage))
            .collect();
        if cut_to_message(&mut hits) {
            watch.lessen(StageStatus::Partial, StageReason::Size);
        }
        Ok(hits)
    }

    fn hit(self, ranking: &Ranking, place: usize, passage: Passage) -> Hit {
        let trail = if self.plan.request.explain {
            ranking.trail(place)
        } else {
            Vec::new()
        };
        Hit {
            address: ranking.passage(place).address.to_u64(),
            score: ranking.score(place),
            passage,
            trail,
        }
    }

    /// The passages at these places of the ranking.
    async fn look_up(
        self,
        ranking: &Ranking,
        places: &[usize],
        wanted: Wanted,
    ) -> Result<LookedUp, SearchError> {
        let refs: Vec<PassageRef> = places.iter().map(|place| ranking.passage(*place)).collect();
        self.fetch(&refs, wanted).await
    }

    /// The best documents in the canonical order, as many as the page needs, or more, or all there are.
    async fn best_passages(
        self,
        ranking: &Ranking,
        texts: &mut Texts,
        watch: &mut StageWatch,
    ) -> Result<Vec<Best>, SearchError> {
        let needed = self.plan.request.page_end();
        let mut early = self.early_places(ranking);
        let mut best = Vec::new();
        let mut seen = HashSet::new();
        let mut start = 0;
        let mut size = needed + needed / 4 + FIRST_MARGIN;
        while best.len() < needed && start < ranking.len() {
            let end = end_of_ties(ranking, start.saturating_add(size).min(ranking.len()));
            // Those of the first round alone: then there are none left.
            let early = std::mem::take(&mut early);
            let (ids, early_texts) = futures::try_join!(
                self.in_canonical_order(ranking, start..end, watch),
                self.look_up(ranking, &early, Wanted::Texts),
            )?;
            note_calls(&early_texts, watch);
            keep(texts, &early, early_texts);
            for candidate in ids {
                if seen.insert(candidate.document_id.clone()) {
                    best.push(candidate);
                }
            }
            start = end;
            size *= 2;
        }
        Ok(best)
    }

    /// Where the page is if nothing is tied and no document comes twice.
    fn early_places(self, ranking: &Ranking) -> Vec<usize> {
        let request = &self.plan.request;
        let end = request.page_end().min(ranking.len());
        if request.k > MAX_EARLY_TEXTS {
            return Vec::new();
        }
        (request.offset..end).collect()
    }

    /// These places of the ranking, equal scores by document id. Passages that no replica can show are left out.
    async fn in_canonical_order(
        self,
        ranking: &Ranking,
        places: Range<usize>,
        watch: &mut StageWatch,
    ) -> Result<Vec<Best>, SearchError> {
        let refs: Vec<PassageRef> = places.clone().map(|place| ranking.passage(place)).collect();
        let looked_up = self.fetch(&refs, Wanted::Ids).await?;
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

/// Notes who was asked.
fn note_calls(looked_up: &LookedUp, watch: &mut StageWatch) {
    for (shard, timing) in &looked_up.calls {
        watch.ask(*shard);
        watch.time(*timing);
    }
}

/// Notes who was asked, and what cannot be shown.
fn note(looked_up: &LookedUp, watch: &mut StageWatch) {
    note_calls(looked_up, watch);
    if looked_up.unknown > 0 {
        watch.lessen(StageStatus::Partial, StageReason::DamagedSegment);
    }
    if looked_up.oversized > 0 {
        watch.lessen(StageStatus::Partial, StageReason::Size);
    }
}

/// Puts aside what was found at these places.
fn keep(texts: &mut Texts, places: &[usize], looked_up: LookedUp) {
    let passages = places.iter().zip(looked_up.passages);
    texts.extend(passages.filter_map(|(place, passage)| Some((*place, passage?))));
}

/// Leaves out the hits that a message does not hold; whether there are any.
fn cut_to_message(hits: &mut Vec<Hit>) -> bool {
    let mut bytes = 0;
    let fitting = hits.iter().take_while(|hit| {
        bytes += hit.passage.bytes();
        bytes <= MAX_ANSWER_BYTES
    });
    let fitting = fitting.count();
    let is_cut = fitting < hits.len();
    hits.truncate(fitting);
    is_cut
}

/// The first place at or behind `end` whose score differs from the one before it.
fn end_of_ties(ranking: &Ranking, end: usize) -> usize {
    let last = ranking.score(end - 1);
    (end..ranking.len())
        .find(|place| ranking.score(*place) != last)
        .unwrap_or(ranking.len())
}
