//! The replicas of each stage: asked again and again what they hold.

use crate::clients::{
    ColbertClient, DenseClient, Described, EncoderClient, RerankerClient, SparseClient,
};
use crate::costs::{Costs, PriorCosts};
use crate::error::{CallError, PlaceError, Service};
use crate::placement::{Placement, ReplicaState, ServiceView, View, Wants};
use crate::plan::{HeadStage, VectorStage};
use crate::replicas::Replicas;
use futures::future::join_all;
use search_core::{CollectionName, Deadline, ErrorKind};
use service_kit::{Channels, MeshChannel, Readiness, now};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

/// A replica that has not described itself in this time is not reachable: it takes microseconds.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A query waits so long for the news of a snapshot that it can do without.
const LAG_PATIENCE: Duration = Duration::from_millis(50);

/// A replica that was late at so many looks is gone; one that was late once may have had a busy moment, and keeps its holdings.
const MAX_TIMES_LATE: u32 = 2;

/// Channels to the replicas of each stage: always the same ones, or [`Channels`] to those that there are.
#[derive(Clone, Debug, Default)]
pub struct Peers<Set = Vec<MeshChannel>> {
    /// Encoders. A query goes to one that serves the bundle that its vector has to be of.
    pub encoder: Set,
    /// Sparse retrievers.
    pub sparse: Set,
    /// Dense retrievers. May be none where no pipeline needs vectors.
    pub dense: Set,
    /// Cross-encoders, or other services that rerank. Where none is configured, pipelines that rerank are answered without.
    pub cross_encoder: Set,
    /// Scorers of token vectors. Where none is configured, pipelines of late interaction are answered without.
    pub colbert: Set,
}

impl From<Peers> for Peers<Channels> {
    fn from(peers: Peers) -> Self {
        Self {
            encoder: peers.encoder.into(),
            sparse: peers.sparse.into(),
            dense: peers.dense.into(),
            cross_encoder: peers.cross_encoder.into(),
            colbert: peers.colbert.into(),
        }
    }
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
        let answers = join_all(self.clients().map(describe)).await;
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
        let answers = self.clients().map(|client| client.bundles(deadline));
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
                failure: None,
            };
        }
        Err(error) => error,
    };
    let times_late = match error.kind {
        ErrorKind::DeadlineExceeded => before.times_late.saturating_add(1),
        _ => 0,
    };
    let is_gone = error.kind == ErrorKind::Unavailable || times_late >= MAX_TIMES_LATE;
    if before.failure != Some(error.kind) {
        tracing::warn!(%error, is_gone, "a replica does not say what it holds");
    }
    let kept = if is_gone {
        ReplicaState::default()
    } else {
        before.clone()
    };
    ReplicaState {
        times_late,
        failure: Some(error.kind),
        ..kept
    }
}

/// The replicas that there are, and what they said last. A query is answered by those of one look, whoever comes and goes meanwhile.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) encoder: Arc<Replicas<EncoderClient>>,
    pub(crate) sparse: Arc<Replicas<SparseClient>>,
    pub(crate) dense: Arc<Replicas<DenseClient>>,
    pub(crate) colbert: Arc<Replicas<ColbertClient>>,
    pub(crate) cross_encoder: Arc<Replicas<RerankerClient>>,
    pub(crate) costs: Arc<Costs>,
    pub(crate) view: View,
}

impl Known {
    /// Nobody was asked yet.
    fn new(peers: &Peers<Channels>, costs: Costs) -> Self {
        fn replicas<C>(
            service: Service,
            channels: &Channels,
            client: impl Fn(MeshChannel) -> C,
        ) -> Arc<Replicas<C>> {
            Arc::new(Replicas::of(service, channels, client))
        }
        let encoder = replicas(Service::Encoder, &peers.encoder, EncoderClient::new);
        let sparse = replicas(Service::SparseRetriever, &peers.sparse, SparseClient::new);
        let dense = replicas(Service::DenseRetriever, &peers.dense, DenseClient::new);
        let colbert = replicas(Service::ColbertScorer, &peers.colbert, ColbertClient::new);
        Self {
            view: View {
                generation: 0,
                sparse: unasked(&sparse),
                dense: unasked(&dense),
                colbert: unasked(&colbert),
                encoders: vec![Vec::new(); encoder.clients().count()],
            },
            cross_encoder: replicas(
                Service::CrossEncoder,
                &peers.cross_encoder,
                RerankerClient::new,
            ),
            costs: Arc::new(costs),
            encoder,
            sparse,
            dense,
            colbert,
        }
    }

    /// The replicas that there are now, with what is known of those that were there.
    fn followed(&self, peers: &Peers<Channels>) -> Self {
        let View {
            generation,
            sparse,
            dense,
            colbert,
            encoders,
        } = &self.view;
        let (sparse, sparse_view) =
            followed(&self.sparse, sparse, &peers.sparse, SparseClient::new);
        let (dense, dense_view) = followed(&self.dense, dense, &peers.dense, DenseClient::new);
        let (colbert, colbert_view) =
            followed(&self.colbert, colbert, &peers.colbert, ColbertClient::new);
        let (encoder, encoders) = match self.encoder.followed(&peers.encoder, EncoderClient::new) {
            Some((replicas, positions)) => (Arc::new(replicas), kept(encoders, &positions)),
            None => (Arc::clone(&self.encoder), encoders.clone()),
        };
        let rerankers = self
            .cross_encoder
            .followed(&peers.cross_encoder, RerankerClient::new);
        Self {
            encoder,
            sparse,
            dense,
            colbert,
            cross_encoder: rerankers.map_or_else(
                || Arc::clone(&self.cross_encoder),
                |(replicas, _)| Arc::new(replicas),
            ),
            costs: Arc::clone(&self.costs),
            view: View {
                generation: *generation,
                sparse: sparse_view,
                dense: dense_view,
                colbert: colbert_view,
                encoders,
            },
        }
    }

    fn place(
        self: Arc<Self>,
        collection: &CollectionName,
        wants: Wants<'_>,
    ) -> Result<Place, PlaceError> {
        let placement = self.view.place(collection, wants)?;
        Ok((self, placement))
    }

    /// The encoders that serve a bundle. None: nobody has said so, and what an encoder gives has to be looked at.
    pub(crate) fn encoders_of(&self, fingerprint: &str) -> Option<Vec<usize>> {
        let serves = |bundles: &[String]| bundles.iter().any(|bundle| bundle == fingerprint);
        let serving = self.view.encoders.iter().enumerate();
        let serving = serving.filter(|(_, bundles)| serves(bundles));
        let serving: Vec<usize> = serving.map(|(position, _)| position).collect();
        (!serving.is_empty()).then_some(serving)
    }
}

fn unasked<C>(replicas: &Replicas<C>) -> ServiceView {
    let states = replicas.clients().map(|_| ReplicaState::default());
    ServiceView::new(replicas.service(), states.collect())
}

fn followed<C>(
    replicas: &Arc<Replicas<C>>,
    view: &ServiceView,
    channels: &Channels,
    client: impl Fn(MeshChannel) -> C,
) -> (Arc<Replicas<C>>, ServiceView) {
    match replicas.followed(channels, client) {
        Some((replicas, positions)) => {
            let states = kept(&view.replicas, &positions);
            let view = ServiceView::new(replicas.service(), states);
            (Arc::new(replicas), view)
        }
        None => (Arc::clone(replicas), view.clone()),
    }
}

/// What was known of who had these positions; of newcomers nothing.
fn kept<T: Clone + Default>(known: &[T], positions: &[Option<usize>]) -> Vec<T> {
    let known = |position: &Option<usize>| position.map(|position| known[position].clone());
    positions
        .iter()
        .map(|position| known(position).unwrap_or_default())
        .collect()
}

/// All peers, and what they hold.
#[derive(Debug)]
pub(crate) struct Mesh {
    peers: Peers<Channels>,
    known: watch::Sender<Arc<Known>>,
    looking: Mutex<()>,
    /// Each look is the generation of its view; a caller that gives up leaves a number out.
    looks_begun: AtomicU64,
    /// Collections of which a service still lacked a snapshot when a query had looked for it, and in which view.
    lagging: StdMutex<HashMap<CollectionName, u64>>,
    readiness: Readiness,
}

/// Where a plan runs: a placement speaks of the replicas by their positions among these.
pub(crate) type Place = (Arc<Known>, Placement);

impl Mesh {
    pub(crate) fn new(peers: Peers<Channels>, prior_costs: PriorCosts) -> Self {
        let known = Known::new(&peers, Costs::new(prior_costs));
        Self {
            known: watch::Sender::new(Arc::new(known)),
            peers,
            looking: Mutex::new(()),
            looks_begun: AtomicU64::new(0),
            lagging: StdMutex::default(),
            readiness: Readiness::starting(),
        }
    }

    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.borrow())
    }

    /// Whether there is to be somebody to do what the stage does, beside the retrievers.
    pub(crate) fn has_service_of(&self, stage: HeadStage) -> bool {
        match stage {
            HeadStage::Vectors(VectorStage::Rescore) => true,
            HeadStage::Vectors(VectorStage::LateInteraction) => self.peers.colbert.is_configured(),
            HeadStage::Rerank => self.peers.cross_encoder.is_configured(),
        }
    }

    /// Looks at all replicas. A look that began after this was called will do; one that was under way will not, since it may have
    /// missed what was committed just before.
    pub(crate) async fn look(&self) {
        let needed = self.looks_begun.load(Ordering::Acquire) + 1;
        let _one_at_a_time = self.looking.lock().await;
        let before = self.known();
        if before.view.generation >= needed {
            return;
        }
        let Known {
            encoder,
            sparse,
            dense,
            colbert,
            cross_encoder,
            costs,
            view: before,
        } = before.followed(&self.peers);
        let generation = self.looks_begun.fetch_add(1, Ordering::AcqRel) + 1;
        let deadline = Deadline::after(now(), DESCRIBE_TIMEOUT);
        let view = futures::join!(
            sparse.look(&before.sparse, |client| client.describe(deadline)),
            dense.look(&before.dense, |client| client.describe(deadline)),
            colbert.look(&before.colbert, |client| client.describe(deadline)),
            encoder.look_at_bundles(&before.encoders, deadline),
        );
        self.readiness.set(view.0.is_reachable());
        self.known.send_replace(Arc::new(Known {
            view: View {
                generation,
                sparse: view.0,
                dense: view.1,
                colbert: view.2,
                encoders: view.3,
            },
            encoder,
            sparse,
            dense,
            colbert,
            cross_encoder,
            costs,
        }));
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
    ) -> Result<Place, PlaceError> {
        let known = self.known();
        if known.view.generation == 0 {
            return self.place_fresh(collection, wants).await;
        }
        match known.view.place(collection, wants) {
            Ok(placement) if placement.lags() => self.place_later(known, collection, wants).await,
            Ok(placement) => Ok((known, placement)),
            Err(PlaceError::UnknownCollection(_) | PlaceError::Refused(_)) => {
                self.place_fresh(collection, wants).await
            }
            Err(error) => Err(error),
        }
    }

    /// Where a plan runs that can do without what a service lacks. It is asked for once in a view, and not for long: a service may lack
    /// it for hours.
    async fn place_later(
        &self,
        known: Arc<Known>,
        collection: &CollectionName,
        wants: Wants<'_>,
    ) -> Result<Place, PlaceError> {
        let generation = known.view.generation;
        if self.lagging().get(collection) == Some(&generation) {
            return known.place(collection, wants);
        }
        let looked = timeout(LAG_PATIENCE, self.look()).await;
        let known = self.known();
        let lagging = looked.map_or(generation, |()| known.view.generation);
        self.lagging().insert(collection.clone(), lagging);
        known.place(collection, wants)
    }

    /// Only those that exist get in.
    fn lagging(&self) -> MutexGuard<'_, HashMap<CollectionName, u64>> {
        self.lagging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a plan runs by a new look, when what was known is out of date.
    pub(crate) async fn place_fresh(
        &self,
        collection: &CollectionName,
        wants: Wants<'_>,
    ) -> Result<Place, PlaceError> {
        self.look().await;
        self.known().place(collection, wants)
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
