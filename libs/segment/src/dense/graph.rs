//! An HNSW graph over the vectors of a large segment (Malkov and Yashunin 2018), by usearch.
//!
//! usearch sees our own codes with our own metric: packed rows of codes and scales, compared as exactly as the
//! scan compares them. What the graph finds is scored again by the caller, so that a score has the same
//! bits on either way. Which neighbours it finds depends on the build: a few per cent are missed.
//!
//! A row of zeros has no neighbours, and a graph that leads to many of them leads nowhere: it has no node.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use usearch::{Index, IndexOptions, MetricKind, ScalarKind};
use vector_math::{CodedQuery, PackedLayout};

use super::{DensePart, GRAPH};
use crate::{SegmentError, layout::u32_at, mapped::Mapped};

/// Edges per node and layer; the lowest layer has twice as many. usearch's default and the common choice
/// for some hundred dimensions.
const CONNECTIVITY: usize = 16;
/// Candidates that are considered when a node is added.
const EXPANSION_BUILD: usize = 128;
/// Rows that a build thread takes at a time.
const BUILD_ROWS: usize = 256;
/// Rows that one thread adds before the others join it: nodes that are added at once don't see each other, and in
/// a graph that is almost empty they would stay without edges between them.
const SEED_ROWS: usize = 1024;
/// Searches of one graph at the same time; usearch refuses more. Memory is taken by those that happen.
pub const MAX_CONCURRENT_SEARCHES: usize = 256;

/// A graph that is searched from its mapped file.
pub struct Graph {
    index: Index,
    layout: PackedLayout,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Graph")
            .field("passages", &self.index.size())
            .finish_non_exhaustive()
    }
}

impl Graph {
    /// Builds the graph of a part with all cores and writes it to a file.
    pub(super) fn build(part: &DensePart, path: &Path) -> Result<(), SegmentError> {
        let rows: Vec<usize> = part.rows_with_direction().collect();
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let layout = layout_of(part);
        let mut index = Index::new(&options(layout)).map_err(engine)?;
        index.change_metric(layout.metric());
        index
            .reserve_capacity_and_threads(rows.len(), threads)
            .map_err(engine)?;
        let add_rows = |places: Range<usize>| -> Result<(), SegmentError> {
            for &row in &rows[places] {
                let (prefix, rest, scales) = part.row(row);
                index
                    .add(row as u64, &layout.pack_row(prefix, rest, scales))
                    .map_err(engine)?;
            }
            Ok(())
        };
        let seeded = rows.len().min(SEED_ROWS);
        add_rows(0..seeded)?;
        let next = AtomicUsize::new(seeded);
        let add_blocks = || -> Result<(), SegmentError> {
            loop {
                let first = next.fetch_add(BUILD_ROWS, Ordering::Relaxed);
                if first >= rows.len() {
                    return Ok(());
                }
                add_rows(first..rows.len().min(first + BUILD_ROWS))?;
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(add_blocks)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| {
                    Err(SegmentError::invalid(
                        "a thread that built the graph panicked",
                    ))
                })
            })
        })?;
        index.save(&text(path)?).map_err(engine)
    }

    /// Maps the graph of a part; one that doesn't fit the part is refused.
    ///
    /// The head is checked here and the content by the checksum that the file was verified with: usearch follows
    /// the edges of a graph without looking.
    pub(super) fn open(path: &Path, part: &DensePart) -> Result<Self, SegmentError> {
        let damaged = |reason: String| SegmentError::damaged(GRAPH, reason);
        let layout = layout_of(part);
        let found = stored_shape(path)?;
        let nodes = part.rows_with_direction().count();
        if found != (nodes as u64, layout.row_bytes() as u64) {
            return Err(damaged(format!(
                "has {} rows of {} bytes",
                found.0, found.1
            )));
        }
        let mut index = Index::new(&options(layout)).map_err(engine)?;
        index
            .reserve_capacity_and_threads(1, MAX_CONCURRENT_SEARCHES)
            .map_err(engine)?;
        index
            .view(&text(path)?)
            .map_err(|error| damaged(error.to_string()))?;
        if (index.size(), index.dimensions()) != (nodes, layout.row_bytes()) {
            return Err(damaged("contradicts its own head".to_owned()));
        }
        // After `view`, which sets a metric of its own.
        index.change_metric(layout.metric());
        Ok(Self { index, layout })
    }

    /// About the `count` nearest passages of those that are allowed, in no reliable order: to be scored by the caller.
    ///
    /// The more are asked for, the more of the nearest are found: ask for more than are needed.
    pub fn search(
        &self,
        query: &CodedQuery,
        count: usize,
        is_allowed: Option<&dyn Fn(u32) -> bool>,
    ) -> Result<Vec<u32>, SegmentError> {
        let query = self.layout.pack_query(query);
        let count = count.min(self.index.size());
        let matches = match is_allowed {
            None => self.index.search(&query, count),
            Some(is_allowed) => self
                .index
                .filtered_search(&query, count, |key| is_allowed(ordinal(key))),
        };
        let keys = matches.map_err(engine)?.keys;
        Ok(keys.into_iter().map(ordinal).collect())
    }
}

fn layout_of(part: &DensePart) -> PackedLayout {
    PackedLayout::new(part.dimensions(), part.prefix_dimensions())
}

fn options(layout: PackedLayout) -> IndexOptions {
    IndexOptions {
        dimensions: layout.row_bytes(),
        metric: MetricKind::IP,
        quantization: ScalarKind::I8,
        connectivity: CONNECTIVITY,
        expansion_add: EXPANSION_BUILD,
        ..IndexOptions::default()
    }
}

/// Rows and bytes per row by the first bytes of a usearch file.
fn stored_shape(path: &Path) -> Result<(u64, u64), SegmentError> {
    let bytes = Mapped::open(path)?;
    let shape = (u32_at(&bytes, 0), u32_at(&bytes, 1));
    let (Some(rows), Some(row_bytes)) = shape else {
        return Err(SegmentError::damaged(GRAPH, "ends too early"));
    };
    Ok((u64::from(rows), u64::from(row_bytes)))
}

/// A key that is no ordinal comes from a damaged graph and names no passage.
fn ordinal(key: u64) -> u32 {
    u32::try_from(key).unwrap_or(u32::MAX)
}

fn engine(error: impl std::error::Error + Send + Sync + 'static) -> SegmentError {
    SegmentError::Engine {
        engine: "usearch",
        source: Box::new(error),
    }
}

fn text(path: &Path) -> Result<String, SegmentError> {
    let text = path
        .to_str()
        .ok_or_else(|| SegmentError::invalid(format!("{} is not UTF-8", path.display())))?;
    Ok(text.to_owned())
}
