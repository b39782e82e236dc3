//! Runs compute-heavy work off the runtime's threads: a pool of its own, a bounded number of requests in front of it.
//!
//! Work whose caller has gone or whose deadline has passed leaves the queue at once, and stops at its next check once it runs.
//!
//! A request that is large enough may use several threads of the pool, by rayon's own means. A thread that waits for others to
//! finish their share may then start another request in the meantime, and return to its own only after it. So no more
//! requests are handed to the pool than it has threads; and work that is not worth sharing should not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuildError};
use search_core::{Deadline, ErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Why work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// Too much work waits already.
    #[error("{waiting} requests wait for a compute thread; no more are taken")]
    Overloaded {
        /// How many may wait.
        waiting: usize,
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
            Self::Overloaded { .. } => ErrorKind::ResourceExhausted,
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Panicked => ErrorKind::Internal,
        }
    }
}

/// Threads for computing, and a queue in front of them.
#[derive(Debug)]
pub struct ComputePool {
    threads: ThreadPool,
    /// One permit for each request that computes or waits.
    places: Arc<Semaphore>,
    /// One permit for each request that computes, first come, first served.
    turns: Arc<Semaphore>,
    waiting: usize,
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
    /// `threads` compute, `waiting` more requests may wait; `name` is in the threads' names.
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
        Ok(Self {
            threads: pool,
            places: Arc::new(Semaphore::new(threads + waiting)),
            turns: Arc::new(Semaphore::new(threads)),
            waiting,
        })
    }

    /// Waits for a thread and runs the work on it. Dropping the future abandons the work.
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
        let arrived = Instant::now();
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| ComputeError::Overloaded {
            waiting: self.waiting,
        })?;
        let turn = self.turn(deadline).await?;
        let wanted = StillWanted {
            deadline,
            abandoned: Arc::default(),
        };
        let _caller = Caller(Arc::clone(&wanted.abandoned));
        let (answer, answered) = oneshot::channel();
        let span = tracing::Span::current();
        self.threads.spawn_fifo(move || {
            let result = span.in_scope(|| timed(arrived, work, &wanted));
            drop((turn, place));
            // An error says that the caller is gone: there is nobody to tell.
            let _ = answer.send(result);
        });
        answered.await.map_err(|_| ComputeError::Panicked)?
    }

    /// Waits until fewer requests compute than there are threads.
    async fn turn(&self, deadline: Option<Deadline>) -> Result<OwnedSemaphorePermit, ComputeError> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = match deadline {
            None => turn.await,
            Some(deadline) => tokio::time::timeout_at(deadline.instant().into(), turn)
                .await
                .map_err(|_| ComputeError::DeadlineExceeded)?,
        };
        Ok(turn.expect("the semaphore is never closed"))
    }
}

fn timed<T, E: From<ComputeError>>(
    arrived: Instant,
    work: impl FnOnce(&StillWanted) -> Result<T, E>,
    wanted: &StillWanted,
) -> Result<Computed<T>, E> {
    wanted.check()?;
    let started = Instant::now();
    let value = work(wanted)?;
    Ok(Computed {
        value,
        queue: started - arrived,
        compute: started.elapsed(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Occupies the one thread of a pool until the sender is dropped.
    fn occupy(pool: &ComputePool) -> Sender<()> {
        let (release, blocked) = channel::<()>();
        let [place, turn] = [&pool.places, &pool.turns]
            .map(|permits| Arc::clone(permits).try_acquire_owned().unwrap());
        pool.threads.spawn_fifo(move || {
            let _ = blocked.recv();
            drop((turn, place));
        });
        release
    }

    #[tokio::test]
    async fn measures_and_returns() {
        let pool = ComputePool::new("test", 1, 0).unwrap();
        let computed = pool.run(None, |_| Ok::<_, ComputeError>(7)).await.unwrap();
        assert_eq!(computed.value, 7);
    }

    #[tokio::test]
    async fn a_full_queue_refuses() {
        let pool = ComputePool::new("test", 1, 0).unwrap();
        let release = occupy(&pool);
        assert!(matches!(
            pool.run(None, |_| Ok::<_, ComputeError>(())).await,
            Err(ComputeError::Overloaded { waiting: 0 })
        ));
        drop(release);
    }

    #[tokio::test]
    async fn expired_work_is_dropped_before_it_starts() {
        let pool = ComputePool::new("test", 1, 1).unwrap();
        let deadline = Deadline::new(Instant::now());
        let result = pool
            .run(Some(deadline), |_| -> Result<(), ComputeError> {
                panic!("must not run")
            })
            .await;
        assert!(
            matches!(result, Err(ComputeError::DeadlineExceeded)),
            "{result:?}"
        );
    }

    /// The one thread stays occupied all along.
    #[tokio::test(start_paused = true)]
    async fn late_and_abandoned_work_leaves_the_queue_at_once() {
        let pool = ComputePool::new("test", 1, 1).unwrap();
        let _release = occupy(&pool);
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(3600)).unwrap();
        let late = pool.run(Some(deadline), |_| Ok::<_, ComputeError>(()));
        assert_eq!(late.await.unwrap_err(), ComputeError::DeadlineExceeded);
        let abandoned = pool.run(None, |_| Ok::<_, ComputeError>(()));
        let abandoned = tokio::time::timeout(Duration::from_secs(1), abandoned);
        assert!(abandoned.await.is_err());
        assert_eq!(pool.places.available_permits(), 1);
    }

    /// Each waits for a piece of work that another thread may take, and could start others meanwhile.
    #[tokio::test]
    async fn no_more_requests_run_than_there_are_threads() {
        use std::sync::atomic::AtomicUsize;

        const THREADS: usize = 2;
        let pool = ComputePool::new("test", THREADS, 64).unwrap();
        let [running, most] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let requests = (0..64).map(|_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            pool.run(None, move |_| {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                rayon::join(std::thread::yield_now, std::thread::yield_now);
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, ComputeError>(())
            })
        });
        for result in futures::future::join_all(requests).await {
            result.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= THREADS, "{most:?}");
    }

    #[tokio::test]
    async fn abandoned_work_is_dropped_before_it_starts() {
        let pool = ComputePool::new("test", 1, 1).unwrap();
        let release = occupy(&pool);
        let (ran, has_run) = channel::<()>();
        {
            let waiting = pool.run(None, move |_| {
                ran.send(()).map_err(|_| ComputeError::Panicked)
            });
            tokio::pin!(waiting);
            assert!(
                std::future::poll_fn(|context| std::task::Poll::Ready(
                    waiting.as_mut().poll(context).is_pending()
                ))
                .await
            );
        }
        drop(release);
        // The sender is dropped with the work, unsent.
        assert!(has_run.recv().is_err());
    }

    #[tokio::test]
    async fn running_work_notices_that_its_caller_has_gone() {
        let pool = Arc::new(ComputePool::new("test", 1, 1).unwrap());
        let (noticed, notice) = tokio::sync::oneshot::channel();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let working = Arc::clone(&pool);
        let call = tokio::spawn(async move {
            let work = move |wanted: &StillWanted| -> Result<(), ComputeError> {
                started.send(()).unwrap();
                while wanted.check().is_ok() {
                    std::thread::yield_now();
                }
                noticed.send(wanted.check().unwrap_err().kind()).unwrap();
                wanted.check()
            };
            working.run(None, work).await
        });
        has_started.await.unwrap();
        call.abort();
        assert_eq!(notice.await.unwrap(), ErrorKind::Cancelled);
    }

    #[tokio::test]
    async fn a_panic_fails_one_request_only() {
        let pool = ComputePool::new("test", 1, 1).unwrap();
        let result = pool
            .run(None, |_| -> Result<(), ComputeError> {
                panic!("on purpose")
            })
            .await;
        assert!(matches!(result, Err(ComputeError::Panicked)));
        assert!(pool.run(None, |_| Ok::<_, ComputeError>(())).await.is_ok());
    }
}
