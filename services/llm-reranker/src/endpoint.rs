//! Gets answers: from the cache, or from the endpoint within the budget, a few requests at a time, trying again where that may help.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use search_core::Deadline;
use service_kit::{Readiness, now};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::budget::{Budget, Overspent};
use crate::cache::{AnswerCache, Key};
use crate::completion::{Answer, Request};
use crate::config::Config;
use crate::error::Error;
use crate::exchange::{Exchange, Failure};
use crate::usage::{Tokens, Usage};

/// The first try and three more: an outage of some seconds is outlived, one of minutes is not.
const MAX_TRIES: u32 = 4;
/// Before the second try; doubled before each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// What an endpoint may ask for; whoever would have to wait longer is told so.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// So many failures in a row, and the service is not ready.
const FAILURES_TO_REST: u32 = 3;
/// After this it is ready again, and the next call tries.
const REST: Duration = Duration::from_secs(30);

/// The endpoint as the methods see it.
pub(crate) struct Endpoint {
    exchange: Exchange,
    cache: AnswerCache,
    budget: Budget,
    permits: Semaphore,
    request_timeout: Duration,
    readiness: Readiness,
    failures_in_a_row: AtomicU32,
}

/// An answer and what it took.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Arc<Answer>,
    pub(crate) usage: Usage,
    /// Waited for other requests.
    pub(crate) queue: Duration,
    /// Waited for the endpoint, between tries too.
    pub(crate) compute: Duration,
    key: Key,
}

impl Endpoint {
    pub(crate) fn new(config: &Config, exchange: Exchange) -> Arc<Self> {
        Arc::new(Self {
            exchange,
            cache: AnswerCache::new(config.answer_cache_bytes),
            budget: Budget::new(config.day_tokens, config.day_requests),
            permits: Semaphore::new(config.concurrent_requests),
            request_timeout: config.request_timeout,
            readiness: Readiness::ready(),
            failures_in_a_row: AtomicU32::new(0),
        })
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// An answer to this request. Dropped, it is abandoned; a wait that would end after the deadline is not begun.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        request: Request,
        deadline: Option<Deadline>,
    ) -> Result<Answered, Error> {
        let key = Key::of(&request.body);
        if let Some(answer) = self.cache.get(key) {
            let usage = Usage {
                cached_answers: 1,
                ..Usage::default()
            };
            return Ok(Answered {
                answer,
                usage,
                queue: Duration::ZERO,
                compute: Duration::ZERO,
                key,
            });
        }
        // A task of its own: the stream of a caller that does not read is not polled, and would keep its permits as long.
        let asked = Arc::clone(self).ask_endpoint(request, key, deadline);
        let task = AbortOnDropHandle::new(tokio::spawn(asked.in_current_span()));
        // It is aborted by nobody else.
        task.await
            .unwrap_or_else(|failed| resume_unwind(failed.into_panic()))
    }

    async fn ask_endpoint(
        self: Arc<Self>,
        request: Request,
        key: Key,
        deadline: Option<Deadline>,
    ) -> Result<Answered, Error> {
        let came = Instant::now();
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.ok();
        let began = Instant::now();
        let (answer, usage) = self.try_some_times(&request, deadline).await?;
        Ok(Answered {
            answer: Arc::new(answer),
            usage,
            queue: began - came,
            compute: began.elapsed(),
            key,
        })
    }

    /// Keeps an answer that could be used: the same request gets it again.
    pub(crate) fn keep(&self, answered: &Answered) {
        if answered.usage.cached_answers == 0 {
            self.cache
                .insert(answered.key, Arc::clone(&answered.answer));
        }
    }

    async fn try_some_times(
        &self,
        request: &Request,
        deadline: Option<Deadline>,
    ) -> Result<(Answer, Usage), Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let failure = match self.try_once(request).await? {
                Ok(answer) => {
                    self.note_success();
                    let tokens = answer.tokens.unwrap_or(request.estimate);
                    return Ok((
                        answer,
                        Usage {
                            requests: tries,
                            tokens,
                            ..Usage::default()
                        },
                    ));
                }
                Err(failure) => failure,
            };
            tracing::warn!(?failure, tries, "the endpoint gave no answer");
            let wait = wait_before(&failure, tries).filter(|wait| is_in_time(*wait, deadline));
            let Some(wait) = wait else {
                return Err(self.give_up(failure));
            };
            sleep(wait).await;
        }
    }

    /// One exchange within the budget and the time that it may take.
    async fn try_once(&self, request: &Request) -> Result<Result<Answer, Failure>, Error> {
        let reserved = self.budget.reserve(request.estimate.total());
        let reservation =
            reserved.map_err(|Overspent { retry_after }| Error::Overspent { retry_after })?;
        let exchange = timeout(
            self.request_timeout,
            self.exchange.ask(request.body.clone()),
        )
        .await;
        let outcome = exchange.unwrap_or(Err(Failure::TooSlow));
        match &outcome {
            Ok(answer) => reservation.settle(
                answer
                    .tokens
                    .map_or(request.estimate.total(), Tokens::total),
            ),
            Err(failure) if failure.may_cost() => drop(reservation),
            Err(_) => reservation.settle(0),
        }
        Ok(outcome)
    }

    fn note_success(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.readiness.set(true);
    }

    fn give_up(&self, failure: Failure) -> Error {
        let error = error_of(failure, self.request_timeout);
        if error.is_of_the_endpoint() {
            self.note_failure();
        }
        error
    }

    /// An endpoint that is out of order gets a rest, in which whoever looks at the service's health goes elsewhere.
    fn note_failure(&self) {
        let failures = self
            .failures_in_a_row
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if failures < FAILURES_TO_REST || !self.readiness.is_ready() {
            return;
        }
        self.readiness.set(false);
        let readiness = self.readiness.clone();
        tokio::spawn(async move {
            sleep(REST).await;
            readiness.set(true);
        });
    }
}

/// How long to wait before the next try; none where there should be none.
fn wait_before(failure: &Failure, tries: u32) -> Option<Duration> {
    if tries >= MAX_TRIES {
        return None;
    }
    let backoff = FIRST_BACKOFF * 2_u32.pow(tries - 1);
    // Callers that failed together do not come back together.
    let jittered = backoff.mul_f64(rand::random_range(0.5..1.0));
    match failure {
        Failure::Busy {
            retry_after: Some(wait),
            ..
        } => (*wait <= MAX_WAIT).then(|| jittered.max(*wait)),
        Failure::Busy {
            retry_after: None, ..
        }
        | Failure::Unreached(_)
        | Failure::Broken(_) => Some(jittered),
        Failure::TooSlow
        | Failure::OutOfQuota
        | Failure::Refused { .. }
        | Failure::Unreadable(_) => None,
    }
}

fn is_in_time(wait: Duration, deadline: Option<Deadline>) -> bool {
    let left = deadline.map(|deadline| deadline.remaining(now()));
    left.is_none_or(|left| left.is_some_and(|left| wait < left))
}

fn error_of(failure: Failure, request_timeout: Duration) -> Error {
    match failure {
        Failure::Busy {
            status,
            retry_after,
        } if status.as_u16() == 429 => Error::Busy {
            status: 429,
            retry_after: retry_after.unwrap_or(MAX_WAIT),
        },
        Failure::Busy { status, .. } => Error::Unavailable {
            reason: format!("it answers {status}"),
        },
        Failure::Unreached(reason) | Failure::Broken(reason) => Error::Unavailable { reason },
        Failure::TooSlow => Error::Unavailable {
            reason: format!("no answer within {request_timeout:?}"),
        },
        Failure::OutOfQuota => Error::Refused {
            status: 429,
            code: Some("insufficient_quota".into()),
        },
        Failure::Refused { status, code } => Error::Refused {
            status: status.as_u16(),
            code,
        },
        Failure::Unreadable(reason) => Error::Unreadable { reason },
    }
}
