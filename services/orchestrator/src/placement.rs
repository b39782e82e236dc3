//! Which snapshot a query is answered from, and which replicas hold it: pure, from what the replicas said of themselves.

use crate::clients::Held;
use crate::error::{PlaceError, Service};
use crate::plan::Leg;
use search_core::{CollectionName, RefusedCollection, SnapshotId, StageReason};
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
}

/// Who holds one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Replicas of each shard, by their position in the configuration.
    pub(crate) holders: Vec<Vec<usize>>,
    /// Fingerprint of the encoder; empty: no vectors.
    pub(crate) encoder_fingerprint: String,
    /// Fingerprint of the second encoder; empty: no vectors for rescoring.
    pub(crate) rescore_fingerprint: String,
    /// Passages of all shards.
    pub(crate) passages: u64,
    /// Shards whose passages are counted already: replicas hold copies.
    counted: BTreeSet<u32>,
}

impl Holding {
    fn new(held: &Held) -> Self {
        Self {
            holders: vec![Vec::new(); held.shards as usize],
            encoder_fingerprint: held.encoder_fingerprint.clone(),
            rescore_fingerprint: held.rescore_fingerprint.clone(),
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

    fn missing_shard(&self) -> Option<u32> {
        let shard = self.holders.iter().position(Vec::is_empty)?;
        u32::try_from(shard).ok()
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

    /// The snapshots of which every shard has a replica; never empty.
    fn complete(&self, collection: &CollectionName) -> Result<Snapshots, PlaceError> {
        let snapshots = self
            .collections
            .get(collection)
            .ok_or_else(|| self.not_held(collection))?;
        let is_complete = |holding: &Holding| holding.missing_shard().is_none();
        let complete: Snapshots = snapshots
            .iter()
            .filter(|(_, holding)| is_complete(holding))
            .map(|(n, h)| (*n, Arc::clone(h)))
            .collect();
        let newest_gap = snapshots
            .values()
            .rev()
            .find_map(|holding| holding.missing_shard());
        match newest_gap {
            Some(shard) if complete.is_empty() => Err(PlaceError::ShardMissing {
                service: self.service,
                collection: collection.clone(),
                shard,
            }),
            _ => Ok(complete),
        }
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
    /// Fingerprints of the bundles that each encoder serves.
    pub(crate) encoders: Vec<Vec<String>>,
}

/// What a plan needs beside the stored documents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wants<'a> {
    pub(crate) legs: &'a [Leg],
    /// Vectors for rescoring, which an answer can do without.
    pub(crate) rescores: bool,
}

/// Where the vectors of a placement are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DensePlace {
    /// The plan needs none.
    NotNeeded,
    /// These replicas hold the snapshot.
    Held(Arc<Holding>),
    /// Nobody does; the plan can do without them.
    Missing(StageReason),
}

/// The one snapshot of an answer, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) snapshot: SnapshotId,
    /// The sparse index and the stored documents, which every plan needs.
    pub(crate) documents: Arc<Holding>,
    pub(crate) dense: DensePlace,
}

impl View {
    pub(crate) fn collections(&self) -> impl Iterator<Item = &CollectionName> {
        self.sparse.collections.keys()
    }

    /// The newest snapshot that every shard of every needed stage has. Where nobody holds the vectors, a plan with another leg is
    /// placed without them.
    pub(crate) fn place(
        &self,
        collection: &CollectionName,
        wants: Wants<'_>,
    ) -> Result<Placement, PlaceError> {
        let documents = self.sparse.complete(collection)?;
        let searches_vectors = wants.legs.contains(&Leg::Dense);
        if !searches_vectors && !wants.rescores {
            return newest(collection, &documents, DensePlace::NotNeeded);
        }
        match self.place_both(collection, &documents) {
            Err(PlaceError::NoVectors(collection)) if searches_vectors => {
                Err(PlaceError::NoVectors(collection))
            }
            Err(error) if wants.legs.contains(&Leg::Sparse) => {
                newest(collection, &documents, DensePlace::Missing(error.reason()))
            }
            placed_or_error => placed_or_error,
        }
    }

    fn place_both(
        &self,
        collection: &CollectionName,
        documents: &Snapshots,
    ) -> Result<Placement, PlaceError> {
        let no_vectors = || PlaceError::NoVectors(collection.clone());
        let dense = match self.dense.complete(collection) {
            Err(PlaceError::UnknownCollection(_)) if has_no_vectors(documents) => {
                return Err(no_vectors());
            }
            dense => dense?,
        };
        let newest_common = documents.iter().rev().find_map(|(number, holding)| {
            // Who disagrees about the number of shards cannot be speaking of the same snapshot.
            dense
                .get(number)
                .filter(|dense| dense.shards() == holding.shards())
                .map(|dense| (*number, Arc::clone(holding), Arc::clone(dense)))
        });
        let (number, documents, dense) =
            newest_common.ok_or_else(|| PlaceError::NoCommonSnapshot(collection.clone()))?;
        if dense.encoder_fingerprint.is_empty() {
            return Err(no_vectors());
        }
        let snapshot = SnapshotId {
            collection: collection.clone(),
            number,
        };
        Ok(Placement {
            snapshot,
            documents,
            dense: DensePlace::Held(dense),
        })
    }
}

fn has_no_vectors(documents: &Snapshots) -> bool {
    documents
        .values()
        .all(|holding| holding.encoder_fingerprint.is_empty())
}

fn newest(
    collection: &CollectionName,
    documents: &Snapshots,
    dense: DensePlace,
) -> Result<Placement, PlaceError> {
    let (number, holding) = documents
        .last_key_value()
        .ok_or_else(|| PlaceError::UnknownCollection(collection.clone()))?;
    let snapshot = SnapshotId {
        collection: collection.clone(),
        number: *number,
    };
    Ok(Placement {
        snapshot,
        documents: Arc::clone(holding),
        dense,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Wants<'_> = Wants {
        legs: &[Leg::Sparse, Leg::Dense],
        rescores: false,
    };
    const SPARSE: Wants<'_> = Wants {
        legs: &[Leg::Sparse],
        rescores: false,
    };
    const DENSE: Wants<'_> = Wants {
        legs: &[Leg::Dense],
        rescores: false,
    };

    fn name() -> CollectionName {
        CollectionName::try_from("docs").unwrap()
    }

    /// One snapshot of two shards.
    fn held(number: u64, held_shards: &[u32]) -> Held {
        Held {
            snapshot: SnapshotId {
                collection: name(),
                number,
            },
            shards: 2,
            held_shards: held_shards.to_vec(),
            encoder_fingerprint: "f1".to_owned(),
            rescore_fingerprint: String::new(),
            passages: 10 * held_shards.len() as u64,
        }
    }

    fn replica(held: impl IntoIterator<Item = Held>) -> ReplicaState {
        ReplicaState {
            held: held.into_iter().collect(),
            refused: Vec::new(),
            is_reachable: true,
            times_late: 0,
        }
    }

    fn view(sparse: Vec<ReplicaState>, dense: Vec<ReplicaState>) -> View {
        View {
            generation: 1,
            sparse: ServiceView::new(Service::SparseRetriever, sparse),
            dense: ServiceView::new(Service::DenseRetriever, dense),
            encoders: Vec::new(),
        }
    }

    fn all(numbers: &[u64]) -> ReplicaState {
        replica(numbers.iter().map(|number| held(*number, &[0, 1])))
    }

    #[test]
    fn the_newest_snapshot_that_all_shards_of_all_stages_have() {
        let halves = vec![
            replica([held(2, &[0]), held(3, &[0])]),
            replica([held(2, &[1])]),
        ];
        let placement = view(halves, vec![all(&[1, 2])])
            .place(&name(), BOTH)
            .unwrap();
        assert_eq!(placement.snapshot.number, 2);
        assert_eq!(placement.documents.holders, [[0], [1]]);
        assert_eq!(placement.documents.passages, 20);
        assert!(matches!(placement.dense, DensePlace::Held(_)));
    }

    #[test]
    fn copies_are_counted_once() {
        let placement = view(vec![all(&[1]), all(&[1])], vec![])
            .place(&name(), SPARSE)
            .unwrap();
        assert_eq!(placement.documents.holders, [[0, 1], [0, 1]]);
        assert_eq!(placement.documents.passages, 20);
    }

    #[test]
    fn a_collection_is_unknown_only_when_all_were_asked() {
        let unreachable = ReplicaState::default();
        let place = |replicas| view(replicas, vec![]).place(&name(), SPARSE).unwrap_err();
        assert_eq!(
            place(vec![replica([])]),
            PlaceError::UnknownCollection(name())
        );
        assert_eq!(
            place(vec![replica([]), unreachable]),
            PlaceError::NoReplica(Service::SparseRetriever)
        );
        assert_eq!(
            place(vec![]),
            PlaceError::NoReplica(Service::SparseRetriever)
        );
    }

    #[test]
    fn a_refused_collection_is_told_unless_another_replica_holds_it() {
        let refused = |reason: &str, may_pass| RefusedCollection {
            collection: name(),
            reason: reason.to_owned(),
            may_pass,
        };
        let refusing = |refused| ReplicaState {
            refused: vec![refused],
            ..replica([])
        };
        let away = refusing(refused("away", true));
        let damaged = refusing(refused("damaged", false));
        let place = |replicas| view(replicas, vec![]).place(&name(), SPARSE);
        assert_eq!(
            place(vec![away.clone()]),
            Err(PlaceError::Refused(refused("away", true)))
        );
        assert_eq!(
            place(vec![away, damaged.clone()]),
            Err(PlaceError::Refused(refused("damaged", false)))
        );
        assert!(place(vec![damaged, all(&[1])]).is_ok());
    }

    #[test]
    fn a_missing_shard_is_named() {
        let error = view(vec![replica([held(1, &[0])])], vec![])
            .place(&name(), SPARSE)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no sparse-retriever holds shard 1 of collection docs"
        );
    }

    #[test]
    fn without_dense_replicas_hybrid_is_placed_and_dense_is_not() {
        let view = view(vec![all(&[4])], vec![ReplicaState::default()]);
        let placement = view.place(&name(), BOTH).unwrap();
        assert_eq!(
            placement.dense,
            DensePlace::Missing(StageReason::Unavailable)
        );
        assert_eq!(
            view.place(&name(), DENSE),
            Err(PlaceError::NoReplica(Service::DenseRetriever))
        );
    }

    #[test]
    fn stages_that_are_too_far_apart_have_no_common_snapshot() {
        let view = view(vec![all(&[5, 6])], vec![all(&[3, 4])]);
        assert_eq!(
            view.place(&name(), DENSE),
            Err(PlaceError::NoCommonSnapshot(name()))
        );
        let placement = view.place(&name(), BOTH).unwrap();
        assert_eq!(
            (placement.snapshot.number, placement.dense),
            (6, DensePlace::Missing(StageReason::SnapshotMissing))
        );
    }

    #[test]
    fn a_collection_without_vectors_says_so() {
        let bare = || {
            replica([Held {
                encoder_fingerprint: String::new(),
                ..held(1, &[0, 1])
            }])
        };
        for dense in [bare(), replica([])] {
            let error = view(vec![bare()], vec![dense])
                .place(&name(), BOTH)
                .unwrap_err();
            assert_eq!(error, PlaceError::NoVectors(name()));
        }
    }

    #[test]
    fn rescoring_is_placed_with_the_vectors_and_done_without() {
        let rescored = Wants {
            rescores: true,
            ..SPARSE
        };
        let placed = |dense| {
            view(vec![all(&[1, 2])], dense)
                .place(&name(), rescored)
                .unwrap()
        };
        let placement = placed(vec![all(&[1])]);
        assert_eq!(placement.snapshot.number, 1);
        assert!(matches!(placement.dense, DensePlace::Held(_)));
        let gone = placed(vec![ReplicaState::default()]);
        let missing = DensePlace::Missing(StageReason::Unavailable);
        assert_eq!((gone.snapshot.number, gone.dense), (2, missing));
        let bare = replica([Held {
            encoder_fingerprint: String::new(),
            ..held(2, &[0, 1])
        }]);
        assert_eq!(
            placed(vec![bare]).dense,
            DensePlace::Missing(StageReason::NotIndexed)
        );
    }

    #[test]
    fn stages_that_disagree_about_shards_have_no_common_snapshot() {
        let odd = Held {
            shards: 1,
            ..held(2, &[0])
        };
        let dense = replica([held(1, &[0, 1]), odd.clone()]);
        let placement = view(vec![all(&[1, 2])], vec![dense])
            .place(&name(), BOTH)
            .unwrap();
        assert_eq!(placement.snapshot.number, 1);
        let view = view(vec![all(&[1, 2])], vec![replica([odd])]);
        assert_eq!(
            view.place(&name(), DENSE),
            Err(PlaceError::NoCommonSnapshot(name()))
        );
        assert_eq!(
            view.place(&name(), BOTH).unwrap().dense,
            DensePlace::Missing(StageReason::SnapshotMissing)
        );
    }

    #[test]
    fn replicas_that_disagree_about_shards_are_not_mixed() {
        let odd = Held {
            shards: 3,
            ..held(1, &[0, 1])
        };
        let placement = view(vec![all(&[1]), replica([odd])], vec![])
            .place(&name(), SPARSE)
            .unwrap();
        assert_eq!(placement.documents.holders, [[0], [0]]);
    }
}
