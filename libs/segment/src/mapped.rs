//! Files mapped into memory, read-only.
//!
//! Mapping is `unsafe` because a mapping changes when its file does. The store verifies each file before it is
//! mapped, and files are immutable once written: replaced by renaming, never written in place. That makes the
//! one `unsafe` line of this crate sound, and this wrapper is the only place that has it.

use std::{fs::File, ops::Deref, path::Path};

use memmap2::Mmap;

use crate::SegmentError;

/// The bytes of an immutable file.
#[derive(Debug)]
pub struct Mapped(Option<Mmap>);

impl Mapped {
    /// Maps a file that nobody writes to any more.
    pub fn open(path: &Path) -> Result<Self, SegmentError> {
        let file = File::open(path).map_err(SegmentError::io(path))?;
        let bytes = file.metadata().map_err(SegmentError::io(path))?.len();
        if bytes == 0 {
            return Ok(Self(None));
        }
        Ok(Self(Some(map(&file).map_err(SegmentError::io(path))?)))
    }

    /// Says that pieces are read from anywhere. The kernel reads nothing ahead of them then, which in less memory than the file is
    /// large would push out what is wanted.
    pub(crate) fn advise_scattered_reads(&self) {
        // A kernel that does not take advice is slower, and reads the same.
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            let _ = map.advise(memmap2::Advice::Random);
        }
    }
}

#[expect(
    unsafe_code,
    reason = "mapping a file is unsafe in every crate that offers it"
)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the file is immutable: it was verified against its manifest, and files of a collection are only
    // ever created whole (by rename or hard link) or unlinked, which leaves existing mappings alone.
    unsafe { Mmap::map(file) }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
