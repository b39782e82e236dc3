//! The service: the snapshots it holds, the threads it computes on, and its four calls.

use std::sync::Arc;
use std::time::Duration;

use search_core::{Address, Candidate, Deadline, FieldError, Filter, ParsedQuery, SnapshotId};
use segment::catalog::{Catalog, HeldSnapshot, ShardSelection};
use segment::documents::StoredPassage;
use segment::sparse::Statistics;
use segment::store::Store;
use service_kit::Readiness;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::error::Error;
use crate::fetch::{self, Wanted};
use crate::loader::{Segment, Snapshot, SparseLoader};
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
    following: JoinHandle<()>,
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
        let selection = match config.shards.as_slice() {
            [] => ShardSelection::All,
            shards => ShardSelection::Only(shards.to_vec()),
        };
        let catalog = Arc::new(Catalog::new(store, SparseLoader, selection));
        let readiness = Readiness::starting();
        let following = follow(
            Arc::clone(&catalog),
            readiness.clone(),
            config.refresh_interval,
        );
        Ok(Arc::new(Self {
            catalog,
            pool: ComputePool::new("sparse", config.compute_threads, config.compute_queue)?,
            readiness,
            following: tokio::spawn(following),
        }))
    }

    /// Whether the first look at the store was taken.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Looks for new snapshots now, in the background.
    pub fn poke(&self) {
        self.catalog.poke();
    }

    /// Looks for new snapshots now and waits for them.
    pub async fn refresh(&self) {
        self.catalog.refresh().await;
    }

    /// What is held.
    pub(crate) fn held(&self) -> Vec<HeldSnapshot> {
        self.catalog.held()
    }

    /// The best passages of a shard.
    pub(crate) async fn search(
        &self,
        request: ShardRequest,
        query: ParsedQuery,
        limit: usize,
        filter: Option<Filter>,
    ) -> Result<Found, Error> {
        let shard = self.shard(&request)?;
        let compile = |filter: Filter| shard.snapshot.compile(&filter);
        let filter = filter
            .map(compile)
            .transpose()
            .map_err(|error| error.inside("filter"))?;
        let refused_segments = shard.snapshot.refused_of(shard.number);
        let work = move |wanted: &StillWanted| {
            let Some((query, statistics)) = shard.weigh(&query)? else {
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
        let shard = self.shard(&request)?;
        let work = move |wanted: &StillWanted| {
            let locate = |address| shard.locate(address).map(|segment| segment.part.as_ref());
            match shard.weigh(&query)? {
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
        let shard = self.shard(&request)?;
        let work = move |wanted: &StillWanted| {
            let documents = |address| {
                shard
                    .locate(address)
                    .map(|segment| segment.documents.as_ref())
            };
            fetch::fetch(documents, &addresses, what, || Ok(wanted.check()?))
        };
        self.pool.run(request.deadline, work).await
    }

    fn shard(&self, request: &ShardRequest) -> Result<Shard, Error> {
        let SnapshotId { collection, number } = &request.snapshot;
        let snapshot = self.catalog.get(collection, *number)?;
        if !snapshot.has_shard(request.shard) {
            return Err(Error::ShardNotHeld {
                shard: request.shard,
                collection: collection.clone(),
                held: snapshot.shards.clone(),
            });
        }
        Ok(Shard {
            snapshot,
            number: request.shard,
        })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// Is ready as soon as the store could be listed; collections that cannot be served don't keep the others from being served.
async fn follow(catalog: Arc<Catalog<SparseLoader>>, readiness: Readiness, interval: Duration) {
    loop {
        catalog.refresh().await;
        if catalog
            .problems()
            .iter()
            .all(|problem| problem.collection.is_some())
        {
            break;
        }
        tokio::time::sleep(interval).await;
    }
    readiness.set(true);
    catalog.follow(interval).await;
}

/// One shard of a held snapshot.
struct Shard {
    snapshot: Arc<Snapshot>,
    number: u32,
}

impl Shard {
    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.snapshot.segments_of(self.number)
    }

    /// The segment of a live passage of this shard.
    fn locate(&self, address: Address) -> Option<&Segment> {
        self.snapshot
            .locate(address)
            .filter(|segment| segment.shard == self.number)
    }

    /// The query in the language and with the weights of the collection. `None`: the shard has no segments.
    fn weigh(&self, query: &ParsedQuery) -> Result<Option<(WeightedQuery, &Statistics)>, Error> {
        let collection = &self.snapshot.snapshot;
        let (Some(statistics), Some(any)) = (&collection.statistics, self.segments().next()) else {
            return Ok(None);
        };
        let query = LexicalQuery::analyze(query, &mut collection.analyzer.clone())
            .map_err(|error| FieldError::new("query", error.to_string()))?;
        let query = query.weigh(&SnapshotStatistics(statistics), any.part.searcher())?;
        Ok(Some((query, statistics)))
    }
}
