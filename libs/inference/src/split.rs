//! Cutting a long text into passages by its tokens.

use std::ops::Range;

/// Cuts `text` into overlapping passages of at most `passage_tokens` tokens; gives their byte ranges.
///
/// `spans` are the byte ranges of the text's tokens. The passages cover all of the text, are of about equal length
/// (so that no tiny tail is left over) and share at least `overlap_tokens` tokens with the one before. A cut falls
/// between two tokens, at a gap between words where one is near, and never inside a character. An overlap that
/// leaves no room for progress counts as one token less than a passage.
pub fn split_passages(
    text: &str,
    spans: &[Range<usize>],
    passage_tokens: usize,
    overlap_tokens: usize,
) -> Vec<Range<usize>> {
    let size = passage_tokens.max(1);
    let cuts = Cuts {
        spans,
        overlap: overlap_tokens.min(size - 1),
        size,
    };
    let mut passages: Vec<Range<usize>> = Vec::new();
    for tokens in cuts.token_ranges() {
        let begin = if tokens.start == 0 {
            0
        } else {
            boundary(text, spans[tokens.start].start)
        };
        let end = spans
            .get(tokens.end)
            .map_or(text.len(), |next| boundary(text, next.start));
        // Several tokens can share one character: a cut between them would give nothing.
        if begin < end && passages.last().is_none_or(|last| last.end < end) {
            passages.push(begin..end);
        }
    }
    passages
}

/// The start of the character that holds byte `at`.
fn boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|&byte| text.is_char_boundary(byte))
        .unwrap_or(0)
}

struct Cuts<'a> {
    spans: &'a [Range<usize>],
    size: usize,
    overlap: usize,
}

impl Cuts<'_> {
    fn token_ranges(&self) -> Vec<Range<usize>> {
        let (mut ranges, mut start) = (Vec::new(), 0);
        while self.spans.len() - start > self.size {
            let end = self.word_start(
                start + self.balanced_size(self.spans.len() - start),
                start + self.overlap,
            );
            ranges.push(start..end);
            start = self.word_start(end - self.overlap, start);
        }
        ranges.push(start..self.spans.len());
        ranges
    }

    /// The passage length with which the rest divides evenly into as few passages as it takes.
    fn balanced_size(&self, rest: usize) -> usize {
        let passages = (rest - self.overlap).div_ceil(self.size - self.overlap);
        self.overlap + (rest - self.overlap).div_ceil(passages)
    }

    /// The nearest token at or before `token`, and after `floor`, in front of which there is a gap; `token` itself
    /// where there is none near.
    fn word_start(&self, token: usize, floor: usize) -> usize {
        let nearest = token.saturating_sub(self.size / 8).max(floor + 1);
        let has_gap = |&at: &usize| self.spans[at - 1].end < self.spans[at].start;
        (nearest..=token).rev().find(has_gap).unwrap_or(token)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tokens of up to three characters, as word pieces are: words are separated by spaces.
    fn pieces(text: &str) -> Vec<Range<usize>> {
        let mut spans = Vec::new();
        let mut open: Option<(Range<usize>, usize)> = None;
        for (at, char) in text.char_indices() {
            let end = at + char.len_utf8();
            open = match open {
                Some((span, _)) if char == ' ' => {
                    spans.push(span);
                    None
                }
                Some((span, 3)) => {
                    spans.push(span);
                    Some((at..end, 1))
                }
                Some((span, chars)) => Some((span.start..end, chars + 1)),
                None if char == ' ' => None,
                None => Some((at..end, 1)),
            };
        }
        spans.extend(open.map(|(span, _)| span));
        spans
    }

    fn tokens_within(spans: &[Range<usize>], passage: &Range<usize>) -> Vec<usize> {
        (0..spans.len())
            .filter(|&i| passage.start <= spans[i].start && spans[i].end <= passage.end)
            .collect()
    }

    proptest! {
        #[test]
        fn passages_cover_the_text_are_bounded_and_overlap(
            text in "[a-zé東 ]{0,400}", size in 1_usize..40, overlap in 0_usize..40,
        ) {
            let spans = pieces(&text);
            let passages = split_passages(&text, &spans, size, overlap);
            let overlap = overlap.min(size - 1);
            prop_assert_eq!(passages.first().map_or(0, |first| first.start), 0);
            prop_assert_eq!(passages.last().map_or(0, |last| last.end), text.len());
            for passage in &passages {
                prop_assert!(text.get(passage.clone()).is_some());
                prop_assert!(tokens_within(&spans, passage).len() <= size);
            }
            for pair in passages.windows(2) {
                prop_assert!(pair[1].start <= pair[0].end && pair[0].start < pair[1].start);
                let shared = pair[1].start..pair[0].end;
                let shared = tokens_within(&spans, &shared).len();
                prop_assert!(shared >= overlap && shared <= overlap + size / 8);
            }
        }

        #[test]
        fn spans_of_any_kind_cut_no_character_and_lose_no_text(
            text in "[aé東🦀 ]{0,60}", bytes in prop::collection::vec(0_usize..300, 0..60), size in 1_usize..9,
        ) {
            let mut starts = bytes;
            starts.sort_unstable();
            let spans: Vec<_> = starts.iter().map(|&start| start..start + 1).collect();
            let passages = split_passages(&text, &spans, size, 1);
            prop_assert!(passages.iter().all(|passage| text.get(passage.clone()).is_some()));
            prop_assert!(text.is_empty() || passages.last().is_some_and(|last| last.end == text.len()));
        }

        #[test]
        fn passages_of_separate_words_are_of_about_one_size(words in 1_usize..600, size in 2_usize..64) {
            let text = "ab ".repeat(words);
            let spans = pieces(&text);
            let passages = split_passages(&text, &spans, size, size / 4);
            let sizes: Vec<usize> = passages.iter().map(|passage| tokens_within(&spans, passage).len()).collect();
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn a_short_text_is_one_passage_and_an_empty_one_none() {
        let passages = split_passages(" one two ", &pieces(" one two "), 2, 1);
        assert_eq!((passages.len(), passages[0].clone()), (1, 0..9));
        assert!(split_passages("", &[], 5, 1).is_empty());
    }

    #[test]
    fn a_cut_prefers_the_gap_before_a_word() {
        let text = "aaabbb cccddd eeefff ggghhh";
        let passages = split_passages(text, &pieces(text), 8, 0);
        assert_eq!((passages.len(), passages[0].len()), (1, text.len()));
        let text = "aaabbbccc dddeeefff ggghhhiii jjjkkklll mmmnnnooo pppqqqrrr";
        let passages = split_passages(text, &pieces(text), 16, 0);
        assert_eq!(
            passages
                .iter()
                .map(|p| &text[p.clone()])
                .collect::<Vec<_>>(),
            [
                "aaabbbccc dddeeefff ggghhhiii ",
                "jjjkkklll mmmnnnooo pppqqqrrr"
            ]
        );
    }
}
