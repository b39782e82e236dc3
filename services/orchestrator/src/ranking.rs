//! Documents by their score, and what the score of each is made of: terms of the legs, and of the later stages that scored the head.

use crate::complete::{LegScores, Pool};
use crate::documents::PassageRef;
use crate::funnel::{Reading, TrailEntry};
use search_core::fusion::{self, Fused};
use search_core::rerank::{Scale, Term, merge, total};
use search_core::routing::margin_in_deviations;
use std::cmp::Ordering;
use std::collections::HashMap;
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
    /// Stages that scored the head afterwards, in their order.
    later: Vec<LaterStage>,
    /// What the scores of the documents that they scored are made of: a term of each leg, then one of each of those stages.
    terms: HashMap<usize, Vec<Term>>,
    /// Documents: final score descending, then address. Equal scores are put into their final order, that of document ids, when those
    /// are known.
    order: Vec<usize>,
}

/// What a later stage says about passages of the head.
#[derive(Debug)]
pub(crate) struct LaterScores {
    pub(crate) stage: &'static str,
    /// The part of its scores, more than 0; the earlier ones have the rest of 1.
    pub(crate) weight: f64,
    /// Parallel to the pool; none where it gave no score.
    pub(crate) own: Vec<Option<f32>>,
    /// How it read passages, by their positions in the pool; empty of stages that read none.
    pub(crate) readings: HashMap<usize, Reading>,
}

/// A stage that scored passages of the head.
#[derive(Debug)]
struct LaterStage {
    said: LaterScores,
    scale: Scale,
    /// The best of each document that it scored.
    best: HashMap<usize, f32>,
}

impl LaterStage {
    /// One-based rank among the documents that it scored; equal scores have equal ranks.
    fn rank(&self, own: f32) -> u32 {
        let greater = self.best.values().filter(|other| **other > own).count();
        u32::try_from(greater + 1).unwrap_or(u32::MAX)
    }

    /// What a passage adds to the score of its document.
    fn contribution(&self, position: usize, weight: f64) -> f64 {
        let unscored = f64::NEG_INFINITY;
        let normalized = |own| self.scale.normalized(own);
        self.said.own[position].map_or(unscored, |own| weight * normalized(own))
    }

    /// How it read the best of these passages.
    fn reading(&self, mut positions: Range<usize>, best: f32) -> Option<Reading> {
        let is_best = |position: &usize| self.said.own[*position] == Some(best);
        let position = positions.find(is_best)?;
        self.said.readings.get(&position).copied()
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
    pub(crate) fn new(pool: Pool, fuse: impl FnOnce(&[LegScores], &[Vec<f32>]) -> Fused) -> Self {
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
            later: Vec::new(),
            terms: HashMap::new(),
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
        self.pool.passages[self.position(place)]
    }

    /// Where that passage is in the pool.
    pub(crate) fn position(&self, place: usize) -> usize {
        let document = self.order[place];
        let terms = self.terms_of(document);
        let (of_legs, of_later) = terms.split_at(self.pool.legs.len());
        let combined = |position: usize| -> f64 {
            let legs = self.pool.legs.iter().zip(&self.fused.stages).zip(of_legs);
            let legs = legs
                .map(|((leg, stage), term)| term.weight * stage.normalized(leg.scores[position]));
            let later = self.later_of(document).zip(of_later);
            let later = later.map(|(stage, term)| stage.contribution(position, term.weight));
            legs.chain(later).sum()
        };
        position_of_best(self.documents[document].clone(), combined)
    }

    /// What each stage said about it.
    pub(crate) fn trail(&self, place: usize) -> Vec<TrailEntry> {
        let document = self.order[place];
        let terms = self.terms_of(document);
        let (of_legs, of_later) = terms.split_at(self.pool.legs.len());
        let stages = self.best.iter().zip(&self.fused.stages).zip(of_legs);
        let legs = self.pool.legs.iter().zip(stages);
        let legs = legs.map(|(leg, ((best, stage), term))| {
            let position = best[document];
            let raw = leg.scores[position];
            TrailEntry {
                completed: leg.completed[position],
                ..trail_entry(leg.leg.name(), raw, stage.rank(raw), *term)
            }
        });
        let shown = self.position(place);
        let later = self.later_of(document).zip(of_later).map(|(stage, term)| {
            let raw = stage.best[&document];
            TrailEntry {
                shown: stage.said.own[shown],
                reading: stage.reading(self.documents[document].clone(), raw),
                ..trail_entry(stage.said.stage, raw, stage.rank(raw), *term)
            }
        });
        legs.chain(later).collect()
    }

    /// The later stages that scored it.
    fn later_of(&self, document: usize) -> impl Iterator<Item = &LaterStage> {
        let scored = move |stage: &&LaterStage| stage.best.contains_key(&document);
        self.later.iter().filter(scored)
    }

    /// What its score is made of.
    fn terms_of(&self, document: usize) -> Vec<Term> {
        self.terms
            .get(&document)
            .cloned()
            .unwrap_or_else(|| self.fused_terms(document))
    }

    fn fused_terms(&self, document: usize) -> Vec<Term> {
        let stages = self.best.iter().zip(&self.fused.stages);
        let terms = self.pool.legs.iter().zip(stages);
        let term = |(leg, (best, stage)): (&LegScores, (&Vec<usize>, &fusion::FusedStage))| Term {
            normalized: stage.normalized(leg.scores[best[document]]),
            weight: stage.weight,
        };
        terms.map(term).collect()
    }

    /// How much the first document's score is above the second's, in standard deviations of the scores of the first so many. None where
    /// that cannot be said.
    pub(crate) fn margin(&self, window: usize) -> Option<f64> {
        let window = window.min(self.len());
        let scores: Vec<f64> = (0..window).map(|place| self.score(place)).collect();
        margin_in_deviations(&scores)
    }

    /// How many passages each of the first documents has in the pool.
    pub(crate) fn passages_by_document(&self, window: usize) -> impl Iterator<Item = usize> {
        let documents = self.order.iter().take(window);
        documents.map(|document| self.documents[*document].len())
    }

    /// How many passages the pool has.
    pub(crate) fn passages(&self) -> usize {
        self.pool.passages.len()
    }

    /// The passages of the first documents, with their positions in the pool. Of a document that first by which it is shown.
    pub(crate) fn passages_of_head(
        &self,
        window: usize,
    ) -> impl Iterator<Item = (usize, PassageRef)> {
        let positions = (0..window).flat_map(|place| {
            let shown = self.position(place);
            let all = self.documents[self.order[place]].clone();
            std::iter::once(shown).chain(all.filter(move |position| *position != shown))
        });
        positions.map(|position| (position, self.pool.passages[position]))
    }

    /// The places of equal scores of which some are before this one and some are not.
    pub(crate) fn ties_across(&self, window: usize) -> Range<usize> {
        if window == 0 || window == self.len() || self.score(window - 1) != self.score(window) {
            return window..window;
        }
        let tied = self.score(window);
        let is_tied = |place: &usize| self.score(*place) == tied;
        let before = (0..window).rev().take_while(is_tied).count();
        let behind = (window..self.len()).take_while(is_tied).count();
        window - before..window + behind
    }

    /// Puts documents of equal scores into another order: `places` of the ranking as they are, from `first` on.
    pub(crate) fn reorder(&mut self, first: usize, places: &[usize]) {
        let order: Vec<usize> = places.iter().map(|place| self.order[*place]).collect();
        self.order[first..first + order.len()].copy_from_slice(&order);
    }

    /// Takes a later stage's scores of passages of the first `window` documents. A document is as good as its best passage. The head
    /// ends with the last document that was scored: what is behind stays below. Returns how many documents were scored.
    pub(crate) fn rerank(&mut self, window: usize, said: LaterScores) -> usize {
        let best_own = |document: &usize| {
            let scores = said.own[self.documents[*document].clone()].iter().flatten();
            scores.copied().max_by(f32::total_cmp)
        };
        let mut scores: Vec<Option<f32>> = self.order[..window].iter().map(best_own).collect();
        let window = scores
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |last| last + 1);
        scores.truncate(window);
        let head: Vec<usize> = self.order[..window].to_vec();
        let earlier: Vec<Vec<Term>> = head
            .iter()
            .map(|document| self.terms_of(*document))
            .collect();
        let merged = merge(&earlier, &scores, said.weight);
        let scored = head.iter().zip(&scores);
        let best: HashMap<usize, f32> = scored
            .filter_map(|(document, score)| Some((*document, (*score)?)))
            .collect();
        let documents_scored = best.len();
        for (document, terms) in head.into_iter().zip(merged.terms) {
            self.fused.scores[document] = total(&terms);
            self.terms.insert(document, terms);
        }
        self.later.push(LaterStage {
            said,
            scale: merged.scale,
            best,
        });
        let scores = &self.fused.scores;
        self.order[..window].sort_unstable_by(|left, right| by_score(scores, *left, *right));
        documents_scored
    }
}

/// The same for every stage.
fn trail_entry(stage: &'static str, raw: f32, rank: u32, term: Term) -> TrailEntry {
    TrailEntry {
        stage,
        raw: f64::from(raw),
        rank,
        normalized: term.normalized,
        weight: term.weight,
        contribution: term.contribution(),
        completed: false,
        shown: None,
        reading: None,
        matches: Vec::new(),
    }
}

/// Documents by score; equal scores stay in the order of addresses.
fn best_first(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|left, right| by_score(scores, *left, *right));
    order
}

fn by_score(scores: &[f64], left: usize, right: usize) -> Ordering {
    scores[right]
        .total_cmp(&scores[left])
        .then(left.cmp(&right))
}
