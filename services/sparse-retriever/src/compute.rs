//! Runs compute-heavy work off the runtime's workers: a bounded number at once, a bounded number waiting.
//!
//! Work whose caller has gone or whose deadline has passed is dropped before it starts, and stops at its next check once it
//! runs. The time from arrival to start and the time of the work itself are measured for each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use search_core::Deadline;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;

/// Threads for computing, and a queue in front of them.
#[derive(Clone, Debug)]
pub(crate) struct ComputePool {
    threads: Arc<Semaphore>,
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
    pub(crate) fn new(threads: usize, waiting: usize) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(threads)),
            places: Arc::new(Semaphore::new(threads + waiting)),
            waiting,
        }
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
        let caller = Caller(Arc::clone(&wanted.abandoned));
        let thread = self.wait_for_thread(deadline).await?;
        let span = tracing::Span::current();
        let running = tokio::task::spawn_blocking(move || {
            let _held_to_the_end = (place, thread);
            span.in_scope(|| timed(arrived, || work(&wanted), &wanted))
        });
        let result = running.await;
        drop(caller);
        result.map_err(Error::Compute)?
    }

    async fn wait_for_thread(
        &self,
        deadline: Option<Deadline>,
    ) -> Result<OwnedSemaphorePermit, Error> {
        let free = Arc::clone(&self.threads).acquire_owned();
        let thread = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.instant().into(), free)
                .await
                .map_err(|_| Error::DeadlineExceeded)?,
            None => free.await,
        };
        Ok(thread.expect("the semaphore is never closed"))
    }
}

fn timed<T>(
    arrived: Instant,
    work: impl FnOnce() -> Result<T, Error>,
    wanted: &StillWanted,
) -> Result<Computed<T>, Error> {
    wanted.check()?;
    let started = Instant::now();
    let value = work()?;
    Ok(Computed {
        value,
        queue: started - arrived,
        compute: started.elapsed(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Occupies the one thread of a pool until the sender is dropped.
    async fn occupy(pool: &ComputePool) -> (Sender<()>, tokio::task::JoinHandle<()>) {
        let (release, blocked): (Sender<()>, Receiver<()>) = channel();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let pool = pool.clone();
        let running = tokio::spawn(async move {
            let work = move |_: &StillWanted| {
                started.send(()).unwrap();
                let _ = blocked.recv();
                Ok(())
            };
            pool.run(None, work).await.unwrap();
        });
        has_started.await.unwrap();
        (release, running)
    }

    #[tokio::test]
    async fn measures_and_returns() {
        let pool = ComputePool::new(1, 0);
        let computed = pool.run(None, |_| Ok(7)).await.unwrap();
        assert_eq!(computed.value, 7);
    }

    #[tokio::test]
    async fn refuses_when_the_queue_is_full() {
        let pool = ComputePool::new(1, 0);
        let (release, running) = occupy(&pool).await;
        let refused = pool.run(None, |_| Ok(())).await.unwrap_err();
        assert!(matches!(refused, Error::Overloaded { waiting: 0 }));
        drop(release);
        running.await.unwrap();
        assert!(pool.run(None, |_| Ok(())).await.is_ok());
    }

    #[tokio::test]
    async fn expired_work_is_dropped_before_it_starts() {
        let pool = ComputePool::new(1, 4);
        let passed = Some(Deadline::new(Instant::now()));
        let never = |_: &StillWanted| -> Result<(), Error> { panic!("was started") };
        assert!(matches!(
            pool.run(passed, never).await,
            Err(Error::DeadlineExceeded)
        ));

        let (release, running) = occupy(&pool).await;
        let soon = Deadline::after(Instant::now(), Duration::from_millis(5));
        assert!(matches!(
            pool.run(soon, never).await,
            Err(Error::DeadlineExceeded)
        ));
        drop(release);
        running.await.unwrap();
    }

    #[tokio::test]
    async fn abandoned_work_leaves_its_place() {
        let pool = ComputePool::new(1, 1);
        let (release, running) = occupy(&pool).await;
        let waiting = pool.run(None, |_| -> Result<(), Error> { panic!("was started") });
        assert!(futures::FutureExt::now_or_never(waiting).is_none());
        drop(release);
        running.await.unwrap();
        assert!(pool.run(None, |_| Ok(())).await.is_ok());
    }

    #[tokio::test]
    async fn running_work_notices_that_its_caller_has_gone() {
        let pool = ComputePool::new(1, 1);
        let (noticed, notice) = tokio::sync::oneshot::channel();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let working = pool.clone();
        let call = tokio::spawn(async move {
            let work = move |wanted: &StillWanted| -> Result<(), Error> {
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
        assert_eq!(notice.await.unwrap(), search_core::ErrorKind::Cancelled);
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let pool = ComputePool::new(1, 0);
        let result = pool
            .run(None, |_| -> Result<(), Error> { panic!("on purpose") })
            .await;
        assert!(matches!(result, Err(Error::Compute(_))));
        assert!(pool.run(None, |_| Ok(())).await.is_ok());
    }
}
