//! Token-bounded dynamic batching on dedicated compute threads.
//!
//! Texts wait in two lanes, interactive before bulk, each ordered by length. A free thread takes the oldest text of
//! the first lane that has any and adds its neighbours in length until the batch's token budget is used up, or until
//! one more would cost more padding than a run of its own. It never waits for company: a single query on an idle
//! machine starts at once. Texts whose deadline has passed or whose caller has gone are dropped before any computing, and a job that the
//! queue before it leaves no time for is refused ([`search_core::admission`]): the wait is what the tokens before it cost, as learnt.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use load_metrics::{Counts, Dropped, Refused};
use search_core::Criticality;
use search_core::admission::{Load, Newcomer, QueueCost, Workshop};
use tokio::sync::oneshot;

use crate::encode::{EncodeError, Priority};
use crate::graph::ModelError;
use crate::model::{BatchModel, BatchVectors};
use crate::tokenizer::TokenIds;

/// Padding tokens that are cheaper than a run of their own: a run of a six-layer model has a fixed cost of 2 to 3 ms,
/// about that of ten tokens.
pub(crate) const WORTHWHILE_PADDING_TOKENS: usize = 10;
/// Whoever finds no place tries again after that long at least: also before it is known what the work costs.
const LEAST_RETRY_AFTER: Duration = Duration::from_millis(10);

/// How work is cut and bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// Tokens of a batch, padding included. One longer text is a batch of its own.
    pub(crate) batch_tokens: usize,
    /// Texts that may wait or be computed.
    pub(crate) queue_texts: usize,
}

/// The texts of one job, cut into tokens.
pub(crate) struct TokenJob {
    pub(crate) rows: Vec<TokenIds>,
    pub(crate) with_token_vectors: bool,
    pub(crate) priority: Priority,
    pub(crate) criticality: Criticality,
    pub(crate) deadline: Option<Instant>,
    pub(crate) arrived: Instant,
}

impl TokenJob {
    /// Of all texts.
    fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.ids.len()).sum()
    }
}

/// The vectors of one job.
#[derive(Debug, Default)]
pub(crate) struct JobVectors {
    pub(crate) sentences: Vec<Vec<f32>>,
    /// Empty vectors unless asked for.
    pub(crate) tokens: Vec<Vec<f32>>,
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
    pub(crate) model: Duration,
}

/// What the compute threads have done since they started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatcherStats {
    /// Threads that compute.
    pub threads: usize,
    /// Texts that wait or are being computed.
    pub queued_texts: usize,
    /// Batches that were run.
    pub batches: u64,
    /// Texts that were computed.
    pub texts: u64,
    /// Tokens that were computed, padding not counted.
    pub tokens: u64,
    /// Padding that was computed beside them.
    pub padding_tokens: u64,
    /// Texts that were dropped because their deadline had passed.
    pub expired_texts: u64,
    /// Texts that were dropped because nobody waited for them any more.
    pub abandoned_texts: u64,
    /// Jobs that were refused because the queue was full, or too long for their time.
    pub refused_jobs: u64,
    /// Time that the threads spent inside the model's runtime, summed over threads.
    pub model_time: Duration,
    /// Time that the threads spent on batches, summed over threads.
    pub busy_time: Duration,
}

#[derive(Default)]
struct Counters {
    batches: AtomicU64,
    texts: AtomicU64,
    tokens: AtomicU64,
    padding_tokens: AtomicU64,
    expired_texts: AtomicU64,
    abandoned_texts: AtomicU64,
    refused_jobs: AtomicU64,
    model_ns: AtomicU64,
    busy_ns: AtomicU64,
}

fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}

fn add_time(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        Ordering::Relaxed,
    );
}

/// Owns the compute threads.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    work_arrived: Condvar,
    limits: BatchLimits,
    counters: Counters,
    counts: Counts,
}

struct State {
    interactive: Lane,
    bulk: Lane,
    next_sequence: u64,
    admitted_texts: usize,
    idle_threads: usize,
    /// What the threads have taken.
    computing_batches: usize,
    computing_tokens: usize,
    cost: QueueCost,
    stopped: bool,
}

/// Texts of one priority. A text's sequence number is its age; the two maps hold the same texts.
#[derive(Default)]
struct Lane {
    by_length: BTreeMap<(usize, u64), Entry>,
    length_by_age: BTreeMap<u64, usize>,
    tokens: usize,
}

struct Entry {
    job: Arc<Job>,
    index: usize,
    row: TokenIds,
}

struct Job {
    /// The sequence numbers of its texts are consecutive from here.
    first_sequence: u64,
    texts: usize,
    priority: Priority,
    with_token_vectors: bool,
    deadline: Option<Instant>,
    arrived: Instant,
    counts: Counts,
    progress: Mutex<Progress>,
}

struct Progress {
    /// Taken when the job is settled.
    open: Option<Open>,
    vectors: JobVectors,
    remaining: usize,
    started: Option<Instant>,
}

struct Open {
    reply: oneshot::Sender<Result<JobVectors, EncodeError>>,
    admission: Admission,
}

/// Places in the queue; given back when dropped.
pub(crate) struct Admission {
    shared: Arc<Shared>,
    texts: usize,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.lock().admitted_texts -= self.texts;
    }
}

/// A panic while the lock is held leaves counters and maps that are still consistent enough to go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Batcher {
    /// One thread per model.
    pub(crate) fn start<M: BatchModel>(models: Vec<M>, limits: BatchLimits) -> Self {
        let state = State {
            interactive: Lane::default(),
            bulk: Lane::default(),
            next_sequence: 0,
            admitted_texts: 0,
            idle_threads: 0,
            computing_batches: 0,
            computing_tokens: 0,
            cost: QueueCost::new(Workshop {
                threads: models.len(),
                batch_items: limits.batch_tokens as f64,
                fixed_items: WORTHWHILE_PADDING_TOKENS as f64,
            }),
            stopped: false,
        };
        let (work_arrived, counters) = (Condvar::new(), Counters::default());
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work_arrived,
            limits,
            counters,
            counts: Counts::of("encoder"),
        });
        let spawn = |model| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.work(model))
        };
        Self {
            threads: models.into_iter().map(spawn).collect(),
            shared,
        }
    }

    /// Reserves places before any work is done for a job.
    pub(crate) fn admit(
        &self,
        texts: usize,
        criticality: Criticality,
    ) -> Result<Admission, EncodeError> {
        let mut state = self.shared.lock();
        let (queued_texts, limit_texts) = (state.admitted_texts, self.shared.limits.queue_texts);
        let is_beyond = |places: usize| texts > places.saturating_sub(queued_texts);
        let is_beyond_share = queued_texts > 0 && is_beyond(criticality.places(limit_texts));
        if is_beyond(limit_texts) || is_beyond_share {
            add(&self.shared.counters.refused_jobs, 1);
            self.shared.counts.refused(Refused::Queue, criticality);
            return Err(EncodeError::QueueFull {
                queued_texts,
                job_texts: texts,
                limit_texts,
                retry_after: (texts <= limit_texts)
                    .then(|| state.time_until_free(criticality.places(limit_texts), texts)),
            });
        }
        state.admitted_texts += texts;
        Ok(Admission {
            shared: Arc::clone(&self.shared),
            texts,
        })
    }

    /// Puts a job, of at least one text, into its lane, if there is time for it. Dropping the ticket abandons it.
    pub(crate) fn submit(
        &self,
        job: TokenJob,
        admission: Admission,
    ) -> Result<Ticket, EncodeError> {
        let (reply, receiver) = oneshot::channel();
        let mut state = self.shared.lock();
        if let Err(late) = state.check_time(&job, self.threads(), Instant::now()) {
            // Giving the places back takes the lock.
            drop(state);
            drop(admission);
            add(&self.shared.counters.refused_jobs, 1);
            self.shared
                .counts
                .refused(Refused::Deadline, job.criticality);
            return Err(late);
        }
        let texts = job.rows.len();
        let vectors = JobVectors {
            sentences: vec![Vec::new(); texts],
            tokens: vec![Vec::new(); texts],
            ..JobVectors::default()
        };
        let open = Some(Open { reply, admission });
        let queued = Arc::new(Job {
            first_sequence: state.next_sequence,
            texts,
            priority: job.priority,
            with_token_vectors: job.with_token_vectors,
            deadline: job.deadline,
            arrived: job.arrived,
            counts: self.shared.counts.clone(),
            progress: Mutex::new(Progress {
                open,
                vectors,
                remaining: texts,
                started: None,
            }),
        });
        state.push(&queued, job.rows);
        drop(state);
        self.shared.work_arrived.notify_all();
        Ok(Ticket {
            shared: Arc::clone(&self.shared),
            job: queued,
            receiver,
        })
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.len()
    }

    pub(crate) fn stats(&self) -> BatcherStats {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BatcherStats {
            threads: self.threads(),
            queued_texts: self.shared.lock().admitted_texts,
            batches: get(&counters.batches),
            texts: get(&counters.texts),
            tokens: get(&counters.tokens),
            padding_tokens: get(&counters.padding_tokens),
            expired_texts: get(&counters.expired_texts),
            abandoned_texts: get(&counters.abandoned_texts),
            refused_jobs: get(&counters.refused_jobs),
            model_time: Duration::from_nanos(get(&counters.model_ns)),
            busy_time: Duration::from_nanos(get(&counters.busy_ns)),
        }
    }
}

impl Drop for Batcher {
    /// Waits for the batches that are being computed: a process must not end while a thread is inside the runtime.
    fn drop(&mut self) {
        let unfinished = self.shared.lock().stop();
        self.shared.work_arrived.notify_all();
        for entry in unfinished {
            entry.job.settle(Err(EncodeError::Stopped));
        }
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported when it happened; there is nobody to pass it to.
            let _ = thread.join();
        }
    }
}

impl State {
    fn lane(&mut self, priority: Priority) -> &mut Lane {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Bulk => &mut self.bulk,
        }
    }

    /// Whether the job would be computed in its time.
    fn check_time(&self, job: &TokenJob, threads: usize, now: Instant) -> Result<(), EncodeError> {
        // Texts are shared by the threads.
        let shares = job.rows.len().clamp(1, threads.max(1));
        let time_left = |deadline: Instant| deadline.saturating_duration_since(now);
        let newcomer = Newcomer {
            items: job.tokens() as f64 / shares as f64,
            time_left: job.deadline.map(time_left),
            criticality: job.criticality,
        };
        let admitted = self.cost.admit(self.load_before(job.priority), newcomer);
        admitted.map_err(|late| EncodeError::TooLate {
            wait: late.wait,
            retry_after: late.fits_after,
        })
    }

    /// How long until so many texts find that many places, if they come first then.
    fn time_until_free(&self, places: usize, texts: usize) -> Duration {
        let missing = (self.admitted_texts + texts).saturating_sub(places);
        let part = missing as f64 / self.admitted_texts.max(1) as f64;
        let all = self.cost.wait(self.load_before(Priority::Bulk));
        all.mul_f64(part.min(1.0)).max(LEAST_RETRY_AFTER)
    }

    /// What is computed before a job that comes now.
    fn load_before(&self, priority: Priority) -> Load {
        let waiting_tokens = match priority {
            Priority::Interactive => self.interactive.tokens,
            Priority::Bulk => self.interactive.tokens + self.bulk.tokens,
        };
        Load {
            waiting_items: waiting_tokens as f64,
            computing_items: self.computing_tokens as f64,
            computing_batches: self.computing_batches,
        }
    }

    fn begin(&mut self, batch: &[Entry]) {
        if !batch.is_empty() {
            self.computing_batches += 1;
            self.computing_tokens += tokens_of(batch);
        }
    }

    /// A thread has computed so many tokens. None: it failed, and nothing is learnt.
    fn end(&mut self, tokens: usize, took: Option<Duration>) {
        self.computing_batches -= 1;
        self.computing_tokens -= tokens;
        if let Some(took) = took {
            self.cost.observe(tokens as f64, took);
        }
    }

    fn push(&mut self, job: &Arc<Job>, rows: Vec<TokenIds>) {
        let first_sequence = self.next_sequence;
        self.next_sequence += rows.len() as u64;
        let lane = self.lane(job.priority);
        for (index, row) in rows.into_iter().enumerate() {
            lane.push(
                first_sequence + index as u64,
                Entry {
                    job: Arc::clone(job),
                    index,
                    row,
                },
            );
        }
    }

    /// All waiting texts of a job.
    fn remove(&mut self, job: &Job) -> Vec<Entry> {
        let sequences = job.first_sequence..job.first_sequence + job.texts as u64;
        self.lane(job.priority).remove_range(sequences)
    }

    fn stop(&mut self) -> Vec<Entry> {
        self.stopped = true;
        let lanes = [
            std::mem::take(&mut self.interactive),
            std::mem::take(&mut self.bulk),
        ];
        lanes
            .into_iter()
            .flat_map(|lane| lane.by_length.into_values())
            .collect()
    }
}

impl Lane {
    fn push(&mut self, sequence: u64, entry: Entry) {
        let length = entry.row.ids.len();
        self.tokens += length;
        self.length_by_age.insert(sequence, length);
        self.by_length.insert((length, sequence), entry);
    }

    fn remove(&mut self, key: (usize, u64)) -> Option<Entry> {
        let entry = self.by_length.remove(&key)?;
        self.length_by_age.remove(&key.1);
        self.tokens -= key.0;
        Some(entry)
    }

    fn remove_range(&mut self, sequences: std::ops::Range<u64>) -> Vec<Entry> {
        let keys: Vec<_> = self
            .length_by_age
            .range(sequences)
            .map(|(&age, &length)| (length, age))
            .collect();
        keys.into_iter()
            .filter_map(|key| self.remove(key))
            .collect()
    }

    fn oldest(&self) -> Option<(usize, u64)> {
        self.length_by_age
            .first_key_value()
            .map(|(&sequence, &length)| (length, sequence))
    }

    /// The neighbour in length that adds least padding to a batch of `count` texts up to `longest` tokens.
    fn nearest(&self, anchor: (usize, u64), longest: usize, count: usize) -> Option<Neighbour> {
        let shorter = self
            .by_length
            .range(..anchor)
            .next_back()
            .map(|(&key, _)| (longest - key.0, key));
        let longer = self.by_length.range(anchor..).next();
        let longer = longer.map(|(&key, _)| {
            (
                key.0.saturating_sub(longest) * count + longest.saturating_sub(key.0),
                key,
            )
        });
        let (padding, key) = [shorter, longer].into_iter().flatten().min()?;
        Some(Neighbour {
            key,
            padding,
            longest: longest.max(key.0),
        })
    }
}

struct Neighbour {
    key: (usize, u64),
    /// Padding that taking it adds.
    padding: usize,
    /// The batch's length with it.
    longest: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn work<M: BatchModel>(&self, mut model: M) {
        while let Some(batch) = self.next_batch() {
            self.compute(&mut model, batch, Instant::now());
        }
    }

    /// Blocks until there is work. Nothing once stopped.
    fn next_batch(&self) -> Option<Vec<Entry>> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let dropped = self.drop_dead(&mut state, Instant::now());
            let batch = self.take_batch(&mut state);
            state.begin(&batch);
            if dropped.is_empty() && batch.is_empty() {
                state.idle_threads += 1;
                state = self
                    .work_arrived
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle_threads -= 1;
                continue;
            }
            drop(state);
            // Settling a job gives its places back, which takes the lock.
            dropped
                .iter()
                .for_each(|entry| entry.job.settle(Err(EncodeError::DeadlineExceeded)));
            drop(dropped);
            if !batch.is_empty() {
                return Some(batch);
            }
            state = self.lock();
        }
    }

    /// Removes the jobs at the head of each lane that nobody can use any more.
    fn drop_dead(&self, state: &mut State, now: Instant) -> Vec<Entry> {
        let mut dropped = Vec::new();
        for priority in [Priority::Interactive, Priority::Bulk] {
            while let Some(job) = state
                .lane(priority)
                .oldest_job()
                .filter(|job| job.is_dead(now))
            {
                let entries = state.remove(&job);
                self.count_dropped(&job, entries.len());
                dropped.extend(entries);
            }
        }
        dropped
    }

    fn count_dropped(&self, job: &Job, texts: usize) {
        if job.is_abandoned() {
            self.count_abandoned(texts);
        } else {
            add(&self.counters.expired_texts, texts);
            self.counts.dropped(Dropped::Deadline, texts as u64);
        }
    }

    fn count_abandoned(&self, texts: usize) {
        add(&self.counters.abandoned_texts, texts);
        self.counts.dropped(Dropped::Cancelled, texts as u64);
    }

    /// The oldest text of the first lane that has any, with its neighbours in length.
    fn take_batch(&self, state: &mut State) -> Vec<Entry> {
        let idle_threads = state.idle_threads;
        let lane = if state.interactive.by_length.is_empty() {
            &mut state.bulk
        } else {
            &mut state.interactive
        };
        let Some(anchor) = lane.oldest() else {
            return Vec::new();
        };
        // Idle threads get their share of what is there.
        let budget = lane
            .tokens
            .div_ceil(idle_threads + 1)
            .min(self.limits.batch_tokens);
        let now = Instant::now();
        let mut longest = anchor.0;
        let mut batch: Vec<Entry> = lane.remove(anchor).into_iter().collect();
        while let Some(next) = lane.nearest(anchor, longest, batch.len()) {
            if next.padding > WORTHWHILE_PADDING_TOKENS || (batch.len() + 1) * next.longest > budget
            {
                break;
            }
            // A dead job's texts stay behind: they are dropped when they are the oldest.
            match lane.by_length.get(&next.key) {
                Some(entry) if !entry.job.is_dead(now) => batch.extend(lane.remove(next.key)),
                _ => break,
            }
            longest = next.longest;
        }
        batch
    }

    fn compute<M: BatchModel>(&self, model: &mut M, batch: Vec<Entry>, started: Instant) {
        let rows: Vec<&TokenIds> = batch.iter().map(|entry| &entry.row).collect();
        let with_token_vectors = batch.iter().any(|entry| entry.job.with_token_vectors);
        let run = catch_unwind(AssertUnwindSafe(|| model.run(&rows, with_token_vectors)));
        let run = run.unwrap_or(Err(ModelError::Panicked));
        // Counted before anyone is answered: who has an answer finds it in the counters.
        self.count(
            &rows,
            run.as_ref()
                .map_or(Duration::ZERO, |vectors| vectors.model_time),
            started.elapsed(),
        );
        let took = run.as_ref().ok().map(|_| started.elapsed());
        self.lock().end(tokens_of(&batch), took);
        match run {
            Ok(vectors) => complete(&batch, vectors, started),
            Err(error) => self.fail(&batch, error),
        }
    }

    fn count(&self, rows: &[&TokenIds], model_time: Duration, busy_time: Duration) {
        let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        add(&self.counters.batches, 1);
        add(&self.counters.texts, rows.len());
        add(&self.counters.tokens, tokens);
        add(&self.counters.padding_tokens, longest * rows.len() - tokens);
        add_time(&self.counters.model_ns, model_time);
        add_time(&self.counters.busy_ns, busy_time);
    }

    fn fail(&self, batch: &[Entry], error: ModelError) {
        let error = EncodeError::Model(Arc::new(error));
        for entry in batch {
            let waiting = self.lock().remove(&entry.job);
            drop(waiting);
            entry.job.settle(Err(error.clone()));
        }
    }
}

fn tokens_of(batch: &[Entry]) -> usize {
    batch.iter().map(|entry| entry.row.ids.len()).sum()
}

fn complete(batch: &[Entry], vectors: BatchVectors, started: Instant) {
    let times = TextTimes {
        started,
        ended: Instant::now(),
        model: vectors.model_time / batch.len().max(1) as u32,
    };
    let mut tokens = vectors.tokens.into_iter();
    for (entry, sentence) in batch.iter().zip(vectors.sentences) {
        let tokens = tokens
            .next()
            .filter(|_| entry.job.with_token_vectors)
            .unwrap_or_default();
        entry.job.complete(entry.index, sentence, tokens, times);
    }
}

/// When a text was computed.
#[derive(Clone, Copy)]
struct TextTimes {
    started: Instant,
    ended: Instant,
    /// Its share of its batch's time in the model's runtime.
    model: Duration,
}

impl Lane {
    fn oldest_job(&self) -> Option<Arc<Job>> {
        let entry = self.by_length.get(&self.oldest()?)?;
        Some(Arc::clone(&entry.job))
    }
}

impl Job {
    fn is_dead(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now) || self.is_abandoned()
    }

    fn is_abandoned(&self) -> bool {
        lock(&self.progress)
            .open
            .as_ref()
            .is_none_or(|open| open.reply.is_closed())
    }

    fn complete(&self, index: usize, sentence: Vec<f32>, tokens: Vec<f32>, times: TextTimes) {
        let TextTimes {
            started,
            ended,
            model,
        } = times;
        let mut progress = lock(&self.progress);
        progress.vectors.sentences[index] = sentence;
        progress.vectors.tokens[index] = tokens;
        progress.vectors.model += model;
        progress.remaining -= 1;
        let first_started = *progress.started.get_or_insert(started);
        let first_started = first_started.min(started);
        progress.started = Some(first_started);
        if progress.remaining > 0 {
            return;
        }
        let mut vectors = std::mem::take(&mut progress.vectors);
        drop(progress);
        vectors.queue = first_started.saturating_duration_since(self.arrived);
        vectors.compute = ended.saturating_duration_since(first_started);
        let budget = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(self.arrived));
        self.counts.waited(vectors.queue, budget);
        self.settle(Ok(vectors));
    }

    /// Answers, once; the places are free before the caller knows.
    fn settle(&self, result: Result<JobVectors, EncodeError>) {
        let open = lock(&self.progress).open.take();
        if let Some(Open { reply, admission }) = open {
            drop(admission);
            // The caller may have gone meanwhile: then nobody needs the answer.
            let _ = reply.send(result);
        }
    }
}

/// Resolves to a job's vectors.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    job: Arc<Job>,
    receiver: oneshot::Receiver<Result<JobVectors, EncodeError>>,
}

impl Future for Ticket {
    type Output = Result<JobVectors, EncodeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(EncodeError::Stopped)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let waiting = self.shared.lock().remove(&self.job);
        self.shared.count_abandoned(waiting.len());
        drop(waiting);
        // Frees the places of a job that will not be answered.
        self.job.settle(Err(EncodeError::Stopped));
    }
}

#[cfg(test)]
mod tests;
