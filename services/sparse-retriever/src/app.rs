//! The service: the snapshots it holds, the threads it computes on, and its four calls.

use std::sync::Arc;

use search_core::{
    Address, Candidate, Deadline, FieldError, Filter, HeldSnapshot, ParsedQuery, RefusedCollection,
    SnapshotId,
};
use segment::catalog::{Catalog, Following};
use segment::documents::StoredPassage;
use segment::sparse::Statistics;
use segment::store::Store;
use service_kit::Readiness;

use crate::Config;
use crate::error::Error;
use crate::fetch::{self, Wanted};
use crate::loader::{Shard, SparseLoader};
use crate::query::{LexicalQuery, WeightedQuery};
use crate::score::{self, Scores};
use crate::search::{self, Target};
use crate::statistics::SnapshotStatistics;
use service_kit::compute::{ComputePool, Computed, StartError, StillWanted};

/// The sparse retriever of one store. Dropping it stops its background refresh.
pub struct App {
    catalog: Arc<Catalog<SparseLoader>>,
    pool: ComputePool,
    readiness: Readiness,
    _following: Following,
}

/// Where to look.
pub(crate) struct ShardRequest {
    pub(crate) snapshot: SnapshotId,
    pub(crate) shard: u32,
    pub(crate) deadline: Option<Deadline>,
}

/// Passages found in a shard.
pub(crate) struct Found {
    pub(crate) candidates: Computed<Vec<Candidate>>,
    /// Segments of the shard that are not served.
    pub(crate) refused_segments: u32,
}

impl App {
    /// Starts following the store. Must be called inside the runtime; the app is ready after its first look at the store.
    ///
    /// # Errors
    /// When the compute threads cannot be started.
    pub fn start(config: Config, store: Store) -> Result<Arc<Self>, StartError> {
        let catalog = Catalog::new(store, SparseLoader, config.shards);
        let (catalog, readiness) = (Arc::new(catalog), Readiness::starting());
        let listed = readiness.clone();
        let following = catalog.keep_following(config.refresh_interval, move || listed.set(true));
        Ok(Arc::new(Self {
            catalog,
            pool: ComputePool::new("sparse", config.compute_threads, config.compute_queue)?,
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

    /// The best passages of a shard.
    pub(crate) async fn search(
        &self,
        request: ShardRequest,
        query: ParsedQuery,
        limit: usize,
        filter: Option<Filter>,
    ) -> Result<Found, Error> {
        let shard = self.catalog.shard(&request.snapshot, request.shard)?;
        let compile = |filter: Filter| shard.snapshot.compile(&filter);
        let filter = filter
            .map(compile)
            .transpose()
            .map_err(|error| error.inside("filter"))?;
        let refused_segments = shard.refused_segments();
        let work = move |wanted: &StillWanted| {
            let Some((query, statistics)) = weigh(&shard, &query)? else {
                return Ok(Vec::new());
            };
            let targets: Vec<_> = shard
                .segments()
                .map(|segment| Target {
                    number: segment.number,
                    index: &segment.part,
                    documents: &segment.documents,
                    allowed: Box::new(|| segment.allowed(filter.as_ref())),
                })
                .collect();
            search::search(&query, statistics, &targets, limit, || Ok(wanted.check()?))
        };
        let candidates = self.pool.run(request.deadline, work).await?;
        Ok(Found {
            candidates,
            refused_segments,
        })
    }

    /// The scores of given passages of a shard.
    pub(crate) async fn score(
        &self,
        request: ShardRequest,
        query: ParsedQuery,
        addresses: Vec<Address>,
    ) -> Result<Computed<Scores>, Error> {
        let shard = self.catalog.shard(&request.snapshot, request.shard)?;
        let work = move |wanted: &StillWanted| {
            let locate = |address| shard.locate(address).map(|segment| segment.part.as_ref());
            match weigh(&shard, &query)? {
                Some((query, _)) => {
                    score::score(&query, &addresses, locate, || Ok(wanted.check()?))
                }
                None => Ok(Scores::all_unknown(addresses.len())),
            }
        };
        self.pool.run(request.deadline, work).await
    }

    /// The stored passages of a shard at these addresses; `None` where there is none.
    pub(crate) async fn fetch(
        &self,
        request: ShardRequest,
        addresses: Vec<Address>,
        what: Wanted,
    ) -> Result<Computed<Vec<Option<StoredPassage>>>, Error> {
        let shard = self.catalog.shard(&request.snapshot, request.shard)?;
        let work = move |wanted: &StillWanted| {
            let documents = |address| {
                shard
                    .locate(address)
                    .map(|segment| segment.documents.as_ref())
            };
            fetch::fetch(documents, &addresses, what, || Ok(wanted.check()?))
        };
        // Beside searches it takes next to nothing: by their time it would be refused, and an answer lost that is all but done.
        self.pool.run_anytime(request.deadline, work).await
    }
}

/// The query in the language and with the weights of the collection. `None`: the shard has no segments.
fn weigh<'a>(
    shard: &'a Shard,
    query: &ParsedQuery,
) -> Result<Option<(WeightedQuery, &'a Statistics)>, Error> {
    let collection = &shard.snapshot.snapshot;
    let (Some(statistics), Some(any)) = (&collection.statistics, shard.segments().next()) else {
        return Ok(None);
    };
    let query = LexicalQuery::analyze(query, &mut collection.analyzer.clone())
        .map_err(|error| FieldError::new("query", error.to_string()))?;
    let query = query.weigh(&SnapshotStatistics(statistics), any.part.searcher())?;
    Ok(Some((query, statistics)))
}
