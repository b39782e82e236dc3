//! Normalising and quantising: the rounding that everything else, Python too, has to reproduce.

use crate::{MAX_CODE, VectorError};

/// The largest code as a float.
pub(crate) const MAX_CODE_F32: f32 = MAX_CODE as f32;

/// How much finer the second code of a query is than its first: a rounding error of half a step becomes 127.
pub(crate) const RESIDUAL_STEPS: f32 = 2.0 * MAX_CODE_F32;

/// Scales a vector to norm 1. Refuses NaN, infinities and the zero vector; the vector is unchanged then.
///
/// The squares are added in f64 in index order, each component is divided in f64 and rounded once.
pub fn normalize(vector: &mut [f32]) -> Result<(), VectorError> {
    if let Some(position) = vector.iter().position(|value| !value.is_finite()) {
        return Err(VectorError::NotFinite { position });
    }
    if normalize_finite(vector) {
        Ok(())
    } else {
        Err(VectorError::Zero)
    }
}

/// Scales finite values to norm 1; leaves zeros alone and says `false`.
pub(crate) fn normalize_finite(vector: &mut [f32]) -> bool {
    let squares: f64 = vector.iter().map(|&value| f64::from(value).powi(2)).sum();
    if squares == 0.0 {
        return false;
    }
    let norm = squares.sqrt();
    for value in vector {
        *value = (f64::from(*value) / norm) as f32;
    }
    true
}

/// Writes int8 codes and returns their scale: `value ≈ code · scale`.
///
/// `scale = max |value| / 127`, `code = round(value · (127 / max |value|))`, all in f32, halves to the even
/// neighbour (`f32::round_ties_even`, NumPy's `rint`). Codes lie in −127..=127. Zeros give scale 0.
///
/// # Panics
/// When the slices differ in length.
pub fn quantize(values: &[f32], codes: &mut [i8]) -> f32 {
    assert_eq!(values.len(), codes.len(), "one code per value");
    let (scale, steps_per_unit) = scale_of(values);
    for (code, value) in codes.iter_mut().zip(values) {
        *code = to_code(value * steps_per_unit);
    }
    scale
}

/// As [`quantize`], and a second code for what the first rounds away:
/// `value ≈ (254 · code + residual) · scale / 254`.
pub(crate) fn quantize_finely(values: &[f32], codes: &mut [i8], residuals: &mut [i8]) -> f32 {
    let (scale, steps_per_unit) = scale_of(values);
    for ((code, residual), value) in codes.iter_mut().zip(residuals).zip(values) {
        let steps = value * steps_per_unit;
        *code = to_code(steps);
        *residual = to_code((steps - f32::from(*code)) * RESIDUAL_STEPS);
    }
    scale
}

/// `(max |value| / 127, 127 / max |value|)`, or zeros where that is no number.
fn scale_of(values: &[f32]) -> (f32, f32) {
    let largest = values
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let steps_per_unit = MAX_CODE_F32 / largest;
    if steps_per_unit.is_finite() {
        (largest / MAX_CODE_F32, steps_per_unit)
    } else {
        (0.0, 0.0)
    }
}

/// The nearest code; halves go to the even neighbour.
pub(crate) fn to_code(steps: f32) -> i8 {
    steps.round_ties_even().clamp(-MAX_CODE_F32, MAX_CODE_F32) as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_go_to_the_even_code() {
        let mut codes = [0_i8; 5];
        let scale = quantize(&[127.0, 0.5, 1.5, -0.5, -2.5], &mut codes);
        assert_eq!(scale, 1.0);
        assert_eq!(codes, [127, 0, 2, 0, -2]);
    }

    #[test]
    fn zeros_and_tiny_values_have_scale_zero() {
        let mut codes = [9_i8; 2];
        assert_eq!(quantize(&[0.0, -0.0], &mut codes), 0.0);
        assert_eq!(codes, [0, 0]);
        assert_eq!(quantize(&[f32::from_bits(1), 0.0], &mut codes), 0.0);
        assert_eq!(codes, [0, 0]);
    }

    #[test]
    fn what_has_no_direction_is_refused() {
        assert_eq!(normalize(&mut [0.0, 0.0]), Err(VectorError::Zero));
        assert_eq!(
            normalize(&mut [1.0, f32::NAN]),
            Err(VectorError::NotFinite { position: 1 })
        );
        assert_eq!(
            normalize(&mut [f32::INFINITY]),
            Err(VectorError::NotFinite { position: 0 })
        );
        assert_eq!(normalize(&mut []), Err(VectorError::Zero));
    }

    #[test]
    fn extreme_magnitudes_are_normalised() {
        let mut huge = [f32::MAX, f32::MAX];
        normalize(&mut huge).unwrap();
        assert!((huge[0] - 0.5_f32.sqrt()).abs() < 1e-7);
        let mut tiny = [f32::from_bits(1), 0.0];
        normalize(&mut tiny).unwrap();
        assert_eq!(tiny, [1.0, 0.0]);
    }

    proptest! {
        #[test]
        fn a_code_is_within_half_a_step(values in prop::collection::vec(-1.0_f32..1.0, 1..80)) {
            let mut codes = vec![0_i8; values.len()];
            let scale = quantize(&values, &mut codes);
            for (value, code) in values.iter().zip(&codes) {
                prop_assert!((-127..=127).contains(code));
                prop_assert!((value - f32::from(*code) * scale).abs() <= scale * 0.5001);
            }
        }

        #[test]
        fn the_second_code_refines_the_first(values in prop::collection::vec(-1.0_f32..1.0, 1..80)) {
            let (mut codes, mut residuals) = (vec![0_i8; values.len()], vec![0_i8; values.len()]);
            let scale = quantize_finely(&values, &mut codes, &mut residuals);
            for ((value, code), residual) in values.iter().zip(&codes).zip(&residuals) {
                let decoded = (254.0 * f32::from(*code) + f32::from(*residual)) * scale / 254.0;
                prop_assert!((value - decoded).abs() <= scale * 0.0021);
            }
        }
    }
}
