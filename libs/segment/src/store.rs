//! Collections in object storage: atomic commits, and verified local files.
//!
//! A commit puts the next manifest if it is absent, so of two racing committers one gets a [`CommitError::Conflict`],
//! and a reader sees all of a commit or none of it. Files are verified (length and checksum) before their local
//! path is given out. A local store is used in place; files of a remote one are downloaded to a cache folder,
//! whole or not at all.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, buffered::BufWriter,
    local::LocalFileSystem, path::Path as Key,
};
use search_core::{CollectionName, error::ErrorKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::spawn_blocking,
};

use crate::{
    SegmentError,
    checksum::{FileEntry, FileHasher, is_plain_path},
    manifest::{Manifest, SegmentEntry},
};

pub(crate) const COLLECTIONS: &str = "collections";
/// What is read of a file at a time: large enough for throughput, small beside what a segment takes.
const UPLOAD_PIECE_BYTES: usize = 1 << 20;

/// Collections in one object store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) files: LocalFiles,
}

/// Where files of the object store are found on the local disk.
#[derive(Clone, Debug)]
pub(crate) enum LocalFiles {
    /// The object store is this folder.
    InPlace(PathBuf),
    /// Copies are kept in this folder.
    Cached(PathBuf),
}

/// Why a commit was not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another commit came first: read the newest manifest and start over from it.
    #[error("{collection}: snapshot {number} is not the next any more: another commit came first")]
    Conflict {
        /// The collection.
        collection: CollectionName,
        /// The number that was to be committed.
        number: u64,
    },
    /// The manifest makes no sense, or the store failed.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

impl CommitError {
    /// Which kind of failure this is for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Conflict { .. } => ErrorKind::FailedPrecondition,
            Self::Segment(error) => error.kind(),
        }
    }
}

/// A manifest in the store, unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestVersion {
    /// Number of the snapshot.
    pub number: u64,
    /// Tells a manifest from another one of the same number, after a collection was removed and made anew.
    pub version: String,
    pub(crate) modified: SystemTime,
}

/// Verified local files of one part of a segment, by name.
#[derive(Clone, Debug, Default)]
pub struct PartFiles {
    files: BTreeMap<String, PathBuf>,
}

impl PartFiles {
    /// The files of a folder that was just written, unverified.
    pub fn of_folder(folder: &Path) -> Result<Self, SegmentError> {
        let files = files_of(folder)?;
        Ok(Self {
            files: files.into_iter().collect(),
        })
    }

    /// The file of this name; its absence is damage.
    pub fn get(&self, name: &str) -> Result<&Path, SegmentError> {
        let missing = || SegmentError::damaged(name, "is not among the files of its part");
        self.files
            .get(name)
            .map(PathBuf::as_path)
            .ok_or_else(missing)
    }

    /// Whether there is a file of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The folder that all the files are in.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.files.values().next().and_then(|file| file.parent())
    }

    /// Names and paths of all files.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.files
            .iter()
            .map(|(name, path)| (name.as_str(), path.as_path()))
    }
}

impl Store {
    /// Collections in any object store; copies of its files are kept in `cache_folder`.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, cache_folder: PathBuf) -> Self {
        Self {
            objects,
            files: LocalFiles::Cached(cache_folder),
        }
    }

    /// Collections in a local folder, which is created if it is missing.
    pub fn local(root: &Path) -> Result<Self, SegmentError> {
        std::fs::create_dir_all(root).map_err(SegmentError::io(root))?;
        let root = root.canonicalize().map_err(SegmentError::io(root))?;
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(SegmentError::store(root.display().to_string()))?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        Ok(Self {
            objects: Arc::new(objects),
            files: LocalFiles::InPlace(root),
        })
    }

    /// Collections at a path, a `file:///` URL, or (with the feature `s3`) `s3://bucket/prefix`. `cache_folder`
    /// is for copies of remote files.
    pub fn open(location: &str, cache_folder: &Path) -> Result<Self, SegmentError> {
        match Location::parse(location)? {
            Location::Folder(folder) => Self::local(folder),
            Location::S3(bucket) => open_s3(bucket, cache_folder),
        }
    }

    /// Whether [`Store::open`] understands the location, for the check of a configuration.
    pub fn check_location(location: &str) -> Result<(), SegmentError> {
        match Location::parse(location)? {
            Location::S3(_) if !cfg!(feature = "s3") => Err(SegmentError::invalid(format!(
                "{location}: this program was built without the feature `s3`"
            ))),
            Location::S3(_) | Location::Folder(_) => Ok(()),
        }
    }

    /// The collections that have at least one manifest, in order. Other folders are none of them.
    pub async fn collections(&self) -> Result<Vec<CollectionName>, SegmentError> {
        let root = Key::from(COLLECTIONS);
        let listing = self.objects.list_with_delimiter(Some(&root)).await;
        let folders = listing
            .map_err(SegmentError::store(COLLECTIONS))?
            .common_prefixes;
        let mut names = Vec::new();
        for name in folders
            .iter()
            .filter_map(|folder| folder.filename()?.parse().ok())
        {
            if !self.manifest_versions(&name).await?.is_empty() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The manifests of a collection, newest first. Empty: there is no such collection.
    pub async fn manifest_versions(
        &self,
        name: &CollectionName,
    ) -> Result<Vec<ManifestVersion>, SegmentError> {
        let folder = key(name, "manifests");
        let listed = self
            .objects
            .list(Some(&folder))
            .try_collect::<Vec<_>>()
            .await;
        let metas = listed.map_err(SegmentError::store(folder.to_string()))?;
        let mut versions: Vec<_> = metas.iter().filter_map(manifest_version).collect();
        versions.sort_by_key(|version| std::cmp::Reverse(version.number));
        Ok(versions)
    }

    /// The newest manifest. None: there is no such collection.
    pub async fn latest_manifest(
        &self,
        name: &CollectionName,
    ) -> Result<Option<Manifest>, SegmentError> {
        match self.manifest_versions(name).await?.first() {
            Some(newest) => self.manifest(name, newest.number).await.map(Some),
            None => Ok(None),
        }
    }

    /// One manifest, checked.
    pub async fn manifest(
        &self,
        name: &CollectionName,
        number: u64,
    ) -> Result<Manifest, SegmentError> {
        let key = manifest_key(name, number);
        let json = self.read(&key).await?;
        let manifest = Manifest::from_json(key.as_ref(), &json)?;
        if (&manifest.collection, manifest.number) != (name, number) {
            let reason = format!("describes {} {}", manifest.collection, manifest.number);
            return Err(SegmentError::damaged(key.as_ref(), reason));
        }
        Ok(manifest)
    }

    /// Makes a manifest the newest of its collection, or changes nothing.
    ///
    /// Its number has to be the next one. The look at the newest number guards against a committer that
    /// slept so long that its number was taken and cleaned up again.
    pub async fn commit(&self, manifest: &Manifest) -> Result<(), CommitError> {
        let Manifest {
            collection, number, ..
        } = manifest;
        let conflict = || CommitError::Conflict {
            collection: collection.clone(),
            number: *number,
        };
        let json = manifest.to_json()?;
        let newest = self
            .manifest_versions(collection)
            .await?
            .first()
            .map_or(0, |newest| newest.number);
        if newest.checked_add(1) != Some(*number) {
            return Err(conflict());
        }
        let key = manifest_key(collection, *number);
        let create = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        match self.objects.put_opts(&key, json.into(), create).await {
            Ok(_) => Ok(()),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Err(conflict()),
            Err(error) => Err(SegmentError::store(key.to_string())(error).into()),
        }
    }

    /// Stores the files of a local folder under `folder` of the collection.
    pub async fn upload_dir(
        &self,
        name: &CollectionName,
        local: &Path,
        folder: &str,
    ) -> Result<Vec<FileEntry>, SegmentError> {
        let mut entries = Vec::new();
        let local = local.to_owned();
        for (file, path) in spawn_blocking(move || files_of(&local)).await?? {
            entries.push(
                self.upload_file(name, &path, &format!("{folder}/{file}"))
                    .await?,
            );
        }
        Ok(entries)
    }

    /// Stores a local file at `path` of the collection.
    pub async fn upload_file(
        &self,
        name: &CollectionName,
        local: &Path,
        path: &str,
    ) -> Result<FileEntry, SegmentError> {
        check_plain(path)?;
        let key = key(name, path);
        let mut writer = BufWriter::new(Arc::clone(&self.objects), key.clone());
        // A writer that is dropped half-way leaves nothing readable; parts that have arrived age out.
        let streamed = stream_file(local, &mut writer, &key).await?;
        Ok(FileEntry {
            path: path.to_owned(),
            bytes: streamed.bytes(),
            checksum: streamed.checksum(),
        })
    }

    /// Stores bytes at `path` of the collection.
    pub async fn upload_bytes(
        &self,
        name: &CollectionName,
        path: &str,
        content: Bytes,
    ) -> Result<FileEntry, SegmentError> {
        check_plain(path)?;
        let entry = FileEntry::of_bytes(path, &content);
        let key = key(name, path);
        let put = self.objects.put(&key, content.into()).await;
        put.map(|_| entry)
            .map_err(SegmentError::store(key.to_string()))
    }

    /// The local path of a file, verified.
    pub async fn local_file(
        &self,
        name: &CollectionName,
        entry: &FileEntry,
    ) -> Result<PathBuf, SegmentError> {
        entry
            .check()
            .map_err(|reason| SegmentError::damaged(&entry.path, reason))?;
        let relative = Path::new(COLLECTIONS).join(name.as_str()).join(&entry.path);
        match &self.files {
            LocalFiles::InPlace(root) => verified(entry.clone(), root.join(relative)).await,
            LocalFiles::Cached(folder) => {
                self.cached_file(name, entry, folder.join(relative)).await
            }
        }
    }

    /// The local paths of the files of one part of a segment, verified.
    pub async fn part_files(
        &self,
        name: &CollectionName,
        segment: &SegmentEntry,
        part: &str,
    ) -> Result<PartFiles, SegmentError> {
        let mut files = BTreeMap::new();
        for entry in segment.parts.get(part).into_iter().flatten() {
            files.insert(entry.name().to_owned(), self.local_file(name, entry).await?);
        }
        Ok(PartFiles { files })
    }

    async fn cached_file(
        &self,
        name: &CollectionName,
        entry: &FileEntry,
        target: PathBuf,
    ) -> Result<PathBuf, SegmentError> {
        match verified(entry.clone(), target.clone()).await {
            // A missing or spoilt copy is fetched anew; damage in the object store shows below.
            Err(SegmentError::Damaged { .. }) => self.download(name, entry, target).await,
            verified => verified,
        }
    }

    async fn download(
        &self,
        name: &CollectionName,
        entry: &FileEntry,
        target: PathBuf,
    ) -> Result<PathBuf, SegmentError> {
        let folder = target.parent().unwrap_or(&target);
        std::fs::create_dir_all(folder).map_err(SegmentError::io(folder))?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(SegmentError::io(folder))?;
        let key = key(name, &entry.path);
        let object = self
            .objects
            .get(&key)
            .await
            .map_err(SegmentError::store(key.to_string()));
        let mut stream = object
            .map_err(|error| missing_is_damage(error, entry))?
            .into_stream();
        let mut hasher = FileHasher::default();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(SegmentError::store(key.to_string()))?;
            hasher.update(&piece);
            if hasher.bytes() > entry.bytes {
                break;
            }
            file.write_all(&piece).map_err(SegmentError::io(&target))?;
        }
        entry.verify(hasher.bytes(), &hasher.checksum())?;
        file.persist(&target)
            .map_err(|error| SegmentError::io(&target)(error.error))?;
        Ok(target)
    }

    async fn read(&self, key: &Key) -> Result<Bytes, SegmentError> {
        let read = async { self.objects.get(key).await?.bytes().await };
        read.await.map_err(SegmentError::store(key.to_string()))
    }
}

/// The manifest lists the file: its absence is damage.
fn missing_is_damage(error: SegmentError, entry: &FileEntry) -> SegmentError {
    match error {
        SegmentError::NotFound { .. } => SegmentError::damaged(&entry.path, "is missing"),
        error => error,
    }
}

fn check_plain(path: &str) -> Result<(), SegmentError> {
    match is_plain_path(path) {
        true => Ok(()),
        false => Err(SegmentError::invalid(format!(
            "file path {path:?} is not plain"
        ))),
    }
}

/// Writes a whole local file, and tells its length and checksum.
async fn stream_file(
    local: &Path,
    writer: &mut BufWriter,
    key: &Key,
) -> Result<FileHasher, SegmentError> {
    let mut file = tokio::fs::File::open(local)
        .await
        .map_err(SegmentError::io(local))?;
    let mut hasher = FileHasher::default();
    loop {
        let mut piece = BytesMut::with_capacity(UPLOAD_PIECE_BYTES);
        if file
            .read_buf(&mut piece)
            .await
            .map_err(SegmentError::io(local))?
            == 0
        {
            break;
        }
        hasher.update(&piece);
        writer
            .put(piece.freeze())
            .await
            .map_err(SegmentError::store(key.to_string()))?;
    }
    writer
        .shutdown()
        .await
        .map_err(SegmentError::io(key.as_ref()))?;
    Ok(hasher)
}

async fn verified(entry: FileEntry, local: PathBuf) -> Result<PathBuf, SegmentError> {
    spawn_blocking(move || entry.verify_file(&local).map(|()| local)).await?
}

/// Names and paths of the plain files of a folder, in order.
fn files_of(folder: &Path) -> Result<Vec<(String, PathBuf)>, SegmentError> {
    let mut files = Vec::new();
    for found in std::fs::read_dir(folder).map_err(SegmentError::io(folder))? {
        let path = found.map_err(SegmentError::io(folder))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .map(str::to_owned);
        match name.filter(|_| path.is_file()) {
            Some(name) => files.push((name, path)),
            None => {
                return Err(SegmentError::invalid(format!(
                    "{}: not a plain file",
                    path.display()
                )));
            }
        }
    }
    files.sort();
    Ok(files)
}

pub(crate) fn key(name: &CollectionName, path: &str) -> Key {
    Key::from(format!("{COLLECTIONS}/{name}/{path}"))
}

/// Twenty digits hold every number, so that keys sort as numbers do.
pub(crate) fn manifest_key(name: &CollectionName, number: u64) -> Key {
    key(name, &format!("manifests/{number:020}.json"))
}

fn manifest_version(meta: &ObjectMeta) -> Option<ManifestVersion> {
    let digits = meta.location.filename()?.strip_suffix(".json")?;
    let number = digits.parse().ok().filter(|_| digits.len() == 20)?;
    let modified = SystemTime::from(meta.last_modified);
    let version = meta
        .e_tag
        .clone()
        .unwrap_or_else(|| format!("{modified:?} {}", meta.size));
    Some(ManifestVersion {
        number,
        version,
        modified,
    })
}

/// Where collections are kept, as a configuration names it.
enum Location<'a> {
    Folder(&'a Path),
    /// What follows the scheme: bucket and prefix.
    S3(&'a str),
}

impl<'a> Location<'a> {
    fn parse(location: &'a str) -> Result<Self, SegmentError> {
        match location.split_once("://") {
            None => Ok(Self::Folder(Path::new(location))),
            // Percent signs would need decoding: such a folder is better named by its plain path.
            Some(("file", path)) if path.starts_with('/') && !path.contains('%') => {
                Ok(Self::Folder(Path::new(path)))
            }
            Some(("s3", bucket)) => Ok(Self::S3(bucket)),
            Some(_) => Err(SegmentError::invalid(format!(
                "{location}: not a path, file:///path or s3://bucket/prefix"
            ))),
        }
    }
}

#[cfg(feature = "s3")]
fn open_s3(location: &str, cache_folder: &Path) -> Result<Store, SegmentError> {
    use object_store::{aws::AmazonS3Builder, prefix::PrefixStore};

    let (bucket, prefix) = location.split_once('/').unwrap_or((location, ""));
    let built = AmazonS3Builder::from_env().with_bucket_name(bucket).build();
    let objects = built.map_err(SegmentError::store(format!("s3://{location}")))?;
    let objects = PrefixStore::new(objects, prefix.trim_matches('/'));
    Ok(Store::new(Arc::new(objects), cache_folder.to_owned()))
}

#[cfg(not(feature = "s3"))]
fn open_s3(location: &str, _cache_folder: &Path) -> Result<Store, SegmentError> {
    let reason = format!("s3://{location}: this build has no S3 support (cargo feature `s3`)");
    Err(SegmentError::invalid(reason))
}

#[cfg(test)]
mod tests;
