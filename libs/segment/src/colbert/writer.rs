//! Writing the colbert part: one pass, four bytes a passage in memory.

use std::path::{Path, PathBuf};

use vector_math::TokenLayout;

use super::{
    OFFSETS, OFFSETS_MAGIC, POSITIONS, POSITIONS_BYTES, POSITIONS_MAGIC, PackedTokens, TOKENS,
    TOKENS_MAGIC,
};
use crate::SegmentError;
use crate::block::BlockWriter;

/// Writes the token vectors of a segment in the order of their passages.
pub struct ColbertWriter {
    folder: PathBuf,
    tokens: BlockWriter,
    positions: BlockWriter,
    /// Where each passage ends.
    ends: Vec<u32>,
}

impl ColbertWriter {
    /// Starts files in an existing folder.
    pub fn new(folder: &Path, layout: TokenLayout) -> Result<Self, SegmentError> {
        Ok(Self {
            folder: folder.to_owned(),
            tokens: BlockWriter::create(folder, TOKENS, TOKENS_MAGIC, layout.block_bytes())?,
            positions: BlockWriter::create(folder, POSITIONS, POSITIONS_MAGIC, POSITIONS_BYTES)?,
            ends: Vec::new(),
        })
    }

    /// Adds the next passage, which may be without tokens. Refuses half a block, and positions for more or fewer tokens.
    pub fn push(&mut self, passage: &PackedTokens) -> Result<(), SegmentError> {
        self.tokens.push_all(&passage.blocks)?;
        let positions = passage.positions.iter();
        let bytes: Vec<u8> = positions.flat_map(|it| it.to_le_bytes()).collect();
        self.positions.push_all(&bytes)?;
        if self.positions.rows() != self.tokens.rows() {
            let count = passage.positions.len();
            let reason = format!("{count} positions are not those of the passage's blocks");
            return Err(SegmentError::invalid(reason));
        }
        let end = u32::try_from(self.tokens.rows()).map_err(|_| {
            SegmentError::invalid("a segment has at most 2^32 − 1 blocks of tokens")
        })?;
        self.ends.push(end);
        Ok(())
    }

    /// Completes the files.
    pub fn finish(self) -> Result<(), SegmentError> {
        self.tokens.finish()?;
        self.positions.finish()?;
        let mut offsets =
            BlockWriter::create(&self.folder, OFFSETS, OFFSETS_MAGIC, size_of::<u32>())?;
        for offset in std::iter::once(0).chain(self.ends) {
            offsets.push(&offset.to_le_bytes())?;
        }
        offsets.finish()
    }
}
