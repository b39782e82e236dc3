//! AVX2 and AVX-512 VNNI, both on 256-bit registers and eight rows at a time.
//!
//! Eight rows share each load of the query, and their eight sums are reduced together. With 64 dimensions a row
//! takes two loads and about ten operations, so that a scan is bound by memory and not by arithmetic.
//! 512-bit registers would save nothing: a row of 64 codes would need an extra reduction step.

use std::arch::x86_64::*;

use super::{Offer, scalar};
use crate::top_rows::TopRows;

/// Codes in one 256-bit register.
const LANES: usize = 32;
/// Rows that are worked on together.
const GROUP: usize = 8;

/// # Safety
/// The CPU has AVX2; `rows` holds `dots.len()` rows of the query's width.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn dot_rows_avx2(query: &[i8], rows: &[i8], dots: &mut [i32]) {
    let width = query.len();
    let body = width - width % LANES;
    let grouped = dots.len() - dots.len() % GROUP;
    for first in (0..grouped).step_by(GROUP) {
        let mut sums = [_mm256_setzero_si256(); GROUP];
        for lane in (0..body).step_by(LANES) {
            // SAFETY: `lane + LANES <= body <= width`, inside the query.
            let q = unsafe { load(query, lane) };
            let magnitudes = _mm256_abs_epi8(q);
            for (row, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `first + row` is a row of `rows`, and `lane + LANES` lies inside it.
                let codes = unsafe { load(rows, (first + row) * width + lane) };
                *sum = _mm256_add_epi32(*sum, products_avx2(magnitudes, q, codes));
            }
        }
        // SAFETY: `first + GROUP <= dots.len()`.
        unsafe { store(dots, first, reduce_group(sums)) };
    }
    for (first, dot) in dots.iter_mut().enumerate().skip(grouped) {
        let mut sum = _mm256_setzero_si256();
        for lane in (0..body).step_by(LANES) {
            // SAFETY: as above.
            let (q, codes) = unsafe { (load(query, lane), load(rows, first * width + lane)) };
            sum = _mm256_add_epi32(sum, products_avx2(_mm256_abs_epi8(q), q, codes));
        }
        *dot = reduce_one(sum);
    }
    add_tails(query, rows, body, dots);
}

/// Products of 32 codes, summed by four. Exact, because codes lie in −127..=127 (see `MAX_CODE`).
#[inline]
#[target_feature(enable = "avx2")]
fn products_avx2(magnitudes: __m256i, query: __m256i, codes: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(codes, query));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// # Safety
/// The CPU has AVX2, AVX-512 VL and VNNI; `rows` holds `dots.len()` rows of the query's width.
#[target_feature(enable = "avx2,avx512vl,avx512vnni")]
pub(super) unsafe fn dot_rows_vnni(query: &[i8], rows: &[i8], dots: &mut [i32]) {
    let width = query.len();
    let body = width - width % LANES;
    let grouped = dots.len() - dots.len() % GROUP;
    // `dpbusd` multiplies unsigned by signed: codes are shifted by 128, and 128 · Σ query is taken off again.
    let shift = -128
        * query[..body]
            .iter()
            .map(|&code| i32::from(code))
            .sum::<i32>();
    for first in (0..grouped).step_by(GROUP) {
        let mut sums = [_mm256_setzero_si256(); GROUP];
        for lane in (0..body).step_by(LANES) {
            // SAFETY: `lane + LANES <= body <= width`, inside the query.
            let q = unsafe { load(query, lane) };
            for (row, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `first + row` is a row of `rows`, and `lane + LANES` lies inside it.
                let codes = unsafe { load(rows, (first + row) * width + lane) };
                *sum = _mm256_dpbusd_epi32(*sum, shifted(codes), q);
            }
        }
        let group = _mm256_add_epi32(reduce_group(sums), _mm256_set1_epi32(shift));
        // SAFETY: `first + GROUP <= dots.len()`.
        unsafe { store(dots, first, group) };
    }
    for (first, dot) in dots.iter_mut().enumerate().skip(grouped) {
        let mut sum = _mm256_setzero_si256();
        for lane in (0..body).step_by(LANES) {
            // SAFETY: as above.
            let (q, codes) = unsafe { (load(query, lane), load(rows, first * width + lane)) };
            sum = _mm256_dpbusd_epi32(sum, shifted(codes), q);
        }
        *dot = reduce_one(sum) + shift;
    }
    add_tails(query, rows, body, dots);
}

/// Signed codes as unsigned ones, 128 larger.
#[inline]
#[target_feature(enable = "avx2")]
fn shifted(codes: __m256i) -> __m256i {
    _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN))
}

/// Adds what lies behind the last full register.
#[inline]
fn add_tails(query: &[i8], rows: &[i8], body: usize, dots: &mut [i32]) {
    let width = query.len();
    if body == width {
        return;
    }
    for (dot, row) in dots.iter_mut().zip(rows.chunks_exact(width)) {
        *dot += scalar::dot(&query[body..], &row[body..]);
    }
}

/// # Safety
/// `start + 32 <= codes.len()`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(codes: &[i8], start: usize) -> __m256i {
    debug_assert!(start + LANES <= codes.len());
    // SAFETY: the caller vouches for the range; an unaligned load needs nothing else.
    unsafe { _mm256_loadu_si256(codes.as_ptr().add(start).cast()) }
}

/// # Safety
/// `start + 8 <= dots.len()`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(dots: &mut [i32], start: usize, values: __m256i) {
    debug_assert!(start + GROUP <= dots.len());
    // SAFETY: the caller vouches for the range; an unaligned store needs nothing else.
    unsafe { _mm256_storeu_si256(dots.as_mut_ptr().add(start).cast(), values) }
}

/// The eight totals of eight registers, in order.
#[inline]
#[target_feature(enable = "avx2")]
fn reduce_group(sums: [__m256i; GROUP]) -> __m256i {
    let four = |a: usize| {
        let left = _mm256_hadd_epi32(sums[a], sums[a + 1]);
        _mm256_hadd_epi32(left, _mm256_hadd_epi32(sums[a + 2], sums[a + 3]))
    };
    let (low, high) = (four(0), four(4));
    let first_halves = _mm256_permute2x128_si256::<0x20>(low, high);
    let second_halves = _mm256_permute2x128_si256::<0x31>(low, high);
    _mm256_add_epi32(first_halves, second_halves)
}

/// The total of one register.
#[inline]
#[target_feature(enable = "avx2")]
fn reduce_one(sum: __m256i) -> i32 {
    let four = _mm_add_epi32(
        _mm256_castsi256_si128(sum),
        _mm256_extracti128_si256::<1>(sum),
    );
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b01>(two)))
}

/// Offers eight rows per comparison: nearly all of them fail it together.
///
/// # Safety
/// The CPU has AVX2; `dots` and `factors` have one length.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn offer(scan: &Offer<'_>, top: &mut TopRows) {
    let grouped = scan.dots.len() - scan.dots.len() % GROUP;
    for start in (0..grouped).step_by(GROUP) {
        // SAFETY: `start + GROUP` is within both slices.
        let scores = unsafe { scores_at(scan, start) };
        let threshold = _mm256_set1_ps(top.threshold());
        let exceeding = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(scores, threshold));
        let mut above = exceeding as u64 & (scan.allowed >> start);
        while above != 0 {
            let position = start + above.trailing_zeros() as usize;
            above &= above - 1;
            top.push(
                scan.first_row + position as u32,
                scan.dots[position] as f32 * scan.factors[position],
            );
        }
    }
    scalar::offer(scan, grouped, top);
}

/// # Safety
/// `start + 8` is within both slices.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scores_at(scan: &Offer<'_>, start: usize) -> __m256 {
    // SAFETY: the caller vouches for the range; unaligned loads need nothing else.
    let (dots, factors) = unsafe {
        (
            _mm256_loadu_si256(scan.dots.as_ptr().add(start).cast()),
            _mm256_loadu_ps(scan.factors.as_ptr().add(start)),
        )
    };
    _mm256_mul_ps(_mm256_cvtepi32_ps(dots), factors)
}

/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_scaled(factor: f32, column: &[f32], sums: &mut [f32]) {
    // The same loop, compiled for wider registers: Rust never fuses or reorders floating-point operations.
    scalar::add_scaled(factor, column, sums);
}
