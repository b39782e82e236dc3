//! The colbert part of a segment, mapped.

use std::ops::Range;

use vector_math::{TokenLayout, TokenRows};

use super::{OFFSETS, OFFSETS_MAGIC, TOKENS, TOKENS_MAGIC};
use crate::block::Block;
use crate::layout::{is_ascending, u32_at, u32s};
use crate::manifest::ColbertSettings;
use crate::{SegmentError, store::PartFiles};

/// Token vectors of one segment.
#[derive(Debug)]
pub struct ColbertPart {
    layout: TokenLayout,
    passages: u32,
    offsets: Block,
    tokens: Block,
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
        Ok(Self {
            layout,
            passages,
            offsets,
            tokens,
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
