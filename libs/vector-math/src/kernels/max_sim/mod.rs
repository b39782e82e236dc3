//! For each token of a query, the largest dot product with a passage's tokens: the sums that MaxSim is made of.
//!
//! Codes are interleaved so that no sum has to be taken across a register (see [`crate::max_sim`]): 32 bytes hold four
//! dimensions of eight passage tokens, 16 bytes the same four dimensions of four query tokens.

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::{Backend, Kernels};

/// Passage tokens that lie interleaved; a passage is padded to a multiple of it.
pub(crate) const BLOCK_TOKENS: usize = 8;
/// Query tokens that lie interleaved and are worked on together.
pub(crate) const TILE_TOKENS: usize = 4;
/// Dimensions that lie together: what one lane of `dpbusd` multiplies.
pub(crate) const GROUP_DIMENSIONS: usize = 4;
/// Bytes of one group of dimensions in a block of passage tokens.
pub(crate) const BLOCK_GROUP_BYTES: usize = BLOCK_TOKENS * GROUP_DIMENSIONS;
/// Codes of one group of dimensions in a tile of query tokens.
pub(crate) const TILE_GROUP_CODES: usize = TILE_TOKENS * GROUP_DIMENSIONS;
/// What is added to a passage's codes to make them bytes without a sign.
pub(crate) const CODE_OFFSET: u8 = 128;

/// Four query tokens. What codes may be is said in [`crate::max_sim`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QueryTile {
    /// By group of dimensions, then by token: four codes.
    codes: Vec<i8>,
    /// By token: the sums of the codes at dimensions 0 and 1, and 2 and 3, of all groups.
    sums: [[i32; 2]; TILE_TOKENS],
}

impl QueryTile {
    /// A tile of codes that are interleaved already: [`TILE_GROUP_CODES`] per group of dimensions.
    pub(crate) fn new(codes: Vec<i8>) -> Self {
        let mut sums = [[0; 2]; TILE_TOKENS];
        for group in codes.as_chunks::<TILE_GROUP_CODES>().0 {
            for (sum, [a, b, c, d]) in sums.iter_mut().zip(group.as_chunks().0) {
                sum[0] += i32::from(*a) + i32::from(*b);
                sum[1] += i32::from(*c) + i32::from(*d);
            }
        }
        Self { codes, sums }
    }

    /// Code of a token of the tile.
    pub(crate) fn code(&self, token: usize, dimension: usize) -> i8 {
        let (group, within) = (dimension / GROUP_DIMENSIONS, dimension % GROUP_DIMENSIONS);
        self.codes[group * TILE_GROUP_CODES + token * GROUP_DIMENSIONS + within]
    }

    fn groups(&self) -> usize {
        self.codes.len() / TILE_GROUP_CODES
    }

    /// Bytes of a block of passage tokens of these dimensions.
    fn block_bytes(&self) -> usize {
        self.groups() * BLOCK_GROUP_BYTES
    }
}

impl Kernels {
    /// Largest dot product of each token of the tile with any token of the passage's blocks; `i32::MIN` without a block.
    ///
    /// # Panics
    /// When `blocks` isn't a whole number of blocks of the tile's dimensions.
    pub(crate) fn max_dots(self, tile: &QueryTile, blocks: &[u8]) -> [i32; TILE_TOKENS] {
        assert!(
            blocks.len().is_multiple_of(tile.block_bytes()),
            "whole blocks of the query's dimensions"
        );
        match self.backend {
            // SAFETY: the backend is available (invariant of `Kernels`), and `blocks` are whole blocks.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => unsafe { x86::max_dots_avx2(tile, blocks) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512Vnni => unsafe { x86::max_dots_vnni(tile, blocks) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Backend::Neon => unsafe { neon::max_dots(tile, blocks) },
            _ => scalar::max_dots(tile, blocks),
        }
    }

    /// Asks for bytes that are read soon, where the backend can.
    pub(crate) fn prefetch(self, bytes: &[u8]) {
        match self.backend {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 | Backend::Avx512Vnni => x86::prefetch(bytes),
            _ => scalar::prefetch(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::max_sim::MAX_QUERY_CODE;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const GROUPS: usize = 26;
    const DIMENSIONS: usize = GROUPS * GROUP_DIMENSIONS;
    /// Norms of codes whose product, 32,736, is just allowed.
    const NORMS: [i32; 2] = [248, 132];

    /// Tokens with codes up to `limit`, and zeros from where their norm would exceed `norm`.
    fn tokens(count: usize, limit: i8, norm: i32, random: &mut ChaCha8Rng) -> Vec<Vec<i8>> {
        let mut token = || {
            let spread = random.random_range(1..=limit);
            let mut squares = norm * norm;
            let codes = (0..DIMENSIONS).map(|_| {
                let code = random.random_range(-spread..=spread);
                squares -= i32::from(code).pow(2);
                if squares < 0 { 0 } else { code }
            });
            codes.collect()
        };
        (0..count).map(|_| token()).collect()
    }

    fn tile(tokens: &[Vec<i8>]) -> QueryTile {
        let codes = (0..GROUPS).flat_map(|group| {
            tokens
                .iter()
                .flat_map(move |token| token[group * GROUP_DIMENSIONS..][..GROUP_DIMENSIONS].iter())
        });
        QueryTile::new(codes.copied().collect())
    }

    fn blocks(tokens: &[Vec<i8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for block in tokens.chunks_exact(BLOCK_TOKENS) {
            for group in 0..GROUPS {
                for token in block {
                    let codes = &token[group * GROUP_DIMENSIONS..][..GROUP_DIMENSIONS];
                    bytes.extend(codes.iter().map(|&code| (i16::from(code) + 128) as u8));
                }
            }
        }
        bytes
    }

    fn three_loops(query: &[Vec<i8>], passage: &[Vec<i8>]) -> Vec<i32> {
        let dot = |left: &[i8], right: &[i8]| -> i32 {
            left.iter()
                .zip(right)
                .map(|(&l, &r)| i32::from(l) * i32::from(r))
                .sum()
        };
        query
            .iter()
            .map(|query| {
                let dots = passage.iter().map(|token| dot(query, token));
                dots.max().unwrap_or(i32::MIN)
            })
            .collect()
    }

    fn assert_every_backend_agrees(query: &[Vec<i8>], passage: &[Vec<i8>]) {
        let (tile, blocks) = (tile(query), blocks(passage));
        let expected = three_loops(query, passage);
        for kernels in Backend::available().into_iter().filter_map(Kernels::of) {
            let maxima = kernels.max_dots(&tile, &blocks);
            assert_eq!(maxima.as_slice(), expected, "{:?}", kernels.backend());
        }
    }

    proptest! {
        #[test]
        fn every_backend_equals_three_loops(blocks in 0_usize..=11, seed: u64) {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let query = tokens(TILE_TOKENS, MAX_QUERY_CODE, NORMS[0], &mut random);
            let passage = tokens(blocks * BLOCK_TOKENS, 127, NORMS[1], &mut random);
            assert_every_backend_agrees(&query, &passage);
        }
    }

    /// The same code at 16 of the two dimensions of each group that are given.
    fn concentrated(code: i8, within_group: [usize; 2]) -> Vec<i8> {
        let mut left = 16;
        let codes = (0..DIMENSIONS).map(|at| {
            let used = left > 0 && within_group.contains(&(at % GROUP_DIMENSIONS));
            left -= i32::from(used);
            if used { code } else { 0 }
        });
        codes.collect()
    }

    /// The worst that codes may be: the largest norms, in one direction, where one lane of 16 bits sums them.
    #[test]
    fn the_largest_sums_do_not_overflow() {
        for within_group in [[0, 1], [2, 3], [1, 2]] {
            let query = [62, -62, 62, -62].map(|code| concentrated(code, within_group));
            for code in [33, -33] {
                let passage = vec![concentrated(code, within_group); 3 * BLOCK_TOKENS];
                let largest = three_loops(&query, &passage)[usize::from(code < 0)];
                assert_eq!(largest, NORMS[0] * NORMS[1]);
                assert_every_backend_agrees(&query, &passage);
            }
        }
    }

    #[test]
    #[should_panic(expected = "whole blocks")]
    fn a_cut_block_is_no_block() {
        let tile = QueryTile::new(vec![0; GROUPS * TILE_GROUP_CODES]);
        Kernels::detected().max_dots(&tile, &[0; 5]);
    }
}
