//! Runs compute-heavy work off the runtime's threads: a pool of its own, a bounded number of requests in front of it.
//!
//! What would come too late is refused when it comes, with the time after which there would be room ([`search_core::admission`]): the wait
//! is what stands in the queue by what requests have taken so far, the time that a request needs itself likewise. Requests of a pool may
//! differ in kind: the wait is that of their mix.
//!
//! What is due first is computed first ([`crate::turns`]); work without a deadline is as if it had a second from its arrival.
//!
//! Work whose caller has gone or whose deadline has passed leaves the queue at once, and stops at its next check once it runs.
//!
//! A request that is large enough may use several threads of the pool, by rayon's own means. A thread that waits for others to
//! finish their share may then start another request in the meantime, and return to its own only after it. So no more
//! requests are handed to the pool than it has threads; and work that is not worth sharing should not be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuildError};
use search_core::admission::{Load, Newcomer, QueueCost, TooLate, Workshop};
use search_core::{Criticality, Deadline, ErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::criticality;
use crate::deadline::now;
use crate::status::Pushback;
use crate::turns::{Turn, Turns};
use load_metrics::{Counts, Dropped, Refused};

/// Why work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// Too much work waits already.
    #[error("{waiting} requests wait for a compute thread; no more are taken")]
    Overloaded {
        /// How many may wait.
        waiting: usize,
        /// When one of them will have left, by what they took so far.
        retry_after: Duration,
    },
    /// The queue is longer than there is time.
    #[error("a compute thread is free after {wait:?}: too late for this deadline")]
    TooLate {
        /// Until a thread is free.
        wait: Duration,
        /// When there would be time enough; none: never, for the work alone takes more.
        retry_after: Option<Duration>,
    },
    /// The time is spent.
    #[error("the deadline passed before the work was done")]
    DeadlineExceeded,
    /// The caller is gone.
    #[error("the caller has gone")]
    Cancelled,
    /// The work panicked.
    #[error("the computation failed")]
    Panicked,
}

/// The compute threads could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the compute threads could not be started")]
pub struct StartError(#[from] ThreadPoolBuildError);

impl ComputeError {
    /// The kind, for the status.
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Overloaded { .. } | Self::TooLate { .. } => ErrorKind::ResourceExhausted,
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Panicked => ErrorKind::Internal,
        }
    }

    /// What a refusal for load says of trying again.
    #[must_use]
    pub fn pushback(self) -> Option<Pushback> {
        match self {
            Self::Overloaded { retry_after, .. } => Some(Pushback::After(retry_after)),
            Self::TooLate { retry_after, .. } => {
                Some(retry_after.map_or(Pushback::Never, Pushback::After))
            }
            Self::DeadlineExceeded | Self::Cancelled | Self::Panicked => None,
        }
    }
}

impl From<TooLate> for ComputeError {
    fn from(late: TooLate) -> Self {
        Self::TooLate {
            wait: late.wait,
            retry_after: late.fits_after,
        }
    }
}

/// When work without a deadline is due, from its arrival: so it is not put behind for ever.
const PATIENCE: Duration = Duration::from_secs(1);
/// Items of a request: each is one.
const REQUEST: f64 = 1.0;

/// What work is worth whose time is over before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// Nothing.
    Whole,
    /// What was done until then.
    Parts,
}

impl Worth {
    /// Items that have to be computed in time.
    fn items(self) -> f64 {
        match self {
            Self::Whole => REQUEST,
            Self::Parts => 0.0,
        }
    }
}

/// Threads for computing, and a queue in front of them.
#[derive(Debug)]
pub struct ComputePool {
    pool: ThreadPool,
    /// One permit for each request that computes or waits.
    places: Arc<Semaphore>,
    /// One for each request that computes.
    turns: Turns,
    threads: usize,
    waiting: usize,
    cost: Arc<Mutex<QueueCost>>,
    counts: Counts,
}

/// A result and where its time went.
#[derive(Debug)]
pub struct Computed<T> {
    /// The result.
    pub value: T,
    /// From the request's arrival to the start of the work.
    pub queue: Duration,
    /// The work itself.
    pub compute: Duration,
}

/// Says to running work whether it is still wanted.
#[derive(Clone, Debug)]
pub struct StillWanted {
    deadline: Option<Deadline>,
    abandoned: Arc<AtomicBool>,
}

impl StillWanted {
    /// To be asked between two pieces of work.
    ///
    /// # Errors
    /// When the caller is gone or the deadline has passed.
    pub fn check(&self) -> Result<(), ComputeError> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(ComputeError::Cancelled);
        }
        let is_late = |deadline: Deadline| deadline.remaining(Instant::now()).is_none();
        if self.deadline.is_some_and(is_late) {
            return Err(ComputeError::DeadlineExceeded);
        }
        Ok(())
    }
}

/// Tells the work that its caller is gone, when the future that waits for it is dropped.
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ComputePool {
    /// `threads` compute, `waiting` more requests may wait; `name` is in the threads' names, and in the labels of what is counted.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(name: &str, threads: usize, waiting: usize) -> Result<Self, StartError> {
        let prefix = name.to_owned();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |number| format!("{prefix}-{number}"))
            // The caller sees a dropped channel; without a handler the process would be aborted.
            .panic_handler(|_| tracing::error!("a computation panicked"))
            .build()?;
        let workshop = Workshop {
            threads,
            batch_items: REQUEST,
            fixed_items: 0.0,
        };
        Ok(Self {
            pool,
            places: Arc::new(Semaphore::new(threads + waiting)),
            turns: Turns::new(threads),
            threads,
            waiting,
            cost: Arc::new(Mutex::new(QueueCost::new(workshop))),
            counts: Counts::of(name),
        })
    }

    /// Waits for a thread and runs the work on it. Dropping the future abandons the work. Refused where it would not be done in time.
    ///
    /// # Errors
    /// The work's own, or [`ComputeError`].
    pub async fn run<T, E>(
        &self,
        deadline: Option<Deadline>,
        work: impl FnOnce(&StillWanted) -> Result<T, E> + Send + 'static,
    ) -> Result<Computed<T>, E>
    where
        T: Send + 'static,
        E: From<ComputeError> + Send + 'static,
    {
        self.run_worth(Worth::Whole, deadline, work).await
    }

    /// The same for work that gives what it has when its time is over, or takes next to none beside what else is computed here: refused
    /// only where it would not be begun in time.
    ///
    /// # Errors
    /// As [`ComputePool::run`].
    pub async fn run_anytime<T, E>(
        &self,
        deadline: Option<Deadline>,
        work: impl FnOnce(&StillWanted) -> Result<T, E> + Send + 'static,
    ) -> Result<Computed<T>, E>
    where
        T: Send + 'static,
        E: From<ComputeError> + Send + 'static,
    {
        self.run_worth(Worth::Parts, deadline, work).await
    }

    async fn run_worth<T, E>(
        &self,
        worth: Worth,
        deadline: Option<Deadline>,
        work: impl FnOnce(&StillWanted) -> Result<T, E> + Send + 'static,
    ) -> Result<Computed<T>, E>
    where
        T: Send + 'static,
        E: From<ComputeError> + Send + 'static,
    {
        let place = self.admit(worth, deadline, criticality::current())?;
        let arrival = Arrival::new(deadline, &self.counts);
        let Some(turn) = self.turn(deadline).await else {
            arrival.expire();
            return Err(ComputeError::DeadlineExceeded.into());
        };
        let wanted = StillWanted {
            deadline,
            abandoned: Arc::default(),
        };
        let _caller = Caller(Arc::clone(&wanted.abandoned));
        let (answer, answered) = oneshot::channel();
        let (span, cost) = (tracing::Span::current(), Arc::clone(&self.cost));
        self.pool.spawn_fifo(move || {
            let result = span.in_scope(|| timed(arrival, work, &wanted, &cost));
            drop((turn, place));
            // An error says that the caller is gone: there is nobody to tell.
            let _ = answer.send(result);
        });
        answered.await.map_err(|_| ComputeError::Panicked)?
    }

    /// A place for a request that can be done in its time.
    fn admit(
        &self,
        worth: Worth,
        deadline: Option<Deadline>,
        criticality: Criticality,
    ) -> Result<OwnedSemaphorePermit, ComputeError> {
        let load = self.load();
        // What is sheddable waits behind all of them, so that by its short time it does not overtake what is critical unseen.
        let before_it = match criticality {
            Criticality::Sheddable => load,
            Criticality::Critical => Load {
                waiting_items: self.turns.before(due(deadline)) as f64,
                ..load
            },
        };
        let newcomer = Newcomer {
            items: worth.items(),
            time_left: deadline.map(|deadline| deadline.remaining(now()).unwrap_or_default()),
            criticality,
        };
        let admitted = lock(&self.cost).admit(before_it, newcomer);
        admitted.map_err(|late| {
            self.counts.refused(Refused::Deadline, criticality);
            ComputeError::from(late)
        })?;
        let is_full = load.waiting_items >= criticality.places(self.waiting) as f64
            && load.computing_batches == self.threads;
        let place = (!is_full).then(|| Arc::clone(&self.places).try_acquire_owned());
        place.and_then(Result::ok).ok_or_else(|| {
            self.counts.refused(Refused::Queue, criticality);
            self.overloaded()
        })
    }

    fn overloaded(&self) -> ComputeError {
        let all_busy = Load {
            computing_items: self.threads as f64,
            computing_batches: self.threads,
            ..Load::default()
        };
        ComputeError::Overloaded {
            waiting: self.waiting,
            retry_after: lock(&self.cost).wait(all_busy),
        }
    }

    fn load(&self) -> Load {
        let requests =
            (self.threads + self.waiting).saturating_sub(self.places.available_permits());
        let computing = requests.min(self.threads);
        Load {
            waiting_items: (requests - computing) as f64,
            computing_items: computing as f64,
            computing_batches: computing,
        }
    }

    /// Waits until fewer requests compute than there are threads. None: the deadline came first.
    async fn turn(&self, deadline: Option<Deadline>) -> Option<Turn> {
        let turn = self.turns.turn(due(deadline));
        match deadline {
            None => Some(turn.await),
            Some(deadline) => tokio::time::timeout_at(deadline.instant().into(), turn)
                .await
                .ok(),
        }
    }
}

/// A request that waits, and since when. Dropped, it counts as cancelled, unless it was begun or its time was over.
struct Arrival {
    at: Instant,
    deadline: Option<Deadline>,
    counts: Counts,
    is_settled: bool,
}

impl Arrival {
    fn new(deadline: Option<Deadline>, counts: &Counts) -> Self {
        Self {
            at: Instant::now(),
            deadline,
            counts: counts.clone(),
            is_settled: false,
        }
    }

    /// Ends the waiting: how long it was.
    fn begin(mut self, wanted: &StillWanted) -> Result<Duration, ComputeError> {
        match wanted.check() {
            Ok(()) => {
                let waited = self.at.elapsed();
                let budget = self.deadline.map(|deadline| deadline.remaining(self.at));
                self.is_settled = true;
                self.counts
                    .waited(waited, budget.map(Option::unwrap_or_default));
                Ok(waited)
            }
            Err(ComputeError::DeadlineExceeded) => {
                self.expire();
                Err(ComputeError::DeadlineExceeded)
            }
            Err(gone) => Err(gone),
        }
    }

    fn expire(mut self) {
        self.is_settled = true;
        self.counts.dropped(Dropped::Deadline, 1);
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.is_settled {
            self.counts.dropped(Dropped::Cancelled, 1);
        }
    }
}

fn due(deadline: Option<Deadline>) -> Instant {
    deadline.map_or_else(|| now() + PATIENCE, Deadline::instant)
}

/// A panic while the lock is held leaves an estimate that further observations correct.
fn lock(cost: &Mutex<QueueCost>) -> MutexGuard<'_, QueueCost> {
    cost.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timed<T, E: From<ComputeError>>(
    arrival: Arrival,
    work: impl FnOnce(&StillWanted) -> Result<T, E>,
    wanted: &StillWanted,
    cost: &Mutex<QueueCost>,
) -> Result<Computed<T>, E> {
    let queue = arrival.begin(wanted)?;
    let started = Instant::now();
    let result = work(wanted);
    let compute = started.elapsed();
    match &result {
        Ok(_) => lock(cost).observe(REQUEST, compute),
        Err(_) => lock(cost).observe_broken_off(REQUEST, compute),
    }
    Ok(Computed {
        value: result?,
        queue,
        compute,
    })
}

#[cfg(test)]
mod tests;
