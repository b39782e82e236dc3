//! The token vectors of a segment's passages, and their scores.

use std::ops::Range;

use super::{TokenLayout, TokenQuery};
use crate::{Kernels, VectorError};

/// Blocks of passage tokens that lie somewhere else, e.g. in a mapped file. Which are whose is the caller's to know.
#[derive(Debug, Clone, Copy)]
pub struct TokenRows<'a> {
    layout: TokenLayout,
    blocks: &'a [u8],
    kernels: Kernels,
}

/// The tokens of one passage, of whichever rows.
#[derive(Debug, Clone, Copy)]
pub struct TokenPassage<'a> {
    layout: TokenLayout,
    blocks: &'a [u8],
    kernels: Kernels,
}

/// What a token of a query matches best in a passage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenMatch {
    /// The passage's token, from 0; of equally good ones the first.
    pub token: usize,
    /// Their cosine, as the score contains it.
    pub cosine: f32,
}

impl<'a> TokenRows<'a> {
    /// Blocks as [`TokenLayout::pack_passage`] makes them. Fastest when they start at a multiple of 64 bytes.
    pub fn new(layout: TokenLayout, blocks: &'a [u8]) -> Result<Self, VectorError> {
        let cut = blocks.len() % layout.block_bytes();
        if cut != 0 {
            return Err(VectorError::BlockSize {
                what: "the last block of tokens",
                expected: layout.block_bytes(),
                actual: cut,
            });
        }
        Ok(Self {
            layout,
            blocks,
            kernels: Kernels::detected(),
        })
    }

    /// The same rows with other kernels: for tests and benches.
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len() / self.layout.block_bytes()
    }

    /// The tokens of the passage that has this range of the blocks. A range beyond them is refused.
    pub fn passage(&self, blocks: &Range<u32>) -> Result<TokenPassage<'a>, VectorError> {
        let byte = |block: u32| (block as usize).checked_mul(self.layout.block_bytes());
        let bytes = byte(blocks.start)
            .zip(byte(blocks.end))
            .and_then(|(start, end)| self.blocks.get(start..end));
        let beyond = || VectorError::PassageBlocks {
            start: blocks.start,
            end: blocks.end,
            blocks: self.blocks(),
        };
        Ok(TokenPassage {
            layout: self.layout,
            blocks: bytes.ok_or_else(beyond)?,
            kernels: self.kernels,
        })
    }

    /// Scores passages in the order given, while `go_on` says so: it is asked before each, with how many are scored.
    ///
    /// A passage is the range of its blocks; a range beyond the blocks is refused before anything is scored. Scores are those of
    /// [`TokenPassage::score`].
    pub fn score_while(
        &self,
        query: &TokenQuery,
        passages: &[Range<u32>],
        mut go_on: impl FnMut(usize) -> bool,
    ) -> Result<Vec<f32>, VectorError> {
        check_query(query, self.layout)?;
        let passages: Vec<TokenPassage<'_>> = passages
            .iter()
            .map(|passage| self.passage(passage))
            .collect::<Result<_, _>>()?;
        let mut scores = Vec::with_capacity(passages.len());
        for (position, passage) in passages.iter().enumerate() {
            if !go_on(position) {
                break;
            }
            scores.push(passage.score(query, passages.get(position + 1))?);
        }
        Ok(scores)
    }

    /// For each token of the query its best match in a passage; empty for a passage without tokens.
    ///
    /// Plain loops over one passage, for explanations. The cosines add up to the score.
    pub fn matches(
        &self,
        query: &TokenQuery,
        passage: Range<u32>,
    ) -> Result<Vec<TokenMatch>, VectorError> {
        check_query(query, self.layout)?;
        let passage = self.passage(&passage)?;
        if passage.blocks.is_empty() {
            return Ok(Vec::new());
        }
        let codes = passage.codes();
        let matches = (0..query.tokens()).map(|token| best_match(query, token, &codes));
        Ok(matches.collect())
    }
}

fn check_query(query: &TokenQuery, layout: TokenLayout) -> Result<(), VectorError> {
    if query.layout() == layout {
        Ok(())
    } else {
        Err(VectorError::Width {
            expected: layout.dimensions(),
            actual: query.layout().dimensions(),
        })
    }
}

impl TokenPassage<'_> {
    /// The sum over the query's tokens, in their order, of the largest cosine: at most their number, but for the rounding of codes.
    ///
    /// A passage without blocks scores 0. The bits are the same on every machine. Meanwhile the passage that is scored `next` is
    /// fetched, a part with each tile of the query.
    pub fn score(&self, query: &TokenQuery, next: Option<&Self>) -> Result<f32, VectorError> {
        check_query(query, self.layout)?;
        if self.blocks.is_empty() {
            return Ok(0.0);
        }
        let next = next.map_or(&[][..], |next| next.blocks);
        let mut score = 0.0;
        let mut parts = next.chunks(next.len().div_ceil(query.tiles().len().max(1)).max(1));
        for (tile, scales) in query.tiles() {
            self.kernels.prefetch(parts.next().unwrap_or_default());
            let maxima = self.kernels.max_dots(tile, self.blocks);
            for (maximum, scale) in maxima.iter().zip(scales) {
                score += *maximum as f32 * scale;
            }
        }
        Ok(score)
    }

    /// The codes of its tokens one behind the other, [tokens, dimensions]: as blocks have them they are slow to look up one by one.
    fn codes(&self) -> Vec<i8> {
        let tokens = self.blocks.len() / self.layout.block_bytes() * TokenLayout::BLOCK_TOKENS;
        let dimensions = self.layout.dimensions();
        let of_token = |token| {
            (0..dimensions).map(move |dimension| self.layout.code(self.blocks, token, dimension))
        };
        (0..tokens).flat_map(of_token).collect()
    }
}

/// `codes`: those of the passage, [tokens, dimensions].
fn best_match(query: &TokenQuery, token: usize, codes: &[i8]) -> TokenMatch {
    let dimensions = query.layout().dimensions();
    let own: Vec<i8> = (0..dimensions)
        .map(|dimension| query.code(token, dimension))
        .collect();
    let dots = codes.chunks_exact(dimensions).map(|other| dot(&own, other));
    let (place, largest) =
        dots.enumerate().fold(
            (0, i32::MIN),
            |best, next| {
                if next.1 > best.1 { next } else { best }
            },
        );
    TokenMatch {
        token: place,
        cosine: largest as f32 * query.scale(token),
    }
}

fn dot(left: &[i8], right: &[i8]) -> i32 {
    let products = left.iter().zip(right);
    products.map(|(l, r)| i32::from(*l) * i32::from(*r)).sum()
}
