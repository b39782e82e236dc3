//! How documents are cut into passages, and where each passage is.

use std::ops::Range;

use inference::{TextEncoder, split_passages};
use rayon::prelude::*;
use segment::manifest::{self, CollectionSettings, SPECIAL_TOKENS};

use crate::documents::RunDocuments;
use crate::error::IndexError;
use crate::progress::Counter;
use crate::spool::SpooledDocument;

/// Documents that are read and cut before their result is added to the table.
const CHUNK_DOCUMENTS: usize = 1024;

/// Bytes of a passage at most, however few tokens they are: without spaces a whole book can be one token. With the longest
/// title in front, it is what an encoder takes as one text.
const MAX_PASSAGE_BYTES: usize = 48 << 10;

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

/// How a document is cut.
#[derive(Debug, Default)]
pub(crate) struct Split {
    /// How much of the title the encoder reads in front of each passage.
    title_bytes: u32,
    /// None if the document was refused.
    passages: Vec<Passage>,
}

/// The passages of a run's documents, in the order of the documents. Twelve bytes each, no texts.
#[derive(Debug)]
pub(crate) struct Passages {
    /// Where the passages of each document begin, and the end of the last.
    first_rows: Vec<u64>,
    /// Of each document.
    title_bytes: Vec<u32>,
    passages: Vec<Passage>,
}

impl Default for Passages {
    fn default() -> Self {
        Self {
            first_rows: vec![0],
            title_bytes: Vec::new(),
            passages: Vec::new(),
        }
    }
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

    /// How much of its title the encoder reads in front of each of a document's passages.
    pub(crate) fn title_bytes(&self, document: usize) -> usize {
        self.title_bytes[document] as usize
    }

    pub(crate) fn push(&mut self, document: Split) {
        self.passages.extend(document.passages);
        self.title_bytes.push(document.title_bytes);
        self.first_rows.push(self.passages.len() as u64);
    }
}

/// Cuts all documents, on all cores. Those that the tokenizer refuses are left out, if that is allowed.
pub(crate) fn split_documents(
    documents: &RunDocuments,
    size: PassageSize,
    encoder: &dyn TextEncoder,
    counter: &Counter,
    skip_invalid: bool,
) -> Result<Passages, IndexError> {
    let mut passages = Passages::default();
    for start in (0..documents.len()).step_by(CHUNK_DOCUMENTS) {
        let end = documents.len().min(start + CHUNK_DOCUMENTS);
        let split_or_refuse = |document| {
            let read = documents.read(document)?;
            split_document(&read, size, encoder).or_else(|reason| {
                documents
                    .refuse(document, reason, skip_invalid)
                    .map(|()| Split::default())
            })
        };
        let split: Result<Vec<Split>, IndexError> =
            (start..end).into_par_iter().map(split_or_refuse).collect();
        split?
            .into_iter()
            .for_each(|document| passages.push(document));
        counter.add((end - start) as u64)?;
    }
    Ok(passages)
}

/// The title stands in front of every passage, so it takes its tokens from each of them; but never more than half, so that a
/// title as long as a passage leaves room for the text: the encoder then reads only the title's beginning. The overlap, too,
/// takes at most half of what is left, so that a document has at most about twice its tokens in passages.
fn split_document(
    document: &SpooledDocument,
    size: PassageSize,
    encoder: &dyn TextEncoder,
) -> Result<Split, String> {
    let SpooledDocument { title, text, .. } = document;
    let title = TitlePart::of(title, size, encoder)?;
    let spans = token_spans(encoder, "text", text)?;
    let text_tokens = size.passage_tokens - title.tokens;
    let overlap_tokens = size.overlap_tokens.min(text_tokens / 2);
    let passages = split_passages(text, &spans, text_tokens as usize, overlap_tokens as usize);
    let passages = passages
        .into_iter()
        .flat_map(|passage| bounded(text, passage));
    Ok(Split {
        title_bytes: title.bytes,
        passages: passages
            .map(|passage| Passage {
                tokens: title.tokens + tokens_within(&spans, &passage),
                span: passage.start as u32..passage.end as u32,
            })
            .collect(),
    })
}

/// The passages that a document was cut into when it was indexed, one behind the other.
pub(crate) fn split_stored(
    title: &str,
    passages: &[String],
    size: PassageSize,
    encoder: &dyn TextEncoder,
) -> Result<Split, String> {
    let title = TitlePart::of(title, size, encoder)?;
    let mut split = Split {
        title_bytes: title.bytes,
        passages: Vec::with_capacity(passages.len()),
    };
    let mut start = 0;
    for text in passages {
        let tokens = token_spans(encoder, "text", text)?.len() as u32;
        let end = start + text.len() as u32;
        split.passages.push(Passage {
            span: start..end,
            tokens: title.tokens + tokens,
        });
        start = end;
    }
    Ok(split)
}

/// What stands in front of each of a document's passages.
struct TitlePart {
    /// How much of the title the encoder reads.
    bytes: u32,
    /// Of that, and of the special tokens.
    tokens: u32,
}

impl TitlePart {
    fn of(title: &str, size: PassageSize, encoder: &dyn TextEncoder) -> Result<Self, String> {
        let spans = token_spans(encoder, "title", title)?;
        let most_tokens = manifest::title_tokens(size.passage_tokens) as usize;
        let tokens = spans.len().min(most_tokens);
        Ok(Self {
            bytes: title_bytes(title, &spans, tokens) as u32,
            tokens: SPECIAL_TOKENS + tokens as u32,
        })
    }
}

fn token_spans(
    encoder: &dyn TextEncoder,
    field: &str,
    text: &str,
) -> Result<Vec<Range<usize>>, String> {
    let spans = encoder.token_spans(text);
    spans.map_err(|error| format!("{field}: cannot be split into tokens: {error}"))
}

/// The bytes of a title's first tokens.
fn title_bytes(title: &str, spans: &[Range<usize>], tokens: usize) -> usize {
    match spans.get(tokens) {
        Some(next) => title[..title.floor_char_boundary(next.start)]
            .trim_end()
            .len(),
        None => title.len(),
    }
}

/// Cuts a passage of too many bytes, wherever that is; a part without a word is none.
fn bounded(text: &str, passage: Range<usize>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = passage.start;
    while start < passage.end {
        let end = text.floor_char_boundary(passage.end.min(start + MAX_PASSAGE_BYTES));
        parts.push(start..end);
        start = end;
    }
    parts.retain(|part| !text[part.clone()].trim().is_empty());
    parts
}

fn tokens_within(spans: &[Range<usize>], passage: &Range<usize>) -> u32 {
    let before = |byte: usize| spans.partition_point(|span| span.start < byte);
    (before(passage.end) - before(passage.start)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_have_bounded_bytes_and_whole_characters() {
        let text = format!(
            "  {}{} end",
            "é".repeat(40_000),
            " ".repeat(2 * MAX_PASSAGE_BYTES)
        );
        let parts = bounded(&text, 1..text.len());
        assert!(parts.iter().all(|part| part.len() <= MAX_PASSAGE_BYTES));
        let words: String = parts.iter().map(|part| text[part.clone()].trim()).collect();
        assert_eq!(words, format!("{}end", "é".repeat(40_000)));
        assert_eq!(bounded("short", 0..5), std::slice::from_ref(&(0..5)));
    }

    #[test]
    fn a_title_is_cut_between_two_tokens() {
        assert_eq!(title_bytes("one two", &[0..3, 4..7], 2), 7);
        assert_eq!(title_bytes("one two", &[0..3, 4..7], 1), 3);
        assert_eq!(title_bytes("one two", &[0..3, 4..7], 0), 0);
        assert_eq!(title_bytes("éé", &[0..1, 1..4], 1), 0);
    }
}
