//! Marks on the words that a query and a passage share (scheme `exact_match_v1`).
//!
//! A small cross-encoder spends its first layers on finding out which words of the query the passage has. The segment
//! ids tell it: 2 is added to those of a token whose word occurs on the other side. What the trainer does to the id
//! (`services/trainer/src/finemesh_trainer/models/exact_match.py`):
//!
//! 1. Query and passage are tokenized and cut apart; a word is its ids, what the cut left of it.
//! 2. A token of the tokenizer's special ones is no word. Of the others, a token that does not start with `##` starts
//!    a word, and those that do continue it; one at the start of a side or behind a special token starts one.
//! 3. A word may be marked when its text, the pieces joined without `##`, is not in [`STOP_WORDS`] and holds a letter
//!    or digit.
//! 4. All tokens of a word that may be marked are marked when the other side has a word of the same ids.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tokenizers::Tokenizer;

const CONTINUATION: &str = "##";
/// Is added to the segment id of a token whose word occurs on the other side.
const MATCHED: u32 = 2;
const STOP_WORDS: &str = "a an and are as at be been but by can could did do does for from had has have how if in \
                          into is it its may no not of on or s such t than that the their then there these they this \
                          to was were what when where which who whom why will with would";

/// Marks shared words by a tokenizer's pieces.
pub(crate) struct WordMarker {
    pieces: HashMap<u32, Piece>,
    stop_words: HashSet<&'static str>,
}

struct Piece {
    /// Without `##`.
    text: String,
    continues_word: bool,
    is_special: bool,
}

/// One side of a pair: its token ids and the segment ids that are marked in place.
pub(crate) struct Side<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) segments: &'a mut [u32],
}

impl WordMarker {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let piece = |(piece, id): (String, u32)| {
            let rest = piece.strip_prefix(CONTINUATION);
            let piece = Piece {
                continues_word: rest.is_some(),
                is_special: added.get(&id).is_some_and(|token| token.special),
                text: rest.unwrap_or(&piece).to_owned(),
            };
            (id, piece)
        };
        Self {
            pieces: tokenizer.get_vocab(true).into_iter().map(piece).collect(),
            stop_words: STOP_WORDS.split(' ').collect(),
        }
    }

    /// Marks what both sides have.
    pub(crate) fn mark(&self, query: Side<'_>, passage: Side<'_>) {
        let (query_words, passage_words) = (self.words(query.ids), self.words(passage.ids));
        let in_query: HashSet<&[u32]> = ids_of(&query_words, query.ids).collect();
        let in_both: HashSet<&[u32]> = ids_of(&passage_words, passage.ids)
            .filter(|word| in_query.contains(word) && self.may_be_marked(word))
            .collect();
        for (words, side) in [(query_words, query), (passage_words, passage)] {
            for word in words {
                if in_both.contains(&side.ids[word.clone()]) {
                    side.segments[word].iter_mut().for_each(|id| *id += MATCHED);
                }
            }
        }
    }

    /// The positions of every word's tokens, in order.
    fn words(&self, ids: &[u32]) -> Vec<Range<usize>> {
        let mut words: Vec<Range<usize>> = Vec::new();
        for (position, id) in ids.iter().enumerate() {
            let piece = self.pieces.get(id);
            if piece.is_some_and(|piece| piece.is_special) {
                continue;
            }
            let continues_word = piece.is_some_and(|piece| piece.continues_word);
            match words.last_mut() {
                Some(word) if continues_word && word.end == position => word.end += 1,
                _ => words.push(position..position + 1),
            }
        }
        words
    }

    /// Whether a word is neither a stop word nor punctuation.
    fn may_be_marked(&self, word: &[u32]) -> bool {
        let pieces = word.iter().filter_map(|id| self.pieces.get(id));
        let text: String = pieces.map(|piece| piece.text.as_str()).collect();
        !self.stop_words.contains(text.as_str()) && text.chars().any(is_letter_or_digit)
    }
}

fn ids_of<'a>(words: &[Range<usize>], ids: &'a [u32]) -> impl Iterator<Item = &'a [u32]> {
    words.iter().map(|word| &ids[word.clone()])
}

/// By fixed ranges, because languages' own notions of a letter differ. Left out from U+00C0 on are the blocks of general
/// and of ideographic punctuation.
fn is_letter_or_digit(character: char) -> bool {
    match character {
        '\0'..='\x7f' => character.is_ascii_alphanumeric(),
        '\u{2000}'..='\u{206f}' | '\u{3000}'..='\u{303f}' => false,
        _ => character >= '\u{c0}',
    }
}
