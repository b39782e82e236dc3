//! The rotation of a collection's vectors: fitted once, on a sample of the first run, and kept. That of its token vectors is
//! fitted where they are sampled, in `tokens`.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use segment::colbert::TokenCoder;
use segment::manifest::{CollectionSettings, DenseSettings, EncoderSettings};
use vector_math::{Rotation, VectorCoder};

use crate::documents::RunDocuments;
use crate::error::IndexError;
use crate::passages::Passages;
use crate::spool::VectorSpool;

/// Makes the sample and the rotation the same for the same documents.
pub(crate) const SEED: u64 = 0x66_69_6e_65_6d_65_73_68;

/// Fits the rotation on a sample of all passages.
pub(crate) fn fit(
    documents: &RunDocuments,
    passages: &Passages,
    vectors: &VectorSpool,
    encoder: &EncoderSettings,
    dense: &DenseSettings,
) -> Result<Rotation, IndexError> {
    let mut rows = sample_rows(passages.len(), dense.rotation_sample);
    let accepted = documents.accepted();
    rows.retain(|row| accepted.binary_search(&passages.document_of(*row)).is_ok());
    let mut samples = Vec::with_capacity(rows.len() * encoder.dimensions as usize);
    let mut vector = Vec::new();
    for row in rows {
        vectors
            .read(row, &mut vector)
            .map_err(IndexError::spool(documents.directory()))?;
        samples.extend_from_slice(&vector);
    }
    let [width, dimensions, prefix] = [
        encoder.dimensions,
        dense.dimensions,
        dense.prefix_dimensions,
    ]
    .map(|size| size as usize);
    Rotation::fit(&samples, width, dimensions, prefix, SEED).map_err(IndexError::Rotation)
}

/// Ascending, so that the spool is read front to back.
pub(crate) fn sample_rows(rows: u64, sample: u32) -> Vec<u64> {
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let sample = rows.min(sample as usize);
    let mut chosen: Vec<u64> = rand::seq::index::sample(&mut random, rows, sample)
        .into_iter()
        .map(|row| row as u64)
        .collect();
    chosen.sort_unstable();
    chosen
}

/// The coder of a collection; none if it has no vectors.
pub(crate) fn coder(
    settings: &CollectionSettings,
    rotation: Option<Rotation>,
) -> Result<Option<VectorCoder>, IndexError> {
    let (Some(encoder), Some(dense)) = (&settings.encoder, &settings.dense) else {
        return Ok(None);
    };
    let [width, dimensions, prefix] = [
        encoder.dimensions,
        dense.dimensions,
        dense.prefix_dimensions,
    ]
    .map(|size| size as usize);
    VectorCoder::new(rotation, width, dimensions, prefix)
        .map(Some)
        .map_err(IndexError::Rotation)
}

/// The coder of the token vectors; none if the collection has none.
pub(crate) fn token_coder(
    settings: &CollectionSettings,
    rotation: Option<Rotation>,
) -> Result<Option<TokenCoder>, IndexError> {
    let colbert = settings.colbert.as_ref();
    let coder = colbert.map(|colbert| TokenCoder::new(colbert, rotation));
    coder.transpose().map_err(IndexError::Rotation)
}

/// The coder of the vectors for rescoring, which are stored at full width; none if the collection has none.
pub(crate) fn rescore_coder(
    settings: &CollectionSettings,
) -> Result<Option<VectorCoder>, IndexError> {
    let Some(rescore) = &settings.rescore else {
        return Ok(None);
    };
    let width = rescore.dimensions as usize;
    VectorCoder::new(None, width, width, width)
        .map(Some)
        .map_err(IndexError::Rotation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_seeded_and_without_repetition() {
        assert_eq!(sample_rows(5, 10), [0, 1, 2, 3, 4]);
        let sample = sample_rows(100_000, 1000);
        assert_eq!(sample, sample_rows(100_000, 1000));
        assert!(sample.is_sorted_by(|a, b| a < b) && sample.len() == 1000);
    }
}
