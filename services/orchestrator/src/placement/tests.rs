use super::*;

const BOTH: Wants<'_> = legs(&[Leg::Sparse, Leg::Dense]);
const SPARSE: Wants<'_> = legs(&[Leg::Sparse]);
const DENSE: Wants<'_> = legs(&[Leg::Dense]);

const fn legs(legs: &[Leg]) -> Wants<'_> {
    Wants {
        legs,
        rescores: false,
        matches_tokens: false,
    }
}

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
        fingerprints: Fingerprints {
            encoder: "f1".to_owned(),
            rescore: String::new(),
            colbert: "f1".to_owned(),
        },
        title_tokens: 126,
        passages: 10 * held_shards.len() as u64,
    }
}

fn replica(held: impl IntoIterator<Item = Held>) -> ReplicaState {
    ReplicaState {
        failure: None,
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
        colbert: ServiceView::new(Service::ColbertScorer, Vec::new()),
        encoders: Vec::new(),
    }
}

fn with_scorers(view: View, colbert: Vec<ReplicaState>) -> View {
    View {
        colbert: ServiceView::new(Service::ColbertScorer, colbert),
        ..view
    }
}

/// A snapshot that was built without vectors.
fn bare(number: u64) -> Held {
    Held {
        fingerprints: Fingerprints::default(),
        ..held(number, &[0, 1])
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
    assert!(matches!(placement.dense, VectorPlace::Held(_)));
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
fn a_whole_snapshot_is_better_than_a_newer_part_and_a_part_than_nothing() {
    let part = |number| replica([held(number, &[0])]);
    let whole = view(vec![all(&[2]), part(3)], vec![]);
    assert_eq!(whole.place(&name(), SPARSE).unwrap().snapshot.number, 2);
    let parts = view(vec![part(2), part(3)], vec![]);
    let placement = parts.place(&name(), SPARSE).unwrap();
    assert_eq!(placement.snapshot.number, 3);
    let held = |shard| !placement.documents.of_shard(shard).is_empty();
    assert_eq!([held(0), held(1)], [true, false]);
}

#[test]
fn without_dense_replicas_hybrid_is_placed_and_dense_is_not() {
    let view = view(vec![all(&[4])], vec![ReplicaState::default()]);
    let placement = view.place(&name(), BOTH).unwrap();
    assert_eq!(
        placement.dense,
        VectorPlace::Missing(StageReason::Unavailable)
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
        (6, VectorPlace::Missing(StageReason::SnapshotMissing))
    );
}

#[test]
fn a_collection_without_vectors_says_so() {
    for dense in [replica([bare(1)]), replica([])] {
        let error = view(vec![replica([bare(1)])], vec![dense])
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
    assert!(matches!(placement.dense, VectorPlace::Held(_)));
    let gone = placed(vec![ReplicaState::default()]);
    let missing = VectorPlace::Missing(StageReason::Unavailable);
    assert_eq!((gone.snapshot.number, gone.dense), (2, missing));
    assert_eq!(
        placed(vec![replica([bare(2)])]).dense,
        VectorPlace::Missing(StageReason::NotIndexed)
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
        VectorPlace::Missing(StageReason::SnapshotMissing)
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

fn matching(wants: Wants<'_>) -> Wants<'_> {
    Wants {
        matches_tokens: true,
        ..wants
    }
}

#[test]
fn scorers_take_part_in_the_choice_of_the_snapshot() {
    let halves = vec![
        replica([held(2, &[0]), held(3, &[0])]),
        replica([held(2, &[1])]),
    ];
    let view = with_scorers(view(vec![all(&[2, 3])], vec![all(&[1, 2, 3])]), halves);
    for (wants, number) in [(BOTH, 3), (matching(BOTH), 2), (matching(SPARSE), 2)] {
        assert_eq!(view.place(&name(), wants).unwrap().snapshot.number, number);
    }
    let placement = view.place(&name(), matching(BOTH)).unwrap();
    assert_eq!(
        [placement.colbert.of_shard(0), placement.colbert.of_shard(1)],
        [[0], [1]]
    );
    assert!(matches!(placement.dense, VectorPlace::Held(_)));
    let unwanted = view.place(&name(), BOTH).unwrap();
    assert_eq!(unwanted.colbert, VectorPlace::NotNeeded);
}

#[test]
fn what_no_scorer_holds_is_done_without() {
    let dense_lags = || view(vec![all(&[2, 3])], vec![all(&[2])]);
    let cases = [
        (vec![all(&[3])], StageReason::SnapshotMissing),
        (vec![replica([])], StageReason::SnapshotMissing),
        (
            vec![replica([held(3, &[0])]), replica([held(3, &[1])])],
            StageReason::SnapshotMissing,
        ),
        (vec![ReplicaState::default()], StageReason::Unavailable),
        (Vec::new(), StageReason::Unavailable),
    ];
    for (scorers, reason) in cases {
        let view = with_scorers(dense_lags(), scorers);
        let placement = view.place(&name(), matching(BOTH)).unwrap();
        // That of the dense retrievers: what is searched comes first.
        assert_eq!(placement.snapshot.number, 2);
        assert_eq!(placement.colbert, VectorPlace::Missing(reason));
        assert!(matches!(placement.dense, VectorPlace::Held(_)));
        let lags = reason == StageReason::SnapshotMissing;
        assert_eq!(placement.lags(), lags);
    }
}

#[test]
fn a_newer_snapshot_without_token_vectors_is_not_given_up_for_an_older_one_with_them() {
    let without_tokens = Held {
        fingerprints: Fingerprints {
            colbert: String::new(),
            ..held(4, &[0, 1]).fingerprints
        },
        ..held(4, &[0, 1])
    };
    let documents = replica([held(3, &[0, 1]), without_tokens]);
    let view = with_scorers(view(vec![documents], Vec::new()), vec![all(&[3])]);
    let placement = view.place(&name(), matching(SPARSE)).unwrap();
    let missing = VectorPlace::Missing(StageReason::NotIndexed);
    assert_eq!((placement.snapshot.number, placement.colbert), (4, missing));
}
