//! The colbert part of a segment, mapped.

use std::ops::Range;

use vector_math::{TokenLayout, TokenMatch, TokenQuery, TokenRows, VectorError};

use super::{
    OFFSETS, OFFSETS_MAGIC, POSITIONS, POSITIONS_BYTES, POSITIONS_MAGIC, TOKENS, TOKENS_MAGIC,
};
use crate::block::Block;
use crate::layout::{is_ascending, u16s, u32_at, u32s};
use crate::manifest::ColbertSettings;
use crate::{SegmentError, store::PartFiles};

/// Token vectors of one segment.
#[derive(Debug)]
pub struct ColbertPart {
    layout: TokenLayout,
    passages: u32,
    offsets: Block,
    tokens: Block,
    positions: Block,
}

impl ColbertPart {
    /// Maps verified files; `passages` is how many the segment has. What contradicts itself is refused by name.
    pub fn open(
        files: &PartFiles,
        settings: &ColbertSettings,
        passages: u32,
    ) -> Result<Self, SegmentError> {
        let layout = TokenLayout::new(settings.dimensions as usize)
            .map_err(|error| SegmentError::invalid(error.to_string()))?;
        let ends = u64::from(passages) + 1;
        let offsets = Block::open(files, OFFSETS, OFFSETS_MAGIC, size_of::<u32>(), ends)?;
        let blocks = check_offsets(offsets.rows())?;
        let tokens = Block::open(
            files,
            TOKENS,
            TOKENS_MAGIC,
            layout.block_bytes(),
            blocks.into(),
        )?;
        // A request wants some hundred passages, whichever they are, and never all.
        tokens.advise_scattered_reads();
        let positions = Block::open(
            files,
            POSITIONS,
            POSITIONS_MAGIC,
            POSITIONS_BYTES,
            blocks.into(),
        )?;
        Ok(Self {
            layout,
            passages,
            offsets,
            tokens,
            positions,
        })
    }

    /// The tokens of all passages, ready to be scored.
    #[must_use]
    pub fn rows(&self) -> TokenRows<'_> {
        TokenRows::new(self.layout, self.tokens.rows())
            .expect("the size was checked when the file was opened")
    }

    /// The blocks of a passage in [`ColbertPart::rows`]; none beyond the last passage.
    #[must_use]
    pub fn passage(&self, ordinal: u32) -> Option<Range<u32>> {
        let at = |row: u32| u32_at(self.offsets.rows(), row as usize);
        (ordinal < self.passages)
            .then(|| at(ordinal).zip(at(ordinal + 1)))
            .flatten()
            .map(|(start, end)| start..end)
    }

    /// Which of the encoder's tokens a passage's are, from 0: one for each that is stored, without those that fill the last block.
    /// None beyond the last passage.
    #[must_use]
    pub fn positions(&self, ordinal: u32) -> Option<Vec<u16>> {
        let mut positions: Vec<u16> = self.filled_positions(ordinal)?.collect();
        positions.dedup();
        Some(positions)
    }

    /// For each token of the query its best match in a passage: which of the encoder's tokens it is, from 0, and their cosine.
    /// Empty for a passage without tokens, and beyond the last one. Refuses a query of another layout.
    pub fn matches(
        &self,
        query: &TokenQuery,
        ordinal: u32,
    ) -> Result<Vec<TokenMatch>, VectorError> {
        let mut matches = match self.passage(ordinal) {
            Some(passage) => self.rows().matches(query, passage)?,
            None => Vec::new(),
        };
        let positions: Vec<u16> = self
            .filled_positions(ordinal)
            .into_iter()
            .flatten()
            .collect();
        for found in &mut matches {
            found.token = positions[found.token].into();
        }
        Ok(matches)
    }

    /// One for each place in the passage's blocks.
    fn filled_positions(&self, ordinal: u32) -> Option<impl Iterator<Item = u16>> {
        let byte = |block: u32| block as usize * POSITIONS_BYTES;
        let passage = self.passage(ordinal)?;
        let bytes = byte(passage.start)..byte(passage.end);
        self.positions.rows().get(bytes).map(u16s)
    }

    /// How many passages it has.
    #[must_use]
    pub fn passages(&self) -> u32 {
        self.passages
    }

    /// How queries have to be coded.
    #[must_use]
    pub fn layout(&self) -> TokenLayout {
        self.layout
    }
}

/// Returns how many blocks there are.
fn check_offsets(offsets: &[u8]) -> Result<u32, SegmentError> {
    if u32_at(offsets, 0) != Some(0) || !is_ascending(u32s(offsets)) {
        return Err(SegmentError::damaged(OFFSETS, "does not ascend from 0"));
    }
    Ok(u32s(offsets).last().unwrap_or_default())
}
