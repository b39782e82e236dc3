//! The codes that the trainer makes of vectors (`services/trainer/src/finemesh_trainer/quantizer.py`, which writes the
//! file) are those that are made here, to the bit.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::coder::QueryBlock;
use crate::{VectorCoder, normalize, quantize};

#[derive(Deserialize)]
struct Vectors {
    quantize: Vec<QuantizeCase>,
    code: Vec<CodeCase>,
}

/// Floats are read as f64, which holds every f32.
#[derive(Deserialize)]
struct QuantizeCase {
    values: Vec<f64>,
    codes: Vec<i8>,
    scale: f64,
}

#[derive(Deserialize)]
struct CodeCase {
    vector: Vec<f64>,
    dimensions: usize,
    prefix_dimensions: usize,
    normalized: Vec<f64>,
    codes: Vec<i8>,
    prefix_scale: f64,
    rest_scale: f64,
    prefix_inverse_norm: f64,
    query_codes: Vec<i8>,
    query_residuals: Vec<i8>,
    query_prefix_scale: f64,
    query_rest_scale: f64,
}

fn vectors() -> Vectors {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/quantizer.json");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn narrowed(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn codes_and_scales_are_the_trainers() {
    let cases = vectors().quantize;
    assert!(cases.len() > 5);
    for case in cases {
        let mut codes = vec![0; case.values.len()];
        let scale = quantize(&narrowed(&case.values), &mut codes);
        assert_eq!(codes, case.codes, "{:?}", case.values);
        assert_eq!(
            scale.to_bits(),
            (case.scale as f32).to_bits(),
            "{:?}",
            case.values
        );
    }
}

#[test]
fn passages_are_stored_as_the_trainer_codes_them() {
    let cases = vectors().code;
    assert!(cases.len() > 3);
    for case in cases {
        let vector = narrowed(&case.vector);
        let mut normalized = vector.clone();
        normalize(&mut normalized).unwrap();
        assert_eq!(bits(&normalized), bits(&narrowed(&case.normalized)));
        let coded = coder(&case).prepare(&vector).unwrap();
        assert_eq!(coded.codes, case.codes);
        let got = [
            coded.prefix_scale,
            coded.rest_scale,
            coded.prefix_inverse_norm,
        ];
        let expected = [case.prefix_scale, case.rest_scale, case.prefix_inverse_norm];
        assert_eq!(bits(&got), bits(&narrowed(&expected)));
    }
}

#[test]
fn queries_are_scanned_with_the_trainers_codes() {
    for case in vectors().code {
        let query = coder(&case).query(&narrowed(&case.vector)).unwrap();
        let joined = |of: fn(&QueryBlock) -> &Vec<i8>| {
            [of(&query.prefix).as_slice(), of(&query.rest)].concat()
        };
        assert_eq!(joined(|block| &block.codes), case.query_codes);
        assert_eq!(joined(|block| &block.residuals), case.query_residuals);
        assert_eq!(
            query.prefix.scale.to_bits(),
            case.query_prefix_scale.to_bits()
        );
        assert_eq!(query.rest.scale.to_bits(), case.query_rest_scale.to_bits());
    }
}

fn coder(case: &CodeCase) -> VectorCoder {
    VectorCoder::new(
        None,
        case.vector.len(),
        case.dimensions,
        case.prefix_dimensions,
    )
    .unwrap()
}
