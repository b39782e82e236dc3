//! Against the oracle: however the passages are spread over segments, and whatever the query, to the bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use search_core::Candidate;
use segment::bitmap::Bitmap;
use segment::documents::Document;
use service_kit::compute::ComputeError;

use super::*;
use crate::fixture::{Corpus, Oracle, document, zipf_text, zipf_word};
use crate::pace::STEPS_PER_CHECK;
use crate::score::score;

const VOCABULARY: u32 = 40;

/// Enough for several blocks of postings per term and segment. Every third document is long, so that
/// segments by thirds have quite different average lengths.
fn documents(random: &mut ChaCha8Rng, count: usize) -> Vec<Document> {
    let texts = |random: &mut ChaCha8Rng, place: usize| {
        let longest = if place.is_multiple_of(3) { 60 } else { 8 };
        let words = random.random_range(0..longest);
        zipf_text(random, VOCABULARY, words)
    };
    let documents = (0..count).map(|place| {
        let title = zipf_text(random, VOCABULARY, place as u32 % 3);
        let passages: Vec<_> = (0..random.random_range(1..4))
            .map(|_| texts(random, place))
            .collect();
        let passages: Vec<_> = passages.iter().map(String::as_str).collect();
        document(&format!("d{place:05}"), &title, &passages)
    });
    documents.collect()
}

fn query(random: &mut ChaCha8Rng) -> String {
    let clause = |random: &mut ChaCha8Rng| {
        let operator = ["", "", "", "", "+", "-"][random.random_range(0..6)];
        let [first, second, third] = [0; 3].map(|_| zipf_word(random, VOCABULARY + 3));
        match random.random_range(0..8) {
            0 => format!("{operator}\"{first} {second}\""),
            1 => format!("\"{first} {second} {third}\""),
            2 => format!("{operator}{first}-{second}"),
            3 => format!("{first} {first}"),
            _ => format!("{operator}{first}"),
        }
    };
    let clauses: Vec<_> = (0..random.random_range(1..7))
        .map(|_| clause(random))
        .collect();
    // at least one that is not an exclusion
    format!("{} {}", clauses.join(" "), zipf_word(random, VOCABULARY))
}

fn find(corpus: &Corpus, query: &str, limit: usize) -> Vec<Candidate> {
    let weighted = corpus.weigh(query);
    search(
        &weighted,
        &corpus.statistics,
        &corpus.targets(),
        limit,
        || Ok(()),
    )
    .unwrap()
}

fn named(corpus: &Corpus, candidates: &[Candidate]) -> Vec<(u32, String, u32)> {
    let name = |candidate: &Candidate| {
        let (id, passage) = corpus.name(candidate.address);
        (candidate.score.get().to_bits(), id, passage)
    };
    candidates.iter().map(name).collect()
}

fn expected(hits: &[(f32, String, u32)], limit: usize) -> Vec<(u32, String, u32)> {
    let hits = hits.iter().take(limit);
    hits.map(|(score, id, passage)| (score.to_bits(), id.clone(), *passage))
        .collect()
}

/// One segment, ten like ones, three of different average length, and three of consecutive ids.
fn spread(documents: &[Document]) -> [Corpus; 4] {
    [
        Corpus::build(documents, 1, |_| 0),
        Corpus::build(documents, 10, |place| place as u32 * 7 % 10),
        Corpus::build(documents, 3, |place| place as u32 % 3),
        Corpus::build(documents, 3, |place| (place * 3 / documents.len()) as u32),
    ]
}

#[test]
fn results_equal_the_oracle_however_passages_are_spread() {
    for seed in 0..2 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let documents = documents(&mut random, 800);
        let corpora = spread(&documents);
        let oracle = Oracle::new(&documents, &corpora[0].statistics);
        for _ in 0..15 {
            let query = query(&mut random);
            let hits = oracle.search(&query);
            for limit in [1, 10, 100, 5000] {
                for corpus in &corpora {
                    let found = named(corpus, &find(corpus, &query, limit));
                    assert_eq!(
                        found,
                        expected(&hits, limit),
                        "{query}, {limit} of {}",
                        corpus.segments.len()
                    );
                }
            }
        }
    }
}

#[test]
fn given_passages_get_the_scores_that_a_search_gives() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let documents = documents(&mut random, 400);
    let corpus = Corpus::build(&documents, 4, |place| place as u32 % 4);
    let oracle = Oracle::new(&documents, &corpus.statistics);
    let everything = corpus.addresses();
    let names: BTreeMap<_, _> = everything
        .iter()
        .map(|address| (*address, corpus.name(*address)))
        .collect();
    for _ in 0..30 {
        let query = query(&mut random);
        let hits: BTreeMap<_, _> = oracle
            .search(&query)
            .into_iter()
            .map(|(score, id, passage)| ((id, passage), score))
            .collect();
        let excluded = oracle.excluded(&query);
        // shuffled, and some twice
        let mut addresses = everything.clone();
        addresses.extend((0..50).map(|_| everything[random.random_range(0..everything.len())]));
        addresses.rotate_left(random.random_range(0..everything.len()));
        addresses.reverse();
        let scores = score(
            &corpus.weigh(&query),
            &addresses,
            |at| corpus.locate(at),
            || Ok(()),
        )
        .unwrap();
        for (position, address) in addresses.iter().enumerate() {
            let name = &names[address];
            let expected = hits.get(name).copied().unwrap_or(0.0);
            assert_eq!(
                scores.scores[position].to_bits(),
                expected.to_bits(),
                "{query}: {name:?}"
            );
            let is_excluded = scores.excluded.binary_search(&(position as u32)).is_ok();
            assert_eq!(is_excluded, excluded.contains(name), "{query}: {name:?}");
        }
        assert!(scores.unknown.is_empty());
    }
}

#[test]
fn unknown_addresses_are_reported() {
    let corpus = Corpus::build(&[document("a", "", &["w1", "w1 w2"])], 1, |_| 0);
    let addresses = [
        Address::new(0, 9),
        Address::new(0, 1),
        Address::new(5, 0),
        Address::new(0, 0),
    ];
    let scores = score(
        &corpus.weigh("w2"),
        &addresses,
        |at| corpus.locate(at),
        || Ok(()),
    )
    .unwrap();
    assert_eq!(scores.unknown, [0, 2]);
    assert!(scores.excluded.is_empty());
    assert!(scores.scores[1] > 0.0);
    assert_eq!(
        [scores.scores[0], scores.scores[2], scores.scores[3]],
        [0.0; 3]
    );
    let required = score(
        &corpus.weigh("w1 +w2"),
        &addresses,
        |at| corpus.locate(at),
        || Ok(()),
    )
    .unwrap();
    assert_eq!((required.excluded, required.unknown), (vec![3], vec![0, 2]));
}

/// Over a thousand equal passages: pruning by score alone can choose none of them.
#[test]
fn ties_are_cut_by_id() {
    let ids: Vec<_> = (0..1200)
        .map(|place| format!("{:05}", place * 7919 % 1200))
        .collect();
    let mut documents: Vec<_> = ids
        .iter()
        .map(|id| document(id, "", &["w1 w2 w3 w4 w5"]))
        .collect();
    documents[600].passages = vec!["w1 w2 w3 w3".to_owned()];
    documents.sort_by(|left, right| left.id.cmp(&right.id));
    for corpus in [
        Corpus::build(&documents, 1, |_| 0),
        Corpus::build(&documents, 10, |place| place as u32 * 3 % 10),
    ] {
        let oracle = Oracle::new(&documents, &corpus.statistics);
        for query in [
            "w3",
            "w1 w3",
            "w5 w4 w3 w2 w1 w3",
            "+w2 +w3",
            "\"w2 w3\" w1",
            "w3 -w9",
        ] {
            let hits = oracle.search(query);
            assert_eq!(hits.len(), 1200);
            for limit in [1, 10, 1000] {
                assert_eq!(
                    named(&corpus, &find(&corpus, query, limit)),
                    expected(&hits, limit),
                    "{query}"
                );
            }
        }
    }
}

#[test]
fn only_allowed_passages_are_found() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let documents = documents(&mut random, 600);
    let corpus = Corpus::build(&documents, 2, |place| place as u32 % 2);
    for share in [0.0, 0.01, 0.5, 1.0] {
        let bitmaps = corpus.segments.iter().map(|segment| {
            let mut allowed = Bitmap::new(segment.index.passages());
            (0..allowed.bound())
                .filter(|_| random.random_bool(share))
                .for_each(|ordinal| allowed.set(ordinal));
            Arc::new(allowed)
        });
        let bitmaps: Vec<_> = bitmaps.collect();
        let query = corpus.weigh("w1 w5 w7 w30");
        let mut targets = corpus.targets();
        for (target, allowed) in targets.iter_mut().zip(&bitmaps) {
            target.allowed = Box::new(|| Some(Arc::clone(allowed)));
        }
        let all = search(
            &query,
            &corpus.statistics,
            &corpus.targets(),
            10_000,
            || Ok(()),
        )
        .unwrap();
        let is_allowed = |candidate: &&Candidate| {
            bitmaps[candidate.address.segment() as usize].contains(candidate.address.ordinal())
        };
        let expected: Vec<_> = all.iter().filter(is_allowed).take(20).copied().collect();
        let found = search(&query, &corpus.statistics, &targets, 20, || Ok(())).unwrap();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_query_without_terms_finds_nothing() {
    let corpus = Corpus::build(&[document("a", "", &["w1"])], 1, |_| 0);
    for query in ["!?", "!? -w1"] {
        assert_eq!(find(&corpus, query, 10), []);
    }
    assert_eq!(find(&corpus, "w2", 10), []);
}

#[test]
fn work_stops_inside_a_segment() {
    let many = STEPS_PER_CHECK as usize * 3;
    let corpus = Corpus::build(&[document("a", "", &vec!["w1 w2"; many])], 1, |_| 0);
    let asked = std::cell::Cell::new(0);
    let stop_at_second = || {
        asked.set(asked.get() + 1);
        match asked.get() {
            1 => Ok(()),
            _ => Err(Error::Compute(ComputeError::DeadlineExceeded)),
        }
    };
    let assert_stopped = |result: Result<(), Error>, what: &str| {
        let is_late = matches!(result, Err(Error::Compute(ComputeError::DeadlineExceeded)));
        assert!(is_late && asked.take() == 2, "{what}");
    };
    for text in [
        "w1",
        "w1 w2",
        "+w1 +w2",
        "+w1 w2",
        "\"w1 w2\"",
        "\"w1 w2\" w1",
    ] {
        for limit in [10, many] {
            let (query, targets) = (corpus.weigh(text), corpus.targets());
            let found = search(&query, &corpus.statistics, &targets, limit, stop_at_second);
            assert_stopped(found.map(|_| ()), text);
        }
    }
    let (query, locate) = (corpus.weigh("w1"), |address| corpus.locate(address));
    let scored = score(&query, &corpus.addresses(), locate, stop_at_second);
    assert_stopped(scored.map(|_| ()), "scoring");
}

#[test]
fn work_stops_between_segments() {
    let documents: Vec<_> = (0..4)
        .map(|place| document(&format!("{place}"), "", &["w1"]))
        .collect();
    let corpus = Corpus::build(&documents, 4, |place| place as u32);
    let asked = std::cell::Cell::new(0);
    let proceed = || {
        asked.set(asked.get() + 1);
        if asked.get() < 3 {
            Ok(())
        } else {
            Err(Error::Compute(ComputeError::DeadlineExceeded))
        }
    };
    let stopped = search(
        &corpus.weigh("w1"),
        &corpus.statistics,
        &corpus.targets(),
        10,
        proceed,
    );
    assert!(matches!(
        stopped,
        Err(Error::Compute(ComputeError::DeadlineExceeded))
    ));
    assert_eq!(asked.get(), 3);
}

/// Passages of the same words have the same score, but pruning adds the words up in an order that changes from passage to
/// passage, as the postings happen to stand: its sums of equal passages differ in their last bits.
#[test]
fn the_order_of_sums_does_not_matter() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut words = ["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8"];
    let documents: Vec<_> = (0..1500)
        .map(|place| {
            words.shuffle(&mut random);
            document(
                &format!("{place:05}"),
                "",
                &[&words[..5 + place % 2].join(" ")],
            )
        })
        .collect();
    let one = Corpus::build(&documents, 1, |_| 0);
    let three = Corpus::build(&documents, 3, |place| place as u32 * 2 % 3);
    let oracle = Oracle::new(&documents, &one.statistics);
    for query in [
        "w1 w2 w3 w4 w5 w6 w7 w8",
        "w8 w3 w1 w6 w2",
        "w2 w2 w5 w7 w1 w3",
    ] {
        let hits = oracle.search(query);
        for limit in [1, 5, 20, 100, 400] {
            for corpus in [&one, &three] {
                let found = named(corpus, &find(corpus, query, limit));
                assert_eq!(found, expected(&hits, limit), "{query}, {limit}");
            }
        }
    }
}

/// A block of postings carries the pair of length and frequency that is best by its own segment's average length. Here the
/// snapshot's average is twenty times as long: the stored pair of the second block understates its one good passage.
#[test]
fn foreign_averages_do_not_hide_passages() {
    let text = |frequency: usize, length: usize| {
        [vec!["w1"; frequency], vec!["w9"; length - frequency]]
            .concat()
            .join(" ")
    };
    let (fair, poor, best) = (text(2, 10), text(1, 1), text(4, 30));
    let mut texts = vec![&fair; 128];
    texts.extend([&poor; 140]);
    texts[200] = &best;
    let long = text(0, 300);
    texts.extend([&long; 200]);
    let named_text =
        |(place, text): (usize, &&String)| document(&format!("{place:03}"), "", &[text]);
    let documents: Vec<_> = texts.iter().enumerate().map(named_text).collect();
    let corpus = Corpus::build(&documents, 2, |place| u32::from(place >= 268));
    let oracle = Oracle::new(&documents, &corpus.statistics);
    for query in ["w1", "w1 w9", "+w1 w9", "w1 w5"] {
        let hits = oracle.search(query);
        assert_eq!(hits[0].1, "200");
        for limit in [1, 3, 10] {
            let found = named(&corpus, &find(&corpus, query, limit));
            assert_eq!(found, expected(&hits, limit), "{query}");
        }
    }
}

proptest! {
    /// The same query text never panics, whatever it holds.
    #[test]
    fn any_text_can_be_searched(query in "[ \"+\\-w0-9é.]{1,30}") {
        thread_local! {
            static CORPUS: Corpus = Corpus::build(&[document("a", "w1 w2", &["w3 w4 é"])], 1, |_| 0);
        }
        if search_core::ParsedQuery::parse(&query).is_ok() {
            CORPUS.with(|corpus| {
                for candidate in find(corpus, &query, 3) {
                    let scores = score(&corpus.weigh(&query), &[candidate.address], |at| corpus.locate(at), || Ok(()));
                    assert_eq!(scores.unwrap().scores, [candidate.score.get()]);
                }
            });
        }
    }
}
