use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::store::PartFiles;

const WORDS: [&str; 12] = [
    "mesh", "meshes", "Deadline", "covid-19", "naïve", "the", "the", "graph", "graphs", "42", "!?",
    "search",
];

fn terms_of(language: &str, text: &str) -> Vec<(usize, String)> {
    let mut terms = Vec::new();
    Analyzer::for_language(language)
        .unwrap()
        .for_each_term(text, |position, term| {
            terms.push((position, term.to_owned()))
        });
    terms
}

fn words_of(language: &str, text: &str) -> Vec<String> {
    terms_of(language, text)
        .into_iter()
        .map(|(_, term)| term)
        .collect()
}

fn build(folder: &Path, passages: &[(&str, &str)]) -> SparseIndex {
    std::fs::create_dir_all(folder).unwrap();
    let mut builder = SparseBuilder::new(folder, "english").unwrap();
    for (title, text) in passages {
        builder.push(title, text).unwrap();
    }
    builder.finish().unwrap();
    SparseIndex::open(&PartFiles::of_folder(folder).unwrap()).unwrap()
}

#[test]
fn english_is_folded_and_stemmed() {
    assert_eq!(
        words_of("english", "Naïve Searching, covid-19!"),
        ["naiv", "search", "covid", "19"]
    );
    assert_eq!(words_of("none", "Naïve Searching"), ["naive", "searching"]);
    assert_eq!(
        words_of("german", "Häuser"),
        words_of("german", "Haus").as_slice()
    );
}

#[test]
fn long_words_are_left_out_and_leave_a_gap() {
    let text = format!("a {} b", "x".repeat(129));
    assert_eq!(
        terms_of("none", &text),
        [(0, "a".to_owned()), (2, "b".to_owned())]
    );
    assert_eq!(words_of("none", &"x".repeat(128)).len(), 1);
}

#[test]
fn an_unknown_language_names_the_known_ones() {
    let error = Analyzer::for_language("klingon").unwrap_err().to_string();
    assert!(
        error.contains("\"klingon\"") && error.contains("english") && error.contains("none"),
        "{error}"
    );
    assert!(languages().all(|name| Analyzer::for_language(name).is_ok()));
}

#[test]
fn ordinals_are_document_numbers_and_bookkeeping_is_gone() {
    let folder = TempDir::new().unwrap();
    let index = build(
        folder.path(),
        &[("a title", "first text"), ("", "second"), ("", "?!")],
    );
    assert_eq!(
        (
            index.passages(),
            index.tokens(),
            index.longest_passage_tokens()
        ),
        (3, 5, 4)
    );
    let names: BTreeSet<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| !name.to_string_lossy().starts_with('.')),
        "{names:?}"
    );
}

#[test]
fn an_empty_segment_opens() {
    let folder = TempDir::new().unwrap();
    let index = build(folder.path(), &[]);
    assert_eq!((index.passages(), index.tokens()), (0, 0));
}

#[test]
fn a_missing_file_is_an_error() {
    let folder = TempDir::new().unwrap();
    drop(build(folder.path(), &[("", "text")]));
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let file = entry.unwrap().path();
        let elsewhere = folder.path().with_extension("away");
        std::fs::rename(&file, &elsewhere).unwrap();
        assert!(
            SparseIndex::open(&PartFiles::of_folder(folder.path()).unwrap()).is_err()
                || is_positions(&file)
        );
        std::fs::rename(&elsewhere, &file).unwrap();
    }
}

/// tantivy takes missing positions for an index without them, until a term is read; the store checks that all files of
/// a part are there.
fn is_positions(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "pos")
}

#[test]
fn more_deletions_than_passages_are_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("statistics.fst");
    let mut builder = StatisticsBuilder::new("english").unwrap();
    builder.remove_passage("", "never seen");
    assert!(
        builder
            .finish(None, &[] as &[SparseIndex], &file)
            .unwrap_err()
            .to_string()
            .contains("1 passages")
    );
}

#[test]
fn damaged_statistics_are_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("statistics.fst");
    let index = build(&folder.path().join("1"), &[("", "some text")]);
    StatisticsBuilder::new("english")
        .unwrap()
        .finish(None, &[index], &file)
        .unwrap();
    let whole = std::fs::read(&file).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&file, &whole[..length]).unwrap();
        assert!(
            Statistics::open(&file).is_err(),
            "{length} bytes of {}",
            whole.len()
        );
    }
    for at in (0..8).chain(24..whole.len()) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        std::fs::write(&file, &flipped).unwrap();
        assert!(Statistics::open(&file).is_err(), "byte {at}");
    }
}

/// A passage as a list of words, for title and text.
type Passage = (Vec<&'static str>, Vec<&'static str>);

fn passage() -> impl Strategy<Value = Passage> {
    let words = |longest| prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..longest);
    (words(3), words(8))
}

/// A commit: passages to add, and for each live passage so far whether it is deleted.
type Commit = (Vec<Passage>, Vec<bool>);

fn commit() -> impl Strategy<Value = Commit> {
    (
        prop::collection::vec(passage(), 0..6),
        prop::collection::vec(prop::bool::weighted(0.3), 30),
    )
}

fn recount(live: &[(String, String)]) -> (u64, u64, BTreeMap<String, u64>) {
    let (mut tokens, mut counts) = (0, BTreeMap::new());
    for (title, text) in live {
        let words = [words_of("english", title), words_of("english", text)].concat();
        tokens += words.len() as u64;
        for word in words.into_iter().collect::<BTreeSet<_>>() {
            *counts.entry(word).or_default() += 1;
        }
    }
    (live.len() as u64, tokens, counts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn statistics_equal_a_recount(commits in prop::collection::vec(commit(), 1..5)) {
        let folder = TempDir::new().unwrap();
        let mut live: Vec<(String, String)> = Vec::new();
        let mut previous: Option<Statistics> = None;
        for (number, (added, deleted)) in commits.iter().enumerate() {
            let mut builder = StatisticsBuilder::new("english").unwrap();
            let mut deleted = deleted.iter().chain(std::iter::repeat(&false));
            live.retain(|(title, text)| {
                let gone = *deleted.next().unwrap();
                if gone {
                    builder.remove_passage(title, text);
                }
                !gone
            });
            let added: Vec<_> = added.iter().map(|(title, text)| (title.join(" "), text.join(" "))).collect();
            let borrowed: Vec<_> = added.iter().map(|(title, text)| (title.as_str(), text.as_str())).collect();
            let (left, right) = borrowed.split_at(borrowed.len() / 2);
            let segments = [
                build(&folder.path().join(format!("{number}-left")), left),
                build(&folder.path().join(format!("{number}-right")), right),
            ];
            let file = folder.path().join(format!("{number}.fst"));
            builder.finish(previous.as_ref(), &segments, &file).unwrap();
            live.extend(added);

            let statistics = Statistics::open(&file).unwrap();
            let (passages, tokens, counts) = recount(&live);
            prop_assert_eq!((statistics.passages(), statistics.tokens()), (passages, tokens));
            prop_assert_eq!(statistics.terms(), counts.len());
            for (term, count) in counts {
                prop_assert_eq!(statistics.doc_freq(term.as_bytes()), count, "{}", term);
            }
            previous = Some(statistics);
        }
    }
}
