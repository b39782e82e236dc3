//! AVX2 and AVX-512 VNNI, both on 256-bit registers: four query tokens against two or four blocks of eight passage tokens.
//!
//! A register of passage codes meets four query tokens, a broadcast of query codes all the blocks: fewer loads than
//! multiplications. Passage codes are bytes without a sign, 128 too large, so every sum starts at −128 · Σ query.

use std::arch::x86_64::*;

use super::{
    BLOCK_GROUP_BYTES, CODE_OFFSET, GROUP_DIMENSIONS, QueryTile, TILE_GROUP_CODES, TILE_TOKENS,
};

/// Blocks at once with AVX2: eight sums, two codes, one broadcast and one product leave no register of 16 idle for long.
const BLOCKS_AVX2: usize = 2;
/// Blocks at once with VNNI: 16 sums of 32 registers.
const BLOCKS_VNNI: usize = 4;

/// Sums of each query token with each of some blocks.
type Sums<const BLOCKS: usize> = [[__m256i; BLOCKS]; TILE_TOKENS];

/// # Safety
/// The CPU has AVX2; `blocks` are whole blocks of the tile's dimensions.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn max_dots_avx2(tile: &QueryTile, blocks: &[u8]) -> [i32; TILE_TOKENS] {
    let mut maxima = [_mm256_set1_epi32(i32::MIN); TILE_TOKENS];
    let mut several = blocks.chunks_exact(BLOCKS_AVX2 * tile.block_bytes());
    for blocks in &mut several {
        // SAFETY: these are as many blocks as it says.
        unsafe { raise_avx2::<BLOCKS_AVX2>(tile, blocks, &mut maxima) };
    }
    for block in several.remainder().chunks_exact(tile.block_bytes()) {
        // SAFETY: this is one block.
        unsafe { raise_avx2::<1>(tile, block, &mut maxima) };
    }
    maxima.map(|lanes| largest(lanes))
}

/// Raises the maxima to the dot products of some blocks.
///
/// A lane of 16 bits sums what a token has at dimensions 0 and 1, or 2 and 3, of each group. Sums wrap on their way,
/// but what they come to fits (see [`crate::max_sim`]); no product of `maddubs` exceeds 255 · 63 · 2 = 32,130.
///
/// # Safety
/// The CPU has AVX2; `blocks` are `BLOCKS` blocks of the tile's dimensions.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn raise_avx2<const BLOCKS: usize>(
    tile: &QueryTile,
    blocks: &[u8],
    maxima: &mut [__m256i; TILE_TOKENS],
) {
    let mut sums: Sums<BLOCKS> = tile.sums.map(|sums| [start_avx2(sums); BLOCKS]);
    for group in 0..tile.groups() {
        // SAFETY: `group` is one of the tile's and of each block's.
        let codes: [__m256i; BLOCKS] =
            std::array::from_fn(|block| unsafe { load(tile, blocks, block, group) });
        for (token, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let query = unsafe { broadcast(tile, group, token) };
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, query));
            }
        }
    }
    for (maximum, sums) in maxima.iter_mut().zip(sums) {
        for sum in sums {
            let dots = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
            *maximum = _mm256_max_epi32(*maximum, dots);
        }
    }
}

/// What sums of 16 bits start at, in both lanes of every token.
#[inline]
#[target_feature(enable = "avx2")]
fn start_avx2([low, high]: [i32; 2]) -> __m256i {
    let lane = |sum: i32| sum.wrapping_mul(-i32::from(CODE_OFFSET)) & 0xffff;
    _mm256_set1_epi32(lane(high) << 16 | lane(low))
}

/// # Safety
/// The CPU has AVX2, AVX-512 VL and VNNI; `blocks` are whole blocks of the tile's dimensions.
#[target_feature(enable = "avx2,avx512vl,avx512vnni")]
pub(super) unsafe fn max_dots_vnni(tile: &QueryTile, blocks: &[u8]) -> [i32; TILE_TOKENS] {
    let mut maxima = [_mm256_set1_epi32(i32::MIN); TILE_TOKENS];
    let mut several = blocks.chunks_exact(BLOCKS_VNNI * tile.block_bytes());
    for blocks in &mut several {
        // SAFETY: these are as many blocks as it says.
        unsafe { raise_vnni::<BLOCKS_VNNI>(tile, blocks, &mut maxima) };
    }
    let rest = several.remainder();
    // SAFETY: these are as many blocks as it says. A lone block would leave `dpbusd` waiting for its own sums.
    unsafe {
        match rest.len() / tile.block_bytes() {
            3 => raise_vnni::<3>(tile, rest, &mut maxima),
            2 => raise_vnni::<2>(tile, rest, &mut maxima),
            1 => raise_vnni::<1>(tile, rest, &mut maxima),
            _ => {}
        }
    }
    maxima.map(|lanes| largest(lanes))
}

/// Raises the maxima to the dot products of some blocks, in lanes of 32 bits.
///
/// # Safety
/// The CPU has AVX2, AVX-512 VL and VNNI; `blocks` are `BLOCKS` blocks of the tile's dimensions.
#[inline]
#[target_feature(enable = "avx2,avx512vl,avx512vnni")]
unsafe fn raise_vnni<const BLOCKS: usize>(
    tile: &QueryTile,
    blocks: &[u8],
    maxima: &mut [__m256i; TILE_TOKENS],
) {
    let mut sums: Sums<BLOCKS> = tile.sums.map(|sums| [start_vnni(sums); BLOCKS]);
    for group in 0..tile.groups() {
        // SAFETY: `group` is one of the tile's and of each block's.
        let codes: [__m256i; BLOCKS] =
            std::array::from_fn(|block| unsafe { load(tile, blocks, block, group) });
        for (token, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let query = unsafe { broadcast(tile, group, token) };
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = _mm256_dpbusd_epi32(*sum, codes, query);
            }
        }
    }
    for (maximum, sums) in maxima.iter_mut().zip(sums) {
        *maximum = sums
            .into_iter()
            .fold(*maximum, |maximum, dots| _mm256_max_epi32(maximum, dots));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn start_vnni([low, high]: [i32; 2]) -> __m256i {
    _mm256_set1_epi32(-i32::from(CODE_OFFSET) * (low + high))
}

/// Four dimensions of the eight tokens of a block.
///
/// # Safety
/// `blocks` has that block of the tile's dimensions, which have that group.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(tile: &QueryTile, blocks: &[u8], block: usize, group: usize) -> __m256i {
    let start = block * tile.block_bytes() + group * BLOCK_GROUP_BYTES;
    debug_assert!(start + BLOCK_GROUP_BYTES <= blocks.len());
    // SAFETY: the caller vouches for the range; an unaligned load needs nothing else.
    unsafe { _mm256_loadu_si256(blocks.as_ptr().add(start).cast()) }
}

/// Four dimensions of a query token, in every lane.
///
/// # Safety
/// The tile has that group and that token.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn broadcast(tile: &QueryTile, group: usize, token: usize) -> __m256i {
    let start = group * TILE_GROUP_CODES + token * GROUP_DIMENSIONS;
    debug_assert!(start + GROUP_DIMENSIONS <= tile.codes.len());
    // SAFETY: the caller vouches for the range, and the read may be unaligned.
    _mm256_set1_epi32(unsafe {
        tile.codes
            .as_ptr()
            .add(start)
            .cast::<i32>()
            .read_unaligned()
    })
}

/// The largest lane.
#[inline]
#[target_feature(enable = "avx2")]
fn largest(lanes: __m256i) -> i32 {
    let four = _mm_max_epi32(
        _mm256_castsi256_si128(lanes),
        _mm256_extracti128_si256::<1>(lanes),
    );
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b01>(two)))
}

/// Asks for bytes that are read soon, by the line of 64.
pub(super) fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}
