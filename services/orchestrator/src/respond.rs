//! From ranked documents to their texts.
//!
//! Texts are fetched for the page alone, and document ids for what may change it: the places in front of it, of which some may not be
//! there to be shown, and equal scores at its end, which are ordered by document id whatever the sharding. So the page is exact, and
//! the usual one takes one call to each shard.

use crate::clients::Passage;
use crate::documents::{LookedUp, MAX_ANSWER_BYTES, PassageRef, Wanted};
use crate::error::SearchError;
use crate::funnel::{Hit, Ranked, Run, StageWatch};
use crate::ranking::Ranking;
use search_core::{StageReason, StageReport, StageStatus};
use std::collections::HashMap;
use std::ops::Range;
use tracing::Instrument;

/// Longest page whose texts are asked for before it is known: a text too many costs more than an id.
const MAX_EARLY_TEXTS: usize = 100;

/// The page and the report of the stage.
#[derive(Debug)]
pub(crate) struct Responded {
    pub(crate) hits: Vec<Hit>,
    pub(crate) reports: Vec<StageReport>,
}

/// A document that can be shown.
#[derive(Debug)]
struct Shown {
    document_id: String,
    place: usize,
}

/// Texts by the place of their document in the ranking.
type Texts = HashMap<usize, Passage>;

impl Run<'_> {
    pub(crate) async fn respond(self, ranked: &Ranked) -> Result<Responded, SearchError> {
        let candidates = ranked.ranking.len();
        let mut watch = self.begin("fetch");
        watch.report.candidates_in = candidates as u64;
        let span = tracing::info_span!("fetch", candidates, hits = tracing::field::Empty);
        let hits = self
            .page(ranked, &mut watch)
            .instrument(span.clone())
            .await?;
        span.record("hits", hits.len());
        watch.report.candidates_out = hits.len() as u64;
        Ok(Responded {
            hits,
            reports: vec![watch.end()],
        })
    }

    async fn page(self, ranked: &Ranked, watch: &mut StageWatch) -> Result<Vec<Hit>, SearchError> {
        let request = &self.plan.request;
        let mut texts = self.early_texts(ranked, watch).await?;
        let shown = self.shown(ranked, &texts, watch).await?;
        if shown.len() < request.page_end() && !ranked.is_exhaustive {
            watch.lessen(StageStatus::Partial, StageReason::Depth);
        }
        let places = shown.iter().map(|shown| shown.place);
        let page: Vec<usize> = places.skip(request.offset).take(request.k).collect();
        let missing = page.iter().filter(|place| !texts.contains_key(place));
        let missing: Vec<usize> = missing.copied().collect();
        let looked_up = self.look_up(ranked, &missing, Wanted::Texts).await?;
        note(&looked_up, watch);
        keep(&mut texts, &missing, looked_up);
        let found = page
            .into_iter()
            .filter_map(|place| Some((place, texts.remove(&place)?)));
        let mut hits = found
            .map(|(place, passage)| self.hit(&ranked.ranking, place, passage))
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
            shown: ranking.passage(place),
            score: ranking.score(place),
            passage,
            trail,
        }
    }

    /// The documents at these places of the ranking, by the passages that they are shown by. What was fetched before is at hand.
    async fn look_up(
        self,
        ranked: &Ranked,
        places: &[usize],
        wanted: Wanted,
    ) -> Result<LookedUp, SearchError> {
        let passages = places.iter().map(|place| ranked.ranking.passage(*place));
        let (at_hand, unknown): (Vec<_>, Vec<_>) = passages
            .enumerate()
            .partition(|(_, passage)| ranked.texts.contains_key(&passage.address));
        let (positions, unknown): (Vec<usize>, Vec<PassageRef>) = unknown.into_iter().unzip();
        let may_be_part = !self.plan.request.require_full_coverage;
        let looked_up = self.fetch(&unknown, wanted).await;
        let mut looked_up = looked_up.checked(may_be_part)?;
        let fetched = positions.into_iter().zip(looked_up.passages);
        let mut passages = vec![None; places.len()];
        for (position, passage) in fetched {
            passages[position] = passage;
        }
        for (position, passage) in at_hand {
            passages[position] = ranked.texts.get(&passage.address).cloned();
        }
        looked_up.passages = passages;
        Ok(looked_up)
    }

    /// The texts of a short page as it is if nothing is tied and all can be shown. What cannot be shown is asked for again, and
    /// counted then.
    async fn early_texts(
        self,
        ranked: &Ranked,
        watch: &mut StageWatch,
    ) -> Result<Texts, SearchError> {
        let request = &self.plan.request;
        let mut texts = Texts::new();
        if request.k <= MAX_EARLY_TEXTS {
            let end = request.page_end().min(ranked.ranking.len());
            let places: Vec<usize> = (request.offset..end).collect();
            let looked_up = self.look_up(ranked, &places, Wanted::Texts).await?;
            note_times(&looked_up, watch);
            keep(&mut texts, &places, looked_up);
        }
        Ok(texts)
    }

    /// The best documents in the canonical order, as many as the page needs, or more, or all there are.
    async fn shown(
        self,
        ranked: &Ranked,
        texts: &Texts,
        watch: &mut StageWatch,
    ) -> Result<Vec<Shown>, SearchError> {
        let ranking = &ranked.ranking;
        let needed = self.plan.request.page_end();
        let mut shown = Vec::new();
        let mut start = 0;
        while shown.len() < needed && start < ranking.len() {
            let size = needed - shown.len();
            let end = end_of_ties(ranking, start.saturating_add(size).min(ranking.len()));
            shown.extend(
                self.in_canonical_order(ranked, start..end, texts, watch)
                    .await?,
            );
            start = end;
        }
        Ok(shown)
    }

    /// These places of the ranking, equal scores by document id. Documents that no replica can show are left out.
    async fn in_canonical_order(
        self,
        ranked: &Ranked,
        places: Range<usize>,
        texts: &Texts,
        watch: &mut StageWatch,
    ) -> Result<Vec<Shown>, SearchError> {
        let (known, unknown): (Vec<usize>, Vec<usize>) =
            places.partition(|place| texts.contains_key(place));
        let looked_up = self.look_up(ranked, &unknown, Wanted::Ids).await?;
        note(&looked_up, watch);
        let fetched = unknown.into_iter().zip(looked_up.passages);
        let fetched = fetched.filter_map(|(place, passage)| Some((place, passage?.document_id)));
        let known = known
            .into_iter()
            .map(|place| (place, texts[&place].document_id.clone()));
        let mut shown: Vec<Shown> = known
            .chain(fetched)
            .map(|(place, document_id)| Shown { document_id, place })
            .collect();
        shown.sort_by(|left, right| {
            let score = |shown: &Shown| ranked.ranking.score(shown.place);
            let by_score = score(right).total_cmp(&score(left));
            by_score.then_with(|| left.document_id.cmp(&right.document_id))
        });
        Ok(shown)
    }
}

/// Notes who was asked, and how long it took.
fn note_times(looked_up: &LookedUp, watch: &mut StageWatch) {
    for (shard, timing) in &looked_up.calls {
        watch.ask(*shard);
        watch.time(*timing);
    }
}

/// Notes who was asked, how long it took, and what cannot be shown.
fn note(looked_up: &LookedUp, watch: &mut StageWatch) {
    note_times(looked_up, watch);
    looked_up.note(watch);
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
