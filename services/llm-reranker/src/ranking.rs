//! Reads an order of passages out of what a model wrote, and mends it.
//!
//! An answer should be `[2] > [3] > [1]`. Models also think aloud, explain, leave out the brackets, write a JSON list, name a passage
//! twice, forget some or make some up. So the ranking is the *chain* (numbers with nothing but space, `>`, `,` and brackets between them)
//! that names most passages, the last of several; where none names two, all identifiers in brackets, in the order in which they
//! are first named. Then foreign numbers and repetitions are dropped, and what is missing is put behind in its earlier order, as in RankGPT.

/// After this, a model that thinks aloud answers.
const END_OF_THINKING: &str = "</think>";

/// An order of all passages of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ranking {
    /// Positions in the window, the best first: each exactly once.
    pub(crate) order: Vec<usize>,
    pub(crate) repairs: Repairs,
}

/// What had to be mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Repairs {
    /// Passages that were not named.
    pub(crate) missing: u32,
    /// Passages that were named again.
    pub(crate) duplicate: u32,
    /// Numbers that are no passage's.
    pub(crate) foreign: u32,
}

/// The ranking in an answer about `count` passages. None: it names none of them.
pub(crate) fn read(answer: &str, count: usize) -> Option<Ranking> {
    let said = answer
        .rsplit_once(END_OF_THINKING)
        .map_or(answer, |(_, said)| said);
    let numbers = numbers(said);
    let chain = best_chain(&numbers, count).unwrap_or_else(|| {
        let in_brackets = numbers.iter().filter(|number| number.in_brackets);
        in_brackets.map(|number| number.id).collect()
    });
    mend(&chain, count)
}

/// A number in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number {
    /// None: longer than any identifier.
    id: Option<usize>,
    /// It stands in brackets of its own.
    in_brackets: bool,
    /// Nothing but separators is between it and the number before.
    continues: bool,
}

fn numbers(text: &str) -> Vec<Number> {
    let mut numbers = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(|character: char| character.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let end = from
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(from.len());
        let (digits, after) = from.split_at(end);
        numbers.push(Number {
            id: digits.parse().ok(),
            in_brackets: before.trim_end().ends_with('[') && after.trim_start().starts_with(']'),
            continues: before.chars().all(is_separator),
        });
        rest = after;
    }
    numbers
}

fn is_separator(character: char) -> bool {
    character.is_whitespace() || matches!(character, '>' | ',' | '[' | ']')
}

/// The chain that names most passages, at least two of them (or the only one there is).
fn best_chain(numbers: &[Number], count: usize) -> Option<Vec<Option<usize>>> {
    let chains = numbers.chunk_by(|_, next| next.continues);
    let named = chains.map(|chain| (distinct(chain, count), chain));
    let (named, chain) = named.max_by_key(|(named, _)| *named)?;
    (named >= count.min(2)).then(|| chain.iter().map(|number| number.id).collect())
}

fn distinct(chain: &[Number], count: usize) -> usize {
    let mut named = vec![false; count];
    for id in chain.iter().filter_map(|number| number.id) {
        if let Some(named) = id
            .checked_sub(1)
            .and_then(|position| named.get_mut(position))
        {
            *named = true;
        }
    }
    named.into_iter().filter(|named| *named).count()
}

fn mend(ids: &[Option<usize>], count: usize) -> Option<Ranking> {
    let mut repairs = Repairs::default();
    let mut named = vec![false; count];
    let mut order = Vec::with_capacity(count);
    for id in ids {
        let position = id
            .and_then(|id| id.checked_sub(1))
            .filter(|&position| position < count);
        match position {
            None => repairs.foreign += 1,
            Some(position) if named[position] => repairs.duplicate += 1,
            Some(position) => {
                named[position] = true;
                order.push(position);
            }
        }
    }
    if order.is_empty() {
        return None;
    }
    repairs.missing = (count - order.len()) as u32;
    order.extend((0..count).filter(|&position| !named[position]));
    Some(Ranking { order, repairs })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(answer: &str, count: usize) -> Vec<usize> {
        read(answer, count).map_or_else(Vec::new, |ranking| ranking.order)
    }

    #[test]
    fn all_spellings_of_a_ranking_are_read() {
        let spellings = [
            "[2] > [3] > [1]",
            "[2]>[3]>[1].",
            "2 > 3 > 1",
            "{\"ranking\": [2, 3, 1]}",
            "[ 2 ]\n[ 3 ]\n[ 1 ]\n",
            "1. [2]\n2. [3]\n3. [1]\n",
            "Here it is: **[2] > [3] > [1]**",
            "<think>[1] > [2] > [3]? No.</think>\n[2] > [3] > [1]",
            "[1] and [3] miss the point, [2] hits it.\n\n[2] > [3] > [1]\nThe 2 others in 1999, 2000 don't.",
            "[1] > [2] > [3] at first sight, but better: [2] > [3] > [1]",
        ];
        for spelling in spellings {
            let ranking = read(spelling, 3).unwrap();
            assert_eq!(ranking.order, [1, 2, 0], "{spelling}");
            assert_eq!(ranking.repairs, Repairs::default(), "{spelling}");
        }
    }

    #[test]
    fn what_is_wrong_is_mended_and_counted() {
        let ranking = read(
            "[4] > [9] > [2] > [4] > [0] > [99999999999999999999999] > [2]",
            5,
        )
        .unwrap();
        assert_eq!(ranking.order, [3, 1, 0, 2, 4]);
        let repairs = Repairs {
            missing: 3,
            duplicate: 2,
            foreign: 3,
        };
        assert_eq!(ranking.repairs, repairs);
    }

    #[test]
    fn one_named_passage_is_put_first() {
        assert_eq!(order("The best is [3].", 4), [2, 0, 1, 3]);
        assert_eq!(order("[1]", 1), [0]);
    }

    #[test]
    fn an_answer_without_passages_is_none() {
        for answer in [
            "",
            "I cannot help with that.",
            "[] > []",
            "[7] > [8]",
            "In 2 of 3 cases",
            "</think>",
            "[1] > [2]</think>no",
        ] {
            assert_eq!(read(answer, 3), None, "{answer}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_the_order_is_one(answer in "[\\[\\]0-9 >,a.\n]{0,200}|.{0,100}", count in 1_usize..30) {
            if let Some(ranking) = read(&answer, count) {
                let mut sorted = ranking.order.clone();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
                prop_assert!((ranking.repairs.missing as usize) < count);
            }
        }

        #[test]
        fn a_right_ranking_is_read_as_it_is(order in Just((0..20_usize).collect::<Vec<_>>()).prop_shuffle(), before in "[a-zA-Z .:\n]{0,40}") {
            let ids: Vec<String> = order.iter().map(|position| format!("[{}]", position + 1)).collect();
            let ranking = read(&format!("{before}: {}", ids.join(" > ")), 20).unwrap();
            prop_assert_eq!(ranking.order, order);
            prop_assert_eq!(ranking.repairs, Repairs::default());
        }
    }
}
