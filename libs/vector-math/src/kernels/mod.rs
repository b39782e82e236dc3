//! Exact int8 dot products: one scalar truth, and the same to the bit with the vector units at hand.
//!
//! The backend is chosen once per process. Every backend gives the same integers for codes in
//! −127..=127; −128 is outside the contract and merely gives some number.
#![expect(
    unsafe_code,
    reason = "calls functions compiled for CPU features that were detected"
)]

pub(crate) mod max_sim;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use crate::top_rows::TopRows;

/// Instructions that kernels exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Plain Rust, everywhere: what the others must equal.
    Scalar,
    /// `maddubs` on 256 bits.
    Avx2,
    /// `dpbusd` on 256 bits.
    Avx512Vnni,
    /// `smull` and `sadalp` on 128 bits.
    Neon,
}

impl Backend {
    /// From the best to the plainest.
    const BY_PREFERENCE: [Self; 4] = [Self::Avx512Vnni, Self::Avx2, Self::Neon, Self::Scalar];

    /// The backends of this machine, best first; the last is [`Backend::Scalar`].
    pub fn available() -> Vec<Self> {
        Self::BY_PREFERENCE
            .into_iter()
            .filter(|backend| backend.is_available())
            .collect()
    }

    fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            _ => false,
        }
    }
}

/// Kernels of one backend that this machine has.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    /// Invariant: `backend.is_available()`.
    backend: Backend,
}

impl Kernels {
    /// The best kernels of this machine; detected once.
    pub fn detected() -> Self {
        static DETECTED: OnceLock<Kernels> = OnceLock::new();
        *DETECTED.get_or_init(|| Self {
            backend: Backend::available()[0],
        })
    }

    /// Kernels of a certain backend, where the machine has it: for tests and benches.
    pub fn of(backend: Backend) -> Option<Self> {
        backend.is_available().then_some(Self { backend })
    }

    /// What these kernels use.
    pub fn backend(self) -> Backend {
        self.backend
    }

    /// Dot product of two code vectors.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn dot(self, left: &[i8], right: &[i8]) -> i32 {
        assert_eq!(left.len(), right.len(), "code vectors of one width");
        let mut dots = [0];
        self.dot_rows_unchecked(left, right, &mut dots);
        dots[0]
    }

    /// Dot products of a query with consecutive rows: `rows` holds `dots.len()` vectors of the query's width.
    ///
    /// # Panics
    /// When the lengths don't fit.
    pub fn dot_rows(self, query: &[i8], rows: &[i8], dots: &mut [i32]) {
        assert_eq!(
            rows.len(),
            query.len() * dots.len(),
            "one row per dot product"
        );
        self.dot_rows_unchecked(query, rows, dots);
    }

    fn dot_rows_unchecked(self, query: &[i8], rows: &[i8], dots: &mut [i32]) {
        match self.backend {
            // SAFETY: the backend is available (invariant of `Kernels`), and both callers have asserted the lengths.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => unsafe { x86::dot_rows_avx2(query, rows, dots) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512Vnni => unsafe { x86::dot_rows_vnni(query, rows, dots) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Backend::Neon => unsafe { neon::dot_rows(query, rows, dots) },
            _ => scalar::dot_rows(query, rows, dots),
        }
    }

    /// Offers `dots[i] · factors[i]` as the score of row `first_row + i`, for the allowed rows.
    ///
    /// # Panics
    /// When the lengths differ or exceed 64.
    pub(crate) fn offer(self, scan: &Offer<'_>, top: &mut TopRows) {
        assert_eq!(
            scan.dots.len(),
            scan.factors.len(),
            "one factor per dot product"
        );
        assert!(
            scan.dots.len() <= u64::BITS as usize,
            "one mask bit per dot product"
        );
        match self.backend {
            // SAFETY: both backends were detected together with AVX2; the lengths are equal.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 | Backend::Avx512Vnni => unsafe { x86::offer(scan, top) },
            _ => scalar::offer(scan, 0, top),
        }
    }

    /// `sums[i] += factor · column[i]`, each product and each sum rounded on its own, never fused.
    ///
    /// # Panics
    /// When the lengths differ.
    pub(crate) fn add_scaled(self, factor: f32, column: &[f32], sums: &mut [f32]) {
        assert_eq!(column.len(), sums.len(), "columns of one width");
        match self.backend {
            // SAFETY: both backends were detected together with AVX2.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 | Backend::Avx512Vnni => unsafe { x86::add_scaled(factor, column, sums) },
            _ => scalar::add_scaled(factor, column, sums),
        }
    }
}

/// At most 64 dot products on their way to becoming scored rows.
pub(crate) struct Offer<'a> {
    pub(crate) dots: &'a [i32],
    pub(crate) factors: &'a [f32],
    pub(crate) first_row: u32,
    /// Bit `i` lets row `first_row + i` through.
    pub(crate) allowed: u64,
}

/// Dot product of two code vectors, with the best kernels of this machine.
///
/// # Panics
/// When the lengths differ.
pub fn dot_i8(left: &[i8], right: &[i8]) -> i32 {
    Kernels::detected().dot(left, right)
}

/// Dot products of a query with consecutive rows, with the best kernels of this machine.
///
/// # Panics
/// When `rows` isn't `dots.len()` vectors of the query's width.
pub fn dot_rows(query: &[i8], rows: &[i8], dots: &mut [i32]) {
    Kernels::detected().dot_rows(query, rows, dots);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn every_backend() -> Vec<Kernels> {
        Backend::available()
            .into_iter()
            .filter_map(Kernels::of)
            .collect()
    }

    fn codes(length: usize) -> impl Strategy<Value = Vec<i8>> {
        prop::collection::vec(
            prop_oneof![4 => -127_i8..=127, 1 => Just(127_i8), 1 => Just(-127_i8)],
            length,
        )
    }

    fn query_and_rows() -> impl Strategy<Value = (Vec<i8>, Vec<i8>, usize)> {
        (
            prop_oneof![Just(64_usize), Just(384), 1_usize..200],
            0_usize..40,
        )
            .prop_flat_map(|(width, rows)| (codes(width), codes(width * rows), Just(rows)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_backend_equals_the_scalar_one((query, rows, count) in query_and_rows()) {
            let mut expected = vec![0; count];
            scalar::dot_rows(&query, &rows, &mut expected);
            for kernels in every_backend() {
                let mut dots = vec![0; count];
                kernels.dot_rows(&query, &rows, &mut dots);
                prop_assert_eq!(&dots, &expected, "{:?}", kernels.backend());
                for (row, expected) in rows.chunks(query.len()).zip(&expected) {
                    prop_assert_eq!(kernels.dot(&query, row), *expected, "{:?}", kernels.backend());
                }
            }
        }

        #[test]
        fn every_backend_offers_the_same_rows(
            dots in prop::collection::vec(-50_i32..50, 0..=64),
            allowed: u64,
            factor in 0.001_f32..1.0,
            limit in 1_usize..20,
        ) {
            let factors: Vec<f32> = (0..dots.len()).map(|row| factor * (1 + row % 3) as f32).collect();
            let scan = Offer { dots: &dots, factors: &factors, first_row: 7, allowed };
            let mut expected = TopRows::new(limit);
            scalar::offer(&scan, 0, &mut expected);
            let expected = expected.into_sorted();
            for kernels in every_backend() {
                let mut top = TopRows::new(limit);
                kernels.offer(&scan, &mut top);
                prop_assert_eq!(&top.into_sorted(), &expected, "{:?}", kernels.backend());
            }
        }

        #[test]
        fn every_backend_adds_the_same_floats(
            column in prop::collection::vec(-1.0_f32..1.0, 0..70),
            factor in -1.0_f32..1.0,
        ) {
            let start: Vec<f32> = column.iter().map(|value| value * 0.3).collect();
            let mut expected = start.clone();
            scalar::add_scaled(factor, &column, &mut expected);
            for kernels in every_backend() {
                let mut sums = start.clone();
                kernels.add_scaled(factor, &column, &mut sums);
                prop_assert_eq!(&sums, &expected, "{:?}", kernels.backend());
            }
        }
    }

    #[test]
    fn extreme_codes_do_not_saturate() {
        for width in [32, 64, 384, 4096] {
            let (most, least) = (vec![127_i8; width], vec![-127_i8; width]);
            let largest = 127 * 127 * width as i32;
            for kernels in every_backend() {
                assert_eq!(kernels.dot(&most, &most), largest);
                assert_eq!(kernels.dot(&least, &least), largest);
                assert_eq!(kernels.dot(&most, &least), -largest);
            }
        }
    }

    #[test]
    fn a_backend_of_another_architecture_is_not_given() {
        let foreign = if cfg!(target_arch = "aarch64") {
            Backend::Avx2
        } else {
            Backend::Neon
        };
        assert!(Kernels::of(foreign).is_none());
        assert_eq!(Backend::available().last(), Some(&Backend::Scalar));
    }
}
