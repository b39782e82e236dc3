use std::sync::mpsc::{Sender, channel};

use futures::FutureExt;

use super::*;

/// Occupies the one thread of a pool until the sender is dropped.
fn occupy(pool: &ComputePool) -> Sender<()> {
    let (release, blocked) = channel::<()>();
    let place = Arc::clone(&pool.places).try_acquire_owned().unwrap();
    let turn = pool.turns.turn(now()).now_or_never().unwrap();
    pool.pool.spawn_fifo(move || {
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
        Err(ComputeError::Overloaded { waiting: 0, .. })
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

/// A pool that has seen requests of this long, and whose one thread is busy.
fn busy_pool(took: Duration) -> (ComputePool, Sender<()>) {
    let pool = ComputePool::new("test", 1, 8).unwrap();
    lock(&pool.cost).observe(REQUEST, took);
    let release = occupy(&pool);
    (pool, release)
}

fn in_time(left: Duration) -> Option<Deadline> {
    Deadline::after(now(), left)
}

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn what_would_come_too_late_is_refused_at_once() {
    let (pool, _release) = busy_pool(100 * MS);
    let refused = pool.run(in_time(150 * MS), |_| Ok::<_, ComputeError>(()));
    let refused = refused.await.unwrap_err();
    let expected = ComputeError::TooLate {
        wait: 100 * MS,
        retry_after: Some(50 * MS),
    };
    assert_eq!(refused, expected);
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(refused.pushback(), Some(Pushback::After(50 * MS)));
    assert_eq!(pool.places.available_permits(), 8);
}

/// In minutes: the thread is let go at once.
#[tokio::test]
async fn who_has_time_waits() {
    let minute = Duration::from_secs(60);
    let (pool, release) = busy_pool(minute);
    let patient = pool.run(in_time(4 * minute), |_| Ok::<_, ComputeError>(()));
    let anytime = pool.run_anytime(in_time(4 * minute), |_| Ok::<_, ComputeError>(()));
    let without = pool.run(None, |_| Ok::<_, ComputeError>(()));
    drop(release);
    let (patient, anytime, without) = tokio::join!(patient, anytime, without);
    assert!(patient.is_ok() && anytime.is_ok() && without.is_ok());
}

#[tokio::test(start_paused = true)]
async fn of_work_that_gives_what_it_has_only_the_beginning_must_be_in_time() {
    let (pool, _release) = busy_pool(100 * MS);
    let waits = pool.admit(Worth::Parts, in_time(101 * MS), Criticality::Critical);
    assert!(waits.is_ok());
    let _turn = pool.turns.turn(due(in_time(101 * MS)));
    let refused = pool.admit(Worth::Parts, in_time(101 * MS), Criticality::Critical);
    assert!(matches!(refused, Err(ComputeError::TooLate { .. })));
}

#[tokio::test(start_paused = true)]
async fn sheddable_requests_find_a_quarter_of_the_places() {
    let (pool, _release) = busy_pool(MS);
    let admit = |criticality| pool.admit(Worth::Whole, None, criticality);
    let mut places: Vec<_> = (0..2)
        .map(|_| admit(Criticality::Sheddable).unwrap())
        .collect();
    let refused = admit(Criticality::Sheddable).unwrap_err();
    let expected = ComputeError::Overloaded {
        waiting: 8,
        retry_after: MS,
    };
    assert_eq!(refused, expected);
    places.extend((0..6).map(|_| admit(Criticality::Critical).unwrap()));
    assert!(admit(Criticality::Critical).is_err());
}

#[tokio::test(start_paused = true)]
async fn the_criticality_is_that_of_the_call() {
    let (pool, _release) = busy_pool(100 * MS);
    let asked = || pool.run(in_time(300 * MS), |_| Ok::<_, ComputeError>(()));
    let sheddable = criticality::scope(Criticality::Sheddable, asked()).await;
    assert!(matches!(sheddable, Err(ComputeError::TooLate { .. })));
    let critical = tokio::time::timeout(MS, asked()).await;
    assert!(critical.is_err(), "it waits");
}

#[tokio::test]
async fn a_cold_pool_refuses_nothing_for_its_time() {
    let pool = ComputePool::new("test", 1, 8).unwrap();
    let _release = occupy(&pool);
    assert!(
        pool.admit(Worth::Whole, in_time(MS), Criticality::Critical)
            .is_ok()
    );
}

#[tokio::test]
async fn what_is_due_first_is_computed_first() {
    let (pool, release) = busy_pool(MS);
    let order = Arc::new(Mutex::new(Vec::new()));
    let ask = |name, deadline| {
        let order = Arc::clone(&order);
        pool.run(deadline, move |_| {
            order.lock().unwrap().push(name);
            Ok::<_, ComputeError>(())
        })
    };
    let asked = futures::future::join3(
        ask("late", in_time(240 * PATIENCE)),
        ask("patient", None),
        ask("early", in_time(PATIENCE - 100 * MS)),
    );
    let mut asked = Box::pin(asked);
    assert!((&mut asked).now_or_never().is_none());
    drop(release);
    let (late, patient, early) = asked.await;
    assert!(patient.is_ok() && late.is_ok() && early.is_ok());
    assert_eq!(*order.lock().unwrap(), ["early", "patient", "late"]);
}
