//! One file of rows of equal size behind a head.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use vector_math::floats_from_bytes;

use crate::layout::Walk;
use crate::mapped::Mapped;
use crate::{SegmentError, store::PartFiles};

/// Name and version of a kind of file.
pub(crate) type Magic = [u8; 8];

/// A cache line, so that rows of 64 codes never straddle two.
const HEAD_BYTES: usize = 64;

/// Writes rows one after the other; the head is completed at the end.
pub(crate) struct BlockWriter {
    path: PathBuf,
    file: BufWriter<File>,
    magic: &'static Magic,
    row_bytes: usize,
    rows: u64,
}

impl BlockWriter {
    pub(crate) fn create(
        folder: &Path,
        name: &str,
        magic: &'static Magic,
        row_bytes: usize,
    ) -> Result<Self, SegmentError> {
        let path = folder.join(name);
        let file = File::create(&path).map_err(SegmentError::io(&path))?;
        let mut writer = Self {
            file: BufWriter::new(file),
            path,
            magic,
            row_bytes,
            rows: 0,
        };
        writer.write(&[0; HEAD_BYTES])?;
        Ok(writer)
    }

    pub(crate) fn push(&mut self, row: &[u8]) -> Result<(), SegmentError> {
        if row.len() != self.row_bytes {
            let reason = format!("a row of {} bytes for {}", row.len(), self.path.display());
            return Err(SegmentError::invalid(reason));
        }
        self.rows += 1;
        self.write(row)
    }

    /// Adds any number of rows, which lie one behind the other.
    pub(crate) fn push_all(&mut self, rows: &[u8]) -> Result<(), SegmentError> {
        if self.row_bytes == 0 || !rows.len().is_multiple_of(self.row_bytes) {
            let (bytes, path) = (rows.len(), self.path.display());
            let reason = format!("{bytes} bytes are no whole rows of {path}");
            return Err(SegmentError::invalid(reason));
        }
        self.rows += (rows.len() / self.row_bytes) as u64;
        self.write(rows)
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn finish(mut self) -> Result<(), SegmentError> {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(self.magic);
        head[8..16].copy_from_slice(&(self.row_bytes as u64).to_le_bytes());
        head[16..24].copy_from_slice(&self.rows.to_le_bytes());
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(SegmentError::io(&self.path))?;
        self.write(&head)?;
        self.file.flush().map_err(SegmentError::io(&self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SegmentError> {
        self.file
            .write_all(bytes)
            .map_err(SegmentError::io(&self.path))
    }
}

/// A mapped file of rows.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Mapped,
}

impl Block {
    /// Maps a file, and refuses one whose head isn't that of `rows` rows of `row_bytes`.
    pub(crate) fn open(
        files: &PartFiles,
        name: &str,
        magic: &Magic,
        row_bytes: usize,
        rows: u64,
    ) -> Result<Self, SegmentError> {
        let bytes = Mapped::open(files.get(name)?)?;
        let mut walk = Walk::new(name, &bytes, magic)?;
        let found = (walk.length()?, walk.u64()?);
        if found != (row_bytes, rows) {
            let reason = format!(
                "has {} rows of {} bytes, {rows} of {row_bytes} are needed",
                found.1, found.0
            );
            return Err(walk.damaged(reason));
        }
        walk.take(HEAD_BYTES - 24)?;
        let rows = usize::try_from(rows).map_err(|_| walk.damaged("has too many rows"))?;
        walk.array(rows, row_bytes)?;
        walk.end()?;
        Ok(Self { bytes })
    }

    /// See [`Mapped::advise_scattered_reads`].
    pub(crate) fn advise_scattered_reads(&self) {
        self.bytes.advise_scattered_reads();
    }

    /// The rows, one behind the other.
    pub(crate) fn rows(&self) -> &[u8] {
        self.bytes.get(HEAD_BYTES..).unwrap_or_default()
    }

    /// The rows as numbers. Empty when they are not aligned, which is refused when a part is opened.
    pub(crate) fn floats(&self) -> &[f32] {
        floats_from_bytes(self.rows()).unwrap_or_default()
    }
}
