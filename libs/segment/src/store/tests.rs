use std::time::Duration;

use object_store::memory::InMemory;

use super::*;
use crate::{
    cleanup::before_now,
    fixture::{Draft, empty, name},
};

/// The same collections in place, and in memory with a cache.
fn stores() -> [(Store, tempfile::TempDir); 2] {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let local = Store::local(folders[0].path()).unwrap();
    let remote = Store::new(Arc::new(InMemory::new()), folders[1].path().to_owned());
    let [here, there] = folders;
    [(local, here), (remote, there)]
}

#[tokio::test]
async fn a_commit_is_read_back() {
    for (store, _folder) in stores() {
        assert!(store.collections().await.unwrap().is_empty());
        assert_eq!(store.latest_manifest(&name()).await.unwrap(), None);
        let first = Draft::after(&store, &empty(1))
            .await
            .segment(0, &["a", "b"])
            .await
            .commit()
            .await;
        let second = Draft::after(&store, &first)
            .await
            .segment(0, &["c"])
            .await
            .commit()
            .await;
        assert_eq!(store.collections().await.unwrap(), [name()]);
        assert_eq!(store.latest_manifest(&name()).await.unwrap(), Some(second));
        assert_eq!(store.manifest(&name(), 1).await.unwrap(), first);
        let numbers = |versions: Vec<ManifestVersion>| {
            versions
                .iter()
                .map(|version| version.number)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            numbers(store.manifest_versions(&name()).await.unwrap()),
            [2, 1]
        );
        let missing = store.manifest(&name(), 3).await.unwrap_err();
        assert_eq!(
            missing.to_string(),
            "collections/test/manifests/00000000000000000003.json does not exist"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_committers_one_wins() {
    for (store, _folder) in stores() {
        let mut base = empty(1);
        for round in 0..20 {
            let next = Draft::after(&store, &base).await.manifest;
            let commit = |_| {
                let (store, next) = (store.clone(), next.clone());
                tokio::spawn(async move { store.commit(&next).await })
            };
            let commits: Vec<_> = (0..4).map(commit).collect();
            let mut won = 0;
            for commit in commits {
                match commit.await.unwrap() {
                    Ok(()) => won += 1,
                    Err(error) => assert!(matches!(error, CommitError::Conflict { .. }), "{error}"),
                }
            }
            assert_eq!(won, 1, "round {round}");
            base = next;
        }
    }
}

#[tokio::test]
async fn a_number_that_is_not_the_next_is_a_conflict() {
    for (store, _folder) in stores() {
        let first = Draft::after(&store, &empty(1)).await.commit().await;
        let second = Draft::after(&store, &first).await.commit().await;
        for stale in [&first, &second, &second.next().next()] {
            let error = store.commit(stale).await.unwrap_err();
            assert!(
                error.to_string().contains("another commit came first"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn damage_and_absence_are_refused_by_file_name() {
    let [(store, folder), _] = stores();
    let manifest = Draft::after(&store, &empty(1))
        .await
        .segment(0, &["a"])
        .await
        .commit()
        .await;
    let entry = &manifest.segments[0].parts["sparse"][0];
    let local = store.local_file(&name(), entry).await.unwrap();
    assert!(local.starts_with(folder.path().canonicalize().unwrap()));
    std::fs::write(&local, b"terms").unwrap();
    let cut = store
        .local_file(&name(), entry)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        cut.starts_with("segments/0-run/sparse/terms.bin: has 5 bytes"),
        "{cut}"
    );
    std::fs::remove_file(&local).unwrap();
    let missing = store
        .local_file(&name(), entry)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(missing, "segments/0-run/sparse/terms.bin: is missing");
    let outside = FileEntry {
        path: "../../secret".to_owned(),
        ..entry.clone()
    };
    let refused = store
        .local_file(&name(), &outside)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("is not plain"), "{refused}");
}

#[tokio::test]
async fn a_remote_file_is_cached_whole_and_fetched_anew_when_the_copy_is_spoilt() {
    let [_, (store, folder)] = stores();
    let entry = store
        .upload_bytes(&name(), "segments/0-a/sparse/x", "content".into())
        .await
        .unwrap();
    let local = store.local_file(&name(), &entry).await.unwrap();
    assert_eq!(
        local,
        folder.path().join("collections/test/segments/0-a/sparse/x")
    );
    std::fs::write(&local, b"spoilt!").unwrap();
    assert_eq!(store.local_file(&name(), &entry).await.unwrap(), local);
    assert_eq!(std::fs::read(&local).unwrap(), b"content");

    // Damage in the object store reaches neither the cache nor the caller.
    std::fs::remove_file(&local).unwrap();
    store
        .objects
        .put(&key(&name(), &entry.path), "damaged, and longer".into())
        .await
        .unwrap();
    let refused = store.local_file(&name(), &entry).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DataLoss);
    assert!(
        refused
            .to_string()
            .starts_with("segments/0-a/sparse/x: has"),
        "{refused}"
    );
    assert_eq!(
        std::fs::read_dir(local.parent().unwrap()).unwrap().count(),
        0
    );
    store
        .objects
        .delete(&key(&name(), &entry.path))
        .await
        .unwrap();
    let missing = store
        .local_file(&name(), &entry)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(missing, "segments/0-a/sparse/x: is missing");
}

#[tokio::test]
async fn large_files_are_uploaded_in_pieces() {
    for (store, folder) in stores() {
        let content = b"eleven byte".repeat(1 << 20);
        let source = folder.path().join("source");
        std::fs::write(&source, &content).unwrap();
        let entry = store
            .upload_file(&name(), &source, "segments/0-a/dense/large")
            .await
            .unwrap();
        assert_eq!(
            entry,
            FileEntry::of_bytes("segments/0-a/dense/large", &content)
        );
        let local = store.local_file(&name(), &entry).await.unwrap();
        assert_eq!(std::fs::read(local).unwrap(), content);
    }
}

#[tokio::test]
async fn clean_up_keeps_what_the_newest_two_manifests_need() {
    for (store, folder) in stores() {
        let first = Draft::after(&store, &empty(1))
            .await
            .segment(0, &["a"])
            .await
            .commit()
            .await;
        let mut draft = Draft::after(&store, &first).await.segment(0, &["b"]).await;
        draft.manifest.segments.remove(0);
        let second = draft.commit().await;
        let third = Draft::after(&store, &second).await.commit().await;
        let leftover = "segments/9-gone/sparse/x";
        store
            .upload_bytes(&name(), leftover, "leftover".into())
            .await
            .unwrap();
        let staged = folder.path().join("collections/test/segments/9-gone#1");
        std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
        std::fs::write(&staged, b"staged").unwrap();
        let kept_for_now = store
            .delete_unreferenced(&name(), Duration::from_secs(3600))
            .await
            .unwrap();
        assert_eq!(kept_for_now.files, 0);
        let removed = store
            .delete_unreferenced_before(&name(), soon())
            .await
            .unwrap();
        let in_place = matches!(store.files, LocalFiles::InPlace(_));
        // The first manifest, its statistics, the four files of segment 0, and the leftovers.
        assert_eq!(removed.files, if in_place { 8 } else { 7 });
        assert_eq!(staged.exists(), !in_place);
        for manifest in [second, third] {
            assert_eq!(
                store.manifest(&name(), manifest.number).await.unwrap(),
                manifest
            );
            for file in manifest.files() {
                store.local_file(&name(), file).await.unwrap();
            }
        }
        assert!(store.manifest(&name(), 1).await.is_err());
    }
}

#[tokio::test]
async fn the_cache_is_pruned_by_age_and_need() {
    let [_, (store, _folder)] = stores();
    let mut local = Vec::new();
    for path in ["segments/0-a/sparse/x", "segments/1-a/sparse/x"] {
        let entry = store
            .upload_bytes(&name(), path, "content".into())
            .await
            .unwrap();
        local.push(store.local_file(&name(), &entry).await.unwrap());
    }
    let keep = || ["segments/1-a/sparse/x".to_owned()].into();
    store
        .prune_cache(&name(), keep(), before_now(Duration::from_secs(3600)))
        .await
        .unwrap();
    assert!(local[0].exists());
    store.prune_cache(&name(), keep(), soon()).await.unwrap();
    assert_eq!(
        local.iter().map(|path| path.exists()).collect::<Vec<_>>(),
        [false, true]
    );
}

#[tokio::test]
async fn a_foreign_manifest_is_refused() {
    let [(store, _folder), _] = stores();
    let manifest = Draft::after(&store, &empty(1)).await.commit().await;
    let other: CollectionName = "other".parse().unwrap();
    let json = manifest.to_json().unwrap();
    store
        .objects
        .put(&manifest_key(&other, 1), json.into())
        .await
        .unwrap();
    let error = store.latest_manifest(&other).await.unwrap_err().to_string();
    assert!(
        error.ends_with("00000000000000000001.json: describes test 1"),
        "{error}"
    );
}

#[test]
fn locations_are_paths_and_urls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let cache = folder.path();
    let open = |location: &str| Store::open(location, cache);
    for location in [
        path.to_str().unwrap(),
        &format!("file://{}", path.display()),
    ] {
        let store = open(location).unwrap();
        assert!(
            matches!(store.files, LocalFiles::InPlace(root) if root == path.canonicalize().unwrap())
        );
    }
    for location in ["ftp://host/x", "file://relative", "file:///a%20b"] {
        let error = open(location).unwrap_err().to_string();
        assert!(
            error.ends_with("not a path, file:///path or s3://bucket/prefix"),
            "{error}"
        );
    }
    #[cfg(not(feature = "s3"))]
    assert!(
        open("s3://bucket/prefix")
            .unwrap_err()
            .to_string()
            .contains("cargo feature `s3`")
    );
}

/// Everything is older than this.
fn soon() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}
