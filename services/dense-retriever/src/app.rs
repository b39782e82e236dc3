//! The service: the snapshots it holds, the threads it computes on, and its calls.

use std::sync::Arc;

use search_core::{
    Address, Candidate, Deadline, FieldError, Filter, HeldSnapshot, RefusedCollection, SnapshotId,
};
use segment::catalog::{Catalog, Following};
use segment::store::Store;
use service_kit::Readiness;
use vector_math::{CodedQuery, VectorError};

use crate::Config;
use crate::error::Error;
use crate::loader::{DenseLoader, DenseSnapshot, Shard, Vectors};
use crate::score::{self, Scores};
use crate::search::{self, Plan, Target};
use service_kit::compute::{ComputePool, Computed, StartError, StillWanted};

/// The dense retriever of one store. Dropping it stops its background refresh.
pub struct App {
    catalog: Arc<Catalog<DenseLoader>>,
    pool: ComputePool,
    readiness: Readiness,
    _following: Following,
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
        let catalog = Catalog::new(store, DenseLoader, config.shards);
        let (catalog, readiness) = (Arc::new(catalog), Readiness::starting());
        let listed = readiness.clone();
        let following = catalog.keep_following(config.refresh_interval, move || listed.set(true));
        Ok(Arc::new(Self {
            catalog,
            pool: ComputePool::new("dense", config.compute_threads, config.compute_queue)?,
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
    pub(crate) async fn search(&self, query: ShardQuery, wish: Wish) -> Result<Found, Error> {
        let (shard, vectors) = self.shard(&query, &[Vectors::Dense])?;
        let collection = &shard.snapshot.snapshot;
        let coded = collection.code(vectors, &query.vector)?;
        let plan = collection.plan(wish.limit, wish.prefix_depth);
        let compile = |filter: Filter| shard.snapshot.compile(&filter);
        let filter = wish
            .filter
            .map(compile)
            .transpose()
            .map_err(|error| error.inside("filter"))?;
        let refused_segments = shard.refused_segments();
        let work = move |wanted: &StillWanted| {
            let mut targets = Vec::new();
            for segment in shard.segments() {
                wanted.check()?;
                targets.push(Target {
                    number: segment.number,
                    part: &segment.part.dense,
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
        let (shard, vectors) = self.shard(&query, &[Vectors::Dense, Vectors::Rescore])?;
        let coded = shard.snapshot.snapshot.code(vectors, &query.vector)?;
        let work = move |wanted: &StillWanted| {
            score::score(
                &coded,
                vectors,
                &addresses,
                |address| shard.locate(address),
                || Ok(wanted.check()?),
            )
        };
        self.pool.run(query.deadline, work).await
    }

    /// The shard, and which of these vectors are of the query's bundle.
    fn shard(&self, query: &ShardQuery, kinds: &[Vectors]) -> Result<(Shard, Vectors), Error> {
        let shard = self.catalog.shard(&query.snapshot, query.shard)?;
        let of_query = |kind: &&Vectors| fingerprint(&shard, **kind) == query.encoder_fingerprint;
        match kinds.iter().find(of_query) {
            Some(vectors) => Ok((shard, *vectors)),
            None => Err(other_encoder(query, &shard, kinds)),
        }
    }
}

/// The bundle of these vectors; empty when there are none.
fn fingerprint(shard: &Shard, vectors: Vectors) -> &str {
    let manifest = &shard.snapshot.manifest;
    match vectors {
        Vectors::Dense => manifest.encoder_fingerprint(),
        Vectors::Rescore => manifest.rescore_fingerprint(),
    }
}

fn other_encoder(query: &ShardQuery, shard: &Shard, kinds: &[Vectors]) -> Error {
    let fingerprints = kinds.iter().map(|kind| fingerprint(shard, *kind));
    let known: Vec<&str> = fingerprints.filter(|known| !known.is_empty()).collect();
    Error::OtherEncoder {
        collection: query.snapshot.collection.clone(),
        query: query.encoder_fingerprint.clone(),
        passages: known.join(" and "),
    }
}

impl DenseSnapshot {
    fn plan(&self, limit: usize, prefix_depth: Option<usize>) -> Plan {
        Plan {
            limit,
            prefix_depth: prefix_depth.unwrap_or(self.prefix_depth).max(limit),
            has_good_prefixes: self.has_good_prefixes,
        }
    }

    fn code(&self, vectors: Vectors, vector: &[f32]) -> Result<CodedQuery, FieldError> {
        let missing = || FieldError::new("encoder_fingerprint", "has no vectors here");
        let coder = self.coder(vectors).ok_or_else(missing)?;
        coder.query(vector).map_err(|error| match error {
            VectorError::NotFinite { position } => {
                FieldError::new(format!("vector[{position}]"), "must be finite")
            }
            error => FieldError::new("vector", error.to_string()),
        })
    }
}
