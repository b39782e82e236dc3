//! Views between bytes on disk and the numbers in them, without copying.
#![expect(
    unsafe_code,
    reason = "reinterprets plain numbers; each block says why it is sound"
)]

#[cfg(not(target_endian = "little"))]
compile_error!("segments are little-endian files that are mapped as they are");

/// Bytes as int8 codes.
pub fn codes_from_bytes(bytes: &[u8]) -> &[i8] {
    // SAFETY: u8 and i8 have the same size and alignment, and every bit pattern is valid.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

/// int8 codes as bytes.
pub fn codes_as_bytes(codes: &[i8]) -> &[u8] {
    // SAFETY: i8 and u8 have the same size and alignment, and every bit pattern is valid.
    unsafe { std::slice::from_raw_parts(codes.as_ptr().cast(), codes.len()) }
}

/// Bytes as little-endian f32 values. `None` when they are not aligned or not a whole number of values.
pub fn floats_from_bytes(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every bit pattern is a valid f32; `align_to` takes care of alignment and length.
    let (before, floats, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(floats)
}

/// f32 values as little-endian bytes.
pub fn floats_as_bytes(floats: &[f32]) -> &[u8] {
    // SAFETY: an f32 has no padding and u8 no alignment; the length in bytes is that of the slice.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), size_of_val(floats)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_way_through_bytes() {
        let codes = [-127_i8, -1, 0, 1, 127];
        assert_eq!(codes_from_bytes(codes_as_bytes(&codes)), codes);
        let floats = [0.0_f32, -1.5, f32::MAX];
        assert_eq!(floats_from_bytes(floats_as_bytes(&floats)).unwrap(), floats);
    }

    #[test]
    fn a_cut_or_shifted_block_of_floats_is_refused() {
        let floats = [1.0_f32, 2.0];
        let bytes = floats_as_bytes(&floats);
        assert!(floats_from_bytes(&bytes[..7]).is_none());
        assert!(floats_from_bytes(&bytes[1..5]).is_none());
    }
}
