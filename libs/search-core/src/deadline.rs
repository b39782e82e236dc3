//! A point in time after which an answer is worth nothing.

use std::time::{Duration, Instant};

/// The deadline of a request. The clock is the caller's: `now` is always an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// At this instant.
    pub const fn new(instant: Instant) -> Self {
        Self(instant)
    }

    /// This long after `now`; `None` when the clock cannot say that time.
    pub fn after(now: Instant, duration: Duration) -> Option<Self> {
        now.checked_add(duration).map(Self)
    }

    /// The instant.
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// What is left; `None` when nothing is, at the very instant too.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.0
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    /// The earlier of two deadlines, where none is later than any.
    pub fn earliest(left: Option<Self>, right: Option<Self>) -> Option<Self> {
        match (left, right) {
            (Some(left), Some(right)) => Some(left.min(right)),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_ends_at_the_instant() {
        let now = Instant::now();
        let deadline = Deadline::after(now, Duration::from_millis(5)).unwrap();
        assert_eq!(deadline.remaining(now), Some(Duration::from_millis(5)));
        assert_eq!(deadline.remaining(now + Duration::from_millis(5)), None);
        assert_eq!(deadline.remaining(now + Duration::from_millis(6)), None);
    }

    #[test]
    fn the_earlier_counts() {
        let now = Instant::now();
        let (soon, late) = (
            Deadline::new(now),
            Deadline::new(now + Duration::from_secs(1)),
        );
        assert_eq!(Deadline::earliest(Some(late), Some(soon)), Some(soon));
        assert_eq!(Deadline::earliest(None, Some(late)), Some(late));
        assert_eq!(Deadline::earliest(Some(late), None), Some(late));
        assert_eq!(Deadline::earliest(None, None), None);
    }

    #[test]
    fn a_duration_beyond_the_clock_is_none() {
        assert_eq!(Deadline::after(Instant::now(), Duration::MAX), None);
    }
}
