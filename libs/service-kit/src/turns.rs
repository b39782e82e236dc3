//! Turns on a few threads, earliest deadline first. A first stage of a new answer can wait while the last one of an old answer cannot: by
//! their deadlines that needs no word from the callers.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

/// Hands out so many turns at a time. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    /// By what is due first, and of equals by who came first.
    waiting: BTreeMap<(Instant, u64), oneshot::Sender<Turn>>,
    next_number: u64,
}

/// A turn. Dropped, it goes to the next who waits.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
}

/// Leaves the queue when dropped.
struct Waiting<'a> {
    turns: &'a Turns,
    place: (Instant, u64),
}

impl Turns {
    pub(crate) fn new(turns: usize) -> Self {
        Self {
            queue: Arc::new(Mutex::new(Queue {
                free: turns,
                waiting: BTreeMap::new(),
                next_number: 0,
            })),
        }
    }

    /// How many wait that are due before `due`, or then.
    pub(crate) fn before(&self, due: Instant) -> usize {
        self.lock().waiting.range(..=(due, u64::MAX)).count()
    }

    /// Waits for a turn. The place in the queue is taken at once.
    pub(crate) fn turn(&self, due: Instant) -> impl Future<Output = Turn> + '_ {
        let entered = self.enter(due);
        async move {
            match entered {
                Ok(turn) => turn,
                Err((_waiting, turn)) => turn.await.expect("who waits is given a turn"),
            }
        }
    }

    fn enter(&self, due: Instant) -> Result<Turn, (Waiting<'_>, oneshot::Receiver<Turn>)> {
        let mut queue = self.lock();
        if queue.free > 0 {
            queue.free -= 1;
            return Ok(Turn {
                turns: self.clone(),
            });
        }
        let place = (due, queue.next_number);
        queue.next_number += 1;
        let (given, turn) = oneshot::channel();
        queue.waiting.insert(place, given);
        Err((Waiting { turns: self, place }, turn))
    }

    /// Nothing that is done while the lock is held can panic.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut queue = self.lock();
        let first = queue.waiting.pop_first();
        if first.is_none() {
            queue.free += 1;
        }
        first.map(|(_, given)| given)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(given) = self.turns.next() {
            let turn = Self {
                turns: self.turns.clone(),
            };
            // A turn that nobody takes any more is dropped here, and so goes to the one behind.
            let _ = given.send(turn);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.turns.lock().waiting.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_is_due_first_is_next() {
        let turns = Turns::new(1);
        let start = Instant::now();
        let due = |millis| start + Duration::from_millis(millis);
        let first = turns.turn(due(50)).now_or_never().unwrap();
        let mut late = Box::pin(turns.turn(due(90)));
        let mut early = Box::pin(turns.turn(due(20)));
        let mut as_early = Box::pin(turns.turn(due(20)));
        assert_eq!((turns.before(due(20)), turns.before(due(19))), (2, 0));
        drop(first);
        assert!((&mut late).now_or_never().is_none());
        assert!((&mut as_early).now_or_never().is_none());
        drop((&mut early).now_or_never().unwrap());
        drop((&mut as_early).now_or_never().unwrap());
        drop((&mut late).now_or_never().unwrap());
        assert_eq!(turns.lock().free, 1);
    }

    #[test]
    fn a_turn_for_one_who_has_gone_goes_to_the_next() {
        let turns = Turns::new(1);
        let now = Instant::now();
        let first = turns.turn(now).now_or_never().unwrap();
        let gone = Box::pin(turns.turn(now));
        let mut patient = Box::pin(turns.turn(now));
        drop(first);
        drop(gone);
        assert!((&mut patient).now_or_never().is_some());
    }

    proptest! {
        /// Whoever comes, goes and is served in whatever order: no turn is lost, and none is given twice.
        #[test]
        fn turns_are_kept(steps in prop::collection::vec((0_u8..3, 0_u64..10), 0..200)) {
            const TURNS: usize = 3;
            let turns = Turns::new(TURNS);
            let start = Instant::now();
            let (mut waiting, mut held) = (Vec::new(), Vec::new());
            for (step, number) in steps {
                match step {
                    0 => waiting.push(Box::pin(turns.turn(start + Duration::from_millis(number)))),
                    1 if !waiting.is_empty() => drop(waiting.swap_remove(number as usize % waiting.len())),
                    _ if !held.is_empty() => drop(held.swap_remove(number as usize % held.len())),
                    _ => {}
                }
                let mut still_waiting = Vec::new();
                for mut one in waiting {
                    match (&mut one).now_or_never() {
                        Some(turn) => held.push(turn),
                        None => still_waiting.push(one),
                    }
                }
                waiting = still_waiting;
                prop_assert!(held.len() <= TURNS);
                prop_assert!(held.len() == TURNS || waiting.is_empty());
            }
            drop((waiting, held));
            prop_assert_eq!(turns.lock().free, TURNS);
        }
    }
}
