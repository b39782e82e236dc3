//! Which snapshot a query is answered from, and which replicas hold it: pure, from what the replicas said of themselves.

use crate::clients::{Fingerprints, Held};
use crate::error::{PlaceError, Service};
use crate::plan::Leg;
use search_core::{CollectionName, ErrorKind, RefusedCollection, SnapshotId, StageReason};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What one replica said last.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplicaState {
    pub(crate) held: Vec<Held>,
    pub(crate) refused: Vec<RefusedCollection>,
    /// It answered when it was last asked, or was late for the first time.
    pub(crate) is_reachable: bool,
    /// Looks, one behind the other, at which it was late.
    pub(crate) times_late: u32,
    /// How the last look at it failed.
    pub(crate) failure: Option<ErrorKind>,
}

/// Who holds one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Replicas of each shard, by their positions among those that there are.
    pub(crate) holders: Vec<Vec<usize>>,
    pub(crate) fingerprints: Fingerprints,
    /// Tokens of a title that an encoder read in front of each passage, at most.
    pub(crate) title_tokens: u32,
    /// Passages of all shards.
    pub(crate) passages: u64,
    /// Shards whose passages are counted already: replicas hold copies.
    counted: BTreeSet<u32>,
}

impl Holding {
    fn new(held: &Held) -> Self {
        Self {
            holders: vec![Vec::new(); held.shards as usize],
            fingerprints: held.fingerprints.clone(),
            title_tokens: held.title_tokens,
            passages: 0,
            counted: BTreeSet::new(),
        }
    }

    fn add(&mut self, replica: usize, held: &Held) {
        if self.holders.len() != held.shards as usize {
            tracing::warn!(snapshot = %held.snapshot, "replicas disagree about the number of shards");
            return;
        }
        for shard in &held.held_shards {
            self.holders[*shard as usize].push(replica);
        }
        if held
            .held_shards
            .iter()
            .all(|shard| !self.counted.contains(shard))
        {
            self.passages += held.passages;
            self.counted.extend(&held.held_shards);
        }
    }

    pub(crate) fn shards(&self) -> u32 {
        u32::try_from(self.holders.len()).unwrap_or(u32::MAX)
    }

    /// The replicas of this shard; none where there is no such shard.
    pub(crate) fn of_shard(&self, shard: u32) -> &[usize] {
        self.holders.get(shard as usize).map_or(&[], Vec::as_slice)
    }

    fn missing_shards(&self) -> usize {
        let missing = self.holders.iter().filter(|holders| holders.is_empty());
        missing.count()
    }
}

/// Snapshots of one collection, by number.
type Snapshots = BTreeMap<u64, Arc<Holding>>;

/// What the replicas of one service hold.
#[derive(Clone, Debug)]
pub(crate) struct ServiceView {
    service: Service,
    pub(crate) replicas: Vec<ReplicaState>,
    collections: BTreeMap<CollectionName, Snapshots>,
}

impl ServiceView {
    pub(crate) fn new(service: Service, replicas: Vec<ReplicaState>) -> Self {
        let mut holdings: BTreeMap<CollectionName, BTreeMap<u64, Holding>> = BTreeMap::new();
        for (position, replica) in replicas.iter().enumerate() {
            for held in &replica.held {
                let snapshots = holdings
                    .entry(held.snapshot.collection.clone())
                    .or_default();
                let holding = snapshots
                    .entry(held.snapshot.number)
                    .or_insert_with(|| Holding::new(held));
                holding.add(position, held);
            }
        }
        let share = |snapshots: BTreeMap<u64, Holding>| {
            snapshots
                .into_iter()
                .map(|(number, holding)| (number, Arc::new(holding)))
                .collect()
        };
        let collections = holdings
            .into_iter()
            .map(|(name, snapshots)| (name, share(snapshots)))
            .collect();
        Self {
            service,
            replicas,
            collections,
        }
    }

    pub(crate) fn is_reachable(&self) -> bool {
        self.replicas.iter().any(|replica| replica.is_reachable)
    }

    /// The snapshots of which every shard has a replica. Where there is none, the one of which the most shards have one, the newest of
    /// equals: an answer from a part is better than none, and says so. Never empty.
    fn best(&self, collection: &CollectionName) -> Result<Snapshots, PlaceError> {
        let snapshots = self
            .collections
            .get(collection)
            .ok_or_else(|| self.not_held(collection))?;
        let mut best = snapshots.clone();
        best.retain(|_, holding| holding.missing_shards() == 0);
        if best.is_empty() {
            let most = snapshots
                .iter()
                .min_by_key(|(number, holding)| (holding.missing_shards(), Reverse(**number)));
            best.extend(most.map(|(number, holding)| (*number, Arc::clone(holding))));
        }
        Ok(best)
    }

    /// Why nobody holds it: somebody found it but cannot serve it, or it is unknown.
    fn not_held(&self, collection: &CollectionName) -> PlaceError {
        let refusals = self.replicas.iter().flat_map(|replica| &replica.refused);
        let refused = refusals
            .filter(|refused| refused.collection == *collection)
            // Damage does not pass: it is what has to be told.
            .min_by_key(|refused| refused.may_pass);
        match refused {
            Some(refused) => PlaceError::Refused(refused.clone()),
            None => self.unknown(collection),
        }
    }

    /// Only when everyone was asked is it certain that nobody has it.
    fn unknown(&self, collection: &CollectionName) -> PlaceError {
        let everyone_answered =
            !self.replicas.is_empty() && self.replicas.iter().all(|replica| replica.is_reachable);
        if everyone_answered {
            PlaceError::UnknownCollection(collection.clone())
        } else {
            PlaceError::NoReplica(self.service)
        }
    }
}

/// What all peers hold.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Counts the looks at the replicas; 0: nobody was asked yet.
    pub(crate) generation: u64,
    pub(crate) sparse: ServiceView,
    pub(crate) dense: ServiceView,
    pub(crate) colbert: ServiceView,
    /// Fingerprints of the bundles that each encoder serves.
    pub(crate) encoders: Vec<Vec<String>>,
}

/// What a plan needs beside the stored documents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wants<'a> {
    pub(crate) legs: &'a [Leg],
    /// Vectors for rescoring, which an answer can do without.
    pub(crate) rescores: bool,
    /// Vectors of tokens, which an answer can do without.
    pub(crate) matches_tokens: bool,
}

impl Wants<'_> {
    fn searches_vectors(self) -> bool {
        self.legs.contains(&Leg::Dense)
    }

    /// Whether there is an answer without the dense retrievers. A collection that has no vectors is not searched by them.
    fn can_do_without_dense(self, error: &PlaceError) -> bool {
        let is_pointless = matches!(error, PlaceError::NoVectors(_)) && self.searches_vectors();
        self.legs.contains(&Leg::Sparse) && !is_pointless
    }
}

/// Where the vectors are that one service of a placement holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VectorPlace {
    /// The plan needs none.
    NotNeeded,
    /// These replicas hold the snapshot.
    Held(Arc<Holding>),
    /// Nobody does; the plan can do without them.
    Missing(StageReason),
}

impl VectorPlace {
    /// Who holds them, or why nobody does.
    pub(crate) fn holding(&self) -> Result<&Arc<Holding>, StageReason> {
        match self {
            Self::Held(holding) => Ok(holding),
            Self::Missing(reason) => Err(*reason),
            Self::NotNeeded => Err(StageReason::NotIndexed),
        }
    }

    /// The replicas of this shard; none where nobody has it.
    pub(crate) fn of_shard(&self, shard: u32) -> &[usize] {
        self.holding()
            .map_or(&[], |holding| holding.of_shard(shard))
    }
}

/// The one snapshot of an answer, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) snapshot: SnapshotId,
    /// The sparse index and the stored documents, which every plan needs.
    pub(crate) documents: Arc<Holding>,
    pub(crate) dense: VectorPlace,
    pub(crate) colbert: VectorPlace,
}

impl Placement {
    /// Whether a service lacks a snapshot that it may have got since it was asked.
    pub(crate) fn lags(&self) -> bool {
        let missing = VectorPlace::Missing(StageReason::SnapshotMissing);
        [&self.dense, &self.colbert].contains(&&missing)
    }
}

impl View {
    pub(crate) fn collections(&self) -> impl Iterator<Item = &CollectionName> {
        self.sparse.collections.keys()
    }

    /// The newest snapshot that every shard of every needed stage has; where a shard has no replica, one without it. Where nobody holds vectors that a plan can do without, it is
    /// placed without them.
    pub(crate) fn place(
        &self,
        collection: &CollectionName,
        wants: Wants<'_>,
    ) -> Result<Placement, PlaceError> {
        let mut choice = Choice {
            collection,
            snapshots: self.sparse.best(collection)?,
        };
        let dense = if wants.searches_vectors() || wants.rescores {
            let held = choice.join(&self.dense, |made_by| &made_by.encoder);
            Joined::new(held, |error| wants.can_do_without_dense(error))?
        } else {
            Joined::NotNeeded
        };
        let colbert = if wants.matches_tokens {
            let held = choice.join(&self.colbert, |made_by| &made_by.colbert);
            Joined::new(held, |_| true)?
        } else {
            Joined::NotNeeded
        };
        let (number, documents) = choice.newest()?;
        Ok(Placement {
            snapshot: SnapshotId {
                collection: collection.clone(),
                number,
            },
            documents: Arc::clone(documents),
            dense: dense.at(number),
            colbert: colbert.at(number),
        })
    }
}

/// The snapshots that a plan can be placed on; never none.
struct Choice<'a> {
    collection: &'a CollectionName,
    snapshots: Snapshots,
}

impl Choice<'_> {
    fn newest(&self) -> Result<(u64, &Arc<Holding>), PlaceError> {
        let newest = self.snapshots.last_key_value();
        newest
            .map(|(number, holding)| (*number, holding))
            .ok_or_else(|| PlaceError::UnknownCollection(self.collection.clone()))
    }

    /// Leaves the snapshots that this service holds, too, and gives what it holds. Where it holds none of them, all are left. Whether
    /// the collection has its vectors is said by those who hold the documents: `fingerprint` is that of theirs.
    fn join(
        &mut self,
        service: &ServiceView,
        fingerprint: impl Fn(&Fingerprints) -> &String,
    ) -> Result<Snapshots, PlaceError> {
        let (_, newest) = self.newest()?;
        if fingerprint(&newest.fingerprints).is_empty() {
            return Err(PlaceError::NoVectors(self.collection.clone()));
        }
        let mut held = service.best(self.collection)?;
        held.retain(|_, holding| !holding.fingerprints.encoder.is_empty());
        if held.is_empty() {
            return Err(PlaceError::NoVectors(self.collection.clone()));
        }
        let mut common = self.snapshots.clone();
        common.retain(|number, documents| {
            // Who disagrees about the number of shards cannot be speaking of the same snapshot.
            let same_shards = |holding: &Arc<Holding>| holding.shards() == documents.shards();
            held.get(number).is_some_and(same_shards)
        });
        if common.is_empty() {
            return Err(PlaceError::NoCommonSnapshot(self.collection.clone()));
        }
        self.snapshots = common;
        Ok(held)
    }
}

/// What a service has of the snapshots that a plan can be placed on.
enum Joined {
    NotNeeded,
    Held(Snapshots),
    Missing(StageReason),
}

impl Joined {
    /// Why a service holds nothing is an error, unless the plan can do without it.
    fn new(
        held: Result<Snapshots, PlaceError>,
        can_do_without: impl FnOnce(&PlaceError) -> bool,
    ) -> Result<Self, PlaceError> {
        match held {
            Ok(held) => Ok(Self::Held(held)),
            Err(error) if can_do_without(&error) => Ok(Self::Missing(error.reason())),
            Err(error) => Err(error),
        }
    }

    fn at(&self, number: u64) -> VectorPlace {
        match self {
            Self::NotNeeded => VectorPlace::NotNeeded,
            Self::Missing(reason) => VectorPlace::Missing(*reason),
            Self::Held(held) => held.get(&number).map_or(
                VectorPlace::Missing(StageReason::SnapshotMissing),
                |holding| VectorPlace::Held(Arc::clone(holding)),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
