//! What a block of passage tokens looks like, and how one is made.

use super::MAX_NORMS;
use crate::kernels::max_sim::{
    BLOCK_GROUP_BYTES, BLOCK_TOKENS, CODE_OFFSET, GROUP_DIMENSIONS, TILE_GROUP_CODES, TILE_TOKENS,
};
use crate::quantize::{MAX_CODE_F32, to_code};
use crate::{MAX_DIMENSIONS, VectorError, normalize};

/// Dimensions are padded to a multiple of this: two groups, 64 bytes of a block.
const PADDED_DIMENSIONS: usize = 2 * GROUP_DIMENSIONS;

/// Codes per unit of a passage token: no component of a vector of norm 1 is too large for a code.
pub(crate) const PASSAGE_STEPS: f32 = MAX_CODE_F32;

/// How token vectors of some dimensions are stored.
///
/// A passage is a whole number of blocks of eight tokens. In a block lie, for each group of four dimensions, 32 bytes:
/// the four codes of the first token, of the second, and so on, each 128 larger than it is, as a byte without a sign.
/// Dimensions are padded with zeros to a multiple of eight, so that a block is a multiple of 64 bytes, and the last
/// block is filled by repeating the last token, which changes no maximum. A passage without tokens has no block.
/// Nothing else is stored: all tokens have one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLayout {
    dimensions: usize,
}

impl TokenLayout {
    /// Tokens of a block; a passage of `n` tokens takes `n.div_ceil(BLOCK_TOKENS)` blocks.
    pub const BLOCK_TOKENS: usize = BLOCK_TOKENS;

    /// A layout for token vectors of 1 to [`MAX_DIMENSIONS`] dimensions.
    pub fn new(dimensions: usize) -> Result<Self, VectorError> {
        if (1..=MAX_DIMENSIONS).contains(&dimensions) {
            Ok(Self { dimensions })
        } else {
            Err(VectorError::TokenDimensions { dimensions })
        }
    }

    /// Components of a token vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Bytes of a block: a multiple of 64.
    pub fn block_bytes(&self) -> usize {
        self.groups() * BLOCK_GROUP_BYTES
    }

    /// Appends the blocks of a passage, whose token vectors lie one behind the other, and returns how many they are.
    ///
    /// Vectors are normalised. Those that [`normalize`] refuses are named by their token, and nothing is appended then.
    pub fn pack_passage(&self, tokens: &[f32], blocks: &mut Vec<u8>) -> Result<usize, VectorError> {
        let tokens = self.normalized(tokens)?;
        let count = tokens.len().div_ceil(BLOCK_TOKENS);
        let first_byte = blocks.len();
        blocks.resize(first_byte + count * self.block_bytes(), CODE_OFFSET);
        let packed = blocks[first_byte..].chunks_exact_mut(self.block_bytes());
        for (block, tokens) in packed.zip(tokens.chunks(BLOCK_TOKENS)) {
            for position in 0..BLOCK_TOKENS {
                let token = &tokens[position.min(tokens.len() - 1)];
                for (dimension, value) in token.iter().enumerate() {
                    let code = to_code(value * PASSAGE_STEPS);
                    block[byte_of(position, dimension)] = code.cast_unsigned() ^ CODE_OFFSET;
                }
            }
        }
        Ok(count)
    }

    /// Code of a token of a passage's blocks.
    pub(crate) fn code(&self, blocks: &[u8], token: usize, dimension: usize) -> i8 {
        let block = token / BLOCK_TOKENS * self.block_bytes();
        let byte = blocks[block + byte_of(token % BLOCK_TOKENS, dimension)];
        (byte ^ CODE_OFFSET).cast_signed()
    }

    /// Vectors of norm 1.
    pub(crate) fn normalized(&self, tokens: &[f32]) -> Result<Vec<Vec<f32>>, VectorError> {
        let rows = tokens.chunks(self.dimensions).enumerate();
        rows.map(|(token, values)| {
            self.unit_vector(values)
                .map_err(|source| VectorError::Token {
                    token,
                    source: Box::new(source),
                })
        })
        .collect()
    }

    fn unit_vector(&self, values: &[f32]) -> Result<Vec<f32>, VectorError> {
        if values.len() != self.dimensions {
            return Err(VectorError::Width {
                expected: self.dimensions,
                actual: values.len(),
            });
        }
        let mut values = values.to_vec();
        normalize(&mut values)?;
        Ok(values)
    }

    /// Codes per unit of a query token at most, so that the norms of codes stay within [`MAX_NORMS`].
    pub(crate) fn query_steps(&self) -> f32 {
        let rounding = (self.dimensions as f64).sqrt() / 2.0;
        (MAX_NORMS / (f64::from(PASSAGE_STEPS) + rounding) - rounding) as f32
    }

    /// Codes of a tile of query tokens.
    pub(crate) fn tile_codes(&self) -> usize {
        self.groups() * TILE_GROUP_CODES
    }

    fn groups(&self) -> usize {
        self.dimensions.next_multiple_of(PADDED_DIMENSIONS) / GROUP_DIMENSIONS
    }
}

/// Where a code lies in a block.
fn byte_of(token: usize, dimension: usize) -> usize {
    interleaved::<BLOCK_TOKENS>(token, dimension)
}

/// Where a code lies in a tile of query tokens.
pub(crate) fn tile_position(token: usize, dimension: usize) -> usize {
    interleaved::<TILE_TOKENS>(token, dimension)
}

fn interleaved<const TOKENS: usize>(token: usize, dimension: usize) -> usize {
    let (group, within) = (dimension / GROUP_DIMENSIONS, dimension % GROUP_DIMENSIONS);
    (group * TOKENS + token) * GROUP_DIMENSIONS + within
}
