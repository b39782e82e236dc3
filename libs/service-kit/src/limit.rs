//! How many unary calls a server takes at once: as many as it answers about as fast as it usually does. Pure: time is an argument.
//!
//! The limit is lowered in proportion when answers take a multiple of what is usual, from what is in flight then, and raised by its
//! square root when as many calls as that were answered in the usual time (the gradient of Netflix's concurrency-limits, with the usual time
//! in place of the least: a method's calls differ in size). What is usual is kept by method. It falls at once and rises slowly, so that
//! it is that of the unloaded server and yet follows a collection that grows.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use search_core::Criticality;

/// Below this the limit does not fall: a few dozen calls are waited for in the queues behind it, which know what they cost.
const LEAST_CALLS: f64 = 64.0;
/// What is sheddable may use this part. Not less: what it leaves is capacity that nobody may use.
const SHEDDABLE_SHARE: f64 = 0.75;
/// Answers that take less than this multiple of what is usual are as usual.
const TOLERANCE: f64 = 2.0;
/// At most this much is kept when the limit is lowered.
const STEEPEST: f64 = 0.5;
/// Of a slower mean that much is taken to be usual: half of it after some seventy windows.
const USUAL_RISES: f64 = 0.01;
/// A mean is taken of at least so many calls, over at least so long.
const WINDOW_CALLS: u32 = 16;
const WINDOW: Duration = Duration::from_millis(200);
/// When a refused call may try again, before anything has been measured.
const FIRST_RETRY_AFTER: Duration = Duration::from_millis(100);

/// The limit, and what is in flight.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    least: f64,
    most: f64,
    limit: f64,
    in_flight: usize,
    /// Of methods that have answered.
    methods: HashMap<String, Latency>,
    /// Of the last window.
    mean: Option<Duration>,
}

/// How a call ended, as far as that says something of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was answered.
    Answered,
    /// It was late: it would have taken longer.
    Late,
    /// It failed or was given up; what time that took says nothing.
    Otherwise,
}

/// How long the calls of a method take.
#[derive(Debug)]
struct Latency {
    /// None until the first window has ended.
    usual_seconds: Option<f64>,
    window: Window,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    began: Instant,
    calls: u32,
    seconds: f64,
    /// Most that were in flight, of all methods.
    in_flight: usize,
}

/// Of so many places for calls in flight those that it may use: one at least.
pub(crate) fn places_of(all: f64, criticality: Criticality) -> f64 {
    match criticality {
        Criticality::Critical => all,
        Criticality::Sheddable => (all * SHEDDABLE_SHARE).max(1.0),
    }
}

impl ConcurrencyLimit {
    /// At most so many calls; as many until there is a reason for less.
    pub(crate) fn new(most: usize) -> Self {
        let most = most as f64;
        Self {
            least: LEAST_CALLS.min(most),
            most,
            limit: most,
            in_flight: 0,
            methods: HashMap::new(),
            mean: None,
        }
    }

    /// Counts a call in, or refuses it and says when to try again.
    pub(crate) fn enter(&mut self, criticality: Criticality) -> Result<(), Duration> {
        let places = places_of(self.limit, criticality);
        if self.in_flight as f64 + 1.0 > places {
            return Err(self.mean.unwrap_or(FIRST_RETRY_AFTER));
        }
        self.in_flight += 1;
        Ok(())
    }

    /// Counts a call of `method` out.
    pub(crate) fn leave(&mut self, method: &str, ended: Ended, took: Duration, now: Instant) {
        let in_flight = self.in_flight;
        self.in_flight -= 1;
        if ended == Ended::Answered && !self.methods.contains_key(method) {
            // Only methods that exist answer: there are not many.
            self.methods.insert(method.to_owned(), Latency::new(now));
        }
        let Some(latency) = self.methods.get_mut(method) else {
            return;
        };
        if latency.is_news(ended, took)
            && let Some(window) = latency.add(took, in_flight, now)
        {
            let usual = latency.usual(window.mean());
            self.mean = Duration::try_from_secs_f64(window.mean()).ok();
            self.adapt(usual / window.mean(), window.in_flight as f64);
        }
    }

    /// `speed` is what is usual by what was.
    fn adapt(&mut self, speed: f64, in_flight: f64) {
        let gradient = (TOLERANCE * speed).clamp(STEEPEST, 1.0);
        if gradient < 1.0 {
            self.limit = self.limit.min(in_flight) * gradient;
        } else if 2.0 * in_flight >= self.limit {
            // Of a limit that nobody came near nothing is known.
            self.limit += self.limit.sqrt();
        }
        self.limit = self.limit.clamp(self.least, self.most);
    }
}

impl Latency {
    fn new(now: Instant) -> Self {
        Self {
            usual_seconds: None,
            window: Window::new(now),
        }
    }

    /// Whether a call's time counts. Of a late one that was given little time nothing is known.
    fn is_news(&self, ended: Ended, took: Duration) -> bool {
        match ended {
            Ended::Answered => true,
            Ended::Late => self
                .usual_seconds
                .is_some_and(|usual| took.as_secs_f64() > usual),
            Ended::Otherwise => false,
        }
    }

    /// The window, if it ends with this call.
    fn add(&mut self, took: Duration, in_flight: usize, now: Instant) -> Option<Window> {
        let window = &mut self.window;
        window.calls += 1;
        window.seconds += took.as_secs_f64();
        window.in_flight = window.in_flight.max(in_flight);
        let has_ended =
            window.calls >= WINDOW_CALLS && now.saturating_duration_since(window.began) >= WINDOW;
        has_ended.then(|| std::mem::replace(window, Window::new(now)))
    }

    /// What is usual, after one more mean.
    fn usual(&mut self, mean: f64) -> f64 {
        let before = self.usual_seconds.unwrap_or(mean);
        let usual = mean.min(before + USUAL_RISES * (mean - before));
        self.usual_seconds = Some(usual);
        usual
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            calls: 0,
            seconds: 0.0,
            in_flight: 0,
        }
    }

    /// Seconds, more than none.
    fn mean(&self) -> f64 {
        (self.seconds / f64::from(self.calls.max(1))).max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests;
