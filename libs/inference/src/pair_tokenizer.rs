//! A query and a passage as one input: `[CLS] query [SEP] passage [SEP]`, cut as the trainer cuts it.

use std::ops::Range;

use tokenizers::Tokenizer;

use crate::bundle::{BundleError, PairBundle, PairDescription, Segments, TOKENIZER_FILE};
use crate::exact_match::{Side, WordMarker};
use crate::tokenizer::{TokenIds, load_plain};
use crate::windows::Windows;

/// Segment ids before words are marked.
const QUERY: u32 = 0;
const PASSAGE: u32 = 1;
/// `[CLS]` and two `[SEP]`.
const SPECIAL_TOKENS: usize = 3;
/// Of a long text so many bytes are looked at for each token that is wanted, at first: twice what prose has.
const BYTES_PER_TOKEN: usize = 12;
/// Once so many bytes were looked at, what they have is enough.
const MAX_READ_BYTES: usize = 64 * 1024;

/// Cuts pairs into ids.
pub(crate) struct PairTokenizer {
    /// Reads texts without special tokens, and doesn't cut.
    whole: Tokenizer,
    start_id: u32,
    separator_id: u32,
    max_tokens: usize,
    max_query_tokens: usize,
    /// None where the segments are plain.
    marker: Option<WordMarker>,
}

/// A query's token ids, cut.
pub(crate) struct QueryIds {
    ids: Vec<u32>,
    truncated: bool,
}

impl PairTokenizer {
    pub(crate) fn load(bundle: &PairBundle) -> Result<Self, BundleError> {
        let file = bundle.folder().join(TOKENIZER_FILE);
        let description = bundle.description();
        let whole = load_plain(&file, description.lowercase)?;
        Self::new(whole, description).map_err(|missing| {
            BundleError::one(
                &file,
                "",
                format!("has no token {missing}, which joins a pair"),
            )
        })
    }

    /// Fails with the name of the special token that is missing.
    fn new(whole: Tokenizer, description: &PairDescription) -> Result<Self, &'static str> {
        let id = |token| whole.token_to_id(token).ok_or(token);
        let is_marked = description.pair.segments == Segments::ExactMatchV1;
        Ok(Self {
            start_id: id("[CLS]")?,
            separator_id: id("[SEP]")?,
            max_tokens: description.max_tokens,
            max_query_tokens: description.pair.max_query_tokens,
            marker: is_marked.then(|| WordMarker::new(&whole)),
            whole,
        })
    }

    /// Cuts a query; every passage is joined to it.
    pub(crate) fn query(&self, text: &str) -> Result<QueryIds, String> {
        let (ids, is_whole) = self.first_ids(text, self.max_query_tokens)?;
        if ids.is_empty() {
            return Err("has no tokens".into());
        }
        Ok(QueryIds {
            ids,
            truncated: !is_whole,
        })
    }

    /// The input of a query with one passage, of which the model reads the beginning.
    pub(crate) fn pair(&self, query: &QueryIds, passage: &str) -> Result<TokenIds, String> {
        Ok(self.windows(query, passage, 1)?.swap_remove(0))
    }

    /// The inputs of a query with one passage: one where the model reads it at once, otherwise one for each window over it. What is
    /// behind `max_windows` (at least 1) is not read.
    pub(crate) fn windows(
        &self,
        query: &QueryIds,
        passage: &str,
        max_windows: usize,
    ) -> Result<Vec<TokenIds>, String> {
        let windows = Windows {
            tokens: self.max_tokens - SPECIAL_TOKENS - query.ids.len(),
            most: max_windows,
        };
        let (passage_ids, is_whole) = self.first_ids(passage, windows.reach())?;
        let truncated = query.truncated || !is_whole;
        let window = |tokens: Range<usize>| self.join(query, &passage_ids[tokens], truncated);
        Ok(windows.over(passage_ids.len()).map(window).collect())
    }

    fn join(&self, query: &QueryIds, passage: &[u32], truncated: bool) -> TokenIds {
        let (start, separator) = ([self.start_id], [self.separator_id]);
        TokenIds {
            ids: [&start, &*query.ids, &separator, passage, &separator].concat(),
            type_ids: self.segments(&query.ids, passage),
            truncated,
            ..TokenIds::default()
        }
    }

    fn segments(&self, query: &[u32], passage: &[u32]) -> Vec<u32> {
        let mut of_query = vec![QUERY; query.len()];
        let mut of_passage = vec![PASSAGE; passage.len()];
        if let Some(marker) = &self.marker {
            let query = Side {
                ids: query,
                segments: &mut of_query,
            };
            let passage = Side {
                ids: passage,
                segments: &mut of_passage,
            };
            marker.mark(query, passage);
        }
        [&[QUERY], &*of_query, &[QUERY], &*of_passage, &[PASSAGE]].concat()
    }

    /// The first `count` ids of a text, and whether it has no more.
    ///
    /// A long text is not read to its end for that, for words are cut into tokens each for itself; nor is one read on for ever that
    /// has next to no tokens, such as a mebibyte of accents.
    fn first_ids(&self, text: &str, count: usize) -> Result<(Vec<u32>, bool), String> {
        let mut bytes = (count + 1) * BYTES_PER_TOKEN;
        loop {
            let beginning = words_within(text, bytes);
            let is_whole = beginning.len() == text.len();
            let mut ids = self.ids(beginning)?;
            if ids.len() > count || is_whole || bytes >= MAX_READ_BYTES {
                let has_all = is_whole && ids.len() <= count;
                ids.truncate(count);
                return Ok((ids, has_all));
            }
            bytes *= 4;
        }
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.whole.encode_fast(text, false);
        let encoding = encoding.map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// The words that end within so many bytes, or, of a single endless word, so much of it; the whole text where there is no more.
fn words_within(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let beginning = &text[..text.floor_char_boundary(bytes)];
    beginning
        .rfind([' ', '\n'])
        .map_or(beginning, |end| &beginning[..end])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::bundle::{BundleTask, PairInput, ScoreOutput};

    /// Written by the trainer from its own rule.
    const VECTORS: &str = "../../services/trainer/tests/vectors/exact_match.json";

    #[derive(Deserialize)]
    struct Vectors {
        max_tokens: usize,
        max_query_tokens: usize,
        cases: Vec<Case>,
        tokenizer: Value,
    }

    #[derive(Deserialize)]
    struct Case {
        query: String,
        passage: String,
        token_ids: Vec<u32>,
        exact_match_v1: Vec<u32>,
        plain: Vec<u32>,
    }

    static MARKING: LazyLock<PairTokenizer> =
        LazyLock::new(|| tokenizer(&vectors(), Segments::ExactMatchV1));

    fn vectors() -> Vectors {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(VECTORS);
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    fn tokenizer(vectors: &Vectors, segments: Segments) -> PairTokenizer {
        let description = PairDescription {
            format: 1,
            name: "tiny".into(),
            task: BundleTask::Rerank,
            pair: PairInput {
                max_query_tokens: vectors.max_query_tokens,
                segments,
            },
            outputs: ScoreOutput {
                score: "score".into(),
            },
            max_tokens: vectors.max_tokens,
            pad_token_id: 0,
            lowercase: false,
            tolerance: 1e-3,
            source: String::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(TOKENIZER_FILE);
        fs::write(&file, vectors.tokenizer.to_string()).unwrap();
        PairTokenizer::new(load_plain(&file, false).unwrap(), &description).unwrap()
    }

    fn pair(tokenizer: &PairTokenizer, query: &str, passage: &str) -> TokenIds {
        let query = tokenizer.query(query).unwrap();
        tokenizer.pair(&query, passage).unwrap()
    }

    #[test]
    fn ids_and_segments_are_the_trainers() {
        let vectors = vectors();
        let plain = tokenizer(&vectors, Segments::Plain);
        assert!(vectors.cases.len() > 10);
        for case in &vectors.cases {
            let Case { query, passage, .. } = case;
            let got = pair(&MARKING, query, passage);
            assert_eq!(got.ids, case.token_ids, "{query} | {passage}");
            assert_eq!(got.type_ids, case.exact_match_v1, "{query} | {passage}");
            let got = pair(&plain, query, passage);
            assert_eq!(got.ids, case.token_ids, "{query} | {passage}");
            assert_eq!(got.type_ids, case.plain, "{query} | {passage}");
        }
    }

    #[test]
    fn what_was_cut_is_said() {
        let tokenizer = tokenizer(&vectors(), Segments::Plain);
        let (short, long) = ("apple", "apple ".repeat(40));
        assert!(!pair(&tokenizer, short, short).truncated);
        assert!(pair(&tokenizer, &long, short).truncated);
        assert!(pair(&tokenizer, short, &long).truncated);
        // [CLS] apple [SEP] [SEP] leave room for 26.
        let exact = "apple ".repeat(26);
        assert!(!pair(&tokenizer, short, &exact).truncated);
        assert_eq!(pair(&tokenizer, short, &exact).ids.len(), 30);
    }

    #[test]
    fn a_long_passage_is_read_window_by_window() {
        let windows = |passage: &str, max_windows| {
            let query = MARKING.query("apple").unwrap();
            MARKING.windows(&query, passage, max_windows).unwrap()
        };
        // [CLS] apple [SEP] [SEP] leave room for 26, of which windows share 3.
        let late = format!("{}apple", "the ".repeat(60));
        let read = windows(&late, 9);
        let lengths: Vec<usize> = read.iter().map(|window| window.ids.len()).collect();
        assert_eq!(lengths, [26, 26, 27]);
        assert!(read.iter().all(|window| !window.truncated));
        let sees_apple = |window: &TokenIds| window.type_ids.ends_with(&[3, 1]);
        assert_eq!(
            read.iter().map(sees_apple).collect::<Vec<_>>(),
            [false, false, true]
        );
        // What it shares with the query it shares in that window alone.
        assert_eq!(read[0].type_ids[1], 0);
        assert_eq!(read[2].type_ids[1], 2);

        let cut = windows(&late, 2);
        assert_eq!(cut.len(), 2);
        assert!(
            cut.iter()
                .all(|window| window.truncated && window.ids.len() == 30)
        );
        let query = MARKING.query("apple").unwrap();
        assert_eq!(
            windows("the pear", 9),
            [MARKING.pair(&query, "the pear").unwrap()]
        );
        assert_eq!(windows("", 9).len(), 1);
    }

    #[test]
    fn a_query_without_tokens_is_refused_and_a_passage_without_is_read() {
        assert!(MARKING.query(" \u{200b} ").is_err());
        assert_eq!(pair(&MARKING, "apple", "").type_ids, [0, 0, 0, 1]);
    }

    #[test]
    fn words_end_at_spaces() {
        assert_eq!(words_within("one two three", 9), "one two");
        assert_eq!(words_within("one two three", 13), "one two three");
        assert_eq!(words_within("one two three", 2), "on");
        assert_eq!(words_within("é é\né", 6), "é é");
        assert_eq!(words_within("中中中", 4), "中");
    }

    #[test]
    fn of_an_endless_text_only_the_beginning_is_read() {
        let cut = |text: &str| {
            let pair = pair(&MARKING, "apple", text);
            (pair.ids.len(), pair.truncated)
        };
        let mebibyte = |piece: &str| piece.repeat((1 << 20) / piece.len());
        assert_eq!(cut(&mebibyte("apple the ")), (30, true));
        assert_eq!(cut(&mebibyte("中")), (30, true));
        // One unknown word; no word at all.
        assert_eq!(cut(&mebibyte("x")), (5, true));
        assert_eq!(cut(&mebibyte(" ")), (4, true));
    }

    proptest! {
        #[test]
        fn the_beginning_of_a_long_text_is_cut_as_the_whole(
            words in prop::collection::vec("(apple|the|[a-z]{1,9}|\\PC{1,6}|[.,]|\\PC{40,60})", 0..40), count in 1_usize..30,
        ) {
            let text = words.join(" ");
            let (first, is_whole) = MARKING.first_ids(&text, count).unwrap();
            let whole = MARKING.ids(&text).unwrap();
            prop_assert_eq!(is_whole, whole.len() <= count);
            prop_assert_eq!(&first[..], &whole[..whole.len().min(count)]);
        }

        #[test]
        fn any_texts_give_an_input_of_the_models_size(query in ".{0,80}", passage in "\\PC{0,200}") {
            if let Ok(query) = MARKING.query(&query) {
                let pair = MARKING.pair(&query, &passage).unwrap();
                prop_assert!((4..=30).contains(&pair.ids.len()));
                prop_assert_eq!(pair.type_ids.len(), pair.ids.len());
                prop_assert!(pair.type_ids.iter().all(|&id| id < 4));
            }
        }

        #[test]
        fn sides_that_are_equal_are_marked_alike(text in "[a-z ,]{1,30}") {
            if let Ok(query) = MARKING.query(&text).map(|query| query.ids).as_deref() {
                let segments = MARKING.segments(query, query);
                let (of_query, of_passage) = segments[1..segments.len() - 1].split_at(query.len());
                for (of_query, of_passage) in of_query.iter().zip(&of_passage[1..]) {
                    prop_assert_eq!(of_query + 1, *of_passage);
                }
            }
        }
    }
}
