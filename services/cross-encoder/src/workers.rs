//! What the compute threads and the calls share: the queue, the callers, and who gets what was computed. Nothing is computed for a call
//! that has left.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use inference::{Pair, PairLogits, ScoreError, ScorePairs};
use load_metrics::{Counts, Dropped, Refused};
use search_core::Criticality;
use service_kit::Readiness;

use crate::compute::Worker;
use crate::error::Error;
use crate::pace::Pace;
use crate::queue::{Batch, BatchSize, CallId, Queue, Taken};
use crate::scores::{Caller, ScoredWindow};

/// How often a model that fails is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// When a refused call may try again, before anything has been measured.
const FIRST_RETRY_AFTER: Duration = Duration::from_millis(100);

/// What the compute threads have done since they started. A passage that is read in windows counts as so many passages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Passages that wait to be read or computed, or are being computed.
    pub queued_passages: usize,
    /// Tokens of those that wait to be computed.
    pub waiting_tokens: usize,
    /// Batches that were computed.
    pub batches: u64,
    /// Passages that were computed.
    pub passages: u64,
    /// Tokens that were computed, padding not counted.
    pub tokens: u64,
    /// Padding that was computed beside them.
    pub padding_tokens: u64,
    /// Passages that were not computed because the deadline had passed.
    pub expired_passages: u64,
    /// Passages that were not computed because nobody waited for them any more.
    pub abandoned_passages: u64,
    /// Calls that were refused because the queue was full, or too long for their time.
    pub refused_calls: u64,
    /// Time inside the model's runtime, summed over threads.
    pub model_time: Duration,
    /// Time spent on batches, summed over threads.
    pub busy_time: Duration,
}

/// Owns the compute threads.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// What the threads and the callers share.
pub(crate) struct Shared {
    state: Mutex<State>,
    work_arrived: Condvar,
    threads: usize,
    limit_passages: usize,
    readiness: Readiness,
    counts: Counts,
}

struct State {
    pace: Pace,
    queue: Queue,
    callers: HashMap<CallId, Caller>,
    stats: Stats,
    counts: Counts,
    /// Threads whose models fail.
    failing_threads: usize,
    stopped: bool,
}

/// Why a call leaves before all of its passages are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// Its time is over.
    Expired,
    /// Nobody waits for it any more.
    Abandoned,
}

impl Workers {
    /// One thread for each model.
    pub(crate) fn start(models: Vec<Box<dyn ScorePairs>>, limit_passages: usize) -> Self {
        let counts = Counts::of("cross-encoder");
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(models.len(), counts.clone())),
            work_arrived: Condvar::new(),
            threads: models.len(),
            limit_passages,
            readiness: Readiness::ready(),
            counts,
        });
        let spawn = |model| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || Worker::new(shared, model).work())
        };
        Self {
            threads: models.into_iter().map(spawn).collect(),
            shared,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Workers {
    /// Waits for the batches that are being computed: a process must not end while a thread is inside the runtime.
    fn drop(&mut self) {
        let callers = self.shared.lock().stop();
        self.shared.work_arrived.notify_all();
        for caller in callers {
            caller.fail(Error::Stopped);
        }
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported when it happened; there is nobody to pass it to.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A panic while the lock is held leaves maps and counters that are consistent enough to go on.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.lock();
        Stats {
            waiting_tokens: state.queue.tokens(),
            ..state.stats
        }
    }

    /// Lets a call in, if there is room for all of its passages and time for the first of them.
    pub(crate) fn enter(
        &self,
        caller: Caller,
        deadline: Option<Instant>,
        criticality: Criticality,
    ) -> Result<CallId, Error> {
        let mut state = self.lock();
        if state.stopped {
            return Err(Error::Stopped);
        }
        let passages = caller.windows();
        if passages > self.room_for(&state.stats, criticality) {
            state.stats.refused_calls += 1;
            self.counts.refused(Refused::Queue, criticality);
            return Err(self.refusal(&state.stats, passages));
        }
        if let Err(late) = state.check_time(deadline, criticality) {
            state.stats.refused_calls += 1;
            self.counts.refused(Refused::Deadline, criticality);
            return Err(late);
        }
        state.stats.queued_passages += passages;
        let id = state.queue.enter(deadline);
        state.callers.insert(id, caller);
        Ok(id)
    }

    /// A sheddable call finds its share of the places, or an empty queue.
    fn room_for(&self, stats: &Stats, criticality: Criticality) -> usize {
        match stats.queued_passages {
            0 => self.limit_passages,
            queued => criticality
                .places(self.limit_passages)
                .saturating_sub(queued),
        }
    }

    fn refusal(&self, stats: &Stats, call_passages: usize) -> Error {
        let limit_passages = self.limit_passages;
        let missing = (stats.queued_passages + call_passages).saturating_sub(limit_passages);
        Error::QueueFull {
            queued_passages: stats.queued_passages,
            call_passages,
            limit_passages,
            retry_after: (call_passages <= limit_passages).then(|| self.time_of(stats, missing)),
        }
    }

    /// How long so many passages take, by those that were computed.
    fn time_of(&self, stats: &Stats, passages: usize) -> Duration {
        if stats.passages == 0 {
            return FIRST_RETRY_AFTER;
        }
        let one = stats.busy_time.as_secs_f64() / stats.passages as f64;
        Duration::from_secs_f64(one * passages as f64 / self.threads as f64)
    }

    /// Adds a call's next passages, each as the windows that it is read in. False: the call has left, or does not fit.
    pub(crate) fn push(
        &self,
        call: CallId,
        passages: impl IntoIterator<Item = (usize, Vec<Pair>)>,
    ) -> bool {
        let mut state = self.lock();
        let mut passages = passages.into_iter();
        let is_there =
            passages.all(|(index, windows)| self.push_passage(&mut state, call, index, windows));
        drop(state);
        self.work_arrived.notify_all();
        is_there
    }

    fn push_passage(
        &self,
        state: &mut State,
        call: CallId,
        index: usize,
        windows: Vec<Pair>,
    ) -> bool {
        let Some(caller) = state.callers.get_mut(&call) else {
            return false;
        };
        // The passage has its place, as one; how many windows it has nobody knew.
        let more = windows.len().saturating_sub(1);
        if more > self.room(&state.stats) {
            self.refuse(state, call, more);
            return false;
        }
        caller.read(index, windows.len());
        state.stats.queued_passages += more;
        let windows = windows.into_iter().map(|pair| (index, pair));
        state.queue.push(call, windows)
    }

    fn room(&self, stats: &Stats) -> usize {
        self.limit_passages.saturating_sub(stats.queued_passages)
    }

    /// Ends a call that needs so many more places than there are.
    fn refuse(&self, state: &mut State, call: CallId, more: usize) {
        let Some(caller) = state.remove(call) else {
            return;
        };
        state.stats.refused_calls += 1;
        let refusal = self.refusal(&state.stats, caller.windows() + more);
        caller.fail(refusal);
    }

    /// Ends a call with an error.
    pub(crate) fn fail(&self, call: CallId, error: Error) {
        self.lock().fail(call, error);
    }

    /// Ends a call; what waits of it is not computed. Without effect where it has ended.
    pub(crate) fn leave(&self, call: CallId, why: Leaving) {
        let uncomputed = self.lock().leave(call, why);
        self.count_dropped(why, uncomputed);
    }

    fn count_dropped(&self, why: Leaving, windows: u64) {
        let why = match why {
            Leaving::Expired => Dropped::Deadline,
            Leaving::Abandoned => Dropped::Cancelled,
        };
        self.counts.dropped(why, windows);
    }

    /// Blocks until there is something to do.
    pub(crate) fn next(&self, fails: bool) -> Work {
        let check_at = Instant::now() + CHECK_INTERVAL;
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Work::Stop;
            }
            for call in state.queue.expired(Instant::now()) {
                let uncomputed = state.leave(call, Leaving::Expired);
                self.count_dropped(Leaving::Expired, uncomputed);
            }
            let others_work = state.failing_threads < self.threads;
            let batch = if fails && others_work {
                Batch::new()
            } else {
                state.take(self.threads)
            };
            if !batch.is_empty() {
                return Work::Compute(batch);
            }
            if !fails {
                state = self
                    .work_arrived
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let until_check = check_at.saturating_duration_since(Instant::now());
            if until_check.is_zero() {
                return Work::Check;
            }
            let waited = self.work_arrived.wait_timeout(state, until_check);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Brings the logits of a batch to its callers.
    pub(crate) fn complete(
        &self,
        batch: &[Taken],
        result: Result<PairLogits, ScoreError>,
        busy_time: Duration,
    ) {
        let mut state = self.lock();
        state.count(batch, &result, busy_time);
        for call in calls_of(batch) {
            match &result {
                Ok(logits) => state.deliver(call, batch, &logits.logits),
                Err(error) => state.fail(call, error.clone().into()),
            }
        }
    }

    pub(crate) fn set_failing(&self, fails: bool) {
        let mut state = self.lock();
        if fails {
            state.failing_threads += 1;
        } else {
            state.failing_threads -= 1;
        }
        self.readiness.set(state.failing_threads < self.threads);
    }
}

/// What a compute thread does next.
pub(crate) enum Work {
    Compute(Batch),
    Check,
    Stop,
}

impl State {
    fn new(threads: usize, counts: Counts) -> Self {
        Self {
            counts,
            pace: Pace::new(threads),
            queue: Queue::default(),
            callers: HashMap::new(),
            stats: Stats::default(),
            failing_threads: 0,
            stopped: false,
        }
    }

    /// Whether a call that comes now is begun in its time.
    fn check_time(&self, deadline: Option<Instant>, criticality: Criticality) -> Result<(), Error> {
        let time_left = deadline.map(time_until);
        let tokens_before = self.queue.tokens_before_newcomer();
        let admitted = self.pace.admit(tokens_before, time_left, criticality);
        admitted.map_err(|late| Error::TooLate {
            wait: late.wait,
            retry_after: late.fits_after,
        })
    }

    fn take(&mut self, threads: usize) -> Batch {
        let batch = self.queue.take(threads);
        self.pace.begin(BatchSize::of(&batch));
        for call in calls_of(&batch) {
            let Some(caller) = self.callers.get_mut(&call) else {
                continue;
            };
            if let Some(waited) = caller.begin(part_of(call, &batch).count()) {
                let left = self.queue.deadline(call).map(time_until);
                self.counts.waited(waited, left.map(|left| waited + left));
            }
        }
        batch
    }

    fn count(
        &mut self,
        batch: &[Taken],
        result: &Result<PairLogits, ScoreError>,
        busy_time: Duration,
    ) {
        let size = BatchSize::of(batch);
        self.pace.end(size, result.is_ok().then_some(busy_time));
        let stats = &mut self.stats;
        stats.batches += 1;
        stats.passages += batch.len() as u64;
        stats.tokens += size.tokens as u64;
        stats.padding_tokens += size.padding_tokens as u64;
        stats.busy_time += busy_time;
        stats.model_time += result
            .as_ref()
            .map_or(Duration::ZERO, |logits| logits.model_time);
    }

    /// A call that has left meanwhile gets nothing.
    fn deliver(&mut self, call: CallId, batch: &[Taken], logits: &[f32]) {
        let Some(caller) = self.callers.get_mut(&call) else {
            return;
        };
        let scored =
            part_of(call, batch).map(|position| scored(&batch[position], logits[position]));
        match scored.collect::<Result<Vec<_>, _>>() {
            Ok(windows) => {
                self.stats.queued_passages -= windows.len();
                caller.complete(&windows);
                if caller.unscored() == 0 {
                    self.remove(call);
                }
            }
            Err(error) => self.fail(call, error.into()),
        }
    }

    fn fail(&mut self, call: CallId, error: Error) {
        if let Some(caller) = self.remove(call) {
            caller.fail(error);
        }
    }

    /// The caller of a call that ends now.
    fn remove(&mut self, call: CallId) -> Option<Caller> {
        self.queue.leave(call);
        let caller = self.callers.remove(&call)?;
        self.stats.queued_passages -= caller.unscored_windows();
        Some(caller)
    }

    /// Says how many windows are not computed any more.
    fn leave(&mut self, call: CallId, why: Leaving) -> u64 {
        let Some(caller) = self.remove(call) else {
            return 0;
        };
        let uncomputed = caller.uncomputed_windows() as u64;
        match why {
            Leaving::Expired => self.stats.expired_passages += uncomputed,
            Leaving::Abandoned => self.stats.abandoned_passages += uncomputed,
        }
        uncomputed
    }

    fn stop(&mut self) -> Vec<Caller> {
        self.stopped = true;
        let calls: Vec<CallId> = self.callers.keys().copied().collect();
        calls
            .into_iter()
            .filter_map(|call| self.remove(call))
            .collect()
    }
}

/// The calls that have pairs in a batch, each once.
pub(crate) fn calls_of(batch: &[Taken]) -> Vec<CallId> {
    let mut calls: Vec<CallId> = batch.iter().map(|taken| taken.call).collect();
    calls.sort_unstable();
    calls.dedup();
    calls
}

/// Where a call's pairs are in a batch.
fn part_of(call: CallId, batch: &[Taken]) -> impl Iterator<Item = usize> {
    let positions = batch.iter().enumerate();
    positions
        .filter(move |(_, taken)| taken.call == call)
        .map(|(position, _)| position)
}

fn scored(taken: &Taken, logit: f32) -> Result<ScoredWindow, ScoreError> {
    let &Taken {
        index, ref pair, ..
    } = taken;
    if !logit.is_finite() {
        return Err(ScoreError::NotFinite {
            index,
            score: logit,
        });
    }
    Ok(ScoredWindow {
        passage: index,
        logit,
        tokens: pair.tokens(),
        is_truncated: pair.is_truncated(),
    })
}

fn time_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests;
