//! Whether a query needs all stages: how much of it asks for words rather than for a meaning (quoted phrases, and words that look like
//! identifiers), and how clear the first hit is.

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

/// How much the first document's score is above the second's, by the first: 0 to 1; 1 where there is no second. None where the first is not
/// above 0.
pub fn margin_by_first(first: f64, second: Option<f64>) -> Option<f64> {
    let second = second.unwrap_or(0.0).max(0.0);
    (first > 0.0).then(|| (first - second) / first)
}

/// How much the first of these scores, best first, is above the second, in their standard deviations. None where that cannot be said.
pub fn margin_in_deviations(scores: &[f64]) -> Option<f64> {
    let [first, second, _, ..] = scores else {
        return None;
    };
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let squares = scores.iter().map(|score| (score - mean).powi(2));
    let margin = (first - second) / (squares.sum::<f64>() / count).sqrt();
    margin.is_finite().then_some(margin)
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

    #[test]
    fn a_first_score_is_above_the_second_by_a_part_of_it() {
        assert_eq!(margin_by_first(4.0, Some(1.0)), Some(0.75));
        assert_eq!(margin_by_first(4.0, Some(4.0)), Some(0.0));
        assert_eq!(margin_by_first(4.0, Some(-1.0)), Some(1.0));
        assert_eq!(margin_by_first(4.0, None), Some(1.0));
        assert_eq!(margin_by_first(0.0, None), None);
    }

    #[test]
    fn a_first_score_is_above_the_second_by_deviations_of_three_or_more() {
        // The mean is 2, and the variance 2 as well.
        assert_eq!(
            margin_in_deviations(&[4.0, 1.0, 1.0]),
            Some(3.0 / 2_f64.sqrt())
        );
        assert_eq!(margin_in_deviations(&[4.0, 1.0]), None);
        assert_eq!(margin_in_deviations(&[1.0; 3]), None);
        assert_eq!(margin_in_deviations(&[]), None);
    }
}
