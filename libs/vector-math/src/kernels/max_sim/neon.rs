//! NEON as every aarch64 CPU has it: products are added to lanes of 16 bits, one lane per dimension of a group.

use std::arch::aarch64::*;

use super::{BLOCK_GROUP_BYTES, CODE_OFFSET, QueryTile, TILE_GROUP_CODES, TILE_TOKENS};

/// Sums of one query token with a block: two passage tokens per register.
type Sums = [int16x8_t; 4];

/// # Safety
/// The CPU has NEON; `blocks` are whole blocks of the tile's dimensions.
#[target_feature(enable = "neon")]
pub(super) unsafe fn max_dots(tile: &QueryTile, blocks: &[u8]) -> [i32; TILE_TOKENS] {
    let mut maxima = [vdupq_n_s32(i32::MIN); TILE_TOKENS];
    for block in blocks.chunks_exact(tile.block_bytes()) {
        for (maximum, sums) in maxima.iter_mut().zip(block_sums(tile, block)) {
            let [first, second] = dots(sums);
            *maximum = vmaxq_s32(*maximum, vmaxq_s32(first, second));
        }
    }
    maxima.map(|lanes| vmaxvq_s32(lanes))
}

#[inline]
#[target_feature(enable = "neon")]
fn block_sums(tile: &QueryTile, block: &[u8]) -> [Sums; TILE_TOKENS] {
    let mut sums = [[vdupq_n_s16(0); 4]; TILE_TOKENS];
    let query = tile.codes.as_chunks::<TILE_GROUP_CODES>().0;
    let passage = block.as_chunks::<BLOCK_GROUP_BYTES>().0;
    for (query, passage) in query.iter().zip(passage) {
        let codes = signed(passage);
        // SAFETY: 16 codes lie at `query`; loads may be unaligned.
        let query = unsafe { vreinterpretq_s32_s8(vld1q_s8(query.as_ptr())) };
        add_products(&mut sums[0], codes, vdupq_laneq_s32::<0>(query));
        add_products(&mut sums[1], codes, vdupq_laneq_s32::<1>(query));
        add_products(&mut sums[2], codes, vdupq_laneq_s32::<2>(query));
        add_products(&mut sums[3], codes, vdupq_laneq_s32::<3>(query));
    }
    sums
}

/// Four dimensions of the eight tokens of a block, with their sign: 128 is taken off by turning the highest bit.
#[inline]
#[target_feature(enable = "neon")]
fn signed(passage: &[u8; BLOCK_GROUP_BYTES]) -> [int8x16_t; 2] {
    let turn = vdupq_n_u8(CODE_OFFSET);
    // SAFETY: 32 bytes lie at `passage`; loads may be unaligned.
    let (low, high) = unsafe {
        (
            vld1q_u8(passage.as_ptr()),
            vld1q_u8(passage.as_ptr().add(BLOCK_GROUP_BYTES / 2)),
        )
    };
    [
        vreinterpretq_s8_u8(veorq_u8(low, turn)),
        vreinterpretq_s8_u8(veorq_u8(high, turn)),
    ]
}

/// Every partial sum fits a lane of 16 bits (see [`crate::max_sim`]).
#[inline]
#[target_feature(enable = "neon")]
fn add_products(sums: &mut Sums, codes: [int8x16_t; 2], query: int32x4_t) {
    let query = vreinterpretq_s8_s32(query);
    let low = vget_low_s8(query);
    sums[0] = vmlal_s8(sums[0], vget_low_s8(codes[0]), low);
    sums[1] = vmlal_high_s8(sums[1], codes[0], query);
    sums[2] = vmlal_s8(sums[2], vget_low_s8(codes[1]), low);
    sums[3] = vmlal_high_s8(sums[3], codes[1], query);
}

/// Adds up the four lanes of each token: eight dot products.
#[inline]
#[target_feature(enable = "neon")]
fn dots(sums: Sums) -> [int32x4_t; 2] {
    let pairs = sums.map(|sum| vpaddlq_s16(sum));
    [
        vpaddq_s32(pairs[0], pairs[1]),
        vpaddq_s32(pairs[2], pairs[3]),
    ]
}
