//! The reference: what every other backend must equal to the bit.

use super::{
    BLOCK_GROUP_BYTES, BLOCK_TOKENS, CODE_OFFSET, GROUP_DIMENSIONS, QueryTile, TILE_GROUP_CODES,
    TILE_TOKENS,
};

pub(super) fn max_dots(tile: &QueryTile, blocks: &[u8]) -> [i32; TILE_TOKENS] {
    let mut maxima = [i32::MIN; TILE_TOKENS];
    for block in blocks.chunks_exact(tile.block_bytes()) {
        for (maximum, dots) in maxima.iter_mut().zip(block_dots(tile, block)) {
            *maximum = dots.into_iter().fold(*maximum, i32::max);
        }
    }
    maxima
}

/// Dot products of every token of the tile with every token of a block.
fn block_dots(tile: &QueryTile, block: &[u8]) -> [[i32; BLOCK_TOKENS]; TILE_TOKENS] {
    let mut dots = [[0; BLOCK_TOKENS]; TILE_TOKENS];
    let query = tile.codes.as_chunks::<TILE_GROUP_CODES>().0;
    let passage = block.as_chunks::<BLOCK_GROUP_BYTES>().0;
    for (query, passage) in query.iter().zip(passage) {
        for (dots, query) in dots.iter_mut().zip(query.as_chunks().0) {
            for (dot, passage) in dots.iter_mut().zip(passage.as_chunks().0) {
                *dot += group_dot(query, passage);
            }
        }
    }
    dots
}

fn group_dot(query: &[i8; GROUP_DIMENSIONS], passage: &[u8; GROUP_DIMENSIONS]) -> i32 {
    let products = query
        .iter()
        .zip(passage)
        .map(|(&q, &p)| i32::from(q) * (i32::from(p) - i32::from(CODE_OFFSET)));
    products.sum()
}

/// Plain Rust has no way to ask.
pub(super) fn prefetch(_bytes: &[u8]) {}
