//! Little-endian tables in mapped files: the one place that computes offsets, with every bound checked.

use std::ops::Range;

use crate::SegmentError;

/// Walks over the head and the arrays of a file, front to back.
pub(crate) struct Walk<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// Starts behind the magic bytes that tell the kind of file and its version.
    pub(crate) fn new(
        file: &'a str,
        bytes: &'a [u8],
        magic: &[u8; 8],
    ) -> Result<Self, SegmentError> {
        let mut walk = Self { file, bytes, at: 0 };
        let found = walk.take(8)?;
        match &bytes[found] == magic {
            true => Ok(walk),
            false => Err(walk.damaged("starts with unknown bytes")),
        }
    }

    pub(crate) fn damaged(&self, reason: impl Into<String>) -> SegmentError {
        SegmentError::damaged(self.file, reason)
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<Range<usize>, SegmentError> {
        let end = self
            .at
            .checked_add(count)
            .filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.damaged("ends too early"))?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, SegmentError> {
        let range = self.take(4)?;
        Ok(u32_at(&self.bytes[range], 0).unwrap_or_default())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, SegmentError> {
        let range = self.take(8)?;
        Ok(u64_at(&self.bytes[range], 0).unwrap_or_default())
    }

    /// A length that has to fit into memory.
    pub(crate) fn length(&mut self) -> Result<usize, SegmentError> {
        let length = self.u64()?;
        usize::try_from(length)
            .map_err(|_| self.damaged(format!("length {length} is out of range")))
    }

    /// The next `count` elements of `size` bytes each.
    pub(crate) fn array(
        &mut self,
        count: usize,
        size: usize,
    ) -> Result<Range<usize>, SegmentError> {
        let bytes = count
            .checked_mul(size)
            .ok_or_else(|| self.damaged("has a table out of range"))?;
        self.take(bytes)
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), SegmentError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            more => Err(self.damaged(format!("has {more} bytes too many"))),
        }
    }
}

/// Element `index` of a table of u32.
pub(crate) fn u32_at(table: &[u8], index: usize) -> Option<u32> {
    element(table, index).map(u32::from_le_bytes)
}

/// Element `index` of a table of u64.
pub(crate) fn u64_at(table: &[u8], index: usize) -> Option<u64> {
    element(table, index).map(u64::from_le_bytes)
}

fn element<const SIZE: usize>(table: &[u8], index: usize) -> Option<[u8; SIZE]> {
    let start = index.checked_mul(SIZE)?;
    table.get(start..start.checked_add(SIZE)?)?.try_into().ok()
}

/// All elements of a table of u16.
pub(crate) fn u16s(table: &[u8]) -> impl Iterator<Item = u16> {
    table
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| u16::from_le_bytes(bytes))
}

/// All elements of a table of u32.
pub(crate) fn u32s(table: &[u8]) -> impl Iterator<Item = u32> {
    table
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| u32::from_le_bytes(bytes))
}

/// All elements of a table of u64.
pub(crate) fn u64s(table: &[u8]) -> impl Iterator<Item = u64> {
    table
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| u64::from_le_bytes(bytes))
}

/// All elements of a table of i64.
pub(crate) fn i64s(table: &[u8]) -> impl Iterator<Item = i64> {
    table
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| i64::from_le_bytes(bytes))
}

/// All elements of a table of f64.
pub(crate) fn f64s(table: &[u8]) -> impl Iterator<Item = f64> {
    table
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f64::from_le_bytes(bytes))
}

/// Whether the values never fall.
pub(crate) fn is_ascending<T: PartialOrd>(values: impl Iterator<Item = T>) -> bool {
    values.is_sorted()
}
