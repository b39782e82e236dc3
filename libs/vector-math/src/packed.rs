//! A passage with its scales in one row of bytes, for graph libraries that know rows of equal type only.
#![expect(unsafe_code, reason = "graph libraries hand a metric bare pointers")]

use crate::quantize::RESIDUAL_STEPS;
use crate::{CodedQuery, Kernels};

/// Bytes of the two scales behind the codes.
const SCALE_BYTES: usize = 8;

/// Where prefix, rest and scales lie in a packed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLayout {
    dimensions: usize,
    prefix_dimensions: usize,
}

impl PackedLayout {
    /// A layout for vectors of these dimensions; a prefix that is wider than them is cut.
    pub fn new(dimensions: usize, prefix_dimensions: usize) -> Self {
        Self {
            dimensions,
            prefix_dimensions: prefix_dimensions.min(dimensions),
        }
    }

    /// Bytes of a packed row: the codes and two scales.
    pub fn row_bytes(&self) -> usize {
        self.dimensions + SCALE_BYTES
    }

    /// Packs a row of a segment.
    pub fn pack_row(&self, prefix: &[i8], rest: &[i8], scales: [f32; 2]) -> Vec<i8> {
        let scale_bytes = scales
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .map(u8::cast_signed);
        prefix
            .iter()
            .chain(rest)
            .copied()
            .chain(scale_bytes)
            .collect()
    }

    /// Packs a query, without its second codes: a graph only chooses, the score is computed afterwards.
    pub fn pack_query(&self, query: &CodedQuery) -> Vec<i8> {
        let scales = [&query.prefix, &query.rest]
            .map(|block| (block.scale * f64::from(RESIDUAL_STEPS)) as f32);
        self.pack_row(&query.prefix.codes, &query.rest.codes, scales)
    }

    /// Cosine distance, 1 − cosine, of two packed rows.
    ///
    /// # Panics
    /// When a row isn't [`PackedLayout::row_bytes`] long.
    pub fn distance(&self, left: &[i8], right: &[i8]) -> f32 {
        let ((left_codes, left_scales), (right_codes, right_scales)) =
            (self.split(left), self.split(right));
        let kernels = Kernels::detected();
        let (left_prefix, left_rest) = left_codes.split_at(self.prefix_dimensions);
        let (right_prefix, right_rest) = right_codes.split_at(self.prefix_dimensions);
        let prefix =
            kernels.dot(left_prefix, right_prefix) as f32 * (left_scales[0] * right_scales[0]);
        let rest = kernels.dot(left_rest, right_rest) as f32 * (left_scales[1] * right_scales[1]);
        1.0 - (prefix + rest)
    }

    /// The distance as a function of bare pointers, as usearch takes it.
    ///
    /// The function is to be called with pointers to packed rows of this layout only.
    pub fn metric(self) -> Box<dyn Fn(*const i8, *const i8) -> f32 + Send + Sync> {
        Box::new(move |left, right| {
            // SAFETY: the graph was made for rows of `row_bytes` codes and hands the metric its own rows.
            let (left, right) = unsafe {
                (
                    std::slice::from_raw_parts(left, self.row_bytes()),
                    std::slice::from_raw_parts(right, self.row_bytes()),
                )
            };
            self.distance(left, right)
        })
    }

    fn split<'a>(&self, row: &'a [i8]) -> (&'a [i8], [f32; 2]) {
        let (codes, scales) = row.split_at(self.dimensions);
        let bytes = std::array::from_fn::<u8, SCALE_BYTES, _>(|at| scales[at].cast_unsigned());
        let [a, b, c, d, e, f, g, h] = bytes;
        (
            codes,
            [
                f32::from_le_bytes([a, b, c, d]),
                f32::from_le_bytes([e, f, g, h]),
            ],
        )
    }
}
