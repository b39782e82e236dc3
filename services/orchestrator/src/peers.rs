//! The replicas of each stage: asked again and again what they hold.

use crate::clients::{
    ColbertClient, DenseClient, Described, EncoderClient, RerankerClient, SparseClient,
};
use crate::costs::{Costs, PriorCosts};
use crate::error::{CallError, PlaceError, Service};
use crate::placement::{Placement, ReplicaState, ServiceView, View, Wants};
use crate::replicas::Replicas;
use futures::future::join_all;
use search_core::{CollectionName, Deadline, ErrorKind};
use service_kit::{MeshChannel, Readiness, now};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

/// A replica that has not described itself in this time is not reachable: it takes microseconds.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A query waits so long for the news of a snapshot that it can do without.
const LAG_PATIENCE: Duration = Duration::from_millis(50);

/// A replica that was late at so many looks is gone; one that was late once may have had a busy moment, and keeps its holdings.
const MAX_TIMES_LATE: u32 = 2;

/// Channels to the replicas of each stage.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// Encoders. A query goes to one that serves the bundle that its vector has to be of.
    pub encoder: Vec<MeshChannel>,
    /// Sparse retrievers.
    pub sparse: Vec<MeshChannel>,
    /// Dense retrievers. May be empty where no pipeline needs vectors.
    pub dense: Vec<MeshChannel>,
    /// Cross-encoders, or other services that rerank. Where there is none, pipelines that rerank are answered without.
    pub cross_encoder: Vec<MeshChannel>,
    /// Scorers of token vectors. Where there is none, pipelines of late interaction are answered without.
    pub colbert: Vec<MeshChannel>,
}

impl<C> Replicas<C> {
    /// Asks everyone what it holds. A replica that answers with an error, or is late once, holds what it held; one that cannot be reached
    /// nothing.
    async fn look<'a, F>(
        &'a self,
        before: &ServiceView,
        describe: impl Fn(&'a C) -> F,
    ) -> ServiceView
    where
        F: Future<Output = Result<Described, CallError>>,
    {
        let answers = join_all(self.clients().iter().map(describe)).await;
        let replicas = answers
            .into_iter()
            .zip(&before.replicas)
            .map(|(answer, before)| next_state(answer, before));
        ServiceView::new(self.service(), replicas.collect())
    }
}

impl Replicas<EncoderClient> {
    /// Asks everyone which bundles it serves. Who does not answer serves what it served.
    async fn look_at_bundles(
        &self,
        before: &[Vec<String>],
        deadline: Option<Deadline>,
    ) -> Vec<Vec<String>> {
        let clients = self.clients().iter();
        let answers = clients.map(|client| client.bundles(deadline));
        let answers = join_all(answers).await.into_iter().zip(before);
        answers
            .map(|(answer, before)| answer.unwrap_or_else(|_| before.clone()))
            .collect()
    }
}

fn next_state(answer: Result<Described, CallError>, before: &ReplicaState) -> ReplicaState {
    let error = match answer {
        Ok(Described { held, refused }) => {
            return ReplicaState {
                held,
                refused,
                is_reachable: true,
                times_late: 0,
            };
        }
        Err(error) => error,
    };
    let times_late = match error.kind {
        ErrorKind::DeadlineExceeded => before.times_late.saturating_add(1),
        _ => 0,
    };
    let is_gone = error.kind == ErrorKind::Unavailable || times_late >= MAX_TIMES_LATE;
    if before.is_reachable {
        tracing::warn!(%error, is_gone, "a replica does not say what it holds");
    }
    let kept = if is_gone {
        ReplicaState::default()
    } else {
        before.clone()
    };
    ReplicaState { times_late, ..kept }
}

/// The replicas behind these channels.
fn replicas<C>(
    service: Service,
    channels: Vec<MeshChannel>,
    client: impl Fn(MeshChannel) -> C,
) -> Replicas<C> {
    Replicas::new(service, channels.into_iter().map(client))
}

/// All peers, and what they hold.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) encoder: Replicas<EncoderClient>,
    pub(crate) sparse: Replicas<SparseClient>,
    pub(crate) dense: Replicas<DenseClient>,
    pub(crate) colbert: Replicas<ColbertClient>,
    pub(crate) cross_encoder: Replicas<RerankerClient>,
    pub(crate) costs: Costs,
    view: watch::Sender<Arc<View>>,
    looking: Mutex<()>,
    /// Each look is the generation of its view; a caller that gives up leaves a number out.
    looks_begun: AtomicU64,
    /// The view that still lacked a snapshot when a query had looked for it.
    lagging: AtomicU64,
    readiness: Readiness,
}

impl Mesh {
    pub(crate) fn new(peers: Peers, prior_costs: PriorCosts) -> Self {
        let unasked = |service, replicas: &[MeshChannel]| {
            ServiceView::new(service, vec![ReplicaState::default(); replicas.len()])
        };
        let view = View {
            generation: 0,
            sparse: unasked(Service::SparseRetriever, &peers.sparse),
            dense: unasked(Service::DenseRetriever, &peers.dense),
            colbert: unasked(Service::ColbertScorer, &peers.colbert),
            encoders: vec![Vec::new(); peers.encoder.len()],
        };
        Self {
            encoder: replicas(Service::Encoder, peers.encoder, EncoderClient::new),
            sparse: replicas(Service::SparseRetriever, peers.sparse, SparseClient::new),
            dense: replicas(Service::DenseRetriever, peers.dense, DenseClient::new),
            colbert: replicas(Service::ColbertScorer, peers.colbert, ColbertClient::new),
            cross_encoder: replicas(
                Service::CrossEncoder,
                peers.cross_encoder,
                RerankerClient::new,
            ),
            costs: Costs::new(prior_costs),
            view: watch::Sender::new(Arc::new(view)),
            looking: Mutex::new(()),
            looks_begun: AtomicU64::new(0),
            lagging: AtomicU64::new(0),
            readiness: Readiness::starting(),
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Looks at all replicas. A look that began after this was called will do; one that was under way will not, since it may have
    /// missed what was committed just before.
    pub(crate) async fn look(&self) {
        let needed = self.looks_begun.load(Ordering::Acquire) + 1;
        let _one_at_a_time = self.looking.lock().await;
        let before = self.view();
        if before.generation >= needed {
            return;
        }
        let generation = self.looks_begun.fetch_add(1, Ordering::AcqRel) + 1;
        let deadline = Deadline::after(now(), DESCRIBE_TIMEOUT);
        let (sparse, dense, colbert, encoders) = futures::join!(
            self.sparse
                .look(&before.sparse, |client| client.describe(deadline)),
            self.dense
                .look(&before.dense, |client| client.describe(deadline)),
            self.colbert
                .look(&before.colbert, |client| client.describe(deadline)),
            self.encoder.look_at_bundles(&before.encoders, deadline),
        );
        self.readiness.set(sparse.is_reachable());
        self.view.send_replace(Arc::new(View {
            generation,
            sparse,
            dense,
            colbert,
            encoders,
        }));
    }

    /// The encoders that serve a bundle. None: nobody has said so, and what an encoder gives has to be looked at.
    pub(crate) fn encoders_of(&self, fingerprint: &str) -> Option<Vec<usize>> {
        let view = self.view();
        let serves = |bundles: &[String]| bundles.iter().any(|bundle| bundle == fingerprint);
        let serving = view.encoders.iter().enumerate();
        let serving = serving.filter(|(_, bundles)| serves(bundles));
        let serving: Vec<usize> = serving.map(|(position, _)| position).collect();
        (!serving.is_empty()).then_some(serving)
    }

    /// Whether stored documents can be reached.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Looks at all replicas for ever.
    pub(crate) async fn follow(&self, interval: Duration) {
        loop {
            self.look().await;
            tokio::time::sleep(interval).await;
        }
    }

    /// Where a plan runs. What a stage does not know yet may have been committed since it was asked: it is asked once more.
    pub(crate) async fn place(
        &self,
        collection: &CollectionName,
        wants: Wants<'_>,
    ) -> Result<Placement, PlaceError> {
        let view = self.view();
        if view.generation == 0 {
            return self.place_fresh(collection, wants).await;
        }
        let placed = view.place(collection, wants);
        match &placed {
            Ok(placement) if placement.lags() => self.place_later(&view, collection, wants).await,
            Err(PlaceError::UnknownCollection(_) | PlaceError::Refused(_)) => {
                self.place_fresh(collection, wants).await
            }
            Ok(_) | Err(_) => placed,
        }
    }

    /// Where a plan runs that can do without what a service lacks. It is asked for once in a view, and not for long: a service may lack
    /// it for hours.
    async fn place_later(
        &self,
        view: &View,
        collection: &CollectionName,
        wants: Wants<'_>,
    ) -> Result<Placement, PlaceError> {
        if self.lagging.load(Ordering::Relaxed) != view.generation {
            let looked = timeout(LAG_PATIENCE, self.look()).await;
            let now_known = self.view();
            let lagging = looked.map_or(view.generation, |()| now_known.generation);
            self.lagging.store(lagging, Ordering::Relaxed);
            return now_known.place(collection, wants);
        }
        view.place(collection, wants)
    }

    /// Where a plan runs by a new look, when what was known is out of date.
    pub(crate) async fn place_fresh(
        &self,
        collection: &CollectionName,
        wants: Wants<'_>,
    ) -> Result<Placement, PlaceError> {
        self.look().await;
        self.view().place(collection, wants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::{Fingerprints, Held};

    fn failed(kind: ErrorKind) -> Result<Described, CallError> {
        Err(CallError {
            service: Service::SparseRetriever,
            replica: "one".to_owned(),
            kind,
            message: String::new(),
            fields: Vec::new(),
            pushback: None,
        })
    }

    fn holding() -> Described {
        let collection = CollectionName::try_from("docs").unwrap();
        let held = vec![Held {
            snapshot: search_core::SnapshotId {
                collection,
                number: 1,
            },
            shards: 1,
            held_shards: vec![0],
            fingerprints: Fingerprints::default(),
            title_tokens: 126,
            passages: 1,
        }];
        Described {
            held,
            refused: Vec::new(),
        }
    }

    /// Whether a replica that answered once still counts after these looks.
    fn is_kept(kinds: &[Option<ErrorKind>]) -> bool {
        let state = next_state(Ok(holding()), &ReplicaState::default());
        let state = kinds.iter().fold(state, |state, kind| {
            next_state(kind.map_or(Ok(holding()), failed), &state)
        });
        assert_eq!(state.is_reachable, !state.held.is_empty());
        state.is_reachable
    }

    #[test]
    fn a_replica_is_dropped_when_gone_or_late_twice() {
        let (late, gone) = (
            Some(ErrorKind::DeadlineExceeded),
            Some(ErrorKind::Unavailable),
        );
        assert!(is_kept(&[late]));
        assert!(!is_kept(&[late, late]));
        assert!(is_kept(&[late, None, late]));
        assert!(!is_kept(&[gone]));
        assert!(is_kept(&[gone, None]));
        assert!(is_kept(&[Some(ErrorKind::Internal); 5]));
    }

    #[test]
    fn a_replica_that_never_answered_is_not_there() {
        let state = next_state(
            failed(ErrorKind::DeadlineExceeded),
            &ReplicaState::default(),
        );
        assert!(!state.is_reachable && state.held.is_empty());
    }
}
