//! Writes the sparse part of a segment.

use std::path::{Path, PathBuf};

use tantivy::directory::MmapDirectory;
use tantivy::schema::document::TantivyDocument;
use tantivy::store::Compressor;
use tantivy::{Index, IndexSettings, SingleSegmentIndexWriter};

use super::{Analyzer, BODY, failed, schema};
use crate::SegmentError;

/// Sizes the term hash table at the start; it grows by itself.
const FIRST_TABLE_BYTES: usize = 15_000_000;

/// The postings of a segment are gathered in memory: one to two bytes a token and about a hundred a term, so that this
/// is good for some hundreds of millions of tokens.
const MEMORY_LIMIT_BYTES: usize = 768 << 20;

/// Files of tantivy's own bookkeeping; a reader needs none of them.
const BOOKKEEPING: [&str; 3] = [
    ".managed.json",
    ".tantivy-meta.lock",
    ".tantivy-writer.lock",
];

/// Builds the inverted index of one segment's passages, given in the order of their ordinals.
pub struct SparseBuilder {
    directory: PathBuf,
    writer: SingleSegmentIndexWriter,
}

impl std::fmt::Debug for SparseBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SparseBuilder({})", self.directory.display())
    }
}

impl SparseBuilder {
    /// Starts an index in an existing empty directory.
    pub fn new(directory: &Path, language: &str) -> Result<Self, SegmentError> {
        let settings = IndexSettings {
            docstore_compression: Compressor::None,
            docstore_compress_dedicated_thread: false,
            ..IndexSettings::default()
        };
        let files = MmapDirectory::open(directory).map_err(failed)?;
        let writer = Index::builder()
            .schema(schema())
            .settings(settings)
            .tokenizers(Analyzer::for_language(language)?.into_manager())
            .single_segment_index_writer(files, FIRST_TABLE_BYTES)
            .map_err(failed)?;
        Ok(Self {
            directory: directory.to_owned(),
            writer,
        })
    }

    /// Adds the next passage. `title` is its document's, empty for none.
    pub fn push(&mut self, title: &str, text: &str) -> Result<(), SegmentError> {
        let mut passage = TantivyDocument::default();
        for value in [title, text].into_iter().filter(|value| !value.is_empty()) {
            passage.add_text(BODY, value);
        }
        self.writer.add_document(passage).map_err(failed)?;
        check_memory(self.memory_bytes())
    }

    /// The memory in use: a segment is better ended before it needs a gigabyte.
    pub fn memory_bytes(&self) -> usize {
        self.writer.mem_usage()
    }

    /// Writes the files.
    pub fn finish(self) -> Result<(), SegmentError> {
        drop(self.writer.finalize().map_err(failed)?);
        BOOKKEEPING
            .iter()
            .try_for_each(|name| remove_if_there(&self.directory.join(name)))
    }
}

fn check_memory(bytes: usize) -> Result<(), SegmentError> {
    if bytes <= MEMORY_LIMIT_BYTES {
        return Ok(());
    }
    Err(SegmentError::invalid(format!(
        "the inverted index of one segment needs {bytes} bytes of memory to build, {MEMORY_LIMIT_BYTES} are allowed"
    )))
}

fn remove_if_there(file: &Path) -> Result<(), SegmentError> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SegmentError::io(file)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_is_too_large_is_refused() {
        assert!(check_memory(MEMORY_LIMIT_BYTES).is_ok());
        let refused = check_memory(MEMORY_LIMIT_BYTES + 1).unwrap_err();
        assert!(refused.to_string().contains("805306369 bytes"), "{refused}");
    }
}
