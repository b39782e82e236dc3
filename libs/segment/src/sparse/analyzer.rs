//! From text to terms, by the language of the collection.
//!
//! Words are runs of letters and digits. English: lowercase, ASCII folding, Snowball stemming. Other languages are
//! stemmed before the accents are folded away, since their stemmers read them. `none` only lowercases and folds. There
//! are no stop words: BM25 gives frequent words next to no weight, and phrases keep working.

use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer,
    TextAnalyzer, Token, TokenStream, TokenizerManager,
};

use super::ANALYZER_NAME;
use crate::SegmentError;

/// Longer words are left out: no one types them, and encoded pictures would fill the dictionary with them.
/// 128 bytes still hold a SHA-256 in hex, and 42 letters of three bytes.
const LONGEST_WORD_BYTES: usize = 128;

/// The name of "no stemming".
const NO_LANGUAGE: &str = "none";

/// All stemmers, by the name used in settings.
const STEMMED: [(&str, Language); 18] = [
    ("arabic", Language::Arabic),
    ("danish", Language::Danish),
    ("dutch", Language::Dutch),
    ("english", Language::English),
    ("finnish", Language::Finnish),
    ("french", Language::French),
    ("german", Language::German),
    ("greek", Language::Greek),
    ("hungarian", Language::Hungarian),
    ("italian", Language::Italian),
    ("norwegian", Language::Norwegian),
    ("portuguese", Language::Portuguese),
    ("romanian", Language::Romanian),
    ("russian", Language::Russian),
    ("spanish", Language::Spanish),
    ("swedish", Language::Swedish),
    ("tamil", Language::Tamil),
    ("turkish", Language::Turkish),
];

/// The names that [`Analyzer::for_language`] knows.
pub fn languages() -> impl Iterator<Item = &'static str> {
    let stemmed = STEMMED.iter().map(|(name, _)| *name);
    stemmed.chain([NO_LANGUAGE])
}

/// Turns text into terms: the same way for passages and queries.
#[derive(Clone)]
pub struct Analyzer(TextAnalyzer);

impl std::fmt::Debug for Analyzer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Analyzer")
    }
}

impl Analyzer {
    /// The analyzer of a language, by its English name in lower case.
    pub fn for_language(name: &str) -> Result<Self, SegmentError> {
        let words = TextAnalyzer::builder(SimpleTokenizer::default())
            .filter(RemoveLongFilter::limit(LONGEST_WORD_BYTES + 1))
            .filter(LowerCaser)
            .dynamic();
        if name == NO_LANGUAGE {
            return Ok(Self(words.filter_dynamic(AsciiFoldingFilter).build()));
        }
        let language = stemmer_language(name)?;
        let stemmer = Stemmer::new(language);
        let terms = match language {
            Language::English => words
                .filter_dynamic(AsciiFoldingFilter)
                .filter_dynamic(stemmer),
            _ => words
                .filter_dynamic(stemmer)
                .filter_dynamic(AsciiFoldingFilter),
        };
        Ok(Self(terms.build()))
    }

    /// Calls `each` with every term of the text: its position (words that are left out leave gaps) and the term.
    pub fn for_each_term(&mut self, text: &str, mut each: impl FnMut(usize, &str)) {
        let mut tokens = self.0.token_stream(text);
        tokens.process(&mut |token: &Token| each(token.position, &token.text));
    }

    /// What tantivy asks for analyzers by name.
    pub(super) fn into_manager(self) -> TokenizerManager {
        let manager = TokenizerManager::new();
        manager.register(ANALYZER_NAME, self.0);
        manager
    }
}

fn stemmer_language(name: &str) -> Result<Language, SegmentError> {
    let known = STEMMED.iter().find(|(known, _)| *known == name);
    known.map(|(_, language)| *language).ok_or_else(|| {
        let all: Vec<_> = languages().collect();
        SegmentError::invalid(format!(
            "unknown language {name:?}; known are {}",
            all.join(", ")
        ))
    })
}
