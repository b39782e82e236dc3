//! What BM25 has to know about all live passages of a snapshot: passages, tokens, and passages per term.
//!
//! One file per commit: a head with the two totals, then an `fst` map from term to the number of live passages that hold
//! it. It is made from the previous one: plus the dictionaries of the new segments, minus the terms of the passages that
//! the commit deletes, which are analysed again. The result is exact, whatever the history: the same as a recount.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use fst::{IntoStreamer, Map, MapBuilder, Streamer};
use tantivy::termdict::TermStreamer;

use super::{Analyzer, SparseIndex, failed};
use crate::SegmentError;
use crate::layout::Walk;
use crate::mapped::Mapped;

const MAGIC: &[u8; 8] = b"fmstat01";

/// Magic, passages, tokens.
const HEAD_BYTES: usize = 24;

/// The statistics of one snapshot.
#[derive(Debug)]
pub struct Statistics {
    passages: u64,
    tokens: u64,
    terms: Map<Body>,
}

impl Statistics {
    /// Opens a statistics file: verified already, and checked here for what it must contain.
    pub fn open(file: &Path) -> Result<Self, SegmentError> {
        let name = file.display().to_string();
        let mapped = Mapped::open(file)?;
        let mut head = Walk::new(&name, &mapped, MAGIC)?;
        let (passages, tokens) = (head.u64()?, head.u64()?);
        let damaged = |error| SegmentError::damaged(&name, format!("has no term map: {error}"));
        let terms = Map::new(Body(mapped)).map_err(damaged)?;
        // a lookup in a damaged map would panic
        terms.as_fst().verify().map_err(damaged)?;
        Ok(Self {
            passages,
            tokens,
            terms,
        })
    }

    /// Live passages of the snapshot.
    pub fn passages(&self) -> u64 {
        self.passages
    }

    /// Tokens of the live passages.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Live passages that hold the term.
    pub fn doc_freq(&self, term: &[u8]) -> u64 {
        self.terms.get(term).unwrap_or(0)
    }

    /// How many terms there are.
    pub fn terms(&self) -> usize {
        self.terms.len()
    }
}

/// The file behind its head.
#[derive(Debug)]
struct Body(Mapped);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.get(HEAD_BYTES..).unwrap_or_default()
    }
}

/// Makes the statistics of the next snapshot. Holds the terms of the deleted passages in memory and streams the rest.
#[derive(Debug)]
pub struct StatisticsBuilder {
    analyzer: Analyzer,
    removed: Removed,
}

/// What the deleted passages take away.
#[derive(Debug, Default)]
struct Removed {
    passages: u64,
    tokens: u64,
    terms: BTreeMap<Vec<u8>, u64>,
}

impl StatisticsBuilder {
    /// Starts with nothing deleted. The language is the collection's.
    pub fn new(language: &str) -> Result<Self, SegmentError> {
        let analyzer = Analyzer::for_language(language)?;
        Ok(Self {
            analyzer,
            removed: Removed::default(),
        })
    }

    /// Takes away a passage that the previous snapshot has and the next one has not. Once per passage.
    pub fn remove_passage(&mut self, title: &str, text: &str) {
        let mut tokens = 0;
        let mut terms: Vec<String> = Vec::new();
        for value in [title, text] {
            self.analyzer.for_each_term(value, |_, term| {
                tokens += 1;
                terms.push(term.to_owned());
            });
        }
        terms.sort_unstable();
        terms.dedup();
        self.removed.passages += 1;
        self.removed.tokens += tokens;
        for term in terms {
            *self.removed.terms.entry(term.into_bytes()).or_default() += 1;
        }
    }

    /// Writes the next statistics: those of the previous snapshot (none: there was none), plus all passages of the added
    /// segments, minus the removed ones.
    pub fn finish(
        self,
        previous: Option<&Statistics>,
        added: &[impl Borrow<SparseIndex>],
        file: &Path,
    ) -> Result<(), SegmentError> {
        let removed = self.removed;
        let before = previous.map_or((0, 0), |all| (all.passages, all.tokens));
        let added: Vec<&SparseIndex> = added.iter().map(Borrow::borrow).collect();
        let new_passages: u64 = added.iter().map(|index| u64::from(index.passages())).sum();
        let new_tokens: u64 = added.iter().map(|index| index.tokens()).sum();
        let passages = subtract("passages", before.0 + new_passages, removed.passages)?;
        let tokens = subtract("tokens", before.1 + new_tokens, removed.tokens)?;

        let mut output = BufWriter::new(File::create(file).map_err(SegmentError::io(file))?);
        write_head(&mut output, passages, tokens).map_err(SegmentError::io(file))?;
        let mut terms = MapBuilder::new(output).map_err(unwritten(file))?;
        merge(previous, &added, removed.terms, |term, count| {
            terms.insert(term, count).map_err(unwritten(file))
        })?;
        let mut output = terms.into_inner().map_err(unwritten(file))?;
        output.flush().map_err(SegmentError::io(file))
    }
}

fn write_head(output: &mut impl Write, passages: u64, tokens: u64) -> std::io::Result<()> {
    output.write_all(MAGIC)?;
    output.write_all(&passages.to_le_bytes())?;
    output.write_all(&tokens.to_le_bytes())
}

fn unwritten(file: &Path) -> impl FnOnce(fst::Error) -> SegmentError {
    move |error| match error {
        fst::Error::Io(error) => SegmentError::io(file)(error),
        fst::Error::Fst(error) => {
            SegmentError::damaged(file.display().to_string(), error.to_string())
        }
    }
}

/// More was taken away than is there: the deleted passages are not those of the snapshot.
fn subtract(what: &str, there: u64, removed: u64) -> Result<u64, SegmentError> {
    there.checked_sub(removed).ok_or_else(|| {
        let reason = format!("statistics: {removed} {what} are deleted where {there} are");
        SegmentError::invalid(reason)
    })
}

/// Calls `each` with every term that is left and its count, in the order of the terms.
fn merge(
    previous: Option<&Statistics>,
    added: &[&SparseIndex],
    mut removed: BTreeMap<Vec<u8>, u64>,
    mut each: impl FnMut(&[u8], u64) -> Result<(), SegmentError>,
) -> Result<(), SegmentError> {
    let mut cursors = Vec::with_capacity(added.len() + 1);
    cursors.extend(previous.map(|all| Cursor::new(Source::Previous(all.terms.into_stream()))));
    for index in added {
        let terms = index.body().terms().stream().map_err(failed)?;
        cursors.push(Cursor::new(Source::Added(terms)));
    }
    let mut term = Vec::new();
    while next_term(&cursors, &mut term) {
        let there: u64 = cursors.iter_mut().map(|cursor| cursor.take(&term)).sum();
        let gone = removed.remove(&term).unwrap_or(0);
        let left = subtract("occurrences of a term", there, gone)?;
        if left > 0 {
            each(&term, left)?;
        }
    }
    subtract("further terms", 0, removed.len() as u64).map(drop)
}

/// Copies the smallest term of all cursors into `term`; false at the end of all.
fn next_term(cursors: &[Cursor<'_>], term: &mut Vec<u8>) -> bool {
    let smallest = cursors.iter().filter_map(Cursor::term).min();
    term.clear();
    term.extend_from_slice(smallest.unwrap_or_default());
    smallest.is_some()
}

enum Source<'a> {
    Previous(fst::map::Stream<'a>),
    Added(TermStreamer<'a>),
}

/// Stands on one term of a sorted dictionary, or behind the last one.
struct Cursor<'a> {
    source: Source<'a>,
    term: Vec<u8>,
    count: u64,
    ended: bool,
}

impl<'a> Cursor<'a> {
    fn new(source: Source<'a>) -> Self {
        let mut cursor = Self {
            source,
            term: Vec::new(),
            count: 0,
            ended: false,
        };
        cursor.advance();
        cursor
    }

    fn term(&self) -> Option<&[u8]> {
        (!self.ended).then_some(self.term.as_slice())
    }

    /// The count of this term, moving on; 0 if the cursor stands on another one.
    fn take(&mut self, term: &[u8]) -> u64 {
        if self.term() != Some(term) {
            return 0;
        }
        let count = self.count;
        self.advance();
        count
    }

    fn advance(&mut self) {
        let next = match &mut self.source {
            Source::Previous(stream) => stream.next(),
            Source::Added(stream) => stream
                .next()
                .map(|(term, info)| (term, u64::from(info.doc_freq))),
        };
        self.term.clear();
        self.ended = next.is_none();
        if let Some((term, count)) = next {
            self.term.extend_from_slice(term);
            self.count = count;
        }
    }
}
