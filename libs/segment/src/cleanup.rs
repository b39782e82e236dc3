//! Removal of what nothing refers to any more: in the object store, and in the cache of a remote one.
//!
//! Age is the guard against those who are about to refer to a file that they have just written or fetched.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path as Key};
use search_core::CollectionName;
use tokio::task::spawn_blocking;

use crate::{
    SegmentError,
    store::{COLLECTIONS, LocalFiles, Store, key, manifest_key},
};

/// Manifests that readers may hold: the newest two.
const SERVED_MANIFESTS: usize = 2;

/// What a clean-up removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Removed {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

impl Store {
    /// Removes what no served manifest needs and nobody has touched for `older_than`: old manifests, leftovers of
    /// interrupted runs. An indexing run has to be shorter than `older_than`.
    pub async fn delete_unreferenced(
        &self,
        name: &CollectionName,
        older_than: Duration,
    ) -> Result<Removed, SegmentError> {
        self.delete_unreferenced_before(name, before_now(older_than))
            .await
    }

    pub(crate) async fn delete_unreferenced_before(
        &self,
        name: &CollectionName,
        horizon: SystemTime,
    ) -> Result<Removed, SegmentError> {
        let kept = self.kept_keys(name, horizon).await?;
        let folder = key(name, "");
        let listed = self
            .objects
            .list(Some(&folder))
            .try_collect::<Vec<_>>()
            .await;
        let metas = listed.map_err(SegmentError::store(folder.to_string()))?;
        let mut removed = Removed::default();
        for meta in metas {
            let young = SystemTime::from(meta.last_modified) >= horizon;
            if young || kept.contains(&meta.location) {
                continue;
            }
            let deleted = self.objects.delete(&meta.location).await;
            deleted.map_err(SegmentError::store(meta.location.to_string()))?;
            removed.add(meta.size);
        }
        self.delete_staged(name, horizon, &mut removed).await?;
        Ok(removed)
    }

    /// The newest manifests, those younger than `horizon`, and all files that they refer to.
    async fn kept_keys(
        &self,
        name: &CollectionName,
        horizon: SystemTime,
    ) -> Result<BTreeSet<Key>, SegmentError> {
        let mut keys = BTreeSet::new();
        for (place, version) in self.manifest_versions(name).await?.iter().enumerate() {
            if place < SERVED_MANIFESTS || version.modified >= horizon {
                keys.insert(manifest_key(name, version.number));
                let manifest = self.manifest(name, version.number).await?;
                keys.extend(manifest.files().map(|file| key(name, &file.path)));
            }
        }
        Ok(keys)
    }

    /// A local store writes `name#1` and renames it; what a crash leaves of that is hidden from listings.
    async fn delete_staged(
        &self,
        name: &CollectionName,
        horizon: SystemTime,
        removed: &mut Removed,
    ) -> Result<(), SegmentError> {
        let LocalFiles::InPlace(root) = &self.files else {
            return Ok(());
        };
        let folder = root.join(COLLECTIONS).join(name.as_str());
        let staged = |path: &Path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().contains('#'))
        };
        let of_staged = spawn_blocking(move || remove_files(&folder, horizon, staged)).await??;
        removed.files += of_staged.files;
        removed.bytes += of_staged.bytes;
        Ok(())
    }

    /// Removes the cached files of a collection that are not among `keep` (paths relative to the collection)
    /// and older than `horizon`. Does nothing for a local store, which has no copies.
    pub(crate) async fn prune_cache(
        &self,
        name: &CollectionName,
        keep: BTreeSet<String>,
        horizon: SystemTime,
    ) -> Result<(), SegmentError> {
        let LocalFiles::Cached(root) = &self.files else {
            return Ok(());
        };
        let folder = root.join(COLLECTIONS).join(name.as_str());
        let keep: BTreeSet<PathBuf> = keep.iter().map(|path| folder.join(path)).collect();
        let unused = move |path: &Path| !keep.contains(path);
        let prune = move || remove_files(&folder, horizon, unused);
        spawn_blocking(prune).await?.map(|_| ())
    }
}

/// The instant of this age.
pub(crate) fn before_now(age: Duration) -> SystemTime {
    SystemTime::now()
        .checked_sub(age)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Removes the files below a folder that are older than `horizon` and `unwanted`. No folder, no files.
fn remove_files(
    folder: &Path,
    horizon: SystemTime,
    unwanted: impl Fn(&Path) -> bool,
) -> Result<Removed, SegmentError> {
    let mut removed = Removed::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in present(fs::read_dir(&folder), &folder)?
            .into_iter()
            .flatten()
        {
            let path = path.map_err(SegmentError::io(&folder))?.path();
            let Some(file) = present(fs::metadata(&path), &path)? else {
                continue;
            };
            let old = file.modified().map_err(SegmentError::io(&path))? < horizon;
            if file.is_dir() {
                folders.push(path);
            } else if old && unwanted(&path) && present(fs::remove_file(&path), &path)?.is_some() {
                removed.add(file.len());
            }
        }
    }
    Ok(removed)
}

/// None where something is gone: others clean up too, and temporary files come and go.
fn present<T>(found: io::Result<T>, path: &Path) -> Result<Option<T>, SegmentError> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).map_err(SegmentError::io(path)),
    }
}
