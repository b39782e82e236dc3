//! The service: a model behind an endpoint, and how it is asked.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use hyper_util::client::legacy::connect::Connect;
use search_core::{Deadline, FieldError};
use service_kit::{ConfigError, Readiness, now};
use sha2::{Digest, Sha256};
use tokio::time::timeout_at;

use crate::completion::Template;
use crate::config::{Config, Method};
use crate::endpoint::{Answered, Endpoint};
use crate::error::Error;
use crate::exchange::{self, Exchange};
use crate::prompt::{self, Inert};
use crate::usage::Usage;
use crate::{listwise, pointwise};

pub use crate::exchange::{StartError, TlsError};

/// The way of an answer to the caller; of short times a quarter.
const ANSWER_MARGIN: Duration = Duration::from_millis(5);

/// The reranker over a language model.
pub struct App {
    model: Arc<Model>,
    fingerprint: String,
}

/// What is asked, and how.
pub(crate) struct Model {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) template: Template,
    pub(crate) method: Method,
    pub(crate) window: usize,
    pub(crate) step: usize,
    pub(crate) passage_chars: usize,
    pub(crate) concurrent_requests: usize,
    call_tokens: Option<u64>,
}

/// What is to be ranked.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) query: String,
    pub(crate) passages: Vec<Inert>,
}

/// Passages whose scores are final.
#[derive(Debug, Default)]
pub(crate) struct Scored {
    pub(crate) passages: Vec<Passage>,
    pub(crate) usage: Usage,
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
}

/// A passage and its score.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passage {
    /// Among those of the call.
    pub(crate) index: usize,
    pub(crate) logit: f32,
    /// Its part of the prompts' tokens.
    pub(crate) tokens: u64,
    /// The window, or the passage that was asked about, counted within the call.
    pub(crate) batch: u32,
    pub(crate) is_truncated: bool,
}

impl Scored {
    pub(crate) fn take_times(&mut self, answered: &Answered) {
        self.queue = answered.queue;
        self.compute = answered.compute;
    }
}

impl App {
    /// A service over the configured endpoint. It is ready at once: nothing is asked before somebody calls.
    ///
    /// # Errors
    /// When no endpoint is configured, its key cannot be read, or TLS cannot be used.
    pub fn start(config: Config) -> Result<Arc<Self>, StartError> {
        let destination = config.destination()?;
        let exchange = exchange::over_network(destination, config.concurrent_requests)?;
        Ok(Self::over(config, exchange))
    }

    /// The same over connections of another kind, for an endpoint inside the process.
    ///
    /// # Errors
    /// When no endpoint is configured or its key cannot be read.
    pub fn start_over<C>(config: Config, connector: C) -> Result<Arc<Self>, ConfigError>
    where
        C: Connect + Clone + Send + Sync + 'static,
    {
        let destination = config.destination()?;
        let exchange = Exchange::over(connector, destination, config.concurrent_requests);
        Ok(Self::over(config, exchange))
    }

    fn over(config: Config, exchange: Exchange) -> Arc<Self> {
        let fingerprint = fingerprint(&config);
        tracing::info!(model = config.model, method = ?config.method, fingerprint, "serving");
        let model = Model {
            endpoint: Endpoint::new(&config, exchange),
            template: Template {
                model: config.model,
                parameters: config.parameters,
                with_alternatives: config.method == Method::Pointwise,
            },
            method: config.method,
            window: config.window,
            step: config.step,
            passage_chars: config.passage_chars,
            concurrent_requests: config.concurrent_requests,
            call_tokens: config.call_tokens,
        };
        Arc::new(Self {
            model: Arc::new(model),
            fingerprint,
        })
    }

    /// Whether the endpoint has answered lately, as far as it was asked.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        self.model.endpoint.readiness()
    }

    pub(crate) fn model_name(&self) -> &str {
        &self.model.template.model
    }

    /// What scores come from: model, method, prompts and settings that change them.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The scores, as they become final. Dropped, nothing more is asked. Past the deadline's margin it ends; that is an error only
    /// where nothing came before.
    pub(crate) fn score(
        &self,
        query: &str,
        passages: &[String],
        deadline: Option<Deadline>,
    ) -> Result<BoxStream<'static, Result<Scored, Error>>, Error> {
        let model = Arc::clone(&self.model);
        let texts = model.read(query, passages);
        model.check_cost(&texts)?;
        let deadline = deadline.and_then(before_the_caller);
        let scores = match model.method {
            Method::Listwise => listwise::rank(model, texts, deadline).boxed(),
            Method::Pointwise => pointwise::judge(model, texts, deadline).boxed(),
        };
        Ok(until(deadline, scores).boxed())
    }
}

impl Model {
    fn read(&self, query: &str, passages: &[String]) -> Texts {
        let passages = passages
            .iter()
            .map(|passage| Inert::new(passage, self.passage_chars));
        Texts {
            query: Inert::new(query, usize::MAX).text,
            passages: passages.collect(),
        }
    }

    /// Refuses a call that may cost too much before anything is spent on it.
    fn check_cost(&self, texts: &Texts) -> Result<(), Error> {
        let Some(limit) = self.call_tokens else {
            return Ok(());
        };
        let needed = match self.method {
            Method::Listwise => listwise::most_tokens(self, texts),
            Method::Pointwise => pointwise::most_tokens(self, texts),
        };
        if needed <= limit {
            return Ok(());
        }
        let message = format!(
            "may take about {needed} tokens of the language model, a call may take {limit} (call_tokens)"
        );
        Err(FieldError::new("passages", message).into())
    }
}

fn before_the_caller(deadline: Deadline) -> Option<Deadline> {
    let left = deadline.remaining(now()).unwrap_or_default();
    let margin = ANSWER_MARGIN.min(left / 4);
    deadline.instant().checked_sub(margin).map(Deadline::new)
}

/// Ends the scores at the deadline.
fn until(
    deadline: Option<Deadline>,
    scores: BoxStream<'static, Result<Scored, Error>>,
) -> impl futures::Stream<Item = Result<Scored, Error>> + Send {
    let state = (Some(scores), false);
    stream::unfold(state, move |(scores, has_some)| async move {
        let mut scores = scores?;
        let next = match deadline {
            None => Ok(scores.next().await),
            Some(deadline) => timeout_at(deadline.instant().into(), scores.next()).await,
        };
        match next {
            Ok(next) => {
                let next = next?;
                let has_some = has_some
                    || next
                        .as_ref()
                        .is_ok_and(|scored| !scored.passages.is_empty());
                // After an error there is nothing.
                let scores = next.is_ok().then_some(scores);
                Some((next, (scores, has_some)))
            }
            Err(_) if has_some => None,
            Err(_) => Some((Err(Error::DeadlineExceeded), (None, false))),
        }
    })
}

/// Hex SHA-256 of everything that scores depend on, but for the endpoint: a model may move.
fn fingerprint(config: &Config) -> String {
    let example = [
        Inert::new("passage", usize::MAX),
        Inert::new("passage", usize::MAX),
    ];
    let prompts = [
        prompt::listwise("query", example.iter()),
        prompt::pointwise("query", &example[0]),
    ];
    let all = format!(
        "{:?}",
        (
            &config.model,
            config.method,
            config.window,
            config.step,
            config.passage_chars,
            &config.parameters,
            prompts,
        )
    );
    hex::encode(Sha256::digest(all))
}
