//! For tests: documents spread over segments, and an oracle that scores every passage by counting.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use search_core::{Address, Occur, ParsedQuery};
use segment::documents::{Document, Documents, DocumentsWriter};
use segment::sparse::{Analyzer, BODY, SparseBuilder, SparseIndex, Statistics, StatisticsBuilder};
use segment::store::PartFiles;
use tantivy::Term;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::query::Bm25Weight;
use tempfile::TempDir;

use crate::query::{LexicalQuery, WeightedQuery};
use crate::search::Target;
use crate::statistics::SnapshotStatistics;

pub(crate) const LANGUAGE: &str = "none";

/// Documents in segments, with the statistics of all.
pub(crate) struct Corpus {
    pub(crate) segments: Vec<Segment>,
    pub(crate) statistics: Statistics,
    _folder: TempDir,
}

pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) index: SparseIndex,
    pub(crate) documents: Documents,
}

impl Corpus {
    /// The documents come sorted by id; `segment_of` says where each goes.
    pub(crate) fn build(
        documents: &[Document],
        segments: u32,
        segment_of: impl Fn(usize) -> u32,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let segments = (0..segments).map(|number| {
            let here = documents
                .iter()
                .enumerate()
                .filter(|(place, _)| segment_of(*place) == number);
            let here: Vec<_> = here.map(|(_, document)| document).collect();
            build_segment(&folder, number, &here)
        });
        let segments: Vec<_> = segments.collect();
        let file = folder.path().join("statistics.fst");
        let indices: Vec<_> = segments.iter().map(|segment| &segment.index).collect();
        StatisticsBuilder::new(LANGUAGE)
            .unwrap()
            .finish(None, &indices, &file)
            .unwrap();
        Self {
            segments,
            statistics: Statistics::open(&file).unwrap(),
            _folder: folder,
        }
    }

    pub(crate) fn weigh(&self, query: &str) -> WeightedQuery {
        let parsed = ParsedQuery::parse(query).unwrap();
        let mut analyzer = Analyzer::for_language(LANGUAGE).unwrap();
        let lexical = LexicalQuery::analyze(&parsed, &mut analyzer).unwrap();
        let searcher = self.segments[0].index.searcher();
        lexical
            .weigh(&SnapshotStatistics(&self.statistics), searcher)
            .unwrap()
    }

    pub(crate) fn targets(&self) -> Vec<Target<'_>> {
        self.segments.iter().map(Segment::target).collect()
    }

    pub(crate) fn locate(&self, address: Address) -> Option<&SparseIndex> {
        let segment = self.segments.get(address.segment() as usize)?;
        (address.ordinal() < segment.index.passages()).then_some(&segment.index)
    }

    pub(crate) fn addresses(&self) -> Vec<Address> {
        let of = |segment: &Segment| {
            let number = segment.number;
            (0..segment.index.passages()).map(move |ordinal| Address::new(number, ordinal))
        };
        self.segments.iter().flat_map(of).collect()
    }

    /// Document id and passage number.
    pub(crate) fn name(&self, address: Address) -> (String, u32) {
        let documents = &self.segments[address.segment() as usize].documents;
        let document = documents.document_of(address.ordinal()).unwrap();
        let passage = address.ordinal() - documents.first_passage(document).unwrap();
        (documents.document_id(document).unwrap().to_owned(), passage)
    }
}

impl Segment {
    fn target(&self) -> Target<'_> {
        let Self {
            number,
            index,
            documents,
        } = self;
        Target {
            number: *number,
            index,
            documents,
            allowed: Box::new(|| None),
        }
    }
}

fn build_segment(folder: &TempDir, number: u32, documents: &[&Document]) -> Segment {
    let [sparse, stored] = ["sparse", "documents"].map(|part| {
        let path = folder.path().join(format!("{number}-{part}"));
        std::fs::create_dir(&path).unwrap();
        path
    });
    let mut builder = SparseBuilder::new(&sparse, LANGUAGE).unwrap();
    let mut writer = DocumentsWriter::new(&stored).unwrap();
    for document in documents {
        writer.push(document).unwrap();
        for text in &document.passages {
            builder.push(&document.title, text).unwrap();
        }
    }
    builder.finish().unwrap();
    writer.finish().unwrap();
    Segment {
        number,
        index: SparseIndex::open(&PartFiles::of_folder(&sparse).unwrap()).unwrap(),
        documents: Documents::open(&PartFiles::of_folder(&stored).unwrap()).unwrap(),
    }
}

pub(crate) fn document(id: &str, title: &str, passages: &[&str]) -> Document {
    Document {
        id: id.to_owned(),
        title: title.to_owned(),
        metadata_json: String::new(),
        passages: passages.iter().map(|text| (*text).to_owned()).collect(),
    }
}

/// A word of a vocabulary in which the n-th is n times as rare as the first.
pub(crate) fn zipf_word(random: &mut ChaCha8Rng, vocabulary: u32) -> String {
    let rank = f64::from(vocabulary).powf(random.random::<f64>());
    format!("w{}", rank as u32)
}

pub(crate) fn zipf_text(random: &mut ChaCha8Rng, vocabulary: u32, words: u32) -> String {
    let words: Vec<_> = (0..words).map(|_| zipf_word(random, vocabulary)).collect();
    words.join(" ")
}

/// What a query finds, by counting words.
pub(crate) struct Oracle<'a> {
    passages: Vec<Passage<'a>>,
    statistics: &'a Statistics,
}

struct Passage<'a> {
    document_id: &'a str,
    passage: u32,
    positions: Positions,
    length: u8,
}

impl<'a> Oracle<'a> {
    pub(crate) fn new(documents: &'a [Document], statistics: &'a Statistics) -> Self {
        let passages = documents.iter().flat_map(|document| {
            let texts = document.passages.iter().zip(0..);
            texts.map(move |(text, passage)| Passage::new(document, text, passage))
        });
        Self {
            passages: passages.collect(),
            statistics,
        }
    }

    /// All hits as (score, document id, passage), best first; without a limit.
    pub(crate) fn search(&self, query: &str) -> Vec<(f32, String, u32)> {
        let all = self.passages.iter().zip(self.score_all(query));
        let hit = |(passage, score): (&Passage<'_>, _)| match score {
            Some((true, score)) => Some((score, passage.document_id.to_owned(), passage.passage)),
            _ => None,
        };
        let mut hits: Vec<(f32, String, u32)> = all.filter_map(hit).collect();
        hits.sort_by(|left, right| {
            let by_score: Ordering = right.0.total_cmp(&left.0);
            by_score.then_with(|| (&left.1, left.2).cmp(&(&right.1, right.2)))
        });
        hits
    }

    /// Names of the passages that a query excludes.
    pub(crate) fn excluded(&self, query: &str) -> BTreeSet<(String, u32)> {
        let all = self.passages.iter().zip(self.score_all(query));
        let excluded = all.filter(|(_, score)| score.is_none());
        excluded
            .map(|(passage, _)| (passage.document_id.to_owned(), passage.passage))
            .collect()
    }

    /// For each passage: `None` if it is excluded, else whether anything matches, and the score.
    fn score_all(&self, query: &str) -> Vec<Option<(bool, f32)>> {
        let clauses: Vec<_> = clauses_of(query)
            .into_iter()
            .map(|(occur, terms)| (occur, self.weight(&terms), terms))
            .collect();
        self.passages
            .iter()
            .map(|passage| passage.score(&clauses))
            .collect()
    }

    fn weight(&self, terms: &[(usize, String)]) -> Bm25Weight {
        let terms: Vec<_> = terms
            .iter()
            .map(|(_, term)| Term::from_field_text(BODY, term))
            .collect();
        Bm25Weight::for_terms(&SnapshotStatistics(self.statistics), &terms).unwrap()
    }
}

type WeighedClause = (Occur, Bm25Weight, Vec<(usize, String)>);

impl<'a> Passage<'a> {
    fn new(document: &'a Document, text: &str, passage: u32) -> Self {
        let positions = positions_of(&document.title, text);
        let length = positions.values().map(Vec::len).sum::<usize>() as u32;
        let length = FieldNormReader::fieldnorm_to_id(length);
        Self {
            document_id: &document.id,
            passage,
            positions,
            length,
        }
    }

    fn score(&self, clauses: &[WeighedClause]) -> Option<(bool, f32)> {
        let (mut found, mut score) = (false, 0.0);
        for (occur, weight, terms) in clauses {
            match (occur, count_phrase(&self.positions, terms)) {
                (Occur::MustNot, 1..) | (Occur::Must, 0) => return None,
                (Occur::MustNot | Occur::Should, 0) => {}
                (Occur::Must | Occur::Should, count) => {
                    found = true;
                    score += weight.score(self.length, count);
                }
            }
        }
        Some((found, score))
    }
}

type Positions = BTreeMap<String, Vec<usize>>;

/// Between title and text one position is left free.
fn positions_of(title: &str, text: &str) -> Positions {
    let mut positions = Positions::new();
    let mut start = 0;
    for value in [title, text].into_iter().filter(|value| !value.is_empty()) {
        let mut end = start;
        for (offset, word) in words_of(value) {
            positions.entry(word).or_default().push(start + offset);
            end = start + offset + 1;
        }
        start = end + 1;
    }
    positions
}

fn words_of(text: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    let mut analyzer = Analyzer::for_language(LANGUAGE).unwrap();
    analyzer.for_each_term(text, |position, word| {
        words.push((position, word.to_owned()))
    });
    words
}

fn clauses_of(query: &str) -> Vec<(Occur, Vec<(usize, String)>)> {
    let mut clauses = Vec::new();
    for clause in ParsedQuery::parse(query).unwrap().clauses {
        let words = words_of(&clause.text);
        if clause.phrase || clause.occur == Occur::MustNot {
            clauses.extend((!words.is_empty()).then_some((clause.occur, words)));
        } else {
            clauses.extend(words.into_iter().map(|word| (clause.occur, vec![word])));
        }
    }
    clauses
}

fn count_phrase(positions: &Positions, terms: &[(usize, String)]) -> u32 {
    let nowhere = Vec::new();
    let of = |term: &String| positions.get(term).unwrap_or(&nowhere);
    let (first_offset, first) = &terms[0];
    let starts = of(first).iter().filter(|start| {
        let stands =
            |(offset, term): &(usize, String)| of(term).contains(&(*start + offset - first_offset));
        terms.iter().all(stands)
    });
    starts.count() as u32
}
