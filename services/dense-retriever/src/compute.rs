//! Runs the work off the runtime's threads: a pool of its own, a bounded number of requests in front of it.
//!
//! Work whose caller has gone or whose deadline has passed is dropped before it starts, and stops at its next check once
//! it runs. A request that is large enough uses several threads of the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::ThreadPool;
use search_core::Deadline;
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, StartError};

/// Threads for computing, and a queue in front of them.
pub(crate) struct ComputePool {
    threads: ThreadPool,
    /// One permit for each request that computes or waits.
    places: Arc<Semaphore>,
    waiting: usize,
}

/// A result and where its time went.
#[derive(Debug)]
pub(crate) struct Computed<T> {
    pub(crate) value: T,
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
}

/// Says to running work whether it is still wanted.
#[derive(Clone, Debug)]
pub(crate) struct StillWanted {
    deadline: Option<Deadline>,
    abandoned: Arc<AtomicBool>,
}

impl StillWanted {
    /// To be asked between two pieces of work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let is_late = |deadline: Deadline| deadline.remaining(Instant::now()).is_none();
        if self.deadline.is_some_and(is_late) {
            return Err(Error::DeadlineExceeded);
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
    pub(crate) fn new(threads: usize, waiting: usize) -> Result<Self, StartError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("dense-{number}"))
            // The caller sees a dropped channel; without a handler the process would be aborted.
            .panic_handler(|_| tracing::error!("a dense computation panicked"))
            .build()?;
        Ok(Self {
            threads: pool,
            places: Arc::new(Semaphore::new(threads + waiting)),
            waiting,
        })
    }

    /// Waits for a thread and runs the work on it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        deadline: Option<Deadline>,
        work: impl FnOnce(&StillWanted) -> Result<T, Error> + Send + 'static,
    ) -> Result<Computed<T>, Error> {
        let arrived = Instant::now();
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Error::Overloaded {
            waiting: self.waiting,
        })?;
        let wanted = StillWanted {
            deadline,
            abandoned: Arc::default(),
        };
        let _caller = Caller(Arc::clone(&wanted.abandoned));
        let (answer, answered) = oneshot::channel();
        let span = tracing::Span::current();
        self.threads.spawn_fifo(move || {
            let result = span.in_scope(|| timed(arrived, work, &wanted));
            drop(place);
            // An error says that the caller is gone: there is nobody to tell.
            let _ = answer.send(result);
        });
        answered.await.map_err(|_| Error::Compute)?
    }
}

fn timed<T>(
    arrived: Instant,
    work: impl FnOnce(&StillWanted) -> Result<T, Error>,
    wanted: &StillWanted,
) -> Result<Computed<T>, Error> {
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
        let place = Arc::clone(&pool.places).try_acquire_owned().unwrap();
        pool.threads.spawn_fifo(move || {
            let _ = blocked.recv();
            drop(place);
        });
        release
    }

    #[tokio::test]
    async fn measures_and_returns() {
        let pool = ComputePool::new(1, 0).unwrap();
        let computed = pool.run(None, |_| Ok(7)).await.unwrap();
        assert_eq!(computed.value, 7);
    }

    #[tokio::test]
    async fn a_full_queue_refuses() {
        let pool = ComputePool::new(1, 0).unwrap();
        let release = occupy(&pool);
        assert!(matches!(
            pool.run(None, |_| Ok(())).await,
            Err(Error::Overloaded { waiting: 0 })
        ));
        drop(release);
    }

    #[tokio::test]
    async fn expired_work_is_dropped_before_it_starts() {
        let pool = ComputePool::new(1, 1).unwrap();
        let deadline = Deadline::new(Instant::now());
        let result = pool
            .run(Some(deadline), |_| -> Result<(), Error> {
                panic!("must not run")
            })
            .await;
        assert!(matches!(result, Err(Error::DeadlineExceeded)), "{result:?}");
    }

    #[tokio::test]
    async fn abandoned_work_is_dropped_before_it_starts() {
        let pool = ComputePool::new(1, 1).unwrap();
        let release = occupy(&pool);
        let (ran, has_run) = channel::<()>();
        {
            let waiting = pool.run(None, move |_| ran.send(()).map_err(|_| Error::Compute));
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
    async fn a_panic_fails_one_request_only() {
        let pool = ComputePool::new(1, 1).unwrap();
        let result = pool
            .run(None, |_| -> Result<(), Error> { panic!("on purpose") })
            .await;
        assert!(matches!(result, Err(Error::Compute)));
        assert!(pool.run(None, |_| Ok(())).await.is_ok());
    }
}
