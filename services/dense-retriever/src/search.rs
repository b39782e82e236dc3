//! The best passages of the segments of a shard by cosine.
//!
//! Candidates are chosen cheaply and scored exactly: every score is the full-width cosine, whichever way led to the passage.
//!
//! | segments | chosen by |
//! |---|---|
//! | together few allowed passages for the prefix depth, or prefixes that say too little | scoring all of them: exact, and cheaper |
//! | otherwise | a scan of the prefixes; the best `prefix_depth` of all segments together |
//! | with a graph, where that is cheaper | the graph, more than are needed |
//!
//! The prefix depth is the shard's and not each segment's: how a shard is cut into segments changes neither result nor cost.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use search_core::{Address, Candidate, Score};
use segment::bitmap::Bitmap;
use segment::dense::{DensePart, Graph};
use segment::documents::Documents;
use vector_math::{CodedQuery, CodedRows, TopRows};

use crate::error::Error;

/// Rows that one thread scans between two looks at the clock: 0.15 ms of prefixes. A multiple of the 64 rows of a mask word.
const SCAN_ROWS: usize = 65_536;
/// Candidates that one thread scores between two looks at the clock.
const RESCORE_ROWS: usize = 512;

/// A segment to search.
pub struct Target<'a> {
    /// Segment number.
    pub number: u32,
    /// Its vectors.
    pub part: &'a DensePart,
    /// Its document ids, for ties with other segments.
    pub documents: &'a Documents,
    /// The passages that may be returned. `None`: all.
    pub allowed: Option<Arc<Bitmap>>,
}

/// What to find, and how hard to look.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Passages to return.
    pub limit: usize,
    /// Passages that the prefix scan passes on; at least `limit`.
    pub prefix_depth: usize,
    /// Whether prefixes say enough to choose by them.
    pub has_good_prefixes: bool,
}

/// Finds the best passages, best first; equal scores by document id, then by passage. `proceed` is asked between pieces of work.
pub fn search(
    query: &CodedQuery,
    targets: &[Target<'_>],
    plan: Plan,
    proceed: impl Fn() -> Result<(), Error> + Sync,
) -> Result<Vec<Candidate>, Error> {
    let proceed = &proceed;
    let (by_graph, scanned): (Vec<_>, Vec<_>) = targets
        .iter()
        .map(Searched::new)
        .partition(|target| target.graph_to_use(plan).is_some());
    let is_one_way = by_graph.is_empty() || scanned.is_empty();
    let by_graph = || search_graphs(query, &by_graph, plan, proceed);
    let scanned = || scan(query, &scanned, plan, proceed);
    let (found, scanned) = match is_one_way {
        true => (by_graph(), scanned()),
        false => rayon::join(by_graph, scanned),
    };
    let mut hits = found?;
    hits.append(&mut scanned?);
    hits.sort_unstable_by(best_first);
    hits.truncate(plan.limit);
    hits.iter().map(Hit::candidate).collect()
}

/// A target, with what every step asks it.
struct Searched<'a> {
    target: &'a Target<'a>,
    rows: CodedRows<'a>,
    allowed_passages: usize,
}

/// A scored passage of a target.
struct Hit<'a> {
    score: f32,
    row: u32,
    target: &'a Target<'a>,
}

impl<'a> Searched<'a> {
    fn new(target: &'a Target<'a>) -> Self {
        let rows = target.part.rows();
        let allowed_passages = target
            .allowed
            .as_ref()
            .map_or(rows.len(), |allowed| allowed.count() as usize);
        Self {
            target,
            rows,
            allowed_passages,
        }
    }

    fn hit(&self, (row, score): (u32, f32)) -> Hit<'a> {
        Hit {
            score,
            row,
            target: self.target,
        }
    }

    fn mask(&self) -> Option<&[u64]> {
        self.target.allowed.as_deref().map(Bitmap::words)
    }

    /// The rows in pieces of the size that one thread scans at a time.
    fn pieces(&self) -> impl Iterator<Item = (&Self, Range<usize>)> {
        let rows = self.rows.len();
        (0..rows)
            .step_by(SCAN_ROWS)
            .map(move |start| (self, start..rows.min(start + SCAN_ROWS)))
    }

    /// The graph, where there is one and it takes less time than a scan.
    fn graph_to_use(&self, plan: Plan) -> Option<&'a Graph> {
        let graph = self.target.part.graph()?;
        let row_ns = if plan.has_good_prefixes {
            cost::PREFIX_ROW_NS
        } else {
            cost::FULL_ROW_NS
        };
        let scan_ns = row_ns * self.rows.len() as u64;
        // Only this share of what the graph visits may be returned: it has to visit more.
        let visited = graph_candidates(plan) * self.rows.len() / self.allowed_passages.max(1);
        (cost::graph_ns(visited as u64) < scan_ns).then_some(graph)
    }
}

/// Passages to ask a graph for: it misses some of the nearest, fewer the more it is asked for.
fn graph_candidates(plan: Plan) -> usize {
    (plan.limit * cost::GRAPH_OVERFETCH).max(cost::GRAPH_MIN_CANDIDATES)
}

fn search_graphs<'a>(
    query: &CodedQuery,
    targets: &[Searched<'a>],
    plan: Plan,
    proceed: &(impl Fn() -> Result<(), Error> + Sync),
) -> Result<Vec<Hit<'a>>, Error> {
    let search_one = |searched: &Searched<'a>| -> Result<Vec<Hit<'a>>, Error> {
        proceed()?;
        let Some(graph) = searched.target.part.graph() else {
            return Ok(Vec::new());
        };
        let allowed = searched.target.allowed.as_deref();
        let is_allowed = allowed.map(|allowed| |row: u32| allowed.contains(row));
        let is_allowed = is_allowed
            .as_ref()
            .map(|is_allowed| is_allowed as &dyn Fn(u32) -> bool);
        let found = graph.search(query, graph_candidates(plan), is_allowed)?;
        let score = |row: u32| {
            searched
                .rows
                .score(query, row as usize)
                .map(|score| searched.hit((row, score)))
        };
        Ok(found.into_iter().filter_map(score).collect())
    };
    let hits: Vec<Vec<Hit<'a>>> = targets
        .par_iter()
        .map(search_one)
        .collect::<Result<_, _>>()?;
    Ok(hits.into_iter().flatten().collect())
}

fn scan<'a>(
    query: &CodedQuery,
    targets: &[Searched<'a>],
    plan: Plan,
    proceed: &(impl Fn() -> Result<(), Error> + Sync),
) -> Result<Vec<Hit<'a>>, Error> {
    let allowed: usize = targets.iter().map(|target| target.allowed_passages).sum();
    if !plan.has_good_prefixes || allowed <= plan.prefix_depth * cost::FULL_ROWS_PER_RESCORED {
        return scan_pieces(targets, plan.limit, proceed, |rows, range, mask, top| {
            rows.scan_full(query, range, mask, top);
        });
    }
    let mut chosen = scan_pieces(
        targets,
        plan.prefix_depth,
        proceed,
        |rows, range, mask, top| {
            rows.scan_prefix(query, range, mask, top);
        },
    )?;
    keep_best(&mut chosen, plan.prefix_depth);
    rescore(query, &mut chosen, proceed)?;
    Ok(chosen)
}

/// Scans all targets in pieces, several at a time; each piece gives at most `limit` passages.
fn scan_pieces<'a>(
    targets: &[Searched<'a>],
    limit: usize,
    proceed: &(impl Fn() -> Result<(), Error> + Sync),
    scan: impl Fn(&CodedRows<'a>, Range<usize>, Option<&[u64]>, &mut TopRows) + Sync,
) -> Result<Vec<Hit<'a>>, Error> {
    let pieces: Vec<_> = targets.iter().flat_map(Searched::pieces).collect();
    let scan_piece =
        |(searched, range): &(&Searched<'a>, Range<usize>)| -> Result<Vec<Hit<'a>>, Error> {
            proceed()?;
            let mut top = TopRows::new(limit);
            scan(&searched.rows, range.clone(), searched.mask(), &mut top);
            Ok(top
                .into_sorted()
                .into_iter()
                .map(|scored| searched.hit(scored))
                .collect())
        };
    let rows: usize = pieces.iter().map(|(_, range)| range.len()).sum();
    // Small pieces share a thread, and what is one thread's work stays on this one.
    let pieces_per_thread = pieces.len() * SCAN_ROWS / rows.max(1);
    let hits: Vec<Vec<Hit<'a>>> = pieces
        .par_iter()
        .with_min_len(pieces_per_thread.max(1))
        .map(scan_piece)
        .collect::<Result<_, _>>()?;
    Ok(hits.into_iter().flatten().collect())
}

/// Keeps the best `depth` by prefix. Equal prefixes at the edge go by address: their full scores are still to come.
fn keep_best(hits: &mut Vec<Hit<'_>>, depth: usize) {
    if hits.len() > depth {
        hits.select_nth_unstable_by(depth, |left, right| {
            let by_score = right.score.total_cmp(&left.score);
            by_score.then_with(|| left.address().cmp(&right.address()))
        });
        hits.truncate(depth);
    }
}

/// Gives chosen passages their full-width scores.
fn rescore(
    query: &CodedQuery,
    hits: &mut [Hit<'_>],
    proceed: &(impl Fn() -> Result<(), Error> + Sync),
) -> Result<(), Error> {
    // In the order of the rows, so that neighbours in memory are read together.
    hits.sort_unstable_by_key(Hit::address);
    hits.par_chunks_mut(RESCORE_ROWS).try_for_each(|chunk| {
        proceed()?;
        for hit in chunk {
            // A chosen row exists.
            hit.score = hit
                .target
                .part
                .rows()
                .score(query, hit.row as usize)
                .unwrap_or_default();
        }
        Ok(())
    })
}

impl Hit<'_> {
    fn address(&self) -> Address {
        Address::new(self.target.number, self.row)
    }

    fn candidate(&self) -> Result<Candidate, Error> {
        // Opening has checked that every row has a document.
        let first = self.target.documents.first_passage_of(self.row);
        Ok(Candidate {
            address: self.address(),
            document: Address::new(self.target.number, first.unwrap_or(self.row)),
            score: Score::try_from(self.score)?,
        })
    }

    fn document_id(&self) -> Option<&str> {
        self.target.documents.document_id_of(self.row)
    }
}

/// The canonical order. Ids are read only for a tie across segments, since within one the ordinals are in their order.
fn best_first(left: &Hit<'_>, right: &Hit<'_>) -> Ordering {
    let by_score = right.score.total_cmp(&left.score);
    by_score.then_with(|| {
        if left.target.number == right.target.number {
            return left.row.cmp(&right.row);
        }
        let by_id = left.document_id().cmp(&right.document_id());
        by_id.then_with(|| left.address().cmp(&right.address()))
    })
}

/// What the ways to choose cost, from `examples/graph_cost.rs`; only their proportions matter.
///
/// 35,000 arXiv abstracts, 384 dimensions, prefix 64, one Zen 4 core, microseconds a query:
///
/// | | time | of the exact top 10 | top 100 |
/// |---|---|---|---|
/// | full scan | 1149 | 1 | 1 |
/// | prefixes, depth 1000 | 157 | .998 | .994 |
/// | graph, asked for 128 / 256 / 512 | 90 / 189 / 427 | .997 / 1 / 1 | .970 / .991 / .998 |
/// | graph, asked for 1000 / 2000 | 1497 / 4565 | 1 / 1 | 1 / 1 |
///
/// A graph pays for a hundred hits from about 200,000 passages on, and for a thousand from some millions: scans grow with the
/// segment, graphs with what they are asked for, more than in proportion (usearch keeps its candidates in a sorted array).
mod cost {
    /// Scanning one prefix of 64 codes.
    pub(super) const PREFIX_ROW_NS: u64 = 2;
    /// Scanning one row of 384 codes.
    pub(super) const FULL_ROW_NS: u64 = 33;
    /// Full rows that a scan passes in the time of scoring one row somewhere in the segment.
    pub(super) const FULL_ROWS_PER_RESCORED: usize = 3;
    /// One passage that a graph is asked for. Twice what was measured, since a larger graph is deeper and out of the caches.
    pub(super) const GRAPH_CANDIDATE_NS: u64 = 1400;
    /// What each passage that a graph is asked for adds to the cost of every other one.
    pub(super) const GRAPH_PAIR_NS: u64 = 1;
    /// Passages that a graph is asked for, for each that is needed.
    pub(super) const GRAPH_OVERFETCH: usize = 2;
    /// Passages that a graph is always asked for.
    pub(super) const GRAPH_MIN_CANDIDATES: usize = 256;

    /// Finding this many passages in a graph.
    pub(super) fn graph_ns(asked: u64) -> u64 {
        asked.saturating_mul(GRAPH_CANDIDATE_NS + asked.saturating_mul(GRAPH_PAIR_NS))
    }
}

#[cfg(test)]
mod tests;
