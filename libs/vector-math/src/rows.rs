//! The stored vectors of one segment, and the two ways to score them: prefix only, or full width.

use std::ops::Range;

use crate::coder::combined;
use crate::kernels::Offer;
use crate::{CodedQuery, Kernels, TopRows, VectorError};

/// Rows per step of a scan: one word of the mask of allowed rows, and few enough that what a step
/// computes stays in the nearest cache.
const BLOCK_ROWS: usize = 64;

/// With no more allowed rows than this in a block, single rows are cheaper than the whole block.
const SINGLE_ROWS: u32 = 12;

/// Coded vectors that lie somewhere else, e.g. in mapped files: row-major blocks of equal row count.
#[derive(Debug, Clone, Copy)]
pub struct CodedRows<'a> {
    prefix: &'a [i8],
    rest: &'a [i8],
    scales: &'a [f32],
    prefix_inverse_norms: &'a [f32],
    prefix_dimensions: usize,
    rest_dimensions: usize,
    kernels: Kernels,
}

impl<'a> CodedRows<'a> {
    /// Puts the blocks together. `scales` holds two values per row: of the prefix, of the rest.
    pub fn new(
        dimensions: usize,
        prefix_dimensions: usize,
        prefix: &'a [i8],
        rest: &'a [i8],
        scales: &'a [f32],
        prefix_inverse_norms: &'a [f32],
    ) -> Result<Self, VectorError> {
        crate::coder::check_dimensions(dimensions, dimensions, prefix_dimensions)?;
        let rest_dimensions = dimensions - prefix_dimensions;
        let rows = prefix_inverse_norms.len();
        check_block("the prefix block", prefix.len(), rows * prefix_dimensions)?;
        check_block("the rest block", rest.len(), rows * rest_dimensions)?;
        check_block("the scale block", scales.len(), rows * 2)?;
        let kernels = Kernels::detected();
        Ok(Self {
            prefix,
            rest,
            scales,
            prefix_inverse_norms,
            prefix_dimensions,
            rest_dimensions,
            kernels,
        })
    }

    /// The same rows, scored by other kernels: for tests and benches.
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.prefix_inverse_norms.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.prefix_inverse_norms.is_empty()
    }

    /// Cosine of query and row over the full stored width. `None` for a row that there isn't.
    ///
    /// Both sums of products are exact integers; they are scaled and added in f64 and rounded once to f32.
    pub fn score(&self, query: &CodedQuery, row: usize) -> Option<f32> {
        (row < self.len()).then(|| {
            let prefix = query.prefix.dot(self.kernels, self.prefix_row(row));
            let rest = query.rest.dot(self.kernels, self.rest_row(row));
            self.scaled(query, row, prefix, rest)
        })
    }

    /// Offers rows with the cosine of the prefixes, up to a constant factor of the query: good for choosing only.
    ///
    /// `allowed` holds one bit per row of the segment; rows beyond it are not allowed. The range may begin anywhere.
    pub fn scan_prefix(
        &self,
        query: &CodedQuery,
        rows: Range<usize>,
        allowed: Option<&[u64]>,
        top: &mut TopRows,
    ) {
        for block in Blocks::new(self.clamped(rows), allowed) {
            if block.allowed.count_ones() <= SINGLE_ROWS {
                self.offer_single_prefixes(query, &block, top);
            } else {
                self.offer_prefix_block(query, &block, top);
            }
        }
    }

    /// Offers rows with their full-width cosine: the same bits as [`CodedRows::score`].
    pub fn scan_full(
        &self,
        query: &CodedQuery,
        rows: Range<usize>,
        allowed: Option<&[u64]>,
        top: &mut TopRows,
    ) {
        for block in Blocks::new(self.clamped(rows), allowed) {
            if block.allowed.count_ones() <= SINGLE_ROWS {
                for row in block.allowed_rows() {
                    if let Some(score) = self.score(query, row) {
                        top.push(row as u32, score);
                    }
                }
            } else {
                self.offer_full_block(query, &block, top);
            }
        }
    }

    fn clamped(&self, rows: Range<usize>) -> Range<usize> {
        rows.start.min(self.len())..rows.end.min(self.len())
    }

    fn offer_single_prefixes(&self, query: &CodedQuery, block: &Block, top: &mut TopRows) {
        for row in block.allowed_rows() {
            let dot = self.kernels.dot(&query.prefix.codes, self.prefix_row(row));
            top.push(row as u32, dot as f32 * self.prefix_inverse_norms[row]);
        }
    }

    fn offer_prefix_block(&self, query: &CodedQuery, block: &Block, top: &mut TopRows) {
        let mut dots = [0; BLOCK_ROWS];
        let dots = &mut dots[..block.rows.len()];
        self.kernels
            .dot_rows(&query.prefix.codes, self.prefix_rows(&block.rows), dots);
        let offer = Offer {
            dots,
            factors: &self.prefix_inverse_norms[block.rows.clone()],
            first_row: block.rows.start as u32,
            allowed: block.allowed,
        };
        self.kernels.offer(&offer, top);
    }

    fn offer_full_block(&self, query: &CodedQuery, block: &Block, top: &mut TopRows) {
        let mut dots = [[0; BLOCK_ROWS]; 4];
        let [prefix, prefix_residual, rest, rest_residual] =
            dots.each_mut().map(|dots| &mut dots[..block.rows.len()]);
        let (prefix_rows, rest_rows) = (self.prefix_rows(&block.rows), self.rest_rows(&block.rows));
        self.kernels
            .dot_rows(&query.prefix.codes, prefix_rows, prefix);
        self.kernels
            .dot_rows(&query.prefix.residuals, prefix_rows, prefix_residual);
        self.kernels.dot_rows(&query.rest.codes, rest_rows, rest);
        self.kernels
            .dot_rows(&query.rest.residuals, rest_rows, rest_residual);
        for row in block.allowed_rows() {
            let at = row - block.rows.start;
            let prefix = combined(prefix[at], prefix_residual[at]);
            let rest = combined(rest[at], rest_residual[at]);
            top.push(row as u32, self.scaled(query, row, prefix, rest));
        }
    }

    fn scaled(&self, query: &CodedQuery, row: usize, prefix: i64, rest: i64) -> f32 {
        let prefix = prefix as f64 * query.prefix.scale * f64::from(self.scales[2 * row]);
        let rest = rest as f64 * query.rest.scale * f64::from(self.scales[2 * row + 1]);
        (prefix + rest) as f32
    }

    fn prefix_row(&self, row: usize) -> &'a [i8] {
        &self.prefix[row * self.prefix_dimensions..][..self.prefix_dimensions]
    }

    fn rest_row(&self, row: usize) -> &'a [i8] {
        &self.rest[row * self.rest_dimensions..][..self.rest_dimensions]
    }

    fn prefix_rows(&self, rows: &Range<usize>) -> &'a [i8] {
        &self.prefix[rows.start * self.prefix_dimensions..rows.end * self.prefix_dimensions]
    }

    fn rest_rows(&self, rows: &Range<usize>) -> &'a [i8] {
        &self.rest[rows.start * self.rest_dimensions..rows.end * self.rest_dimensions]
    }
}

fn check_block(what: &'static str, actual: usize, expected: usize) -> Result<(), VectorError> {
    if actual == expected {
        Ok(())
    } else {
        Err(VectorError::BlockSize {
            what,
            expected,
            actual,
        })
    }
}

/// Up to 64 consecutive rows of which at least one is allowed; none crosses a multiple of 64.
struct Block {
    rows: Range<usize>,
    /// Bit `i` stands for row `rows.start + i`.
    allowed: u64,
}

impl Block {
    fn allowed_rows(&self) -> impl Iterator<Item = usize> {
        let start = self.rows.start;
        let mut left = self.allowed;
        std::iter::from_fn(move || {
            let position = left.trailing_zeros() as usize;
            (left != 0).then(|| {
                left &= left - 1;
                start + position
            })
        })
    }
}

/// The blocks of a range of rows.
struct Blocks<'a> {
    rows: Range<usize>,
    allowed: Option<&'a [u64]>,
}

impl<'a> Blocks<'a> {
    fn new(rows: Range<usize>, allowed: Option<&'a [u64]>) -> Self {
        Self { rows, allowed }
    }

    fn mask(&self, rows: &Range<usize>) -> u64 {
        let wanted = u64::MAX >> (BLOCK_ROWS - rows.len());
        let word = match self.allowed {
            None => u64::MAX,
            Some(words) => words.get(rows.start / BLOCK_ROWS).copied().unwrap_or(0),
        };
        (word >> (rows.start % BLOCK_ROWS)) & wanted
    }
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        while !self.rows.is_empty() {
            let next_word = (self.rows.start / BLOCK_ROWS + 1) * BLOCK_ROWS;
            let rows = self.rows.start..next_word.min(self.rows.end);
            self.rows.start = rows.end;
            let allowed = self.mask(&rows);
            if allowed != 0 {
                return Some(Block { rows, allowed });
            }
        }
        None
    }
}
