//! Opens the sparse part of a segment for reading, from verified files wherever they lie.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    DirectoryLock, FileHandle, Lock, MmapDirectory, WatchCallback, WatchHandle, WritePtr,
};
use tantivy::{
    Directory, Index, InvertedIndexReader, ReloadPolicy, Searcher, SegmentReader, TantivyError,
};

use super::{BODY, failed};
use crate::SegmentError;
use crate::store::PartFiles;

/// The file in which tantivy describes an index.
const DESCRIPTION: &str = "meta.json";

/// The inverted index of one segment, open for reading.
pub struct SparseIndex {
    searcher: Searcher,
    body: Arc<InvertedIndexReader>,
    longest_passage_tokens: u32,
}

impl std::fmt::Debug for SparseIndex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SparseIndex({} passages)", self.passages())
    }
}

impl SparseIndex {
    /// Opens the part.
    pub fn open(files: &PartFiles) -> Result<Self, SegmentError> {
        let directory = PartDirectory(Arc::new(files.clone()));
        let index = Index::open(directory).map_err(failed)?;
        if index.schema() != super::schema() {
            let reason = "has another schema than this version writes";
            return Err(SegmentError::damaged(DESCRIPTION, reason));
        }
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual);
        let searcher = reader.try_into().map_err(failed)?.searcher();
        let segments = searcher.segment_readers().len();
        if segments != 1 {
            let reason = format!("describes {segments} segments, not one");
            return Err(SegmentError::damaged(DESCRIPTION, reason));
        }
        Self::from_searcher(searcher).map_err(failed)
    }

    fn from_searcher(searcher: Searcher) -> tantivy::Result<Self> {
        let segment = searcher.segment_reader(0);
        let body = segment.inverted_index(BODY)?;
        let norms = segment.get_fieldnorms_reader(BODY)?;
        let lengths = (0..segment.max_doc()).map(|ordinal| norms.fieldnorm(ordinal));
        let longest_passage_tokens = lengths.max().unwrap_or(0);
        Ok(Self {
            searcher,
            body,
            longest_passage_tokens,
        })
    }

    /// What tantivy's queries want beside the reader.
    pub fn searcher(&self) -> &Searcher {
        &self.searcher
    }

    /// The one segment.
    pub fn reader(&self) -> &SegmentReader {
        self.searcher.segment_reader(0)
    }

    /// The postings and the term dictionary.
    pub fn body(&self) -> &InvertedIndexReader {
        &self.body
    }

    /// Passages in the segment, deleted ones too.
    pub fn passages(&self) -> u32 {
        self.reader().max_doc()
    }

    /// Tokens of all passages, deleted ones too: exact, unlike the stored lengths of single passages.
    pub fn tokens(&self) -> u64 {
        self.body.total_num_tokens()
    }

    /// Length of the longest passage as BM25 sees it: rounded down to one of 256 steps.
    pub fn longest_passage_tokens(&self) -> u32 {
        self.longest_passage_tokens
    }
}

/// A read-only directory over files that may lie anywhere. It takes no locks and writes nothing: the files never change.
#[derive(Clone, Debug)]
struct PartDirectory(Arc<PartFiles>);

impl PartDirectory {
    fn locate(&self, name: &Path) -> Result<&Path, OpenReadError> {
        let file = name.to_str().and_then(|name| self.0.get(name).ok());
        file.ok_or_else(|| OpenReadError::FileDoesNotExist(name.to_owned()))
    }
}

impl Directory for PartDirectory {
    fn get_file_handle(&self, name: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let file = self.locate(name)?;
        let (Some(folder), Some(file_name)) = (file.parent(), file.file_name()) else {
            return Err(OpenReadError::FileDoesNotExist(file.to_owned()));
        };
        // tantivy's own way to map a file
        let unreadable =
            |error| OpenReadError::wrap_io_error(io::Error::other(error), file.to_owned());
        let folder = MmapDirectory::open(folder).map_err(unreadable)?;
        folder.get_file_handle(Path::new(file_name))
    }

    fn exists(&self, name: &Path) -> Result<bool, OpenReadError> {
        Ok(self.locate(name).is_ok())
    }

    fn atomic_read(&self, name: &Path) -> Result<Vec<u8>, OpenReadError> {
        let file = self.locate(name)?;
        std::fs::read(file).map_err(|error| OpenReadError::wrap_io_error(error, file.to_owned()))
    }

    fn acquire_lock(&self, _lock: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn delete(&self, name: &Path) -> Result<(), DeleteError> {
        Err(DeleteError::IoError {
            io_error: Arc::new(read_only()),
            filepath: name.to_owned(),
        })
    }

    fn open_write(&self, name: &Path) -> Result<WritePtr, OpenWriteError> {
        Err(OpenWriteError::wrap_io_error(read_only(), name.to_owned()))
    }

    fn atomic_write(&self, _name: &Path, _data: &[u8]) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn watch(&self, _callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        Err(TantivyError::InternalError(
            "segments never change: nothing to watch".to_owned(),
        ))
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "segments are read-only")
}
