use std::sync::mpsc::{Receiver, Sender, channel};

use proptest::prelude::*;

use super::*;

const LIMITS: BatchLimits = BatchLimits {
    batch_tokens: 64,
    queue_texts: 100,
};

/// Tells what it is given and computes when it is let; a vector is the sum of its row's ids.
struct Gated {
    seen: Sender<Vec<usize>>,
    gate: Receiver<Result<(), ModelError>>,
}

impl BatchModel for Gated {
    fn run(
        &mut self,
        rows: &[&TokenIds],
        with_token_vectors: bool,
    ) -> Result<BatchVectors, ModelError> {
        self.seen
            .send(rows.iter().map(|row| row.ids.len()).collect())
            .unwrap();
        self.gate.recv().unwrap_or(Err(ModelError::Panicked))?;
        Ok(sums(rows, with_token_vectors))
    }
}

/// Computes at once.
struct Free;

impl BatchModel for Free {
    fn run(
        &mut self,
        rows: &[&TokenIds],
        with_token_vectors: bool,
    ) -> Result<BatchVectors, ModelError> {
        Ok(sums(rows, with_token_vectors))
    }
}

fn sums(rows: &[&TokenIds], with_token_vectors: bool) -> BatchVectors {
    let tokens = |row: &&TokenIds| row.ids.iter().map(|&id| id as f32).collect::<Vec<_>>();
    let sentences = rows
        .iter()
        .map(|row| vec![tokens(row).iter().sum()])
        .collect();
    let tokens = if with_token_vectors {
        rows.iter().map(tokens).collect()
    } else {
        Vec::new()
    };
    BatchVectors {
        sentences,
        tokens,
        model_time: Duration::from_nanos(12),
    }
}

/// The gate goes first when it is dropped: the batcher waits for its thread, and that for the gate.
struct Bench {
    gate: Sender<Result<(), ModelError>>,
    batcher: Batcher,
    seen: Receiver<Vec<usize>>,
}

impl Bench {
    fn new(limits: BatchLimits) -> Self {
        let ((seen_by, seen), (gate, gated)) = (channel(), channel());
        let batcher = Batcher::start(
            vec![Gated {
                seen: seen_by,
                gate: gated,
            }],
            limits,
        );
        Self {
            gate,
            batcher,
            seen,
        }
    }

    /// Occupies the only thread with a text of one token.
    fn occupied(limits: BatchLimits) -> (Self, Ticket) {
        let bench = Self::new(limits);
        let ticket = bench.submit(&[1], Priority::Bulk, None);
        assert_eq!(bench.seen.recv().unwrap(), [1]);
        (bench, ticket)
    }

    fn submit(&self, lengths: &[usize], priority: Priority, deadline: Option<Instant>) -> Ticket {
        submit(
            &self.batcher,
            lengths.iter().map(|&length| row(length)).collect(),
            priority,
            deadline,
        )
    }

    /// Lets the batch that is being computed go, and tells what comes next.
    fn next(&self) -> Vec<usize> {
        self.gate.send(Ok(())).unwrap();
        self.seen.recv().unwrap()
    }
}

fn submit(
    batcher: &Batcher,
    rows: Vec<TokenIds>,
    priority: Priority,
    deadline: Option<Instant>,
) -> Ticket {
    let admission = batcher.admit(rows.len(), Criticality::Critical).unwrap();
    let job = TokenJob {
        rows,
        with_token_vectors: false,
        priority,
        criticality: Criticality::Critical,
        deadline,
        arrived: Instant::now(),
    };
    batcher.submit(job, admission).unwrap()
}

fn row(length: usize) -> TokenIds {
    TokenIds {
        ids: vec![1; length],
        type_ids: vec![0; length],
        ..TokenIds::default()
    }
}

fn wait(ticket: Ticket) -> Result<JobVectors, EncodeError> {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(ticket)
}

#[test]
fn interactive_work_goes_before_bulk_work_that_came_earlier() {
    let (bench, first) = Bench::occupied(LIMITS);
    let bulk = bench.submit(&[20], Priority::Bulk, None);
    let interactive = bench.submit(&[10], Priority::Interactive, None);
    assert_eq!(bench.next(), [10]);
    assert_eq!(bench.next(), [20]);
    bench.gate.send(Ok(())).unwrap();
    for ticket in [first, interactive, bulk] {
        wait(ticket).unwrap();
    }
}

#[test]
fn the_oldest_text_takes_its_neighbours_in_length_within_the_budget() {
    let (bench, _first) = Bench::occupied(LIMITS);
    let _ticket = bench.submit(&[20, 3, 50, 21, 19, 4, 60], Priority::Bulk, None);
    assert_eq!(bench.next(), [20, 19, 21], "64 tokens hold three of 21");
    assert_eq!(
        bench.next(),
        [3, 4],
        "a text of 50 is not worth the padding"
    );
    assert_eq!(bench.next(), [50], "two of 60 exceed the budget");
    assert_eq!(bench.next(), [60]);
    bench.gate.send(Ok(())).unwrap();
}

#[test]
fn a_text_beyond_the_budget_is_a_batch_of_its_own() {
    let (bench, _first) = Bench::occupied(LIMITS);
    let ticket = bench.submit(&[500, 500], Priority::Bulk, None);
    assert_eq!(bench.next(), [500]);
    assert_eq!(bench.next(), [500]);
    bench.gate.send(Ok(())).unwrap();
    assert_eq!(wait(ticket).unwrap().sentences, [[500.0], [500.0]]);
    assert_eq!(bench.batcher.stats().padding_tokens, 0);
}

#[test]
fn abandoned_texts_are_never_computed_and_free_their_places() {
    let (bench, first) = Bench::occupied(BatchLimits {
        queue_texts: 3,
        ..LIMITS
    });
    let abandoned = bench.submit(&[7, 7], Priority::Interactive, None);
    assert!(bench.batcher.admit(1, Criticality::Critical).is_err());
    drop(abandoned);
    let kept = bench.submit(&[9], Priority::Bulk, None);
    assert_eq!(bench.next(), [9]);
    bench.gate.send(Ok(())).unwrap();
    wait(first).unwrap();
    wait(kept).unwrap();
    let stats = bench.batcher.stats();
    assert_eq!(
        (
            stats.abandoned_texts,
            stats.expired_texts,
            stats.refused_jobs
        ),
        (2, 0, 1)
    );
    assert_eq!((stats.texts, stats.queued_texts), (2, 0));
}

#[test]
fn a_job_that_is_abandoned_while_it_is_computed_harms_nobody() {
    let (bench, first) = Bench::occupied(LIMITS);
    drop(first);
    let next = bench.submit(&[9], Priority::Bulk, None);
    assert_eq!(bench.next(), [9]);
    bench.gate.send(Ok(())).unwrap();
    assert_eq!(wait(next).unwrap().sentences, [[9.0]]);
}

#[test]
fn work_whose_deadline_has_passed_is_never_computed() {
    let (bench, first) = Bench::occupied(LIMITS);
    let late = bench.submit(&[7, 40], Priority::Interactive, Some(Instant::now()));
    let kept = bench.submit(
        &[9],
        Priority::Bulk,
        Some(Instant::now() + Duration::from_secs(600)),
    );
    assert_eq!(bench.next(), [9]);
    bench.gate.send(Ok(())).unwrap();
    assert!(matches!(wait(late), Err(EncodeError::DeadlineExceeded)));
    wait(first).unwrap();
    wait(kept).unwrap();
    assert_eq!(bench.batcher.stats().expired_texts, 2);
}

#[test]
fn a_full_queue_says_how_full_it_is() {
    let (bench, _first) = Bench::occupied(BatchLimits {
        queue_texts: 4,
        ..LIMITS
    });
    let _second = bench.submit(&[1, 2], Priority::Bulk, None);
    let Err(error) = bench.batcher.admit(2, Criticality::Critical) else {
        panic!("admitted")
    };
    assert!(matches!(
        error,
        EncodeError::QueueFull {
            queued_texts: 3,
            job_texts: 2,
            limit_texts: 4,
            retry_after: Some(after),
        } if !after.is_zero()
    ));
    let never = bench.batcher.admit(5, Criticality::Critical).err();
    assert!(matches!(
        never,
        Some(EncodeError::QueueFull {
            retry_after: None,
            ..
        })
    ));
    bench.gate.send(Ok(())).unwrap();
    bench.gate.send(Ok(())).unwrap();
}

impl Bench {
    /// Knows what a token takes, and is occupied with a hundred of them.
    fn that_knows_its_pace(token_time: Duration) -> (Self, Ticket) {
        let bench = Self::new(LIMITS);
        bench
            .batcher
            .shared
            .lock()
            .cost
            .observe(100.0, 110 * token_time);
        let ticket = bench.submit(&[100], Priority::Interactive, None);
        assert_eq!(bench.seen.recv().unwrap(), [100]);
        (bench, ticket)
    }

    /// A job of one text of ten tokens.
    fn offer(
        &self,
        priority: Priority,
        criticality: Criticality,
        time_left: Duration,
    ) -> Result<Ticket, EncodeError> {
        let admission = self.batcher.admit(1, criticality)?;
        let job = TokenJob {
            rows: vec![row(10)],
            with_token_vectors: false,
            priority,
            criticality,
            deadline: Some(Instant::now() + time_left),
            arrived: Instant::now(),
        };
        self.batcher.submit(job, admission)
    }
}

#[test]
fn a_job_that_would_come_too_late_is_refused_at_once() {
    // A second for each token: what this test itself takes is nothing beside it.
    let (bench, _first) = Bench::that_knows_its_pace(Duration::from_secs(1));
    let seconds = Duration::from_secs;
    let interactive = |time| bench.offer(Priority::Interactive, Criticality::Critical, time);
    let late = interactive(seconds(60)).err().unwrap();
    let EncodeError::TooLate { wait, retry_after } = late else {
        panic!("{late}")
    };
    assert!((seconds(100)..seconds(140)).contains(&wait), "{wait:?}");
    assert!(retry_after.unwrap() > seconds(40), "{retry_after:?}");
    assert_eq!(bench.batcher.stats().queued_texts, 1, "its place is free");
    assert_eq!(bench.batcher.stats().refused_jobs, 1);
    let _waits = interactive(seconds(200)).unwrap();
    assert!(matches!(
        bench.offer(Priority::Interactive, Criticality::Sheddable, seconds(200)),
        Err(EncodeError::TooLate { .. })
    ));
    bench.gate.send(Ok(())).unwrap();
    bench.gate.send(Ok(())).unwrap();
}

#[test]
fn interactive_jobs_do_not_wait_for_bulk_ones() {
    let (bench, _first) = Bench::that_knows_its_pace(Duration::from_secs(1));
    let _bulk = bench.submit(&[60; 10], Priority::Bulk, None);
    let offer = |priority| {
        let time_left = Duration::from_secs(200);
        bench.offer(priority, Criticality::Critical, time_left)
    };
    assert!(offer(Priority::Bulk).is_err());
    assert!(offer(Priority::Interactive).is_ok());
    drop(bench.gate);
}

#[test]
fn sheddable_jobs_find_a_quarter_of_the_places() {
    let (bench, _first) = Bench::occupied(BatchLimits {
        queue_texts: 8,
        ..LIMITS
    });
    let admit = |criticality| bench.batcher.admit(1, criticality);
    let _second = admit(Criticality::Sheddable).ok().unwrap();
    assert!(admit(Criticality::Sheddable).is_err());
    assert!(admit(Criticality::Critical).is_ok());
    bench.gate.send(Ok(())).unwrap();
}

#[test]
fn the_time_of_a_batch_is_shared_by_the_jobs_in_it() {
    let (bench, first) = Bench::occupied(LIMITS);
    let two = bench.submit(&[10, 10], Priority::Bulk, None);
    let one = bench.submit(&[10], Priority::Bulk, None);
    assert_eq!(bench.next(), [10, 10, 10]);
    bench.gate.send(Ok(())).unwrap();
    let model_ns = |ticket| wait(ticket).unwrap().model.as_nanos();
    assert_eq!((model_ns(first), model_ns(two), model_ns(one)), (12, 8, 4));
}

#[test]
fn a_failed_batch_fails_its_jobs_and_no_others() {
    let (bench, first) = Bench::occupied(LIMITS);
    let failing = bench.submit(&[30, 60], Priority::Interactive, None);
    let next = bench.submit(&[9], Priority::Bulk, None);
    assert_eq!(bench.next(), [30]);
    bench.gate.send(Err(ModelError::Panicked)).unwrap();
    assert_eq!(
        bench.seen.recv().unwrap(),
        [9],
        "the rest of the failed job is not computed"
    );
    bench.gate.send(Ok(())).unwrap();
    assert!(matches!(wait(failing), Err(EncodeError::Model(_))));
    wait(first).unwrap();
    wait(next).unwrap();
    assert_eq!(bench.batcher.stats().queued_texts, 0);
}

#[test]
fn a_panic_in_the_model_is_an_error_and_the_thread_goes_on() {
    struct Panics(bool);
    impl BatchModel for Panics {
        fn run(
            &mut self,
            rows: &[&TokenIds],
            with_token_vectors: bool,
        ) -> Result<BatchVectors, ModelError> {
            assert!(std::mem::replace(&mut self.0, true), "the first run fails");
            Ok(sums(rows, with_token_vectors))
        }
    }
    let batcher = Batcher::start(vec![Panics(false)], LIMITS);
    assert!(matches!(
        wait(submit(&batcher, vec![row(3)], Priority::Bulk, None)),
        Err(EncodeError::Model(_))
    ));
    assert_eq!(
        wait(submit(&batcher, vec![row(3)], Priority::Bulk, None))
            .unwrap()
            .sentences,
        [[3.0]]
    );
}

#[test]
fn stopping_answers_what_is_left() {
    let (bench, first) = Bench::occupied(LIMITS);
    let waiting = bench.submit(&[5], Priority::Bulk, None);
    bench.gate.send(Ok(())).unwrap();
    wait(first).unwrap();
    // The thread is at the second job now: it is finished, and the third is not started.
    assert_eq!(bench.seen.recv().unwrap(), [5]);
    let never = bench.submit(&[6], Priority::Bulk, None);
    bench.gate.send(Ok(())).unwrap();
    drop(bench.gate);
    drop(bench.batcher);
    // Between the answer and the stop the thread may have taken it: then the closed gate ended the run in a panic.
    assert!(matches!(
        wait(never),
        Err(EncodeError::Stopped | EncodeError::Model(_))
    ));
    drop(waiting);
}

#[test]
fn token_vectors_go_to_those_who_asked() {
    let batcher = Batcher::start(vec![Free], LIMITS);
    let job = |with_token_vectors| TokenJob {
        rows: vec![row(2)],
        with_token_vectors,
        priority: Priority::Bulk,
        criticality: Criticality::Critical,
        deadline: None,
        arrived: Instant::now(),
    };
    let (with, without) = (
        batcher.admit(1, Criticality::Critical).unwrap(),
        batcher.admit(1, Criticality::Critical).unwrap(),
    );
    let (with, without) = (
        batcher.submit(job(true), with).unwrap(),
        batcher.submit(job(false), without).unwrap(),
    );
    assert_eq!(wait(with).unwrap().tokens, [[1.0, 1.0]]);
    assert!(wait(without).unwrap().tokens[0].is_empty());
}

proptest! {
    #[test]
    fn every_text_gets_its_own_vector(
        jobs in prop::collection::vec(prop::collection::vec(prop::collection::vec(0_u32..1000, 1..40), 1..12), 1..8),
        threads in 1_usize..4, batch_tokens in 1_usize..200,
    ) {
        let models = (0..threads).map(|_| Free).collect();
        let batcher = Batcher::start(models, BatchLimits { batch_tokens, queue_texts: 1000 });
        let row = |ids: &Vec<u32>| TokenIds { ids: ids.clone(), type_ids: vec![0; ids.len()], ..TokenIds::default() };
        let tickets: Vec<_> = jobs.iter().enumerate().map(|(index, job)| {
            let priority = if index % 2 == 0 { Priority::Bulk } else { Priority::Interactive };
            submit(&batcher, job.iter().map(row).collect(), priority, None)
        }).collect();
        for (job, ticket) in jobs.iter().zip(tickets) {
            let expected: Vec<Vec<f32>> = job.iter().map(|ids| vec![ids.iter().sum::<u32>() as f32]).collect();
            prop_assert_eq!(wait(ticket).unwrap().sentences, expected);
        }
        let stats = batcher.stats();
        prop_assert_eq!(stats.texts as usize, jobs.iter().map(Vec::len).sum::<usize>());
        prop_assert_eq!(stats.tokens as usize, jobs.iter().flatten().map(Vec::len).sum::<usize>());
    }
}
