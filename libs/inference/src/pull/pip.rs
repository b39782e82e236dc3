//! Downloads by pip: pinned wheels, with their hashes, into a folder. Nothing is installed.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::error::{PullError, io_error};
use super::{PullOptions, PullProgress};

/// The wheels for this Python are unpacked whatever Python the user has: only the C library inside counts.
const ORT_PYTHON: &str = "3.11";
const ORT_PYTHON_ABI: &str = "cp311";
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Lines of pip's output that an error shows.
const SHOWN_LOG_LINES: usize = 8;
/// The folder in the staging folder that wheels are downloaded to.
pub(super) const WHEELS_DIR: &str = "wheels";
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

/// A pinned package file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wheel {
    pub(super) requirement: &'static str,
    pub(super) file: &'static str,
    pub(super) sha256: &'static str,
    pub(super) bytes: u64,
}

/// The ONNX Runtime package of one system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Platform {
    /// pip's name for it.
    tag: &'static str,
    pub(super) library: &'static str,
    pub(super) wheel: Wheel,
}

const ORT_REQUIREMENT: &str = "onnxruntime==1.32.0";

pub(super) fn platform() -> Result<Platform, PullError> {
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

/// One download.
pub(super) struct Pip<'a> {
    pub(super) options: &'a PullOptions,
    pub(super) platform: Platform,
    pub(super) staging: &'a Path,
}

impl Pip<'_> {
    /// Downloads the wheels; blocks until pip has ended.
    pub(super) fn download(
        &self,
        wheels: &[Wheel],
        progress: &mut dyn FnMut(PullProgress),
    ) -> Result<(), PullError> {
        let staging = self.staging;
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
            .args(["--abi=none", &format!("--platform={}", self.platform.tag)])
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
        let status = self.wait(command, wheels, progress)?;
        if status.success() {
            Ok(())
        } else {
            Err(self.pip_error(status, &log))
        }
    }

    fn wait(
        &self,
        mut command: Command,
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
                    let bytes = bytes_below(self.staging).min(total_bytes);
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
