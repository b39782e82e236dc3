//! Writing the colbert part: one pass, four bytes a passage in memory.

use std::path::{Path, PathBuf};

use vector_math::TokenLayout;

use super::{OFFSETS, OFFSETS_MAGIC, TOKENS, TOKENS_MAGIC};
use crate::SegmentError;
use crate::block::BlockWriter;

/// Writes the token vectors of a segment in the order of their passages.
pub struct ColbertWriter {
    folder: PathBuf,
    tokens: BlockWriter,
    /// Where each passage ends.
    ends: Vec<u32>,
}

impl ColbertWriter {
    /// Starts files in an existing folder.
    pub fn new(folder: &Path, layout: TokenLayout) -> Result<Self, SegmentError> {
        Ok(Self {
            folder: folder.to_owned(),
            tokens: BlockWriter::create(folder, TOKENS, TOKENS_MAGIC, layout.block_bytes())?,
            ends: Vec::new(),
        })
    }

    /// Adds the blocks of the next passage; none for a passage without tokens.
    pub fn push(&mut self, blocks: &[u8]) -> Result<(), SegmentError> {
        self.tokens.push_all(blocks)?;
        let end = u32::try_from(self.tokens.rows()).map_err(|_| {
            SegmentError::invalid("a segment has at most 2^32 − 1 blocks of tokens")
        })?;
        self.ends.push(end);
        Ok(())
    }

    /// Completes the files.
    pub fn finish(self) -> Result<(), SegmentError> {
        self.tokens.finish()?;
        let mut offsets =
            BlockWriter::create(&self.folder, OFFSETS, OFFSETS_MAGIC, size_of::<u32>())?;
        for offset in std::iter::once(0).chain(self.ends) {
            offsets.push(&offset.to_le_bytes())?;
        }
        offsets.finish()
    }
}
