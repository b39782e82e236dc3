//! A rotation of the space that moves what a collection's vectors have in common to the front.
//!
//! The rows of the rotation are the principal axes of a sample (eigenvectors of its second moment, largest
//! eigenvalue first), so that a prefix of the rotated vector is the best linear summary of that length.
//! Within each stored block (prefix; rest; what is not stored) the axes are then turned by a seeded random
//! rotation. No dot product over a block changes by that, but the energy is spread evenly over its
//! components, and an int8 code with one scale per block loses less.
//!
//! Being orthogonal, the rotation leaves full-width cosines as they were.

use nalgebra::{DMatrix, SymmetricEigen};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::coder::check_dimensions;
use crate::{Kernels, VectorError, normalize};

/// First bytes of a rotation on disk: name and version.
const MAGIC: [u8; 8] = *b"fmrot\0\0\x01";
/// Magic, then width, dimensions, prefix dimensions and samples as little-endian u32.
const HEADER_BYTES: usize = 24;
/// How far a row's norm and the products of neighbouring rows may be from those of an orthogonal matrix.
const ORTHOGONALITY_TOLERANCE: f64 = 1e-4;
/// Sweeps after which the eigenvalue iteration is given up; it needs a few per dimension.
const MAX_EIGEN_ITERATIONS_PER_DIMENSION: usize = 200;
/// Rows of the sample that are multiplied at once: bounds the f64 copy of it.
const CHUNK_ROWS: usize = 1024;

/// An orthogonal matrix of a collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    width: usize,
    dimensions: usize,
    prefix_dimensions: usize,
    samples: usize,
    /// By input component: where it goes. Contiguous for [`Rotation::apply`].
    columns: Vec<f32>,
}

impl Rotation {
    /// Fits a rotation on sample vectors of `width` components that lie one behind the other.
    ///
    /// Sample vectors are normalised; those without a direction are refused as in [`normalize`].
    /// Fewer samples than dimensions, equal samples, or samples in a plane give an orthogonal matrix as well.
    pub fn fit(
        samples: &[f32],
        width: usize,
        dimensions: usize,
        prefix_dimensions: usize,
        seed: u64,
    ) -> Result<Self, VectorError> {
        check_dimensions(width, dimensions, prefix_dimensions)?;
        if samples.is_empty() {
            return Err(VectorError::NoSamples);
        }
        if !samples.len().is_multiple_of(width) {
            return Err(VectorError::Width {
                expected: width,
                actual: samples.len() % width,
            });
        }
        let axes = principal_axes(second_moment(samples, width)?)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let blocks = [
            0..prefix_dimensions,
            prefix_dimensions..dimensions,
            dimensions..width,
        ];
        let turned: Vec<DMatrix<f64>> = blocks
            .into_iter()
            .filter(|block| !block.is_empty())
            .map(|block| {
                axes.columns_range(block.clone()) * random_rotation(block.len(), &mut random)
            })
            .collect();
        let columns = (0..width)
            .flat_map(|input| {
                turned
                    .iter()
                    .flat_map(move |block| block.row(input).iter().copied().collect::<Vec<_>>())
            })
            .map(|value| value as f32)
            .collect();
        let samples = samples.len() / width;
        let rotation = Self {
            width,
            dimensions,
            prefix_dimensions,
            samples,
            columns,
        };
        if rotation.looks_orthogonal() {
            Ok(rotation)
        } else {
            Err(VectorError::NoEigenvectors)
        }
    }

    /// The rotated vector.
    ///
    /// Products are added in index order and never fused, so that every machine gets the same bits.
    ///
    /// # Panics
    /// When the vector has another width than the rotation.
    pub fn apply(&self, vector: &[f32]) -> Vec<f32> {
        self.apply_first(vector, self.width)
    }

    /// The first components of what [`Rotation::apply`] gives, to the bit, without computing the others.
    pub(crate) fn apply_first(&self, vector: &[f32], components: usize) -> Vec<f32> {
        assert_eq!(vector.len(), self.width, "a vector of the rotation's width");
        let kernels = Kernels::detected();
        let mut rotated = vec![0.0; components];
        for (&component, column) in vector.iter().zip(self.columns.chunks_exact(self.width)) {
            kernels.add_scaled(component, &column[..components], &mut rotated);
        }
        rotated
    }

    /// Components of the vectors that it rotates.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Vectors that it was fitted on. Few tell little about a collection.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Refuses a collection that the rotation was not fitted for.
    pub(crate) fn check_shape(
        &self,
        width: usize,
        dimensions: usize,
        prefix_dimensions: usize,
    ) -> Result<(), VectorError> {
        let rotation = (self.width, self.dimensions, self.prefix_dimensions);
        let collection = (width, dimensions, prefix_dimensions);
        if rotation == collection {
            return Ok(());
        }
        let shape = |(width, dimensions, prefix)| format!("{width}/{dimensions}/{prefix}");
        Err(VectorError::RotationShape {
            rotation: shape(rotation),
            collection: shape(collection),
        })
    }

    /// The rotation as a file: magic, four sizes, then the matrix by input component, all little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sizes = [
            self.width,
            self.dimensions,
            self.prefix_dimensions,
            self.samples,
        ]
        .map(|size| (size as u32).to_le_bytes());
        let values = self.columns.iter().flat_map(|value| value.to_le_bytes());
        MAGIC
            .into_iter()
            .chain(sizes.into_iter().flatten())
            .chain(values)
            .collect()
    }

    /// Reads what [`Rotation::to_bytes`] wrote. Anything else is refused, never a panic.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VectorError> {
        let damaged = VectorError::DamagedRotation;
        let (header, values) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or(damaged("the header is cut"))?;
        if header[..8] != MAGIC {
            return Err(damaged("it is no rotation of a version that is known here"));
        }
        let size =
            |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| header[at + byte])) as usize;
        let (width, dimensions, prefix_dimensions) = (size(8), size(12), size(16));
        check_dimensions(width, dimensions, prefix_dimensions)?;
        if values.len() != width * width * size_of::<f32>() {
            return Err(damaged("its length doesn't fit its sizes"));
        }
        let columns = values
            .as_chunks()
            .0
            .iter()
            .map(|&value| f32::from_le_bytes(value))
            .collect();
        let rotation = Self {
            width,
            dimensions,
            prefix_dimensions,
            samples: size(20),
            columns,
        };
        if rotation.looks_orthogonal() {
            Ok(rotation)
        } else {
            Err(damaged("it is not orthogonal"))
        }
    }

    /// Checks the norm of every column and the products of neighbours: a whole product would take seconds for
    /// wide models, and files carry a checksum besides. False for NaN.
    fn looks_orthogonal(&self) -> bool {
        let columns: Vec<&[f32]> = self.columns.chunks_exact(self.width).collect();
        let is_unit =
            |column: &&[f32]| (product(column, column) - 1.0).abs() < ORTHOGONALITY_TOLERANCE;
        let is_perpendicular =
            |pair: &[&[f32]]| product(pair[0], pair[1]).abs() < ORTHOGONALITY_TOLERANCE;
        columns.iter().all(is_unit) && columns.windows(2).all(is_perpendicular)
    }
}

fn product(left: &[f32], right: &[f32]) -> f64 {
    left.iter()
        .zip(right)
        .map(|(&l, &r)| f64::from(l) * f64::from(r))
        .sum()
}

/// The sum of `v · vᵀ` over the normalised samples. Not centred: what the vectors share is part of every cosine.
fn second_moment(samples: &[f32], width: usize) -> Result<DMatrix<f64>, VectorError> {
    let mut moment = DMatrix::zeros(width, width);
    for chunk in samples.chunks(width * CHUNK_ROWS) {
        let mut normalized = chunk.to_vec();
        for vector in normalized.chunks_exact_mut(width) {
            normalize(vector)?;
        }
        // Column-major: each vector becomes a column.
        let vectors = normalized.iter().map(|&value| f64::from(value));
        let matrix = DMatrix::from_iterator(width, normalized.len() / width, vectors);
        moment.gemm(1.0, &matrix, &matrix.transpose(), 1.0);
    }
    // Rounding may leave the two halves apart by a bit; the eigenvalue iteration wants one symmetric matrix.
    moment.fill_upper_triangle_with_lower_triangle();
    Ok(moment)
}

/// Eigenvectors as columns, largest eigenvalue first, the largest component of each positive.
fn principal_axes(moment: DMatrix<f64>) -> Result<DMatrix<f64>, VectorError> {
    let iterations = moment.nrows() * MAX_EIGEN_ITERATIONS_PER_DIMENSION;
    let eigen = SymmetricEigen::try_new(moment, f64::EPSILON, iterations)
        .ok_or(VectorError::NoEigenvectors)?;
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|&a, &b| {
        eigen.eigenvalues[b]
            .total_cmp(&eigen.eigenvalues[a])
            .then(a.cmp(&b))
    });
    let mut axes = eigen.eigenvectors.select_columns(&order);
    for mut axis in axes.column_iter_mut() {
        if axis[axis.iamax()] < 0.0 {
            axis.neg_mut();
        }
    }
    Ok(axes)
}

/// A rotation that is uniform over all of them: the Q of a Gaussian matrix, signs fixed by R.
fn random_rotation(size: usize, random: &mut ChaCha8Rng) -> DMatrix<f64> {
    let (mut rotation, upper) = DMatrix::from_fn(size, size, |_, _| gaussian(random))
        .qr()
        .unpack();
    for (mut column, diagonal) in rotation.column_iter_mut().zip(upper.diagonal().iter()) {
        if *diagonal < 0.0 {
            column.neg_mut();
        }
    }
    rotation
}

/// A standard normal number (Box and Muller 1958).
fn gaussian(random: &mut ChaCha8Rng) -> f64 {
    // 1 − u lies in (0, 1]: its logarithm is finite.
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
}
