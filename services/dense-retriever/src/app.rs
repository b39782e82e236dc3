//! The service: the snapshots it holds, the threads it computes on, and its calls.

use std::sync::Arc;
use std::time::Duration;

use search_core::{Address, Candidate, Deadline, FieldError, Filter, SnapshotId};
use segment::catalog::{Catalog, HeldSnapshot, ShardSelection};
use segment::store::Store;
use service_kit::Readiness;
use tokio::task::JoinHandle;
use vector_math::{CodedQuery, VectorError};

use crate::config::Config;
use crate::error::Error;
use crate::loader::{DenseLoader, Segment, Snapshot};
use crate::score::{self, Scores};
use crate::search::{self, Plan, Target};
use service_kit::compute::{ComputePool, Computed, StartError, StillWanted};

/// The dense retriever of one store. Dropping it stops its background refresh.
pub struct App {
    catalog: Arc<Catalog<DenseLoader>>,
    pool: ComputePool,
    readiness: Readiness,
    following: JoinHandle<()>,
}

/// Where to look, and with which vector.
pub(crate) struct ShardQuery {
    pub(crate) snapshot: SnapshotId,
    pub(crate) shard: u32,
    pub(crate) vector: Vec<f32>,
    pub(crate) encoder_fingerprint: String,
    pub(crate) deadline: Option<Deadline>,
}

/// What to find.
pub(crate) struct Wish {
    pub(crate) limit: usize,
    /// `None`: the collection's own.
    pub(crate) prefix_depth: Option<usize>,
    pub(crate) filter: Option<Filter>,
}

/// Passages found in a shard.
pub(crate) struct Found {
    pub(crate) candidates: Computed<Vec<Candidate>>,
    /// Segments of the shard that are not served.
    pub(crate) refused_segments: u32,
}

impl App {
    /// Starts following the store. Must be called inside the runtime; the app is ready after its first look at the store.
    pub fn start(config: Config, store: Store) -> Result<Arc<Self>, StartError> {
        let selection = match config.shards.as_slice() {
            [] => ShardSelection::All,
            shards => ShardSelection::Only(shards.to_vec()),
        };
        let catalog = Arc::new(Catalog::new(store, DenseLoader, selection));
        let readiness = Readiness::starting();
        let following = follow(
            Arc::clone(&catalog),
            readiness.clone(),
            config.refresh_interval,
        );
        Ok(Arc::new(Self {
            catalog,
            pool: ComputePool::new("dense", config.compute_threads, config.compute_queue)?,
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
    pub(crate) async fn search(&self, query: ShardQuery, wish: Wish) -> Result<Found, Error> {
        let shard = self.shard(&query)?;
        let coded = shard.code(&query.vector)?;
        let compile = |filter: Filter| shard.snapshot.compile(&filter);
        let filter = wish
            .filter
            .map(compile)
            .transpose()
            .map_err(|error| error.inside("filter"))?;
        let refused_segments = shard.snapshot.refused_of(shard.number);
        let plan = shard.plan(wish.limit, wish.prefix_depth);
        let work = move |wanted: &StillWanted| {
            let mut targets = Vec::new();
            for segment in shard.segments() {
                wanted.check()?;
                targets.push(Target {
                    number: segment.number,
                    part: &segment.part,
                    documents: &segment.documents,
                    allowed: segment.allowed(filter.as_ref()),
                });
            }
            search::search(&coded, &targets, plan, || Ok(wanted.check()?))
        };
        let candidates = self.pool.run(query.deadline, work).await?;
        Ok(Found {
            candidates,
            refused_segments,
        })
    }

    /// The scores of given passages of a shard.
    pub(crate) async fn score(
        &self,
        query: ShardQuery,
        addresses: Vec<Address>,
    ) -> Result<Computed<Scores>, Error> {
        let shard = self.shard(&query)?;
        let coded = shard.code(&query.vector)?;
        let work = move |wanted: &StillWanted| {
            score::score(
                &coded,
                &addresses,
                |address| shard.locate(address),
                || Ok(wanted.check()?),
            )
        };
        self.pool.run(query.deadline, work).await
    }

    fn shard(&self, query: &ShardQuery) -> Result<Shard, Error> {
        let SnapshotId { collection, number } = &query.snapshot;
        let snapshot = self.catalog.get(collection, *number)?;
        if !snapshot.has_shard(query.shard) {
            return Err(Error::ShardNotHeld {
                shard: query.shard,
                collection: collection.clone(),
                held: snapshot.shards.clone(),
            });
        }
        let passages = snapshot.manifest.encoder_fingerprint();
        if query.encoder_fingerprint != passages {
            return Err(Error::OtherEncoder {
                collection: collection.clone(),
                query: query.encoder_fingerprint.clone(),
                passages: passages.to_owned(),
            });
        }
        Ok(Shard {
            snapshot,
            number: query.shard,
        })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// Is ready as soon as the store could be listed; a collection that cannot be served doesn't keep the others from being served.
async fn follow(catalog: Arc<Catalog<DenseLoader>>, readiness: Readiness, interval: Duration) {
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

    fn plan(&self, limit: usize, prefix_depth: Option<usize>) -> Plan {
        let collection = &self.snapshot.snapshot;
        Plan {
            limit,
            prefix_depth: prefix_depth.unwrap_or(collection.prefix_depth).max(limit),
            has_good_prefixes: collection.has_good_prefixes,
        }
    }

    fn code(&self, vector: &[f32]) -> Result<CodedQuery, FieldError> {
        self.snapshot
            .snapshot
            .coder
            .query(vector)
            .map_err(|error| match error {
                VectorError::NotFinite { position } => {
                    FieldError::new(format!("vector[{position}]"), "must be finite")
                }
                error => FieldError::new("vector", error.to_string()),
            })
    }
}
