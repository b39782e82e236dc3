//! NEON as every aarch64 CPU has it: products to i16, added pairwise into i32.

use std::arch::aarch64::*;

use super::scalar;

/// Codes in one 128-bit register.
const LANES: usize = 16;

/// # Safety
/// The CPU has NEON; `rows` holds `dots.len()` rows of the query's width.
#[target_feature(enable = "neon")]
pub(super) unsafe fn dot_rows(query: &[i8], rows: &[i8], dots: &mut [i32]) {
    let width = query.len();
    dots.fill(0);
    if width == 0 {
        return;
    }
    let body = width - width % LANES;
    for (dot, row) in dots.iter_mut().zip(rows.chunks_exact(width)) {
        let mut sums = vdupq_n_s32(0);
        for lane in (0..body).step_by(LANES) {
            // SAFETY: `lane + LANES <= body`, inside the query and inside the row.
            let (q, codes) = unsafe {
                (
                    vld1q_s8(query.as_ptr().add(lane)),
                    vld1q_s8(row.as_ptr().add(lane)),
                )
            };
            // A product of two codes is at most 127 · 127, which fits an i16.
            sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(q), vget_low_s8(codes)));
            sums = vpadalq_s16(sums, vmull_high_s8(q, codes));
        }
        *dot = vaddvq_s32(sums) + scalar::dot(&query[body..], &row[body..]);
    }
}
