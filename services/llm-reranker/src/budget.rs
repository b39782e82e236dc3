//! What the process may spend in 24 hours. Kept in memory: a restart begins anew.
//!
//! A request reserves what it may cost before it is sent, so that requests in flight count. The reservation is settled by what the
//! endpoint says it cost, given back where it was not taken on, and kept where nobody knows.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use service_kit::now;

/// How long a limit holds.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Limits and what is spent of them.
#[derive(Debug)]
pub(crate) struct Budget {
    max_tokens: Option<u64>,
    max_requests: Option<u64>,
    spent: Mutex<Spent>,
}

#[derive(Debug)]
struct Spent {
    since: Instant,
    tokens: u64,
    requests: u64,
}

/// The day's limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overspent {
    /// When the next day begins.
    pub(crate) retry_after: Duration,
}

/// What a request may cost. Dropped without a word it counts as spent.
#[derive(Debug)]
#[must_use]
pub(crate) struct Reservation<'a> {
    budget: &'a Budget,
    since: Instant,
    tokens: u64,
}

impl Budget {
    /// The first day begins now.
    pub(crate) fn new(max_tokens: Option<u64>, max_requests: Option<u64>) -> Self {
        let spent = Spent {
            since: now(),
            tokens: 0,
            requests: 0,
        };
        Self {
            max_tokens,
            max_requests,
            spent: Mutex::new(spent),
        }
    }

    /// Room for one request that may cost so many tokens.
    pub(crate) fn reserve(&self, tokens: u64) -> Result<Reservation<'_>, Overspent> {
        let mut spent = self.spent();
        let requests_after = spent.requests.saturating_add(1);
        let tokens_after = spent.tokens.saturating_add(tokens);
        let exceeds = |limit: Option<u64>, value: u64| limit.is_some_and(|limit| value > limit);
        if exceeds(self.max_requests, requests_after) || exceeds(self.max_tokens, tokens_after) {
            let passed = now().saturating_duration_since(spent.since);
            return Err(Overspent {
                retry_after: DAY.saturating_sub(passed),
            });
        }
        spent.requests = requests_after;
        spent.tokens = tokens_after;
        Ok(Reservation {
            budget: self,
            since: spent.since,
            tokens,
        })
    }

    /// What is spent today. Counters are consistent even after a panic.
    fn spent(&self) -> MutexGuard<'_, Spent> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        if now.saturating_duration_since(spent.since) >= DAY {
            *spent = Spent {
                since: now,
                tokens: 0,
                requests: 0,
            };
        }
        spent
    }
}

impl Reservation<'_> {
    /// The request cost so many tokens: 0 where the endpoint did not take it on.
    pub(crate) fn settle(self, tokens: u64) {
        let mut spent = self.budget.spent();
        // A reservation of yesterday is not in today's sum.
        let reserved = if spent.since == self.since {
            self.tokens
        } else {
            0
        };
        spent.tokens = spent.tokens.saturating_sub(reserved).saturating_add(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn the_limit_holds_for_a_day() {
        let budget = Budget::new(Some(100), None);
        let first = budget.reserve(60).unwrap();
        tokio::time::advance(HOUR).await;
        let refused = budget.reserve(41).unwrap_err();
        assert_eq!(refused.retry_after, 23 * HOUR);
        first.settle(50);
        drop(budget.reserve(50).unwrap());
        assert!(budget.reserve(1).is_err(), "what was not settled counts");
        tokio::time::advance(23 * HOUR).await;
        assert!(budget.reserve(100).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_on_is_given_back_but_the_request_counts() {
        let budget = Budget::new(Some(100), Some(2));
        budget.reserve(100).unwrap().settle(0);
        budget.reserve(100).unwrap().settle(0);
        assert!(budget.reserve(1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_of_yesterday_is_paid_today() {
        let budget = Budget::new(Some(100), None);
        let late = budget.reserve(80).unwrap();
        tokio::time::advance(24 * HOUR).await;
        drop(budget.reserve(30).unwrap());
        late.settle(70);
        assert!(budget.reserve(1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_everything_is_granted() {
        let budget = Budget::new(None, None);
        for _ in 0..3 {
            drop(budget.reserve(u64::MAX).unwrap());
        }
    }
}
