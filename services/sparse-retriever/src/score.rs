//! The canonical score of given passages: clause by clause, in the order of the query.
//!
//! The inverted index sums the clauses of a passage in whatever order its scorers happen to stand, and float sums depend
//! on it in their last bits. So every score that leaves this service is summed here: it is a function of the query, the
//! passage and the snapshot's statistics alone.

use search_core::{Address, Occur};
use segment::sparse::SparseIndex;
use tantivy::query::{Scorer, Weight};
use tantivy::{DocId, SegmentReader};

use crate::error::Error;
use crate::pace::Pace;
use crate::query::WeightedQuery;

/// Scores of given passages, parallel to their addresses.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Scores {
    /// 0 for what is excluded, unknown, or matched by nothing.
    pub(crate) scores: Vec<f32>,
    /// Positions of passages that the query excludes, ascending.
    pub(crate) excluded: Vec<u32>,
    /// Positions of addresses that are not there, ascending.
    pub(crate) unknown: Vec<u32>,
}

impl Scores {
    /// Of passages that are not there.
    pub(crate) fn all_unknown(passages: usize) -> Self {
        Self {
            scores: vec![0.0; passages],
            unknown: (0..).take(passages).collect(),
            ..Self::default()
        }
    }
}

/// Scores the passages. `locate` gives the index of the segment of an address, if the passage is there; `proceed` is asked before
/// each segment, and now and then within.
pub(crate) fn score<'a>(
    query: &WeightedQuery,
    addresses: &[Address],
    locate: impl Fn(Address) -> Option<&'a SparseIndex>,
    proceed: impl Fn() -> Result<(), Error>,
) -> Result<Scores, Error> {
    let mut scores = Scores {
        scores: vec![0.0; addresses.len()],
        ..Scores::default()
    };
    let mut by_address: Vec<(Address, u32)> = addresses.iter().copied().zip(0..).collect();
    by_address.sort_unstable();
    for in_segment in by_address.chunk_by(|(left, _), (right, _)| left.segment() == right.segment())
    {
        let pace = Pace::start(&proceed)?;
        score_segment(query, in_segment, &locate, &mut scores, pace)?;
    }
    scores.excluded.sort_unstable();
    scores.unknown.sort_unstable();
    Ok(scores)
}

fn score_segment<'a>(
    query: &WeightedQuery,
    passages: &[(Address, u32)],
    locate: impl Fn(Address) -> Option<&'a SparseIndex>,
    scores: &mut Scores,
    mut pace: Pace<'_>,
) -> Result<(), Error> {
    let mut scorers = None;
    for &(address, position) in passages {
        pace.step()?;
        let Some(index) = locate(address) else {
            scores.unknown.push(position);
            continue;
        };
        let scorers = match &mut scorers {
            Some(opened) => opened,
            none => none.insert(ClauseScorers::open(query, index.reader())?),
        };
        match scorers.score(address.ordinal()) {
            Some(score) => scores.scores[position as usize] = score,
            None => scores.excluded.push(position),
        }
    }
    Ok(())
}

/// The clauses of a query in one segment, moving forward over its passages.
pub(crate) struct ClauseScorers(Vec<(Occur, Box<dyn Scorer>)>);

impl ClauseScorers {
    pub(crate) fn open(query: &WeightedQuery, segment: &SegmentReader) -> tantivy::Result<Self> {
        let open =
            |(occur, weight): &(Occur, Box<dyn Weight>)| Ok((*occur, weight.scorer(segment, 1.0)?));
        query
            .clauses
            .iter()
            .map(open)
            .collect::<tantivy::Result<_>>()
            .map(Self)
    }

    /// The score of a passage: 0 if no clause matches, `None` if the query excludes it. Ordinals must not fall from one call
    /// to the next.
    pub(crate) fn score(&mut self, ordinal: DocId) -> Option<f32> {
        let mut score = 0.0;
        for (occur, scorer) in &mut self.0 {
            match (occur, stands_on(scorer.as_mut(), ordinal)) {
                (Occur::MustNot, true) | (Occur::Must, false) => return None,
                (Occur::Must | Occur::Should, true) => score += scorer.score(),
                (Occur::MustNot | Occur::Should, false) => {}
            }
        }
        Some(score)
    }
}

/// What a query excludes in one segment.
///
/// tantivy's own exclusion asks its scorers for passages behind them, which phrases do not survive (an assertion, or a wrong
/// answer without it); and a query with an exclusion would be searched without pruning.
pub(crate) struct Exclusions(Vec<Box<dyn Scorer>>);

impl Exclusions {
    pub(crate) fn open(query: &WeightedQuery, segment: &SegmentReader) -> tantivy::Result<Self> {
        let excluded = query
            .clauses
            .iter()
            .filter(|(occur, _)| *occur == Occur::MustNot);
        let scorers = excluded.map(|(_, weight)| weight.scorer(segment, 1.0));
        scorers.collect::<tantivy::Result<_>>().map(Self)
    }

    /// Whether one of them matches. Ordinals must not fall from one call to the next.
    pub(crate) fn contain(&mut self, ordinal: DocId) -> bool {
        self.0
            .iter_mut()
            .any(|scorer| stands_on(scorer.as_mut(), ordinal))
    }
}

fn stands_on(scorer: &mut dyn Scorer, ordinal: DocId) -> bool {
    if scorer.doc() < ordinal {
        scorer.seek(ordinal);
    }
    scorer.doc() == ordinal
}
