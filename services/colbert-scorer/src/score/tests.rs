use std::ops::Range;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vector_math::{TokenLayout, TokenRows};

use super::*;

const DIMENSIONS: usize = 16;
/// The ordinals of passages that are not there.
const MISSING: u32 = 1_000_000;

/// Passages of one segment in memory.
struct Stored {
    blocks: Vec<u8>,
    passages: Vec<Range<u32>>,
}

fn layout() -> TokenLayout {
    TokenLayout::new(DIMENSIONS).unwrap()
}

fn tokens(count: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    let numbers = count * DIMENSIONS;
    (0..numbers)
        .map(|_| random.random_range(-1.0..1.0))
        .collect()
}

fn stored(passages: usize) -> Stored {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut stored = Stored {
        blocks: Vec::new(),
        passages: Vec::new(),
    };
    for passage in 0..passages {
        let tokens = tokens(passage % 5, &mut random);
        let start = stored.passages.last().map_or(0, |last| last.end);
        let blocks = layout().pack_passage(&tokens, &mut stored.blocks).unwrap();
        stored.passages.push(start..start + blocks as u32);
    }
    stored
}

impl Stored {
    fn passage(&self, address: Address) -> Option<TokenPassage<'_>> {
        let blocks = self.passages.get(address.ordinal() as usize)?;
        let rows = TokenRows::new(layout(), &self.blocks).unwrap();
        Some(rows.passage(blocks).unwrap())
    }

    fn score_all(&self, query: &TokenQuery, addresses: &[Address]) -> Scores {
        score(query, addresses, |address| self.passage(address), || Ok(())).unwrap()
    }

    /// One passage after the other.
    fn expected(&self, query: &TokenQuery, addresses: &[Address]) -> Scores {
        let mut expected = Scores::default();
        for (position, address) in (0..).zip(addresses) {
            let passage = self.passage(*address);
            let score = passage.map(|passage| passage.score(query, None).unwrap());
            expected.scores.push(score.unwrap_or_default());
            expected.unknown.extend(score.is_none().then_some(position));
        }
        expected
    }
}

fn query(tokens_of_query: usize) -> TokenQuery {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    TokenQuery::new(layout(), &tokens(tokens_of_query, &mut random)).unwrap()
}

fn addresses(ordinals: impl IntoIterator<Item = u32>) -> Vec<Address> {
    let address = |ordinal| Address::new(7, ordinal);
    ordinals.into_iter().map(address).collect()
}

/// Says that the time is over when it has been asked so often.
fn for_so_many(passages: usize) -> impl Fn() -> Result<(), ComputeError> + Sync {
    let asked = AtomicUsize::new(0);
    move || match asked.fetch_add(1, Ordering::Relaxed) < passages {
        true => Ok(()),
        false => Err(ComputeError::DeadlineExceeded),
    }
}

#[test]
fn a_late_request_has_the_scores_of_its_first_passages() {
    let stored = stored(40);
    let asked = addresses([39, 4, MISSING, 3, 3, 38, 2].into_iter().chain(5..30));
    let all = stored.expected(&query(3), &asked);
    for in_time in 1..asked.len() {
        let passage = |address| stored.passage(address);
        let scored = score(&query(3), &asked, passage, for_so_many(in_time)).unwrap();
        assert_eq!(scored.scores, all.scores[..in_time]);
        let unknown: &[u32] = if in_time > 2 { &[2] } else { &[] };
        assert_eq!(scored.unknown, unknown);
    }
}

#[test]
fn a_request_without_any_score_is_too_late() {
    let stored = stored(3);
    let passage = |address| stored.passage(address);
    let late = score(&query(3), &addresses([1, 2]), passage, for_so_many(0)).unwrap_err();
    let expected = ComputeError::DeadlineExceeded;
    assert!(matches!(late, Error::Compute(error) if error == expected));
}

#[test]
fn nothing_is_scored_for_a_caller_that_has_gone() {
    let stored = stored(30);
    let looks = AtomicUsize::new(0);
    let gone = || match looks.fetch_add(1, Ordering::Relaxed) {
        0..10 => Ok(()),
        _ => Err(ComputeError::Cancelled),
    };
    let passage = |address| stored.passage(address);
    let abandoned = score(&query(3), &addresses(0..30), passage, gone).unwrap_err();
    assert!(matches!(abandoned, Error::Compute(ComputeError::Cancelled)));
    assert_eq!(looks.load(Ordering::Relaxed), 11);
}

#[test]
fn threads_that_share_a_request_leave_a_prefix() {
    let stored = stored(2000);
    let asked = addresses((0..2000).rev());
    let query = query(640);
    let all = stored.expected(&query, &asked);
    let builder = rayon::ThreadPoolBuilder::new().num_threads(4);
    let pool = builder.build().unwrap();
    for in_time in [100, 1000, 1999, 2000] {
        let passage = |address| stored.passage(address);
        let scored = pool.install(|| score(&query, &asked, passage, for_so_many(in_time)));
        // The thread with the first piece may have been the last to be asked.
        let scores = match scored {
            Err(Error::Compute(ComputeError::DeadlineExceeded)) => Vec::new(),
            scored => scored.unwrap().scores,
        };
        assert!(scores.len() <= in_time);
        assert_eq!(scores, all.scores[..scores.len()]);
        assert_eq!(scores.len() == 2000, in_time == 2000);
    }
}

#[test]
fn little_work_stays_on_the_calling_thread() {
    let stored = stored(100);
    let on_this_thread = || {
        assert_eq!(rayon::current_thread_index(), None);
        Ok(())
    };
    let passage = |address| stored.passage(address);
    let asked = addresses(0..100);
    let scored = score(&query(32), &asked, passage, on_this_thread).unwrap();
    assert_eq!(scored.scores.len(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_order_asked_is_the_order_answered(
        ordinals in prop::collection::vec(prop_oneof![9 => 0_u32..600, 1 => Just(MISSING)], 1..600),
        tokens in 1_usize..900,
    ) {
        let stored = stored(600);
        let (query, asked) = (query(tokens), addresses(ordinals));
        prop_assert_eq!(stored.score_all(&query, &asked), stored.expected(&query, &asked));
    }
}
