//! What of a query asks for words rather than for a meaning: quoted phrases, and words that look like identifiers.

use crate::query::{Clause, Occur, ParsedQuery};

/// Marks inside a word that make it an identifier: paths, versions, names of functions, error codes.
const JOINTS: [char; 8] = ['_', '.', '/', ':', '#', '@', '\\', '='];

/// The part of a query's words, 0 to 1, that are quoted, required, or look like identifiers. Excluded ones do not count.
pub fn lexical_share(query: &ParsedQuery) -> f64 {
    let wanted = query
        .clauses
        .iter()
        .filter(|clause| clause.occur != Occur::MustNot);
    let (mut words, mut lexical) = (0_u32, 0_u32);
    for clause in wanted {
        for word in clause.text.split_whitespace() {
            words += 1;
            lexical += u32::from(is_literal(clause) || looks_like_identifier(word));
        }
    }
    if words == 0 {
        return 0.0;
    }
    f64::from(lexical) / f64::from(words)
}

/// Whoever writes an operator means the word itself.
fn is_literal(clause: &Clause) -> bool {
    clause.phrase || clause.occur == Occur::Must
}

/// Letters and digits together, capitals behind small letters, or a joint between letters: `E0382`, `RwLock`, `std::env`, `a_b`.
fn looks_like_identifier(word: &str) -> bool {
    let word = word.trim_matches(|char: char| !char.is_alphanumeric());
    let has_letter = word.chars().any(char::is_alphabetic);
    let has_digit = word.chars().any(|char| char.is_ascii_digit());
    let has_joint = word.contains(JOINTS);
    let pairs = word.chars().zip(word.chars().skip(1));
    let has_hump = pairs
        .into_iter()
        .any(|(left, right)| left.is_lowercase() && right.is_uppercase());
    (has_letter && (has_digit || has_joint)) || has_hump
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(query: &str) -> f64 {
        lexical_share(&ParsedQuery::parse(query).unwrap())
    }

    #[test]
    fn plain_words_are_not_lexical() {
        for query in [
            "how do vaccines work?",
            "covid-19",
            "state-of-the-art, e-mail",
            "1998",
            "O'Neill",
        ] {
            let expected = if query == "covid-19" { 1.0 } else { 0.0 };
            assert_eq!(share(query), expected, "{query}");
        }
    }

    #[test]
    fn quotes_operators_and_identifiers_are() {
        for query in [
            "\"exact words\"",
            "+must",
            "E0382",
            "RwLock",
            "std::env::var",
            "max_depth",
            "v1.2.3",
            "com.example",
            "a/b.rs",
        ] {
            assert_eq!(share(query), 1.0, "{query}");
        }
    }

    #[test]
    fn it_is_a_share_of_the_words_that_are_wanted() {
        assert_eq!(share("borrow error E0382 again"), 0.25);
        assert_eq!(share("\"two words\" and two"), 0.5);
        assert_eq!(share("plain -E0382"), 0.0);
    }
}
