//! Lengths and xxh3-64 checksums of files, and the comparison with what a manifest says.
//!
//! xxh3 finds damage, not forgery: whoever can write the object store is trusted.

use std::{fs::File, io::Read, path::Path};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::SegmentError;

const READ_BYTES: usize = 1 << 20;
const MAX_PATH_BYTES: usize = 512;

/// A file as a manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Key relative to the collection, parts separated by `/`.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// xxh3-64 of the content: 16 lowercase hex digits.
    pub checksum: String,
}

impl FileEntry {
    /// Describes bytes that are stored at `path`.
    #[must_use]
    pub fn of_bytes(path: impl Into<String>, content: &[u8]) -> Self {
        Self {
            path: path.into(),
            bytes: content.len() as u64,
            checksum: checksum(content),
        }
    }

    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether a file of this length and checksum is the one described.
    pub fn verify(&self, bytes: u64, checksum: &str) -> Result<(), SegmentError> {
        if bytes != self.bytes {
            let reason = format!("has {bytes} bytes, its manifest says {}", self.bytes);
            return Err(SegmentError::damaged(&self.path, reason));
        }
        if checksum != self.checksum {
            let reason = format!(
                "has checksum {checksum}, its manifest says {}",
                self.checksum
            );
            return Err(SegmentError::damaged(&self.path, reason));
        }
        Ok(())
    }

    /// Reads the whole file at `local` and compares it. A missing file is damage too: the manifest lists it.
    pub fn verify_file(&self, local: &Path) -> Result<(), SegmentError> {
        let mut file = File::open(local).map_err(|error| self.unreadable(local, error))?;
        let bytes = file
            .metadata()
            .map_err(|error| self.unreadable(local, error))?
            .len();
        if bytes != self.bytes {
            return self.verify(bytes, "");
        }
        let mut hasher = FileHasher::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file
                .read(&mut buffer)
                .map_err(|error| self.unreadable(local, error))?
            {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        self.verify(hasher.bytes(), &hasher.checksum())
    }

    fn unreadable(&self, local: &Path, error: std::io::Error) -> SegmentError {
        match error.kind() {
            std::io::ErrorKind::NotFound => SegmentError::damaged(&self.path, "is missing"),
            _ => SegmentError::io(local)(error),
        }
    }

    /// Refuses a path that could leave its collection, and a checksum that is none.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !is_plain_path(&self.path) {
            return Err(format!("file path {:?} is not plain", self.path));
        }
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.checksum.len() != 16 || !self.checksum.bytes().all(hex) {
            return Err(format!(
                "{}: {:?} is not a checksum",
                self.path, self.checksum
            ));
        }
        Ok(())
    }
}

/// Names of `[A-Za-z0-9._-]`, none of them `.` or `..`, separated by single slashes.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.bytes().all(plain);
    path.len() <= MAX_PATH_BYTES && path.split('/').all(is_name)
}

/// xxh3-64 of bytes: 16 lowercase hex digits.
#[must_use]
pub fn checksum(content: &[u8]) -> String {
    hex(xxh3_64(content))
}

fn hex(checksum: u64) -> String {
    format!("{checksum:016x}")
}

/// Length and checksum of a file that passes by in pieces.
#[derive(Default)]
pub(crate) struct FileHasher {
    hasher: Xxh3,
    bytes: u64,
}

impl FileHasher {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn checksum(&self) -> String {
        hex(self.hasher.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_published_xxh3() {
        assert_eq!(checksum(b""), "2d06800538d394c2");
    }

    #[test]
    fn paths_that_leave_the_collection_are_not_plain() {
        for path in [
            "", "/a", "a/", "a//b", "../a", "a/../b", ".", "a\\b", "a b", "a\0", "ä",
        ] {
            assert!(!is_plain_path(path), "{path:?}");
        }
        assert!(is_plain_path("segments/3-ab/sparse/.managed.json"));
    }

    #[test]
    fn damage_is_told_by_file_name() {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("x");
        let entry = FileEntry::of_bytes("segments/1-a/documents/x", b"hello");
        assert_eq!(
            entry.verify_file(&local).unwrap_err().to_string(),
            "segments/1-a/documents/x: is missing"
        );
        std::fs::write(&local, b"hello").unwrap();
        entry.verify_file(&local).unwrap();
        std::fs::write(&local, b"hellp").unwrap();
        let flipped = entry.verify_file(&local).unwrap_err().to_string();
        assert!(
            flipped.starts_with("segments/1-a/documents/x: has checksum"),
            "{flipped}"
        );
        std::fs::write(&local, b"hell").unwrap();
        let cut = entry.verify_file(&local).unwrap_err().to_string();
        assert!(cut.contains("has 4 bytes, its manifest says 5"), "{cut}");
    }
}
