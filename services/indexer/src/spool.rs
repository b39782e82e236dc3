//! What a run keeps on disk between its phases, so that its memory does not grow with the texts: the normalised
//! documents, and the vectors of their passages.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Map, Value};

/// Three lengths: title, text, metadata.
const HEAD_BYTES: u64 = 12;

/// A document as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpooledDocument {
    pub(crate) title: String,
    pub(crate) text: String,
    /// The metadata object as compact JSON; empty: none.
    pub(crate) metadata_json: String,
}

impl SpooledDocument {
    /// The metadata as an object.
    pub(crate) fn metadata(&self) -> Map<String, Value> {
        if self.metadata_json.is_empty() {
            return Map::new();
        }
        serde_json::from_str(&self.metadata_json).expect("the reader has written an object")
    }
}

/// Writes documents one after the other; each is found again by its offset.
pub(crate) struct DocumentSpoolWriter {
    file: BufWriter<File>,
    bytes: u64,
}

impl DocumentSpoolWriter {
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(directory)?);
        Ok(Self { file, bytes: 0 })
    }

    /// Returns the document's offset.
    pub(crate) fn push(&mut self, document: &SpooledDocument) -> io::Result<u64> {
        let offset = self.bytes;
        let parts = [&document.title, &document.text, &document.metadata_json];
        for part in parts {
            // Every part comes out of one line, and lines have a limit far below 4 GiB.
            self.file.write_all(&(part.len() as u32).to_le_bytes())?;
        }
        for part in parts {
            self.file.write_all(part.as_bytes())?;
        }
        self.bytes += HEAD_BYTES + parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(offset)
    }

    pub(crate) fn finish(self) -> io::Result<DocumentSpool> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(DocumentSpool {
            file,
            bytes: self.bytes,
        })
    }
}

/// Documents on disk, readable from any thread in any order.
pub(crate) struct DocumentSpool {
    file: File,
    bytes: u64,
}

impl DocumentSpool {
    /// The document at an offset.
    pub(crate) fn read(&self, offset: u64) -> io::Result<SpooledDocument> {
        let [title, text, metadata] = self.lengths(offset)?;
        let title_at = offset + HEAD_BYTES;
        Ok(SpooledDocument {
            title: self.read_text(title_at, title)?,
            text: self.read_text(title_at + title, text)?,
            metadata_json: self.read_text(title_at + title + text, metadata)?,
        })
    }

    /// The title of the document at an offset and a part of its text, without reading the rest.
    pub(crate) fn read_passage(
        &self,
        offset: u64,
        span: Range<u32>,
    ) -> io::Result<(String, String)> {
        let [title_bytes, text_bytes, _] = self.lengths(offset)?;
        if u64::from(span.end) > text_bytes || span.start > span.end {
            return Err(changed());
        }
        let title_at = offset + HEAD_BYTES;
        let passage_at = title_at + title_bytes + u64::from(span.start);
        let passage_bytes = u64::from(span.end - span.start);
        Ok((
            self.read_text(title_at, title_bytes)?,
            self.read_text(passage_at, passage_bytes)?,
        ))
    }

    fn lengths(&self, offset: u64) -> io::Result<[u64; 3]> {
        let mut head = [0; HEAD_BYTES as usize];
        self.file.read_exact_at(&mut head, offset)?;
        let (lengths, _) = head.as_chunks::<4>();
        let lengths = [lengths[0], lengths[1], lengths[2]]
            .map(|length| u64::from(u32::from_le_bytes(length)));
        let end = offset + HEAD_BYTES + lengths.iter().sum::<u64>();
        if end > self.bytes {
            Err(changed())
        } else {
            Ok(lengths)
        }
    }

    fn read_text(&self, offset: u64, length: u64) -> io::Result<String> {
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn changed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the spool file was changed during the run",
    )
}

/// One f32 vector per row, written and read in any order.
pub(crate) struct VectorSpool {
    file: File,
    dimensions: usize,
}

impl VectorSpool {
    pub(crate) fn create(directory: &Path, dimensions: usize) -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile_in(directory)?,
            dimensions,
        })
    }

    pub(crate) fn write(&self, row: u64, vector: &[f32]) -> io::Result<()> {
        let bytes: Vec<u8> = vector
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.file.write_all_at(&bytes, self.offset(row))
    }

    /// Fills `vector` with a row.
    pub(crate) fn read(&self, row: u64, vector: &mut Vec<f32>) -> io::Result<()> {
        let mut bytes = vec![0; self.dimensions * size_of::<f32>()];
        self.file.read_exact_at(&mut bytes, self.offset(row))?;
        vector.clear();
        vector.extend(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|value| f32::from_le_bytes(*value)),
        );
        Ok(())
    }

    fn offset(&self, row: u64) -> u64 {
        row * (self.dimensions * size_of::<f32>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_back_in_any_order() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = DocumentSpoolWriter::create(directory.path()).unwrap();
        let documents: Vec<SpooledDocument> = (0..20)
            .map(|n| SpooledDocument {
                title: format!("título {n}"),
                text: "x".repeat(n * 100),
                metadata_json: "{}".into(),
            })
            .collect();
        let offsets: Vec<u64> = documents
            .iter()
            .map(|document| writer.push(document).unwrap())
            .collect();
        let spool = writer.finish().unwrap();
        for (document, offset) in documents.iter().zip(&offsets).rev() {
            assert_eq!(&spool.read(*offset).unwrap(), document);
        }
        let (title, passage) = spool.read_passage(offsets[3], 10..15).unwrap();
        assert_eq!((title.as_str(), passage.as_str()), ("título 3", "xxxxx"));
        assert!(spool.read_passage(offsets[3], 299..301).is_err());
    }

    #[test]
    fn vectors_are_written_and_read_by_row() {
        let directory = tempfile::tempdir().unwrap();
        let spool = VectorSpool::create(directory.path(), 3).unwrap();
        spool.write(2, &[1.0, -2.5, f32::MIN_POSITIVE]).unwrap();
        spool.write(0, &[4.0, 5.0, 6.0]).unwrap();
        let mut vector = Vec::new();
        spool.read(2, &mut vector).unwrap();
        assert_eq!(vector, [1.0, -2.5, f32::MIN_POSITIVE]);
        spool.read(0, &mut vector).unwrap();
        assert_eq!(vector, [4.0, 5.0, 6.0]);
        assert!(spool.read(3, &mut vector).is_err());
    }
}
