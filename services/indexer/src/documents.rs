//! The documents of a run: ids and places in memory, everything else in the spool.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::IndexError;
use crate::progress::InvalidLine;
use crate::spool::{DocumentSpool, DocumentSpoolWriter, SpooledDocument};

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    pub(crate) line: u64,
}

impl Place {
    pub(crate) fn invalid(&self, reason: impl Into<String>) -> InvalidLine {
        InvalidLine {
            file: Arc::clone(&self.file),
            line: self.line,
            reason: reason.into(),
        }
    }
}

/// Where a document comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was read.
    Line(Place),
    /// It is stored already, in the segment of this number.
    Segment(u32),
}

struct Entry {
    id: Arc<str>,
    origin: Origin,
    offset: u64,
}

/// Takes the documents of a run in and refuses an id that it has seen.
pub(crate) struct DocumentsBuilder {
    entries: Vec<Entry>,
    by_id: HashMap<Arc<str>, u32>,
    spool: DocumentSpoolWriter,
    directory: Arc<Path>,
}

impl DocumentsBuilder {
    pub(crate) fn create(directory: &Arc<Path>) -> Result<Self, IndexError> {
        let spool = DocumentSpoolWriter::create(directory).map_err(IndexError::spool(directory))?;
        Ok(Self {
            entries: Vec::new(),
            by_id: HashMap::new(),
            spool,
            directory: Arc::clone(directory),
        })
    }

    /// Where the id was seen first.
    pub(crate) fn first_place(&self, id: &str) -> Option<&Place> {
        let entry = self.by_id.get(id)?;
        match &self.entries[*entry as usize].origin {
            Origin::Line(place) => Some(place),
            Origin::Segment(_) => None,
        }
    }

    pub(crate) fn push(
        &mut self,
        id: String,
        origin: Origin,
        document: &SpooledDocument,
    ) -> Result<(), IndexError> {
        let offset = self
            .spool
            .push(document)
            .map_err(IndexError::spool(&self.directory))?;
        let id: Arc<str> = id.into();
        self.by_id
            .insert(Arc::clone(&id), self.entries.len() as u32);
        self.entries.push(Entry { id, origin, offset });
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn finish(self) -> Result<RunDocuments, IndexError> {
        let spool = self
            .spool
            .finish()
            .map_err(IndexError::spool(&self.directory))?;
        Ok(RunDocuments {
            entries: self.entries,
            spool,
            directory: self.directory,
            refused: Mutex::default(),
        })
    }
}

/// The documents of a run, in the order of their lines, or of the segments that they are in.
pub(crate) struct RunDocuments {
    entries: Vec<Entry>,
    spool: DocumentSpool,
    directory: Arc<Path>,
    refused: Mutex<Refused>,
}

/// Documents that are good lines, but that the tokenizer or the encoder has refused.
#[derive(Default)]
struct Refused {
    documents: BTreeSet<usize>,
    /// In the order in which they were found.
    lines: Vec<InvalidLine>,
}

impl RunDocuments {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The documents that have not been refused.
    pub(crate) fn accepted(&self) -> Vec<usize> {
        let refused = self.refused();
        (0..self.len())
            .filter(|document| !refused.documents.contains(document))
            .collect()
    }

    /// Leaves a document out, if that is allowed. One that is stored already can't be left out.
    pub(crate) fn refuse(
        &self,
        document: usize,
        reason: String,
        skip_invalid: bool,
    ) -> Result<(), IndexError> {
        let line = match &self.entries[document].origin {
            Origin::Line(place) => place.invalid(reason),
            Origin::Segment(_) => {
                let document = self.name(document);
                return Err(IndexError::StoredDocument { document, reason });
            }
        };
        if !skip_invalid {
            return Err(IndexError::InvalidLines {
                count: 1,
                first: line,
            });
        }
        let mut refused = self.refused();
        if refused.documents.insert(document) {
            refused.lines.push(line);
        }
        Ok(())
    }

    /// The lines of the documents that were refused, without the first `known` ones.
    pub(crate) fn refused_lines(&self, known: usize) -> Vec<InvalidLine> {
        self.refused().lines.iter().skip(known).cloned().collect()
    }

    /// A panic while the lock is held leaves nothing half done.
    fn refused(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self, document: usize) -> &Arc<str> {
        &self.entries[document].id
    }

    /// What a message calls the document: its id, and where it comes from.
    pub(crate) fn name(&self, document: usize) -> String {
        let Entry { id, origin, .. } = &self.entries[document];
        match origin {
            Origin::Line(Place { file, line }) => format!("{file}:{line}: document {id}"),
            Origin::Segment(number) => format!("segment {number}: document {id}"),
        }
    }

    /// The folder of the run's temporary files.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn read(&self, document: usize) -> Result<SpooledDocument, IndexError> {
        self.spool
            .read(self.entries[document].offset)
            .map_err(IndexError::spool(&self.directory))
    }

    /// The title and a part of the text.
    pub(crate) fn read_passage(
        &self,
        document: usize,
        span: std::ops::Range<u32>,
    ) -> Result<(String, String), IndexError> {
        self.spool
            .read_passage(self.entries[document].offset, span)
            .map_err(IndexError::spool(&self.directory))
    }
}
