//! How documents are cut into passages, and where each passage is.

use std::ops::Range;

use inference::{TextEncoder, split_passages};
use rayon::prelude::*;
use segment::manifest::CollectionSettings;

use crate::documents::RunDocuments;
use crate::error::IndexError;
use crate::progress::Counter;

/// Documents that are read and cut before their result is added to the table.
const CHUNK_DOCUMENTS: usize = 1024;

/// What tokenizers put around a text.
const SPECIAL_TOKENS: u32 = 2;

/// What decides where a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PassageSize {
    /// Special tokens, title and text of a passage together.
    pub(crate) passage_tokens: u32,
    /// Shared with the neighbour.
    pub(crate) overlap_tokens: u32,
}

impl PassageSize {
    /// That of a collection.
    pub(crate) fn of(settings: &CollectionSettings) -> Self {
        Self {
            passage_tokens: settings.passage_tokens,
            overlap_tokens: settings.overlap_tokens,
        }
    }
}

/// One passage.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Passage {
    /// Bytes of the document's text.
    span: Range<u32>,
    /// What the encoder will read of it, so that passages of one length are encoded together.
    tokens: u32,
}

/// The passages of a run's documents, in the order of the documents. Twelve bytes each, no texts.
#[derive(Debug, Default)]
pub(crate) struct Passages {
    /// Where the passages of each document begin, and the end of the last.
    first_rows: Vec<u64>,
    passages: Vec<Passage>,
}

impl Passages {
    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.passages.len() as u64
    }

    /// The rows of a document's passages.
    pub(crate) fn rows(&self, document: usize) -> Range<u64> {
        self.first_rows[document]..self.first_rows[document + 1]
    }

    /// The document of a row.
    pub(crate) fn document_of(&self, row: u64) -> usize {
        self.first_rows.partition_point(|first| *first <= row) - 1
    }

    /// Where the passage is in its document's text.
    pub(crate) fn span(&self, row: u64) -> Range<u32> {
        self.passages[row as usize].span.clone()
    }

    /// What the encoder reads of the passage.
    pub(crate) fn tokens(&self, row: u64) -> u32 {
        self.passages[row as usize].tokens
    }

    fn push(&mut self, document: Vec<Passage>) {
        self.passages.extend(document);
        self.first_rows.push(self.passages.len() as u64);
    }
}

/// Cuts all documents, on all cores.
pub(crate) fn split_documents(
    documents: &RunDocuments,
    size: PassageSize,
    encoder: &dyn TextEncoder,
    counter: &Counter,
) -> Result<Passages, IndexError> {
    let mut passages = Passages {
        first_rows: vec![0],
        passages: Vec::new(),
    };
    for start in (0..documents.len()).step_by(CHUNK_DOCUMENTS) {
        let end = documents.len().min(start + CHUNK_DOCUMENTS);
        let split: Result<Vec<Vec<Passage>>, IndexError> = (start..end)
            .into_par_iter()
            .map(|document| split_document(documents, document, size, encoder))
            .collect();
        split?
            .into_iter()
            .for_each(|document| passages.push(document));
        counter.add((end - start) as u64)?;
    }
    Ok(passages)
}

/// The title stands in front of every passage, so it takes its tokens from each of them; but never more than half, so that a
/// title as long as a passage doesn't cut the text to pieces: the encoder then leaves out the end.
fn split_document(
    documents: &RunDocuments,
    document: usize,
    size: PassageSize,
    encoder: &dyn TextEncoder,
) -> Result<Vec<Passage>, IndexError> {
    let read = documents.read(document)?;
    let spans_of = |text: &str| {
        let spans = encoder.token_spans(text);
        spans.map_err(|source| IndexError::Tokenize {
            document: documents.name(document),
            source,
        })
    };
    let title_tokens = spans_of(&read.title)?.len() as u32;
    let spans = spans_of(&read.text)?;
    let around_tokens = (SPECIAL_TOKENS + title_tokens).min(size.passage_tokens / 2);
    let text_tokens = size.passage_tokens - around_tokens;
    let passages = split_passages(
        &read.text,
        &spans,
        text_tokens as usize,
        size.overlap_tokens as usize,
    );
    Ok(passages
        .into_iter()
        .map(|passage| Passage {
            tokens: SPECIAL_TOKENS + title_tokens + tokens_within(&spans, &passage),
            span: passage.start as u32..passage.end as u32,
        })
        .collect())
}

fn tokens_within(spans: &[Range<usize>], passage: &Range<usize>) -> u32 {
    let before = |byte: usize| spans.partition_point(|span| span.start < byte);
    (before(passage.end) - before(passage.start)) as u32
}
