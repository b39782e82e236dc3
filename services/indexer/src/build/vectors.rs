//! The vector parts of a segment: coded out of the spools while they are written.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use segment::SegmentError;
use segment::colbert::{ColbertWriter, PackedTokens};
use segment::dense::DenseWriter;
use segment::manifest::{DenseSettings, Stage};
use vector_math::{CodedVector, VectorCoder};

use super::part_folder;
use crate::documents::RunDocuments;
use crate::error::IndexError;
use crate::spool::VectorSpool;
use crate::tokens::CodedTokens;

/// Where the vectors of a build come from. Each is set if segments get such a part.
pub(crate) struct VectorSources {
    pub(crate) dense: Option<CodedSpool>,
    pub(crate) rescore: Option<CodedSpool>,
    pub(crate) tokens: Option<Arc<CodedTokens>>,
}

/// The vectors of one encoder, and how they are coded and stored.
pub(crate) struct CodedSpool {
    pub(crate) settings: DenseSettings,
    pub(crate) coder: VectorCoder,
    pub(crate) vectors: Arc<VectorSpool>,
}

/// What the parts want of a document's passages.
pub(super) struct CodedRows {
    /// Empty where there is no such part.
    dense: Vec<CodedVector>,
    rescore: Vec<CodedVector>,
    /// Tokens are read when they are written: they are larger than anything else of a document.
    rows: Range<u64>,
}

impl CodedRows {
    /// How many passages it is.
    pub(super) fn passages(&self) -> u32 {
        (self.rows.end - self.rows.start) as u32
    }
}

impl VectorSources {
    pub(super) fn coded(
        &self,
        documents: &RunDocuments,
        document: usize,
        rows: Range<u64>,
    ) -> Result<CodedRows, IndexError> {
        let of = |source: &Option<CodedSpool>| match source {
            Some(source) => source.coded(documents, document, rows.clone()),
            None => Ok(Vec::new()),
        };
        Ok(CodedRows {
            dense: of(&self.dense)?,
            rescore: of(&self.rescore)?,
            rows,
        })
    }
}

impl CodedSpool {
    fn coded(
        &self,
        documents: &RunDocuments,
        document: usize,
        rows: Range<u64>,
    ) -> Result<Vec<CodedVector>, IndexError> {
        let mut vector = Vec::new();
        let coded = rows.map(|row| {
            let read = self.vectors.read(row, &mut vector);
            read.map_err(IndexError::spool(documents.directory()))?;
            let coded = self.coder.prepare(&vector);
            coded.map_err(|source| IndexError::Vector {
                document: documents.name(document),
                source,
            })
        });
        coded.collect()
    }
}

/// The vector parts of a segment, side by side.
pub(super) struct VectorWriters {
    dense: Option<DenseWriter>,
    rescore: Option<DenseWriter>,
    colbert: Option<ColbertWriter>,
}

impl VectorWriters {
    pub(super) fn create(folder: &Path, sources: &VectorSources) -> Result<Self, SegmentError> {
        let dense = |stage: Stage, source: &Option<CodedSpool>| {
            let source = source.as_ref();
            let writer = source.map(|source| {
                let folder = part_folder(folder, stage.as_str())?;
                DenseWriter::new(&folder, &source.settings)
            });
            writer.transpose()
        };
        let colbert = sources.tokens.as_ref().map(|tokens| {
            let folder = part_folder(folder, Stage::Colbert.as_str())?;
            ColbertWriter::new(&folder, tokens.coder().layout())
        });
        Ok(Self {
            dense: dense(Stage::Dense, &sources.dense)?,
            rescore: dense(Stage::Rescore, &sources.rescore)?,
            colbert: colbert.transpose()?,
        })
    }

    /// Adds the passages of a document.
    pub(super) fn push(
        &mut self,
        coded: &CodedRows,
        sources: &VectorSources,
        directory: &Path,
    ) -> Result<(), IndexError> {
        push_all(&mut self.dense, &coded.dense)?;
        push_all(&mut self.rescore, &coded.rescore)?;
        let (Some(writer), Some(tokens)) = (&mut self.colbert, &sources.tokens) else {
            return Ok(());
        };
        for row in coded.rows.clone() {
            let passage = tokens.read(row);
            writer.push(&passage.map_err(IndexError::spool(directory))?)?;
        }
        Ok(())
    }

    /// Keeps the place of a passage that has no vectors.
    pub(super) fn push_none(&mut self, sources: &VectorSources) -> Result<(), SegmentError> {
        let none = |source: &Option<CodedSpool>| {
            let source = source.as_ref();
            let dimensions = source.map(|source| source.coder.dimensions());
            dimensions.map(CodedVector::none)
        };
        push_all(&mut self.dense, none(&sources.dense).as_slice())?;
        push_all(&mut self.rescore, none(&sources.rescore).as_slice())?;
        let tokens = self.colbert.as_mut();
        tokens.map_or(Ok(()), |writer| writer.push(&PackedTokens::default()))
    }

    pub(super) fn finish(self) -> Result<(), SegmentError> {
        self.dense.map_or(Ok(()), DenseWriter::finish)?;
        self.rescore.map_or(Ok(()), DenseWriter::finish)?;
        self.colbert.map_or(Ok(()), ColbertWriter::finish)
    }
}

fn push_all(writer: &mut Option<DenseWriter>, vectors: &[CodedVector]) -> Result<(), SegmentError> {
    let Some(writer) = writer else {
        return Ok(());
    };
    vectors.iter().try_for_each(|vector| writer.push(vector))
}
