//! Token vectors on their way from the encoder: a few become the sample that the collection's rotation is fitted on, all others
//! are coded at once, so that no more of them are in memory than the encoder is working on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segment::colbert::{PackedTokens, TokenCoder};
use segment::manifest::ColbertSettings;
use vector_math::{Rotation, TokenLayout, VectorError};

use crate::error::IndexError;
use crate::rotation::{SEED, sample_rows};

/// Tokens that the sample takes of one passage: neighbours say much the same.
const SAMPLED_TOKENS: usize = 16;

/// Where token vectors go.
#[derive(Clone)]
pub(crate) enum TokenSink {
    /// Some of them to the sample.
    Sample(Arc<TokenSample>),
    /// All of them, as codes, to the spool.
    Codes(Arc<CodedTokens>),
}

/// Why the token vectors of a passage were not taken.
pub(crate) enum TokenFault {
    /// They cannot be coded.
    Vectors(VectorError),
    /// They cannot be written.
    Spool(io::Error),
}

impl TokenSink {
    /// Takes the token vectors of a row's passage.
    pub(crate) fn take(&self, row: u64, tokens: &[f32]) -> Result<(), TokenFault> {
        match self {
            Self::Sample(sample) => sample.take(row, tokens),
            Self::Codes(codes) => codes.take(row, tokens),
        }
    }
}

/// Token vectors of some passages.
pub(crate) struct TokenSample {
    width: usize,
    /// By row, so that the same documents give the same sample whatever is encoded first.
    vectors: Mutex<BTreeMap<u64, Vec<f32>>>,
}

impl TokenSample {
    pub(crate) fn new(width: usize) -> Self {
        Self {
            width,
            vectors: Mutex::default(),
        }
    }

    /// The passages whose tokens are sampled: as many as give the vectors that are wanted.
    pub(crate) fn rows(passages: u64, settings: &ColbertSettings) -> Vec<u64> {
        let wanted = settings.rotation_sample.div_ceil(SAMPLED_TOKENS as u32);
        sample_rows(passages, wanted)
    }

    /// Fits the rotation of the collection's token vectors.
    pub(crate) fn fit(&self, settings: &ColbertSettings) -> Result<Rotation, IndexError> {
        let vectors: Vec<f32> = self.vectors().values().flatten().copied().collect();
        let stored = settings.dimensions as usize;
        Rotation::fit(&vectors, self.width, stored, stored, SEED).map_err(IndexError::Rotation)
    }

    /// Some tokens, evenly spaced. Refuses those without a direction, as the coder does.
    fn take(&self, row: u64, tokens: &[f32]) -> Result<(), TokenFault> {
        let tokens: Vec<&[f32]> = tokens.chunks(self.width).collect();
        let step = tokens.len().div_ceil(SAMPLED_TOKENS).max(1);
        let mut chosen = Vec::new();
        for token in tokens.into_iter().step_by(step) {
            let mut token = token.to_vec();
            vector_math::normalize(&mut token).map_err(TokenFault::Vectors)?;
            chosen.extend(token);
        }
        self.vectors().insert(row, chosen);
        Ok(())
    }

    /// A panic while the lock is held leaves nothing half done.
    fn vectors(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<f32>>> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The codes of the token vectors of all passages, on disk.
pub(crate) struct CodedTokens {
    coder: TokenCoder,
    spool: TokenSpool,
}

impl CodedTokens {
    /// Room for the codes of so many passages.
    pub(crate) fn create(directory: &Path, coder: TokenCoder, passages: u64) -> io::Result<Self> {
        Ok(Self {
            coder,
            spool: TokenSpool::create(directory, passages)?,
        })
    }

    pub(crate) fn coder(&self) -> &TokenCoder {
        &self.coder
    }

    /// The codes of a row's passage.
    pub(crate) fn read(&self, row: u64) -> io::Result<PackedTokens> {
        Ok(self.split(self.spool.read(row)?))
    }

    fn take(&self, row: u64, tokens: &[f32]) -> Result<(), TokenFault> {
        let passage = self.coder.pack(tokens).map_err(TokenFault::Vectors)?;
        let mut bytes = passage.blocks;
        bytes.extend(passage.positions.iter().flat_map(|it| it.to_le_bytes()));
        self.spool.write(row, &bytes).map_err(TokenFault::Spool)
    }

    /// Blocks lie in front of positions, and both have one size for all blocks.
    fn split(&self, mut blocks: Vec<u8>) -> PackedTokens {
        let block_bytes = self.coder.layout().block_bytes();
        let count = blocks.len() / (block_bytes + TokenLayout::BLOCK_TOKENS * size_of::<u16>());
        let positions = blocks.split_off(count * block_bytes);
        let positions = positions.as_chunks().0.iter();
        PackedTokens {
            blocks,
            positions: positions.map(|&it| u16::from_le_bytes(it)).collect(),
        }
    }
}

/// Bytes by row, written and read in any order.
struct TokenSpool {
    file: File,
    places: Mutex<Places>,
}

/// Where each row is. Rows come in no order, and each has a length of its own.
struct Places {
    /// Where a row begins and ends; [`UNWRITTEN`] until it comes.
    rows: Vec<Range<u64>>,
    end: u64,
}

const UNWRITTEN: Range<u64> = u64::MAX..u64::MAX;

impl TokenSpool {
    fn create(directory: &Path, rows: u64) -> io::Result<Self> {
        let rows = usize::try_from(rows).map_err(io::Error::other)?;
        let places = Places {
            rows: vec![UNWRITTEN; rows],
            end: 0,
        };
        Ok(Self {
            file: tempfile::tempfile_in(directory)?,
            places: Mutex::new(places),
        })
    }

    fn write(&self, row: u64, bytes: &[u8]) -> io::Result<()> {
        let place = {
            let mut places = self.places();
            let place = places.end..places.end + bytes.len() as u64;
            places.end = place.end;
            places.rows[row as usize] = place.clone();
            place
        };
        self.file.write_all_at(bytes, place.start)
    }

    /// The bytes of a row. One that was never written is an error.
    fn read(&self, row: u64) -> io::Result<Vec<u8>> {
        let place = self.places().rows[row as usize].clone();
        if place == UNWRITTEN {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut bytes = vec![0; (place.end - place.start) as usize];
        self.file.read_exact_at(&mut bytes, place.start)?;
        Ok(bytes)
    }

    /// A panic while the lock is held leaves nothing half done.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(rotation_sample: u32) -> ColbertSettings {
        ColbertSettings {
            fingerprint: "f".to_owned(),
            token_dimensions: 4,
            dimensions: 2,
            rotated: true,
            rotation_sample,
            pooling: 1,
        }
    }

    #[test]
    fn rows_of_any_length_are_written_and_read_in_any_order() {
        let directory = tempfile::tempdir().unwrap();
        let spool = TokenSpool::create(directory.path(), 8).unwrap();
        for (row, bytes) in [(7, &[1_u8, 2, 3][..]), (0, &[]), (3, &[9; 100])] {
            spool.write(row, bytes).unwrap();
        }
        for (row, expected) in [(3, &[9_u8; 100][..]), (7, &[1, 2, 3]), (0, &[])] {
            assert_eq!(spool.read(row).unwrap(), expected);
        }
        assert!(spool.read(1).is_err());
    }

    #[test]
    fn blocks_and_positions_come_back_as_they_were_packed() {
        let directory = tempfile::tempdir().unwrap();
        let coder = TokenCoder::new(&settings(1), None).unwrap();
        let codes = CodedTokens::create(directory.path(), coder.clone(), 20).unwrap();
        let tokens = |row: u64| -> Vec<f32> { (0..row * 4).map(|at| (at as f32).cos()).collect() };
        for row in 0..20 {
            assert!(codes.take(row, &tokens(row)).is_ok());
        }
        for row in (0..20).rev() {
            assert_eq!(codes.read(row).unwrap(), coder.pack(&tokens(row)).unwrap());
        }
    }

    #[test]
    fn a_sample_is_bounded_and_the_same_in_any_order() {
        assert_eq!(TokenSample::rows(1_000_000, &settings(20_000)).len(), 1250);
        assert_eq!(TokenSample::rows(3, &settings(20_000)), [0, 1, 2]);
        let tokens =
            |row: u64| -> Vec<f32> { (0..400).map(|at| ((row * 400 + at) as f32).sin()).collect() };
        let sampled = |rows: &[u64]| {
            let sample = TokenSample::new(4);
            for row in rows {
                assert!(sample.take(*row, &tokens(*row)).is_ok());
            }
            sample.fit(&settings(100)).unwrap()
        };
        let rotation = sampled(&[0, 1, 2]);
        assert_eq!(rotation, sampled(&[2, 0, 1]));
        // Every seventh of a hundred.
        assert_eq!(rotation.samples(), 3 * 15);
    }

    #[test]
    fn vectors_without_a_direction_are_refused_by_both() {
        let directory = tempfile::tempdir().unwrap();
        let coder = TokenCoder::new(&settings(1), None).unwrap();
        let codes = CodedTokens::create(directory.path(), coder, 1).unwrap();
        let sinks = [
            TokenSink::Sample(Arc::new(TokenSample::new(4))),
            TokenSink::Codes(Arc::new(codes)),
        ];
        for sink in sinks {
            for wrong in [[0.0; 4], [f32::NAN; 4]] {
                assert!(matches!(sink.take(0, &wrong), Err(TokenFault::Vectors(_))));
            }
        }
    }
}
