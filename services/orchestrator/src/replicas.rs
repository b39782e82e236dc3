//! The replicas of one service, as they are called: the less loaded of two first, and another one where that does not do.
//!
//! - **Whom.** Two of those that hold what is asked for are drawn, and the one is called whose answer is to be expected sooner: by its
//!   latency, the calls that it has in flight, and the share of its calls that go well.
//! - **Hedge.** When a call takes longer than 19 of 20 recent ones of the service, another replica is asked too. The first good answer
//!   counts, and the other call is cancelled.
//! - **Retry.** When a call fails in a way that another replica's may not, another one is asked, if none was.
//! - **Budget.** That makes two calls at most. Those beyond the first are paid from what first calls pay in: they are one in ten, also
//!   where everything fails.
//! - **Ejection.** A replica whose calls fail, or take long, is left out for a time, and probed by one call then.
//!
//! To ask twice is right because nothing that is called here changes anything: all calls of a search are reads. A call that carries a
//! deadline keeps it, an extra one too: with no time left it ends before the wire.

mod budget;
mod latency;
mod roster;
mod standing;
#[cfg(test)]
mod tests;

use crate::error::{CallError, Service};
use crate::metrics::CallKind;
use futures::future::{Either, select};
use roster::{InFlight, Outcome, Roster};
use service_kit::{Channels, MeshChannel};
use std::ops::{Deref, DerefMut};
use std::pin::{Pin, pin};
use std::sync::Arc;
use tokio::time::timeout;

/// Replicas of one service, by their positions: those that there are at one time.
#[derive(Debug)]
pub(crate) struct Replicas<C> {
    roster: Roster,
    clients: Vec<Arc<C>>,
    /// Of their channels.
    names: Vec<String>,
    is_configured: bool,
}

/// An answer that may go on, as a stream does: the replica has its call in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct Open<'a, T> {
    answer: T,
    in_flight: InFlight<'a>,
}

impl<T> Deref for Open<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.answer
    }
}

impl<T> DerefMut for Open<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.answer
    }
}

/// Whether a second call may run beside a slow first one. What a cross-encoder reads is too dear to be read twice.
const fn is_hedged(service: Service) -> bool {
    match service {
        Service::Encoder
        | Service::SparseRetriever
        | Service::DenseRetriever
        | Service::ColbertScorer => true,
        Service::CrossEncoder => false,
    }
}

impl<C> Replicas<C> {
    /// Those that a service has now.
    pub(crate) fn of(
        service: Service,
        channels: &Channels,
        client: impl Fn(MeshChannel) -> C,
    ) -> Self {
        let now = channels.now();
        Self {
            names: now.iter().map(name_of).collect(),
            is_configured: channels.is_configured(),
            ..Self::new(service, now.iter().cloned().map(client))
        }
    }

    fn new(service: Service, clients: impl IntoIterator<Item = C>) -> Self {
        let clients: Vec<Arc<C>> = clients.into_iter().map(Arc::new).collect();
        Self {
            roster: Roster::new(service, clients.len()),
            clients,
            names: Vec::new(),
            is_configured: true,
        }
    }

    /// Those that the service has now, where they are others than these; beside each the position that it had. Who stays keeps its
    /// connection and its standing.
    pub(crate) fn followed(
        &self,
        channels: &Channels,
        client: impl Fn(MeshChannel) -> C,
    ) -> Option<(Self, Vec<Option<usize>>)> {
        let now = channels.now();
        let names: Vec<String> = now.iter().map(name_of).collect();
        if names == self.names {
            return None;
        }
        let position_of = |name: &String| self.names.iter().position(|known| known == name);
        let positions: Vec<Option<usize>> = names.iter().map(position_of).collect();
        let members = now.iter().zip(&positions);
        let clients = members.map(|(channel, position)| match position {
            Some(position) => Arc::clone(&self.clients[*position]),
            None => Arc::new(client(channel.clone())),
        });
        let followed = Self {
            clients: clients.collect(),
            roster: self.roster.with_members(&positions),
            names,
            is_configured: self.is_configured,
        };
        Some((followed, positions))
    }

    pub(crate) fn service(&self) -> Service {
        self.roster.service()
    }

    /// Whether there are to be any.
    pub(crate) const fn is_configured(&self) -> bool {
        self.is_configured
    }

    /// All of them, where what they hold is of no matter.
    pub(crate) fn everyone(&self) -> Vec<usize> {
        (0..self.clients.len()).collect()
    }

    pub(crate) fn clients(&self) -> impl Iterator<Item = &C> {
        self.clients.iter().map(Arc::as_ref)
    }

    /// Calls one of the holders, and another one where that fails or takes long.
    pub(crate) async fn call<'a, T, F>(
        &'a self,
        holders: &[usize],
        call: impl Fn(&'a C) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let open = self.open(holders, call).await?;
        Ok(open.answer)
    }

    /// The same, where the answer is only begun when the call returns.
    pub(crate) async fn open<'a, T, F>(
        &'a self,
        holders: &[usize],
        call: impl Fn(&'a C) -> F,
    ) -> Result<Open<'a, T>, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let ask = |position: usize, kind: CallKind| {
            let in_flight = self.roster.begin(position, holders, kind);
            follow(in_flight, call(&self.clients[position]))
        };
        let first = self.roster.first(holders).ok_or_else(|| self.nobody())?;
        let mut first_call = pin!(ask(first, CallKind::First));
        let outcome = match self.wait_patiently(first_call.as_mut()).await {
            Some(outcome) => outcome,
            None => match self.roster.extra(holders, first, CallKind::Hedge) {
                Some(second) => {
                    let hedge = pin!(ask(second, CallKind::Hedge));
                    return first_good(first_call, hedge).await;
                }
                None => first_call.await,
            },
        };
        match outcome {
            Err(error) if error.kind.is_retryable() => {
                let second = self.roster.extra(holders, first, CallKind::Retry);
                let Some(second) = second else {
                    return Err(error);
                };
                tracing::debug!(%error, "asking another replica");
                ask(second, CallKind::Retry).await
            }
            outcome => outcome,
        }
    }

    /// The outcome of a call; none when it is time for a hedge.
    async fn wait_patiently<O>(&self, call: Pin<&mut impl Future<Output = O>>) -> Option<O> {
        let patience = self.roster.patience();
        match patience.filter(|_| is_hedged(self.service())) {
            Some(patience) => timeout(patience, call).await.ok(),
            None => Some(call.await),
        }
    }

    fn nobody(&self) -> CallError {
        CallError::nobody(self.service())
    }
}

fn name_of(channel: &MeshChannel) -> String {
    channel.name().to_owned()
}

/// Keeps account of a call.
async fn follow<'a, T>(
    mut in_flight: InFlight<'a>,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<Open<'a, T>, CallError> {
    match call.await {
        Ok(answer) => {
            in_flight.end(Outcome::Answered);
            Ok(Open { answer, in_flight })
        }
        Err(error) => {
            in_flight.end(Outcome::of(error.kind));
            Err(error)
        }
    }
}

/// The answer that comes first. An error counts only where the other call brings one too.
async fn first_good<'a, T>(
    first: Pin<&mut impl Future<Output = Result<Open<'a, T>, CallError>>>,
    hedge: Pin<&mut impl Future<Output = Result<Open<'a, T>, CallError>>>,
) -> Result<Open<'a, T>, CallError> {
    let open = match select(first, hedge).await {
        Either::Left((outcome, hedge)) => or_other(outcome, hedge).await,
        Either::Right((outcome, first)) => or_other(outcome, first).await,
    }?;
    open.in_flight.win();
    Ok(open)
}

/// Of two errors the one that is of the request says more.
async fn or_other<T>(
    outcome: Result<T, CallError>,
    other: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    match outcome {
        Ok(answer) => Ok(answer),
        Err(error) => other.await.map_err(|other| {
            if Outcome::of(error.kind) == Outcome::Refused {
                error
            } else {
                other
            }
        }),
    }
}
