//! The part of a passage that shows why it was found.

/// Characters of a snippet.
const SNIPPET_CHARS: usize = 180;

/// The window of `text` that holds most of the query's different words, at word boundaries, on one line.
/// Words match by their first letters, so that inflected forms count.
pub(crate) fn snippet(text: &str, query: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let stems = query_stems(query);
    let (start, end) = best_window(&words, &stems);
    let mut line = words[start..end].join(" ");
    if start > 0 {
        line.insert_str(0, "… ");
    }
    if end < words.len() {
        line.push_str(" …");
    }
    line
}

/// Whether a word of the text answers to one of the query's stems.
pub(crate) fn matches_query(word: &str, stems: &[String]) -> bool {
    let bare: String = word
        .chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    stems.iter().any(|stem| bare.starts_with(stem.as_str()))
}

/// The query's words of three letters and more, lowercased and cut to five letters.
pub(crate) fn query_stems(query: &str) -> Vec<String> {
    query
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.chars().count() >= 3)
        .map(|word| word.to_lowercase().chars().take(5).collect())
        .collect()
}

fn best_window(words: &[&str], stems: &[String]) -> (usize, usize) {
    let mut best = (0, window_end(words, 0), 0);
    for start in 0..words.len() {
        let end = window_end(words, start);
        let found = stems
            .iter()
            .filter(|stem| {
                words[start..end]
                    .iter()
                    .any(|word| matches_query(word, std::slice::from_ref(stem)))
            })
            .count();
        if found > best.2 {
            best = (start, end, found);
        }
        if end == words.len() {
            break;
        }
    }
    (best.0, best.1)
}

fn window_end(words: &[&str], start: usize) -> usize {
    let mut chars = 0;
    let fitting = words[start..].iter().take_while(|word| {
        chars += word.chars().count() + 1;
        chars <= SNIPPET_CHARS
    });
    (start + fitting.count()).max((start + 1).min(words.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_shown_whole() {
        assert_eq!(snippet("one\n two", "two"), "one two");
        assert_eq!(snippet("", "two"), "");
    }

    #[test]
    fn long_texts_are_shown_where_they_match() {
        let text = format!(
            "{} the deadlines of requests {}",
            "filler ".repeat(100),
            "more ".repeat(100)
        );
        let shown = snippet(&text, "request deadline");
        assert!(shown.contains("deadlines of requests"), "{shown}");
        assert!(shown.starts_with("… ") && shown.ends_with(" …"));
    }

    #[test]
    fn one_endless_word_is_still_a_window() {
        assert!(!snippet(&"x".repeat(1000), "x").is_empty());
    }
}
