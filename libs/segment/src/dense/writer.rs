//! Writing the dense part: one pass, bounded memory; a graph at the end where the segment is large.

use std::path::{Path, PathBuf};

use vector_math::{CodedVector, codes_as_bytes, floats_as_bytes};

use super::{DensePart, GRAPH, Graph, MAGIC, PREFIX, PREFIX_NORMS, REST, SCALES, SCALES_PER_ROW};
use crate::block::BlockWriter;
use crate::manifest::DenseSettings;
use crate::{SegmentError, store::PartFiles};

/// Writes the vectors of a segment in the order of their passages.
pub struct DenseWriter {
    folder: PathBuf,
    settings: DenseSettings,
    prefix: BlockWriter,
    rest: BlockWriter,
    scales: BlockWriter,
    prefix_norms: BlockWriter,
}

impl DenseWriter {
    /// Starts files in an existing folder.
    pub fn new(folder: &Path, settings: &DenseSettings) -> Result<Self, SegmentError> {
        let prefix = settings.prefix_dimensions as usize;
        let rest = (settings.dimensions as usize).checked_sub(prefix);
        let rest =
            rest.ok_or_else(|| SegmentError::invalid("the prefix is wider than the vector"))?;
        let create = |name, row_bytes| BlockWriter::create(folder, name, MAGIC, row_bytes);
        Ok(Self {
            folder: folder.to_owned(),
            settings: settings.clone(),
            prefix: create(PREFIX, prefix)?,
            rest: create(REST, rest)?,
            scales: create(SCALES, SCALES_PER_ROW * size_of::<f32>())?,
            prefix_norms: create(PREFIX_NORMS, size_of::<f32>())?,
        })
    }

    /// Adds the vector of the next passage.
    pub fn push(&mut self, vector: &CodedVector) -> Result<(), SegmentError> {
        let wanted = self.settings.dimensions as usize;
        if vector.dimensions() != wanted {
            let reason = format!(
                "a vector of {} dimensions where {wanted} are stored",
                vector.dimensions()
            );
            return Err(SegmentError::invalid(reason));
        }
        let (prefix, rest) = vector
            .codes
            .split_at(self.settings.prefix_dimensions as usize);
        self.prefix.push(codes_as_bytes(prefix))?;
        self.rest.push(codes_as_bytes(rest))?;
        self.scales
            .push(floats_as_bytes(&[vector.prefix_scale, vector.rest_scale]))?;
        self.prefix_norms
            .push(floats_as_bytes(&[vector.prefix_inverse_norm]))
    }

    /// Completes the files, and builds the graph when the segment has at least `graph_min_passages`.
    pub fn finish(self) -> Result<(), SegmentError> {
        let rows = u32::try_from(self.prefix.rows())
            .map_err(|_| SegmentError::invalid("a segment has at most 2^32 − 1 passages"))?;
        for block in [self.prefix, self.rest, self.scales, self.prefix_norms] {
            block.finish()?;
        }
        if rows == 0 || rows < self.settings.graph_min_passages {
            return Ok(());
        }
        let part = DensePart::open(&PartFiles::of_folder(&self.folder)?, &self.settings, rows)?;
        Graph::build(&part, &self.folder.join(GRAPH))
    }
}
