use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn pair(tokens: usize) -> Pair {
    Pair::new(vec![1; tokens], vec![0; tokens], false)
}

fn enter(queue: &mut Queue, deadline: Option<Instant>, lengths: &[usize]) -> CallId {
    let call = queue.enter(deadline);
    let pairs = lengths.iter().map(|&tokens| pair(tokens)).enumerate();
    assert!(queue.push(call, pairs));
    call
}

/// Calls and places of the next batch of one thread, as they were taken.
fn next(queue: &mut Queue) -> Vec<(CallId, usize)> {
    let batch = queue.take(1);
    batch
        .iter()
        .map(|taken| (taken.call, taken.index))
        .collect()
}

/// The calls of the next batches, until nothing waits.
fn turns(queue: &mut Queue) -> Vec<CallId> {
    let first = |batch: Batch| batch.first().map(|taken| taken.call);
    std::iter::from_fn(|| first(queue.take(1))).collect()
}

#[test]
fn the_callers_first_goes_with_what_is_nearest_in_length() {
    let mut queue = Queue::default();
    let call = enter(&mut queue, None, &[60, 200, 66, 61, 20, 59, 60]);
    let of_call = |places: &[usize]| -> Vec<_> { places.iter().map(|&at| (call, at)).collect() };
    assert_eq!(
        next(&mut queue),
        of_call(&[0, 6, 5, 3]),
        "256 tokens hold four of 61"
    );
    assert_eq!(
        next(&mut queue),
        of_call(&[1]),
        "66 would cost more padding than a run"
    );
    assert_eq!(next(&mut queue), of_call(&[2]));
    assert_eq!(next(&mut queue), of_call(&[4]));
    assert!(next(&mut queue).is_empty());
}

#[test]
fn no_pair_is_taken_from_beyond_the_look_ahead() {
    let mut queue = Queue::default();
    let mut lengths = vec![100];
    lengths.extend([200; LOOK_AHEAD]);
    lengths.push(100);
    let call = enter(&mut queue, None, &lengths);
    assert_eq!(next(&mut queue), [(call, 0)]);
}

#[test]
fn a_pair_beyond_a_batchs_tokens_is_a_batch_of_its_own() {
    let mut queue = Queue::default();
    let call = enter(&mut queue, None, &[512, 512]);
    assert_eq!(next(&mut queue), [(call, 0)]);
    assert_eq!(next(&mut queue), [(call, 1)]);
}

#[test]
fn a_call_with_many_passages_does_not_starve_one_with_few() {
    let mut queue = Queue::default();
    let many = enter(&mut queue, None, &[200; 100]);
    for _ in 0..50 {
        assert_eq!(next(&mut queue)[0].0, many);
    }
    let few = enter(&mut queue, None, &[200; 5]);
    let order = turns(&mut queue);
    let last_of_few = order.iter().rposition(|&call| call == few).unwrap();
    assert!(last_of_few < 12, "{order:?}");
    assert_eq!(order.len(), 55, "nor is the other one left out");
}

#[test]
fn calls_that_keep_coming_do_not_starve_one_with_many() {
    let mut queue = Queue::default();
    let many = enter(&mut queue, None, &[200; 10]);
    let mut served = 0;
    for _ in 0..40 {
        enter(&mut queue, None, &[200; 2]);
        served += next(&mut queue)
            .iter()
            .filter(|(call, _)| *call == many)
            .count();
    }
    assert!(served >= 2, "{served}");
}

#[test]
fn in_a_round_the_earliest_deadline_goes_first() {
    let now = Instant::now();
    let mut queue = Queue::default();
    let without = enter(&mut queue, None, &[200; 2]);
    let late = enter(&mut queue, Some(now + Duration::from_secs(9)), &[200; 2]);
    let soon = enter(&mut queue, Some(now + Duration::from_secs(1)), &[200; 4]);
    let order = turns(&mut queue);
    assert_eq!(order[..6], [soon, soon, late, late, without, without]);
    assert_eq!(order[6..], [soon, soon]);
}

#[test]
fn pairs_of_several_calls_are_computed_together_where_they_are_of_one_length() {
    let mut queue = Queue::default();
    let first = enter(&mut queue, None, &[50]);
    let second = enter(&mut queue, None, &[90, 51]);
    assert_eq!(next(&mut queue), [(first, 0), (second, 1)]);
    assert_eq!(next(&mut queue), [(second, 0)]);
}

#[test]
fn a_batch_is_as_long_as_its_longest_pair() {
    let mut queue = Queue::default();
    enter(&mut queue, None, &[60, 57, 61]);
    let size = BatchSize {
        tokens: 178,
        padding_tokens: 5,
    };
    assert_eq!(BatchSize::of(&queue.take(1)), size);
    assert_eq!(BatchSize::of(&queue.take(1)).tokens, 0);
}

#[test]
fn what_is_left_is_shared_by_the_threads() {
    let mut queue = Queue::default();
    enter(&mut queue, None, &[60; 4]);
    assert_eq!(queue.take(2).len(), 2);
    assert_eq!(queue.take(2).len(), 1);
    assert_eq!(queue.take(2).len(), 1);
    assert!(queue.take(2).is_empty());
}

#[test]
fn who_has_left_gets_nothing_and_takes_nothing_more() {
    let now = Instant::now();
    let mut queue = Queue::default();
    let late = enter(&mut queue, Some(now), &[50; 3]);
    let call = enter(&mut queue, Some(now + Duration::from_secs(1)), &[50]);
    assert_eq!(queue.expired(now), [late]);
    assert_eq!((queue.leave(late), queue.leave(late)), (3, 0));
    assert!(!queue.push(late, [(3, pair(50))]));
    assert_eq!(next(&mut queue), [(call, 0)]);
    assert_eq!(queue.tokens, 0);
}

#[test]
fn a_newcomer_waits_for_a_round_of_each_other_call() {
    let mut queue = Queue::default();
    assert_eq!(queue.tokens_before_newcomer(), 0);
    enter(&mut queue, None, &[200; 100]);
    enter(&mut queue, None, &[30, 20]);
    assert_eq!(queue.tokens_before_newcomer(), BATCH_TOKENS + 50);
    let unread = queue.enter(None);
    assert_eq!(queue.tokens_before_newcomer(), 2 * BATCH_TOKENS + 50);
    assert!(queue.push(unread, [(0, pair(10))]));
    assert_eq!(queue.tokens_before_newcomer(), BATCH_TOKENS + 60);
}

/// Padding as a share of all computed tokens.
fn padding_share(batches: &[Batch]) -> f64 {
    let sizes = || batches.iter().map(|batch| BatchSize::of(batch));
    let padding: usize = sizes().map(|size| size.padding_tokens).sum();
    let real: usize = sizes().map(|size| size.tokens).sum();
    padding as f64 / (real + padding) as f64
}

#[test]
fn mixed_lengths_are_computed_with_little_padding() {
    let mut queue = Queue::default();
    // Twenty calls of twenty passages, every length from 40 to 239 twice, in no order.
    for call in 0..20 {
        let lengths: Vec<usize> = (0..20)
            .map(|row| 40 + (call * 20 + row) * 37 % 200)
            .collect();
        enter(&mut queue, None, &lengths);
    }
    let batches: Vec<Batch> =
        std::iter::from_fn(|| Some(queue.take(2)).filter(|batch| !batch.is_empty())).collect();
    assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 400);
    let share = padding_share(&batches);
    assert!(share < 0.03, "{share}");
    assert!(batches.len() < 300, "{}", batches.len());
}

proptest! {
    #[test]
    fn every_pair_is_taken_once_in_about_the_callers_order(
        calls in prop::collection::vec(prop::collection::vec(1_usize..300, 1..40), 1..6), threads in 1_usize..5,
    ) {
        let mut queue = Queue::default();
        let ids: Vec<CallId> = calls.iter().map(|lengths| enter(&mut queue, None, lengths)).collect();
        let mut taken: Vec<Vec<usize>> = vec![Vec::new(); calls.len()];
        loop {
            let batch = queue.take(threads);
            if batch.is_empty() {
                break;
            }
            let longest = batch.iter().map(|taken| taken.pair.tokens()).max().unwrap_or(0);
            prop_assert!(batch.len() == 1 || longest * batch.len() <= BATCH_TOKENS);
            for pair in &batch {
                let call = ids.iter().position(|&id| id == pair.call).unwrap();
                prop_assert!(pair.index < taken[call].len() + 2 * LOOK_AHEAD, "{} came too early", pair.index);
                taken[call].push(pair.index);
            }
        }
        for (places, lengths) in taken.iter_mut().zip(&calls) {
            places.sort_unstable();
            prop_assert!(places.iter().copied().eq(0..lengths.len()));
        }
        prop_assert_eq!(queue.tokens, 0);
    }
}
