//! The reference: what every other backend must equal to the bit.

use super::Offer;
use crate::top_rows::TopRows;

pub(super) fn dot_rows(query: &[i8], rows: &[i8], dots: &mut [i32]) {
    let width = query.len().max(1);
    dots.fill(0);
    for (dot, row) in dots.iter_mut().zip(rows.chunks_exact(width)) {
        *dot = self::dot(query, row);
    }
}

pub(super) fn dot(left: &[i8], right: &[i8]) -> i32 {
    left.iter()
        .zip(right)
        .map(|(&l, &r)| i32::from(l) * i32::from(r))
        .sum()
}

/// Offers the rows of the block from position `start` on.
pub(super) fn offer(scan: &Offer<'_>, start: usize, top: &mut TopRows) {
    let scored = scan.dots.iter().zip(scan.factors).enumerate().skip(start);
    for (position, (&dot, &factor)) in scored {
        if scan.allowed >> position & 1 == 1 {
            top.push(scan.first_row + position as u32, dot as f32 * factor);
        }
    }
}

#[inline(always)]
pub(super) fn add_scaled(factor: f32, column: &[f32], sums: &mut [f32]) {
    for (sum, value) in sums.iter_mut().zip(column) {
        *sum += factor * value;
    }
}
