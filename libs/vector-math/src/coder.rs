//! The four steps from a model's vector to codes, and the codes of a passage and of a query.

use crate::quantize::{RESIDUAL_STEPS, normalize_finite, quantize_finely};
use crate::{Kernels, MAX_DIMENSIONS, Rotation, VectorError, normalize, quantize};

/// Turns vectors of a model into codes of a collection: rotate, truncate, renormalise, quantise.
#[derive(Debug, Clone)]
pub struct VectorCoder {
    rotation: Option<Rotation>,
    width: usize,
    dimensions: usize,
    prefix_dimensions: usize,
}

/// A passage as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct CodedVector {
    /// The prefix, then the rest: `dimensions` codes in −127..=127.
    pub codes: Vec<i8>,
    /// What a code of the prefix stands for.
    pub prefix_scale: f32,
    /// What a code of the rest stands for. With it the decoded vector has norm 1.
    pub rest_scale: f32,
    /// One over the norm of the prefix codes; 0 when they are all zero.
    pub prefix_inverse_norm: f32,
}

/// A query as the kernels take it: per block a code, and a second code 254 times as fine.
#[derive(Debug, Clone, PartialEq)]
pub struct CodedQuery {
    pub(crate) prefix: QueryBlock,
    pub(crate) rest: QueryBlock,
}

/// One block of a query: `value ≈ (254 · code + residual) · scale`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QueryBlock {
    pub(crate) codes: Vec<i8>,
    pub(crate) residuals: Vec<i8>,
    pub(crate) scale: f64,
}

impl VectorCoder {
    /// A coder for vectors of `width` components, of which `dimensions` are stored and `prefix_dimensions` scanned.
    pub fn new(
        rotation: Option<Rotation>,
        width: usize,
        dimensions: usize,
        prefix_dimensions: usize,
    ) -> Result<Self, VectorError> {
        check_dimensions(width, dimensions, prefix_dimensions)?;
        if let Some(rotation) = &rotation {
            rotation.check_shape(width, dimensions, prefix_dimensions)?;
        }
        Ok(Self {
            rotation,
            width,
            dimensions,
            prefix_dimensions,
        })
    }

    /// Components of the vectors that are coded.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Dimensions that are stored.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Dimensions that are scanned.
    pub fn prefix_dimensions(&self) -> usize {
        self.prefix_dimensions
    }

    /// Codes a passage's vector. Refuses another width, NaN, infinities and the zero vector.
    pub fn prepare(&self, vector: &[f32]) -> Result<CodedVector, VectorError> {
        let values = self.stored_values(vector)?;
        let mut codes = vec![0; self.dimensions];
        let (prefix, rest) = codes.split_at_mut(self.prefix_dimensions);
        let prefix_scale = quantize(&values[..self.prefix_dimensions], prefix);
        let rest_scale = quantize(&values[self.prefix_dimensions..], rest);
        let prefix_norm = norm(prefix);
        let decoded_norm = joint_norm(
            f64::from(prefix_scale) * prefix_norm,
            f64::from(rest_scale) * norm(rest),
        );
        Ok(CodedVector {
            prefix_scale: divided(f64::from(prefix_scale), decoded_norm) as f32,
            rest_scale: divided(f64::from(rest_scale), decoded_norm) as f32,
            prefix_inverse_norm: divided(1.0, prefix_norm) as f32,
            codes,
        })
    }

    /// Codes a query's vector. Refuses what [`VectorCoder::prepare`] refuses.
    pub fn query(&self, vector: &[f32]) -> Result<CodedQuery, VectorError> {
        let values = self.stored_values(vector)?;
        let (prefix, rest) = values.split_at(self.prefix_dimensions);
        let (mut prefix, mut rest) = (QueryBlock::of(prefix), QueryBlock::of(rest));
        let decoded_norm = joint_norm(prefix.norm(), rest.norm());
        prefix.scale = divided(prefix.scale, decoded_norm);
        rest.scale = divided(rest.scale, decoded_norm);
        Ok(CodedQuery { prefix, rest })
    }

    /// The stored dimensions as floats of norm 1: before quantising. All zeros for a vector that lies wholly in the others.
    ///
    /// Refuses what [`VectorCoder::prepare`] refuses.
    pub fn stored_values(&self, vector: &[f32]) -> Result<Vec<f32>, VectorError> {
        if vector.len() != self.width {
            return Err(VectorError::Width {
                expected: self.width,
                actual: vector.len(),
            });
        }
        let mut values = vector.to_vec();
        normalize(&mut values)?;
        if let Some(rotation) = &self.rotation {
            values = rotation.apply_first(&values, self.dimensions);
        }
        values.truncate(self.dimensions);
        // A vector may lie wholly in the dimensions that are not stored: all its codes are zero then.
        normalize_finite(&mut values);
        Ok(values)
    }
}

impl CodedVector {
    /// In the place of a passage that has no vector: its cosine with any other is 0.
    pub fn none(dimensions: usize) -> Self {
        Self {
            codes: vec![0; dimensions],
            prefix_scale: 0.0,
            rest_scale: 0.0,
            prefix_inverse_norm: 0.0,
        }
    }

    /// Dimensions of the whole vector.
    pub fn dimensions(&self) -> usize {
        self.codes.len()
    }
}

impl QueryBlock {
    fn of(values: &[f32]) -> Self {
        let (mut codes, mut residuals) = (vec![0; values.len()], vec![0; values.len()]);
        let scale = quantize_finely(values, &mut codes, &mut residuals);
        Self {
            codes,
            residuals,
            scale: f64::from(scale) / f64::from(RESIDUAL_STEPS),
        }
    }

    /// Norm of the decoded block.
    fn norm(&self) -> f64 {
        let fine = self
            .codes
            .iter()
            .zip(&self.residuals)
            .map(|(&c, &r)| combined(i32::from(c), i32::from(r)));
        self.scale * (fine.map(|value| value * value).sum::<i64>() as f64).sqrt()
    }

    /// The exact integer dot product with a row, in steps of both scales.
    pub(crate) fn dot(&self, kernels: Kernels, row: &[i8]) -> i64 {
        combined(
            kernels.dot(&self.codes, row),
            kernels.dot(&self.residuals, row),
        )
    }
}

/// Joins what the codes and the residual codes of a query gave.
pub(crate) fn combined(code: i32, residual: i32) -> i64 {
    i64::from(code) * RESIDUAL_STEPS as i64 + i64::from(residual)
}

pub(crate) fn check_dimensions(
    width: usize,
    dimensions: usize,
    prefix_dimensions: usize,
) -> Result<(), VectorError> {
    let fits = 1 <= prefix_dimensions && prefix_dimensions <= dimensions && dimensions <= width;
    if fits && width <= MAX_DIMENSIONS {
        Ok(())
    } else {
        Err(VectorError::Dimensions {
            width,
            dimensions,
            prefix_dimensions,
        })
    }
}

/// The exact norm of codes, rounded once.
fn norm(codes: &[i8]) -> f64 {
    let squares: i64 = codes.iter().map(|&code| i64::from(code).pow(2)).sum();
    (squares as f64).sqrt()
}

/// Norm of two blocks together. Not `hypot`, whose last bit is every math library's own: sums, products and square roots are IEEE 754's.
fn joint_norm(prefix: f64, rest: f64) -> f64 {
    (prefix * prefix + rest * rest).sqrt()
}

/// A quotient that is 0 where there is nothing to divide by.
fn divided(dividend: f64, divisor: f64) -> f64 {
    if divisor == 0.0 {
        0.0
    } else {
        dividend / divisor
    }
}
