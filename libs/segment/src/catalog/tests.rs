use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use search_core::{Address, Filter, Value, error::ErrorKind};

use super::*;
use crate::{
    fixture::{Draft, empty, name},
    manifest::{ColbertSettings, Stage},
};

/// Reads the fixture's sparse part and counts what it loads.
#[derive(Default)]
struct Loader {
    segments: Arc<AtomicUsize>,
}

impl PartLoader for Loader {
    type Segment = String;
    type Snapshot = String;

    fn part(&self) -> &'static str {
        Stage::Sparse.as_str()
    }

    fn snapshot_file<'a>(&self, manifest: &'a Manifest) -> Option<&'a FileEntry> {
        manifest.statistics.as_ref()
    }

    fn load_segment(&self, segment: &SegmentFiles) -> Result<String, SegmentError> {
        self.segments.fetch_add(1, Ordering::Relaxed);
        let text = read(segment.files.get("terms.bin")?)?;
        assert!(!text.contains("panic"), "told to panic");
        Ok(text)
    }

    fn load_snapshot(&self, snapshot: &SnapshotFiles) -> Result<String, SegmentError> {
        snapshot.file.as_deref().map_or(Ok(String::new()), read)
    }
}

fn read(path: &Path) -> Result<String, SegmentError> {
    std::fs::read_to_string(path).map_err(SegmentError::io(path))
}

struct Mesh {
    store: Store,
    folder: tempfile::TempDir,
    catalog: Catalog<Loader>,
    loaded: Arc<AtomicUsize>,
}

fn mesh(selection: ShardSelection) -> Mesh {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::local(folder.path()).unwrap();
    let loader = Loader::default();
    let loaded = Arc::clone(&loader.segments);
    let catalog = Catalog::new(store.clone(), loader, selection);
    Mesh {
        store,
        folder,
        catalog,
        loaded,
    }
}

impl Mesh {
    fn numbers(&self) -> Vec<u64> {
        self.catalog
            .held()
            .iter()
            .map(|snapshot| snapshot.number)
            .collect()
    }

    fn get(&self, number: u64) -> Arc<ServedSnapshot<Loader>> {
        self.catalog.get(&name(), number).unwrap()
    }

    fn file(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join("collections/test").join(path)
    }
}

#[tokio::test]
async fn the_newest_two_are_held_and_share_their_segments() {
    let mesh = mesh(ShardSelection::All);
    mesh.catalog.refresh().await;
    let none = mesh.catalog.get(&name(), 1).err().unwrap();
    assert_eq!(
        (none.to_string().as_str(), none.kind()),
        ("no collection test is held", ErrorKind::NotFound)
    );

    let first = Draft::after(&mesh.store, &empty(1))
        .await
        .segment(0, &["a", "b"])
        .await
        .commit()
        .await;
    let second = Draft::after(&mesh.store, &first)
        .await
        .segment(0, &["c"])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    assert_eq!(mesh.numbers(), [2, 1]);
    assert_eq!(mesh.loaded.load(Ordering::Relaxed), 2);
    let third = Draft::after(&mesh.store, &second)
        .await
        .segment(0, &["d"])
        .await
        .delete(0, &[0, 1])
        .await;
    third.commit().await;
    mesh.catalog.refresh().await;
    assert_eq!(mesh.numbers(), [3, 2]);
    assert_eq!(mesh.loaded.load(Ordering::Relaxed), 3);
    assert!(Arc::ptr_eq(
        &mesh.get(3).segments[0].part,
        &mesh.get(2).segments[0].part
    ));
    assert_eq!(mesh.get(3).snapshot.as_str(), "statistics 3");
    let retired = mesh.catalog.get(&name(), 1).err().unwrap();
    assert_eq!(
        retired.to_string(),
        "snapshot 1 of test is not held, but [3, 2] are"
    );
    assert_eq!(retired.kind(), ErrorKind::FailedPrecondition);
    assert!(mesh.catalog.problems().is_empty());
}

#[tokio::test]
async fn parts_of_other_services_come_and_go_and_nothing_is_loaded_again() {
    let mesh = mesh(ShardSelection::All);
    let first = Draft::after(&mesh.store, &empty(1))
        .await
        .segment(0, &["a", "b"])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    let mut second = Draft::after(&mesh.store, &first).await;
    second.manifest.settings.stages.push(Stage::Colbert);
    second.manifest.settings.colbert = Some(ColbertSettings {
        fingerprint: "f".to_owned(),
        token_dimensions: 8,
        dimensions: 8,
        rotated: false,
        rotation_sample: 0,
        pooling: 1,
    });
    let (collection, path) = (name(), "segments/0-other/colbert/tokens.u8");
    let tokens = mesh.store.upload_bytes(&collection, path, "tokens".into());
    let parts = &mut second.manifest.segments[0].parts;
    parts.insert("colbert".to_owned(), vec![tokens.await.unwrap()]);
    let second = second.commit().await;
    mesh.catalog.refresh().await;
    let mut third = Draft::after(&mesh.store, &second).await;
    third.manifest.settings = first.settings.clone();
    third.manifest.segments[0].parts.remove("colbert");
    third.commit().await;
    mesh.catalog.refresh().await;
    assert_eq!(mesh.numbers(), [3, 2]);
    assert_eq!(mesh.loaded.load(Ordering::Relaxed), 1);
    assert!(mesh.catalog.problems().is_empty());
}

#[tokio::test]
async fn deleted_passages_are_in_one_snapshot_and_not_in_the_next() {
    let mesh = mesh(ShardSelection::All);
    let first = Draft::after(&mesh.store, &empty(1))
        .await
        .segment(0, &["a", "b"])
        .await
        .commit()
        .await;
    Draft::after(&mesh.store, &first)
        .await
        .delete(0, &[0, 1])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    let (before, after) = (mesh.get(1), mesh.get(2));
    assert!(before.locate(Address::new(0, 0)).is_some());
    assert!(after.locate(Address::new(0, 0)).is_none());
    assert!(after.locate(Address::new(0, 3)).is_some());
    assert!(after.locate(Address::new(0, 4)).is_none());
    assert!(after.locate(Address::new(7, 0)).is_none());
    assert!(before.segments[0].allowed(None).is_none());
    let filter = |id: &str| Filter::Equals {
        field: "name".to_owned(),
        value: Value::Keyword(id.to_owned()),
    };
    let allowed = |snapshot: &ServedSnapshot<Loader>, id| {
        let compiled = snapshot.compile(&filter(id)).unwrap();
        snapshot.segments[0]
            .allowed(Some(&compiled))
            .unwrap()
            .iter()
            .collect::<Vec<_>>()
    };
    assert_eq!(allowed(&before, "a"), [0, 1]);
    assert!(allowed(&after, "a").is_empty());
    assert_eq!(allowed(&after, "b"), [2, 3]);
    let passages: Vec<_> = mesh
        .catalog
        .held()
        .iter()
        .map(|snapshot| snapshot.passages)
        .collect();
    assert_eq!(passages, [2, 4]);
}

type Spoil = fn(&Path);

#[tokio::test]
async fn a_damaged_segment_is_refused_by_name_and_the_rest_is_served() {
    let spoils: [(&str, Spoil); 4] = [
        ("documents/texts.bin", |path| {
            std::fs::write(path, b"cut").unwrap()
        }),
        ("attributes/columns.bin", |path| {
            std::fs::remove_file(path).unwrap()
        }),
        ("sparse/terms.bin", |path| {
            let mut content = std::fs::read(path).unwrap();
            content[3] ^= 1;
            std::fs::write(path, content).unwrap();
        }),
        ("documents/tables.bin", |path| {
            std::fs::write(path, b"").unwrap()
        }),
    ];
    for (file, spoil) in spoils {
        let mesh = mesh(ShardSelection::All);
        let draft = Draft::after(&mesh.store, &empty(2)).await;
        draft
            .segment(0, &["a"])
            .await
            .segment(1, &["b"])
            .await
            .commit()
            .await;
        spoil(&mesh.file(&format!("segments/0-run/{file}")));
        mesh.catalog.refresh().await;
        let snapshot = mesh.get(1);
        assert_eq!(snapshot.segments.len(), 1);
        assert_eq!((snapshot.refused_of(0), snapshot.refused_of(1)), (1, 0));
        let refused = &mesh.catalog.held()[0].refused[0];
        assert_eq!((refused.segment, refused.shard), (0, 0));
        assert!(
            refused
                .reason
                .starts_with(&format!("segments/0-run/{file}: ")),
            "{}",
            refused.reason
        );
        assert_eq!(mesh.catalog.held()[0].passages, 2);
    }
}

#[tokio::test]
async fn a_loader_that_panics_refuses_the_segment_only() {
    let mesh = mesh(ShardSelection::All);
    let draft = Draft::after(&mesh.store, &empty(1)).await;
    draft
        .segment(0, &["panic"])
        .await
        .segment(0, &["b"])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    let snapshot = mesh.get(1);
    assert_eq!((snapshot.segments.len(), snapshot.refused_of(0)), (1, 1));
    assert!(
        snapshot.refused[0].reason.contains("told to panic"),
        "{}",
        snapshot.refused[0].reason
    );
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_loaded_keeps_its_predecessor_in_service() {
    let mesh = mesh(ShardSelection::All);
    let first = Draft::after(&mesh.store, &empty(1))
        .await
        .segment(0, &["a"])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    let second = Draft::after(&mesh.store, &first).await.commit().await;
    let statistics = mesh.file(&second.statistics.as_ref().unwrap().path);
    let whole = std::fs::read(&statistics).unwrap();
    std::fs::write(&statistics, b"x").unwrap();
    mesh.catalog.refresh().await;
    assert_eq!(mesh.numbers(), [1]);
    let problems = mesh.catalog.problems();
    assert_eq!(problems[0].collection, Some(name()));
    let message = &problems[0].message;
    assert!(
        message.starts_with("snapshot 2: snapshots/2-run/statistics.fst: has 1 bytes"),
        "{message}"
    );
    std::fs::write(&statistics, whole).unwrap();
    mesh.catalog.refresh().await;
    assert_eq!(mesh.numbers(), [2, 1]);
    assert!(mesh.catalog.problems().is_empty());
}

#[tokio::test]
async fn a_collection_that_could_not_be_loaded_is_unavailable_and_says_why() {
    let mesh = mesh(ShardSelection::All);
    let first = Draft::after(&mesh.store, &empty(1)).await.commit().await;
    std::fs::remove_file(mesh.file(&first.statistics.as_ref().unwrap().path)).unwrap();
    mesh.catalog.refresh().await;
    let error = mesh.catalog.get(&name(), 1).err().unwrap();
    let wanted =
        "no collection test is held (snapshot 1: snapshots/1-run/statistics.fst: is missing)";
    assert_eq!(
        (error.to_string().as_str(), error.kind()),
        (wanted, ErrorKind::Unavailable)
    );
    let refused = RefusedCollection {
        collection: name(),
        reason: "snapshot 1: snapshots/1-run/statistics.fst: is missing".to_owned(),
        may_pass: false,
    };
    assert_eq!(mesh.catalog.refused(), [refused]);
}

#[tokio::test]
async fn a_damaged_manifest_is_a_problem_and_changes_nothing() {
    let mesh = mesh(ShardSelection::All);
    Draft::after(&mesh.store, &empty(1))
        .await
        .segment(0, &["a"])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    std::fs::write(mesh.file("manifests/00000000000000000002.json"), b"{}").unwrap();
    mesh.catalog.refresh().await;
    assert_eq!(mesh.numbers(), [1]);
    assert!(
        mesh.catalog.problems()[0]
            .message
            .contains("00000000000000000002.json")
    );
    assert_eq!(mesh.catalog.refused(), []);
}

#[tokio::test]
async fn only_selected_shards_are_held() {
    let mesh = mesh(ShardSelection::Only([1, 5].into()));
    let draft = Draft::after(&mesh.store, &empty(2)).await;
    draft
        .segment(0, &["a"])
        .await
        .segment(1, &["b", "c"])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    let held = &mesh.catalog.held()[0];
    assert_eq!(
        (held.shards, held.held_shards.as_slice(), held.passages),
        (2, [1].as_slice(), 4)
    );
    let snapshot = mesh.get(1);
    assert!(snapshot.has_shard(1) && !snapshot.has_shard(0));
    let shard = |number| {
        let (collection, snapshot) = (name(), 1);
        let of = SnapshotId {
            collection,
            number: snapshot,
        };
        mesh.catalog.shard(&of, number)
    };
    assert_eq!(shard(1).ok().unwrap().segments().count(), 1);
    let error = shard(0).err().unwrap();
    assert_eq!(
        (error.to_string().as_str(), error.kind()),
        (
            "shard 0 of test is not held, but [1] are",
            ErrorKind::FailedPrecondition
        )
    );
    let elsewhere = Catalog::new(
        mesh.store.clone(),
        Loader::default(),
        ShardSelection::Only([7].into()),
    );
    elsewhere.refresh().await;
    assert!(elsewhere.held().is_empty() && elsewhere.problems().is_empty());
}

#[tokio::test]
async fn a_collection_that_disappears_is_dropped_and_one_made_anew_is_loaded() {
    let mesh = mesh(ShardSelection::All);
    Draft::after(&mesh.store, &empty(1))
        .await
        .segment(0, &["a"])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    let served = mesh.get(1);
    std::fs::remove_dir_all(mesh.file("")).unwrap();
    mesh.catalog.refresh().await;
    assert!(mesh.catalog.held().is_empty());
    // Who still holds it can go on.
    assert!(served.segments[0].documents.passage(0).unwrap().is_some());
    Draft::after(&mesh.store, &empty(1))
        .await
        .segment(0, &["b", "c"])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    std::fs::remove_dir_all(mesh.file("")).unwrap();
    Draft::after(&mesh.store, &empty(1))
        .await
        .segment(0, &["d"])
        .await
        .commit()
        .await;
    mesh.catalog.refresh().await;
    assert_eq!(mesh.get(1).segments[0].documents.document_id(0), Some("d"));
}

/// Paused time stands still while threads load, and moves on when all is done.
#[tokio::test(start_paused = true)]
async fn following_notices_pokes_and_the_clock() {
    let mesh = mesh(ShardSelection::All);
    let catalog = Arc::new(mesh.catalog);
    let following = catalog.keep_following(Duration::from_secs(3600), || ());
    let first = Draft::after(&mesh.store, &empty(1))
        .await
        .segment(0, &["a"])
        .await
        .commit()
        .await;
    catalog.poke();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(catalog.get(&name(), 1).is_ok());
    Draft::after(&mesh.store, &first).await.commit().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(catalog.get(&name(), 2).is_err());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(catalog.get(&name(), 2).is_ok());
    drop(following);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(Arc::strong_count(&catalog), 1);
}

#[tokio::test(start_paused = true)]
async fn a_follower_says_once_that_the_store_could_be_listed() {
    let mesh = mesh(ShardSelection::All);
    let collections = mesh.folder.path().join("collections");
    // A link to itself is no folder, and no missing one either.
    std::os::unix::fs::symlink(&collections, &collections).unwrap();
    let (catalog, calls) = (Arc::new(mesh.catalog), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let _following = catalog.keep_following(Duration::from_secs(1), move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let calls_after = async |seconds| {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        calls.load(Ordering::Relaxed)
    };
    assert_eq!(calls_after(10).await, 0);
    std::fs::remove_file(&collections).unwrap();
    assert_eq!(calls_after(10).await, 1);
    assert_eq!(calls_after(10).await, 1);
}
