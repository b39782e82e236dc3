//! The orchestrator as a whole: its peers, its pipelines, and one search.

use crate::admission::Door;
use crate::config::Config;
use crate::error::SearchError;
use crate::funnel::{Answer, Listener, Run, within};
use crate::metrics::AnswerCounters;
use crate::peers::{Known, Mesh, Peers, Place};
use crate::plan::{Pipeline, Pipelines, Plan, Request};
use service_kit::{Channels, Readiness};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// A running orchestrator. Dropped, it stops asking its peers.
#[derive(Debug)]
pub struct App {
    pipelines: Pipelines,
    counters: AnswerCounters,
    door: Door,
    mesh: Arc<Mesh>,
    following: JoinHandle<()>,
}

impl App {
    /// Starts to ask the peers what they hold; ready once stored documents can be reached. Must be called inside the runtime.
    #[must_use]
    pub fn start(config: Config, peers: impl Into<Peers<Channels>>) -> Arc<Self> {
        let mesh = Arc::new(Mesh::new(peers.into(), config.prior_costs));
        let (followed, interval) = (Arc::clone(&mesh), config.describe_interval);
        let following = tokio::spawn(async move { followed.follow(interval).await });
        Arc::new(Self {
            door: Door::new(&config.pipelines),
            pipelines: config.pipelines,
            counters: AnswerCounters::new(),
            mesh,
            following,
        })
    }

    /// Whether searches can be answered.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        self.mesh.readiness()
    }

    /// Asks the peers now what they hold, after a commit that a search is to see.
    pub async fn poke(&self) {
        self.mesh.look().await;
    }

    pub(crate) fn pipelines(&self) -> &Pipelines {
        &self.pipelines
    }

    /// Whether there are the services that score the head. Pipelines are answered without where there are none, but not offered.
    pub(crate) fn has_services_of(&self, pipeline: &Pipeline) -> bool {
        let mut parts = pipeline.head.iter();
        parts.all(|part| self.mesh.has_service_of(part.stage))
    }

    /// What the replicas said last.
    pub(crate) fn known(&self) -> Arc<Known> {
        self.mesh.known()
    }

    /// The answer, counted. A listener is told of what there is on the way to it.
    pub(crate) async fn search(
        &self,
        request: Request,
        listener: Option<&Listener>,
    ) -> Result<Answer, SearchError> {
        let answer = self.traced(request, listener).await;
        let outcome = answer.as_ref();
        let outcome = outcome.map(|answer| &answer.stages[..]);
        self.counters.add(outcome.map_err(SearchError::kind));
        answer
    }

    async fn traced(
        &self,
        request: Request,
        listener: Option<&Listener>,
    ) -> Result<Answer, SearchError> {
        let mut plan = Plan::new(request, &self.pipelines)?;
        let place = self.door.enter(&mut plan)?;
        let span = tracing::info_span!(
            "search",
            collection = %plan.request.collection,
            pipeline = plan.pipeline.name,
            k = plan.request.k,
            snapshot = tracing::field::Empty,
            degraded = tracing::field::Empty,
        );
        tracing::debug!(parent: &span, query = plan.request.query, "searching");
        let answer = within(plan.request.deadline, self.answer(&plan, listener));
        let answer = answer.instrument(span.clone()).await;
        place.leave(&answer);
        let answer = answer?;
        span.record("snapshot", answer.snapshot.number);
        span.record("degraded", answer.is_degraded());
        Ok(answer)
    }

    /// Replicas retire snapshots while queries are on their way: one that met this is placed and run once more.
    async fn answer(
        &self,
        plan: &Plan,
        listener: Option<&Listener>,
    ) -> Result<Answer, SearchError> {
        let collection = &plan.request.collection;
        let place = self.mesh.place(collection, plan.wants()).await?;
        let snapshot = &place.1.snapshot;
        match run(plan, &place).answer(listener).await {
            Err(error) if error.is_stale_snapshot() => {
                tracing::debug!(%error, %snapshot, "looking for a newer snapshot");
                let fresh = self.mesh.place_fresh(collection, plan.wants()).await?;
                run(plan, &fresh).answer(listener).await
            }
            outcome => outcome,
        }
    }
}

fn run<'a>(plan: &'a Plan, (mesh, placement): &'a Place) -> Run<'a> {
    Run {
        mesh,
        plan,
        placement,
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.following.abort();
    }
}
