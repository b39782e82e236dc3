//! The dense part of a segment, mapped.

use vector_math::{CodedRows, MAX_DIMENSIONS, codes_from_bytes, floats_from_bytes};

use super::{GRAPH, Graph, MAGIC, PREFIX, PREFIX_NORMS, REST, SCALES, SCALES_PER_ROW};
use crate::block::Block;
use crate::manifest::DenseSettings;
use crate::{SegmentError, store::PartFiles};

/// Vectors of one segment.
#[derive(Debug)]
pub struct DensePart {
    dimensions: usize,
    prefix_dimensions: usize,
    prefix: Block,
    rest: Block,
    scales: Block,
    prefix_norms: Block,
    graph: Option<Graph>,
}

impl DensePart {
    /// Maps verified files; `passages` is how many the segment has. What contradicts itself is refused by name.
    pub fn open(
        files: &PartFiles,
        settings: &DenseSettings,
        passages: u32,
    ) -> Result<Self, SegmentError> {
        let (dimensions, prefix_dimensions) = dimensions(settings)?;
        let block = |name, row_bytes| Block::open(files, name, MAGIC, row_bytes, passages.into());
        let mut part = Self {
            dimensions,
            prefix_dimensions,
            prefix: block(PREFIX, prefix_dimensions)?,
            rest: block(REST, dimensions - prefix_dimensions)?,
            scales: block(SCALES, SCALES_PER_ROW * size_of::<f32>())?,
            prefix_norms: block(PREFIX_NORMS, size_of::<f32>())?,
            graph: None,
        };
        part.check_floats(SCALES, &part.scales)?;
        part.check_floats(PREFIX_NORMS, &part.prefix_norms)?;
        if files.contains(GRAPH) {
            part.graph = Some(Graph::open(files.get(GRAPH)?, &part)?);
        }
        Ok(part)
    }

    /// The vectors, ready to be scanned and scored.
    pub fn rows(&self) -> CodedRows<'_> {
        CodedRows::new(
            self.dimensions,
            self.prefix_dimensions,
            codes_from_bytes(self.prefix.rows()),
            codes_from_bytes(self.rest.rows()),
            self.scales.floats(),
            self.prefix_norms.floats(),
        )
        .expect("sizes were checked when the files were opened")
    }

    /// The graph of a large segment.
    pub fn graph(&self) -> Option<&Graph> {
        self.graph.as_ref()
    }

    /// Dimensions of the vectors.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Dimensions of the prefixes.
    pub fn prefix_dimensions(&self) -> usize {
        self.prefix_dimensions
    }

    /// The rows that are not all zeros: those of passages that have a vector.
    pub(super) fn rows_with_direction(&self) -> impl Iterator<Item = usize> {
        let scales = self.scales.floats().chunks_exact(SCALES_PER_ROW);
        let rows = scales.enumerate();
        rows.filter(|(_, scales)| scales.iter().any(|scale| *scale != 0.0))
            .map(|(row, _)| row)
    }

    /// Codes and scales of one row, for the graph.
    pub(super) fn row(&self, row: usize) -> (&[i8], &[i8], [f32; SCALES_PER_ROW]) {
        let rest_dimensions = self.dimensions - self.prefix_dimensions;
        let prefix = &codes_from_bytes(self.prefix.rows())[row * self.prefix_dimensions..]
            [..self.prefix_dimensions];
        let rest = &codes_from_bytes(self.rest.rows())[row * rest_dimensions..][..rest_dimensions];
        let scales = self.scales.floats();
        (
            prefix,
            rest,
            [
                scales[SCALES_PER_ROW * row],
                scales[SCALES_PER_ROW * row + 1],
            ],
        )
    }

    /// A scale that is no number would make scores that are none.
    fn check_floats(&self, name: &str, block: &Block) -> Result<(), SegmentError> {
        let floats = floats_from_bytes(block.rows())
            .ok_or_else(|| SegmentError::damaged(name, "is not aligned"))?;
        match floats.iter().position(|value| !(0.0..=1.0).contains(value)) {
            Some(at) => Err(SegmentError::damaged(
                name,
                format!("value {at} is {}, not 0 to 1", floats[at]),
            )),
            None => Ok(()),
        }
    }
}

fn dimensions(settings: &DenseSettings) -> Result<(usize, usize), SegmentError> {
    let (dimensions, prefix) = (
        settings.dimensions as usize,
        settings.prefix_dimensions as usize,
    );
    if 1 <= prefix && prefix <= dimensions && dimensions <= MAX_DIMENSIONS {
        return Ok((dimensions, prefix));
    }
    let reason = format!("{dimensions} dimensions with a prefix of {prefix} cannot be served");
    Err(SegmentError::invalid(reason))
}
