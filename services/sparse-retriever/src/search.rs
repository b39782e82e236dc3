//! The best passages of some segments, exactly as a full scoring and a full sort would give them.
//!
//! Each segment is searched by tantivy with block-max pruning: blocks of postings that cannot reach the best so far are skipped
//! (Ding and Suel, "Faster top-k document retrieval using block-max indexes", SIGIR 2011). The pruned scores only choose who
//! is looked at: with a [`Margin`] that covers what they may be off, the survivors are scored again canonically, clause by clause.
//! So neither the number of segments nor the order of a float sum can change a result.

use std::cmp::Ordering;
use std::sync::Arc;

use search_core::{Address, Candidate, Score};
use segment::bitmap::Bitmap;
use segment::documents::Documents;
use segment::sparse::{SparseIndex, Statistics};
use tantivy::{SegmentReader, TERMINATED};

use crate::error::Error;
use crate::margin::Margin;
use crate::pace::Pace;
use crate::query::{Finder, WeightedQuery};
use crate::score::{ClauseScorers, Exclusions};

/// Smallest buffer of survivors, so that tiny limits do not select at every passage.
const MIN_BUFFER: usize = 64;

/// A segment to search.
pub struct Target<'a> {
    /// Segment number.
    pub number: u32,
    /// Its postings.
    pub index: &'a SparseIndex,
    /// Its document ids, by which ties are broken.
    pub documents: &'a Documents,
    /// Says which passages may be returned; `None`: all.
    pub allowed: Box<dyn Fn() -> Option<Arc<Bitmap>> + 'a>,
}

/// Searches the targets one after the other and merges. `proceed` is asked before each, and now and then within.
pub fn search(
    query: &WeightedQuery,
    statistics: &Statistics,
    targets: &[Target<'_>],
    limit: usize,
    proceed: impl Fn() -> Result<(), Error>,
) -> Result<Vec<Candidate>, Error> {
    let mut best: Vec<Hit<'_>> = Vec::new();
    for target in targets {
        let pace = Pace::start(&proceed)?;
        // once there are enough, a segment only has to give what can enter
        let worst = best
            .last()
            .filter(|_| best.len() == limit)
            .map(|hit| hit.score);
        let found = search_segment(query, statistics, target, limit, worst, pace)?;
        let hit = |Scored { score, ordinal }| Hit {
            score,
            target,
            ordinal,
        };
        best.extend(found.into_iter().map(hit));
        best.sort_unstable_by(best_hit_first);
        best.truncate(limit);
    }
    best.iter().map(Hit::candidate).collect()
}

/// A passage of one of several segments.
struct Hit<'a> {
    score: f32,
    target: &'a Target<'a>,
    ordinal: u32,
}

impl Hit<'_> {
    fn candidate(&self) -> Result<Candidate, Error> {
        // Opening has checked that every passage has a document.
        let first = self.target.documents.first_passage_of(self.ordinal);
        Ok(Candidate {
            address: Address::new(self.target.number, self.ordinal),
            document: Address::new(self.target.number, first.unwrap_or(self.ordinal)),
            score: Score::try_from(self.score)?,
        })
    }

    fn document_id(&self) -> Option<&str> {
        self.target.documents.document_id_of(self.ordinal)
    }
}

/// The canonical order: score descending, then document id, then passage. Ids are read only for a tie across segments, since
/// within one the ordinals are in the order of the ids.
fn best_hit_first(left: &Hit<'_>, right: &Hit<'_>) -> Ordering {
    let by_score = right.score.total_cmp(&left.score);
    let by_place = || {
        if left.target.number == right.target.number {
            return left.ordinal.cmp(&right.ordinal);
        }
        let by_id = left.document_id().cmp(&right.document_id());
        by_id.then(left.target.number.cmp(&right.target.number))
    };
    by_score.then_with(by_place)
}

/// A passage of one segment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scored {
    score: f32,
    ordinal: u32,
}

fn best_first(left: &Scored, right: &Scored) -> Ordering {
    let by_score = right.score.total_cmp(&left.score);
    by_score.then(left.ordinal.cmp(&right.ordinal))
}

/// The best of one segment, best first. Passages that score below `worst` may be left out.
fn search_segment(
    query: &WeightedQuery,
    statistics: &Statistics,
    target: &Target<'_>,
    limit: usize,
    worst: Option<f32>,
    pace: Pace<'_>,
) -> Result<Vec<Scored>, Error> {
    let Some(finder) = &query.finder else {
        return Ok(Vec::new());
    };
    let reader = target.index.reader();
    let allowed = (target.allowed)();
    let mut survivors = Survivors {
        limit,
        allowed: allowed.as_deref(),
        margin: Margin::new(query.clauses.len(), target.index, statistics),
        floor: f32::NEG_INFINITY,
        pending: Vec::new(),
        settled: Vec::new(),
        scores: Vec::new(),
        exclusions: Exclusions::open(query, reader)?,
        scorers: ClauseScorers::open(query, reader)?,
        pace,
    };
    worst
        .into_iter()
        .for_each(|worst| survivors.raise_floor(worst));
    match finder.prunes {
        true => offer_contenders(finder, reader, &mut survivors)?,
        false => offer_all(finder, reader, &mut survivors)?,
    }
    survivors.into_best()
}

/// Offers what pruning does not rule out.
fn offer_contenders(
    finder: &Finder,
    reader: &SegmentReader,
    survivors: &mut Survivors<'_>,
) -> Result<(), Error> {
    let threshold = survivors.threshold();
    let mut offered = Ok(());
    let mut offer = |ordinal, score| {
        offered = survivors.offer(Scored { score, ordinal });
        match offered {
            Ok(()) => survivors.threshold(),
            // nothing reaches this: the walk ends
            Err(_) => f32::INFINITY,
        }
    };
    let weight = &finder.weight;
    weight.for_each_pruning(threshold, reader, &mut offer)?;
    offered
}

/// Offers every match. Where the index cannot prune, a threshold would not end its walk: so the walk is made here.
fn offer_all(
    finder: &Finder,
    reader: &SegmentReader,
    survivors: &mut Survivors<'_>,
) -> Result<(), Error> {
    let mut scorer = finder.weight.scorer(reader, 1.0)?;
    let mut ordinal = scorer.doc();
    while ordinal != TERMINATED {
        let score = scorer.score();
        survivors.offer(Scored { score, ordinal })?;
        ordinal = scorer.advance();
    }
    Ok(())
}

/// What pruning has not ruled out so far. Passages come in the order of their ordinals.
struct Survivors<'a> {
    limit: usize,
    allowed: Option<&'a Bitmap>,
    margin: Margin,
    /// Pruned scores at or below this are out.
    floor: f32,
    /// With pruned scores, by ordinal.
    pending: Vec<Scored>,
    /// With canonical scores: the best of what comes before `pending`, at most `limit`.
    settled: Vec<Scored>,
    /// Reused by [`Survivors::find_floor`].
    scores: Vec<f32>,
    exclusions: Exclusions,
    scorers: ClauseScorers,
    pace: Pace<'a>,
}

impl Survivors<'_> {
    fn threshold(&self) -> f32 {
        self.margin.threshold(self.floor)
    }

    fn offer(&mut self, passage: Scored) -> Result<(), Error> {
        self.pace.step()?;
        if passage.score > self.floor && self.may_be_returned(passage.ordinal) {
            self.pending.push(passage);
            if self.pending.len() >= self.capacity() {
                self.compact()?;
            }
        }
        Ok(())
    }

    fn may_be_returned(&mut self, ordinal: u32) -> bool {
        let allowed = self.allowed.is_none_or(|allowed| allowed.contains(ordinal));
        allowed && !self.exclusions.contain(ordinal)
    }

    fn capacity(&self) -> usize {
        self.limit.saturating_mul(2).max(MIN_BUFFER)
    }

    /// Makes room: by a higher floor, and where ties defeat it, by canonical scores.
    fn compact(&mut self) -> Result<(), Error> {
        self.find_floor();
        if self.pending.len() > self.capacity() / 4 * 3 {
            self.settle()?;
        }
        Ok(())
    }

    /// Raises the floor to what the best so far demand, and drops what lies below.
    fn find_floor(&mut self) {
        let all = self.settled.iter().chain(&self.pending);
        self.scores.clear();
        self.scores.extend(all.map(|passage| passage.score));
        if self.scores.len() < self.limit {
            return;
        }
        let descending = |left: &f32, right: &f32| right.total_cmp(left);
        let (_, worst, _) = self
            .scores
            .select_nth_unstable_by(self.limit - 1, descending);
        let worst = *worst;
        self.raise_floor(worst);
    }

    fn raise_floor(&mut self, worst: f32) {
        self.floor = self.floor.max(self.margin.floor(worst));
        let floor = self.floor;
        self.pending.retain(|passage| passage.score > floor);
    }

    /// Gives all pending passages their canonical scores and keeps the best.
    fn settle(&mut self) -> Result<(), Error> {
        for Scored { ordinal, .. } in self.pending.drain(..) {
            self.pace.step()?;
            let score = self.scorers.score(ordinal);
            debug_assert!(
                score.is_some(),
                "passage {ordinal} was found but is excluded"
            );
            self.settled
                .extend(score.map(|score| Scored { score, ordinal }));
        }
        if self.settled.len() > self.limit {
            let (_, worst, _) = self
                .settled
                .select_nth_unstable_by(self.limit - 1, best_first);
            let worst = worst.score;
            self.settled.truncate(self.limit);
            self.raise_floor(worst);
        }
        Ok(())
    }

    fn into_best(mut self) -> Result<Vec<Scored>, Error> {
        self.find_floor();
        self.settle()?;
        self.settled.sort_unstable_by(best_first);
        Ok(self.settled)
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
