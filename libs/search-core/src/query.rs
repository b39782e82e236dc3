//! The query syntax: free text, "quoted phrases", +required and -excluded words.
//!
//! Forgiving on purpose: whatever is not an operator is text, and nothing but blank, oversize and purely negative queries is
//! an error. `-` and `+` are operators only at the start of a word and before a letter, a digit or a quote: `covid-19` and
//! `-` are words. A quote opens a phrase only at the start of a word and only if another one closes it.

/// Longest query, in bytes.
pub const MAX_QUERY_BYTES: usize = 8192;

/// What a clause asks of a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Occur {
    /// Raises the score.
    Should,
    /// Has to match.
    Must,
    /// Must not match.
    MustNot,
}

/// One word or phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// What is asked.
    pub occur: Occur,
    /// The word, or the words of the phrase; never blank.
    pub text: String,
    /// The words have to stand together, in this order.
    pub phrase: bool,
}

/// A query that can be run: at least one clause is not an exclusion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedQuery {
    /// In the order of the text. Scores are summed in this order.
    pub clauses: Vec<Clause>,
}

/// A query that cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No words.
    #[error("is blank")]
    Blank,
    /// Longer than [`MAX_QUERY_BYTES`].
    #[error("has {bytes} bytes; at most 8192 are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Nothing to look for.
    #[error("only excludes; it needs a word to look for")]
    OnlyExcluded,
}

impl ParsedQuery {
    /// Reads a query.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(QueryError::TooLong { bytes: query.len() });
        }
        let clauses = parse_clauses(query);
        if clauses.is_empty() {
            return Err(QueryError::Blank);
        }
        if clauses.iter().all(|clause| clause.occur == Occur::MustNot) {
            return Err(QueryError::OnlyExcluded);
        }
        Ok(Self { clauses })
    }

    /// The text for an encoder: without operators, quotes and excluded words.
    pub fn plain_text(&self) -> String {
        let wanted = self
            .clauses
            .iter()
            .filter(|clause| clause.occur != Occur::MustNot);
        wanted
            .map(|clause| clause.text.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Whether a passage can be refused for its words: a clause is required or excluded.
    pub fn has_conditions(&self) -> bool {
        self.clauses
            .iter()
            .any(|clause| clause.occur != Occur::Should)
    }

    /// Whether every answer must have a word of the query.
    pub fn has_required(&self) -> bool {
        self.clauses
            .iter()
            .any(|clause| clause.occur == Occur::Must)
    }
}

fn parse_clauses(query: &str) -> Vec<Clause> {
    let mut clauses = Vec::new();
    let mut rest = query.trim_start();
    while !rest.is_empty() {
        let (occur, body) = split_operator(rest);
        let (clause, after) = split_phrase(occur, body).unwrap_or_else(|| split_word(rest));
        clauses.extend(Some(clause).filter(|clause| !clause.text.is_empty()));
        rest = after.trim_start();
    }
    clauses
}

/// The operator at the start of a word, and what follows it.
fn split_operator(text: &str) -> (Occur, &str) {
    let operand = |body: &str| body.starts_with(|next: char| next.is_alphanumeric() || next == '"');
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(body), _) if operand(body) => (Occur::Must, body),
        (_, Some(body)) if operand(body) => (Occur::MustNot, body),
        _ => (Occur::Should, text),
    }
}

fn split_phrase(occur: Occur, body: &str) -> Option<(Clause, &str)> {
    let (inside, after) = body.strip_prefix('"')?.split_once('"')?;
    Some((
        Clause {
            occur,
            text: inside.trim().to_owned(),
            phrase: true,
        },
        after,
    ))
}

fn split_word(text: &str) -> (Clause, &str) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    let (occur, body) = match split_operator(word) {
        (_, body) if body.starts_with('"') => (Occur::Should, word),
        operator_and_body => operator_and_body,
    };
    (
        Clause {
            occur,
            text: body.to_owned(),
            phrase: false,
        },
        after,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use Occur::{Must, MustNot, Should};
    use proptest::prelude::*;

    fn clauses(query: &str) -> Vec<(Occur, String, bool)> {
        let parsed = ParsedQuery::parse(query).unwrap();
        parsed
            .clauses
            .into_iter()
            .map(|clause| (clause.occur, clause.text, clause.phrase))
            .collect()
    }

    fn word(occur: Occur, text: &str) -> (Occur, String, bool) {
        (occur, text.to_owned(), false)
    }

    fn phrase(occur: Occur, text: &str) -> (Occur, String, bool) {
        (occur, text.to_owned(), true)
    }

    #[test]
    fn reads_words_phrases_and_operators() {
        assert_eq!(
            clauses("vitamin  \"bone loss\" +calcium -\"side effect\" -mice"),
            [
                word(Should, "vitamin"),
                phrase(Should, "bone loss"),
                word(Must, "calcium"),
                phrase(MustNot, "side effect"),
                word(MustNot, "mice"),
            ]
        );
    }

    #[test]
    fn an_operator_needs_a_word_start_and_an_operand() {
        assert_eq!(
            clauses("covid-19 c++ - + --x -(y"),
            ["covid-19", "c++", "-", "+", "--x", "-(y"].map(|t| word(Should, t))
        );
    }

    #[test]
    fn an_unbalanced_quote_is_text() {
        assert_eq!(
            clauses("5\" pipe"),
            [word(Should, "5\""), word(Should, "pipe")]
        );
        assert_eq!(
            clauses("\"open end"),
            [word(Should, "\"open"), word(Should, "end")]
        );
        assert_eq!(
            clauses("-\"open end"),
            [word(Should, "-\"open"), word(Should, "end")]
        );
    }

    #[test]
    fn an_empty_phrase_is_nothing() {
        assert_eq!(clauses("\"\" a +\" \""), [word(Should, "a")]);
        assert_eq!(ParsedQuery::parse("\"\""), Err(QueryError::Blank));
    }

    #[test]
    fn a_phrase_ends_its_word() {
        assert_eq!(
            clauses("\"a b\"c"),
            [phrase(Should, "a b"), word(Should, "c")]
        );
    }

    #[test]
    fn refuses_what_cannot_be_run() {
        assert_eq!(ParsedQuery::parse(" \t\n"), Err(QueryError::Blank));
        assert_eq!(
            ParsedQuery::parse("-a -\"b c\""),
            Err(QueryError::OnlyExcluded)
        );
        let long = "x".repeat(MAX_QUERY_BYTES + 1);
        assert_eq!(
            ParsedQuery::parse(&long),
            Err(QueryError::TooLong {
                bytes: MAX_QUERY_BYTES + 1
            })
        );
        assert!(ParsedQuery::parse(&long[1..]).is_ok());
    }

    #[test]
    fn plain_text_is_what_an_encoder_reads() {
        let parsed = ParsedQuery::parse("+rust \"tail call\" -java fast").unwrap();
        assert_eq!(parsed.plain_text(), "rust tail call fast");
        assert!(parsed.has_conditions());
        assert!(
            !ParsedQuery::parse("rust \"tail call\"")
                .unwrap()
                .has_conditions()
        );
    }

    proptest! {
        #[test]
        fn never_panics_and_never_gives_a_blank_clause(query in "[ \"+\\-a-cé\\PC\u{3000}]{0,40}") {
            if let Ok(parsed) = ParsedQuery::parse(&query) {
                prop_assert!(parsed.clauses.iter().all(|clause| !clause.text.trim().is_empty()));
                prop_assert!(!parsed.plain_text().trim().is_empty());
            }
        }

        #[test]
        fn plain_words_come_back_as_they_are(words in prop::collection::vec("[a-z0-9]{1,8}", 1..10)) {
            let parsed = ParsedQuery::parse(&words.join("  ")).unwrap();
            prop_assert_eq!(parsed.plain_text(), words.join(" "));
            prop_assert_eq!(parsed.clauses.len(), words.len());
        }
    }
}
