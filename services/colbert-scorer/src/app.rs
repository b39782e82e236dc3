//! The service: the snapshots it holds, the threads it computes on, the encoders that it asks, and its calls.

use std::sync::Arc;
use std::time::Duration;

use search_core::{Address, Deadline, HeldSnapshot, RefusedCollection, SnapshotId};
use segment::catalog::{Catalog, Following};
use segment::store::Store;
use service_kit::compute::{ComputePool, Computed, StartError, StillWanted};
use service_kit::{Channels, Readiness, now};
use vector_math::TokenMatch;

use crate::Config;
use crate::clients::Encoders;
use crate::error::Error;
use crate::loader::{self, ColbertLoader, Shard};
use crate::matches;
use crate::query::QueryTokens;
use crate::score::{self, Scores};
use crate::texts::{self, TextScores, Texts};

/// What was scored is answered this much before the deadline: the thread that waits for it has to be woken, and the server ends the call
/// at the deadline.
const ANSWER_MARGIN: Duration = Duration::from_millis(2);
/// Of more time this part of it, but no more than the longest: on a busy machine a thread is woken late.
const ANSWER_MARGIN_SHARE: u32 = 10;
const LONGEST_ANSWER_MARGIN: Duration = Duration::from_millis(20);

/// The scorer of one store. Dropping it stops its background refresh.
pub struct App {
    catalog: Arc<Catalog<ColbertLoader>>,
    pool: ComputePool,
    encoders: Encoders,
    readiness: Readiness,
    _following: Following,
}

/// What to score, against which tokens.
pub(crate) struct ShardQuery {
    pub(crate) snapshot: SnapshotId,
    pub(crate) shard: u32,
    pub(crate) tokens: QueryTokens,
    pub(crate) addresses: Vec<Address>,
    pub(crate) deadline: Option<Deadline>,
}

impl App {
    /// Starts following the store. Texts are encoded by these encoders, the next one each time; none: texts are refused. Must be called
    /// inside the runtime; the app is ready after its first look at the store.
    pub fn start(
        config: Config,
        store: Store,
        encoders: impl Into<Channels>,
    ) -> Result<Arc<Self>, StartError> {
        let catalog = Catalog::new(store, ColbertLoader, config.shards);
        let (catalog, readiness) = (Arc::new(catalog), Readiness::starting());
        let listed = readiness.clone();
        let following = catalog.keep_following(config.refresh_interval, move || listed.set(true));
        Ok(Arc::new(Self {
            catalog,
            pool: ComputePool::new("colbert", config.compute_threads, config.compute_queue)?,
            encoders: Encoders::new(encoders.into()),
            readiness,
            _following: following,
        }))
    }

    /// Whether the first look at the store was taken.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Looks for new snapshots now and waits for them.
    pub async fn refresh(&self) {
        self.catalog.refresh().await;
    }

    /// What is held.
    pub(crate) fn held(&self) -> Vec<HeldSnapshot> {
        self.catalog.held()
    }

    /// What cannot be served.
    pub(crate) fn refused(&self) -> Vec<RefusedCollection> {
        self.catalog.refused()
    }

    /// The scores of the first passages, of as many as there is time for.
    pub(crate) async fn score(&self, query: ShardQuery) -> Result<Computed<Scores>, Error> {
        let shard = self.shard(&query)?;
        let ShardQuery {
            tokens,
            addresses,
            deadline,
            ..
        } = query;
        let work = move |wanted: &StillWanted| {
            let coded = tokens.code(&shard.snapshot.snapshot)?;
            let passage = |address| loader::passage(&shard, address);
            score::score(&coded, &addresses, passage, || wanted.check())
        };
        self.pool.run_anytime(deadline.map(before), work).await
    }

    /// Which tokens of the passages the query's tokens match.
    pub(crate) async fn matches(
        &self,
        query: ShardQuery,
    ) -> Result<Computed<Vec<Vec<TokenMatch>>>, Error> {
        let shard = self.shard(&query)?;
        let ShardQuery {
            tokens,
            addresses,
            deadline,
            ..
        } = query;
        let work = move |wanted: &StillWanted| {
            let coded = tokens.code_separately(&shard.snapshot.snapshot)?;
            let part = |address| Some(&*shard.locate(address)?.part);
            matches::matches(&coded, &addresses, part, || wanted.check())
        };
        self.pool.run(deadline, work).await
    }

    /// The scores of texts that need not be indexed.
    pub(crate) async fn score_texts(&self, request: Texts) -> Result<TextScores, Error> {
        let expected = &request.expected_fingerprint;
        let encoder = self.encoders.bundle(expected, request.deadline).await?;
        texts::score(&encoder, &self.pool, request).await
    }

    /// The shard, if its token vectors are of the query's bundle.
    fn shard(&self, query: &ShardQuery) -> Result<Shard, Error> {
        let shard = self.catalog.shard(&query.snapshot, query.shard)?;
        let of_query = &query.tokens.encoder_fingerprint;
        let of_passages = shard.snapshot.manifest.colbert_fingerprint();
        if of_passages == of_query {
            return Ok(shard);
        }
        Err(Error::OtherEncoder {
            collection: query.snapshot.collection.clone(),
            query: of_query.clone(),
            passages: of_passages.to_owned(),
        })
    }
}

/// When to stop, so that there is time to answer: half of what is left where that is little.
fn before(deadline: Deadline) -> Deadline {
    let left = deadline.remaining(now()).unwrap_or_default();
    let margin = (left / ANSWER_MARGIN_SHARE).clamp(ANSWER_MARGIN, LONGEST_ANSWER_MARGIN);
    let margin = margin.min(left / 2);
    Deadline::new(
        deadline
            .instant()
            .checked_sub(margin)
            .unwrap_or(deadline.instant()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_is_time_to_answer() {
        let stops_before = |left: Duration| {
            let deadline = Deadline::new(now() + left);
            deadline.instant() - before(deadline).instant()
        };
        assert_eq!(stops_before(Duration::from_secs(1)), LONGEST_ANSWER_MARGIN);
        assert_eq!(
            stops_before(Duration::from_millis(60)),
            Duration::from_millis(6)
        );
        assert_eq!(stops_before(Duration::from_millis(10)), ANSWER_MARGIN);
        assert_eq!(
            stops_before(Duration::from_millis(3)),
            Duration::from_micros(1500)
        );
        assert_eq!(stops_before(Duration::ZERO), Duration::ZERO);
    }
}
