//! From float vectors to codes, scans and scores, against plain loops over floats.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vector_math::{
    Backend, CodedRows, Kernels, PackedLayout, Rotation, TopRows, VectorCoder, VectorError, dot_i8,
    dot_rows, normalize,
};

const WIDTH: usize = 96;
const PREFIX: usize = 32;

/// Vectors around a few centres, so that they have a structure to rotate to the front.
fn clustered(count: usize, width: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut vector = |spread: f32| -> Vec<f32> {
        (0..width)
            .map(|_| spread * random.random_range(-1.0..1.0))
            .collect()
    };
    let centres: Vec<Vec<f32>> = (0..8).map(|_| vector(1.0)).collect();
    (0..count)
        .map(|row| {
            centres[row % 8]
                .iter()
                .zip(vector(0.7))
                .map(|(centre, noise)| centre + noise)
                .collect()
        })
        .collect()
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let (mut left, mut right) = (left.to_vec(), right.to_vec());
    normalize(&mut left).unwrap();
    normalize(&mut right).unwrap();
    left.iter().zip(&right).map(|(l, r)| l * r).sum()
}

/// A segment in memory.
#[derive(Default)]
struct Blocks {
    prefix: Vec<i8>,
    rest: Vec<i8>,
    scales: Vec<f32>,
    norms: Vec<f32>,
}

impl Blocks {
    fn of(coder: &VectorCoder, vectors: &[Vec<f32>]) -> Self {
        let mut blocks = Self::default();
        for vector in vectors {
            let coded = coder.prepare(vector).unwrap();
            let (prefix, rest) = coded.codes.split_at(coder.prefix_dimensions());
            blocks.prefix.extend(prefix);
            blocks.rest.extend(rest);
            blocks.scales.extend([coded.prefix_scale, coded.rest_scale]);
            blocks.norms.push(coded.prefix_inverse_norm);
        }
        blocks
    }

    fn rows(&self, coder: &VectorCoder) -> CodedRows<'_> {
        let (dimensions, prefix) = (coder.dimensions(), coder.prefix_dimensions());
        CodedRows::new(
            dimensions,
            prefix,
            &self.prefix,
            &self.rest,
            &self.scales,
            &self.norms,
        )
        .unwrap()
    }
}

fn rotated_coder(vectors: &[Vec<f32>]) -> VectorCoder {
    let width = vectors[0].len();
    let rotation = Rotation::fit(&vectors.concat(), width, width, PREFIX, 7).unwrap();
    VectorCoder::new(Some(rotation), width, width, PREFIX).unwrap()
}

#[test]
fn scores_are_cosines_with_and_without_a_rotation() {
    let vectors = clustered(300, WIDTH, 1);
    for coder in [
        rotated_coder(&vectors),
        VectorCoder::new(None, WIDTH, WIDTH, PREFIX).unwrap(),
    ] {
        let blocks = Blocks::of(&coder, &vectors);
        let query = coder.query(&vectors[5]).unwrap();
        for (row, vector) in vectors.iter().enumerate() {
            let score = blocks.rows(&coder).score(&query, row).unwrap();
            assert!(
                (score - cosine(&vectors[5], vector)).abs() < 0.004,
                "row {row}: {score}"
            );
        }
        assert_eq!(blocks.rows(&coder).score(&query, vectors.len()), None);
    }
}

#[test]
fn a_rotated_prefix_keeps_more_than_a_raw_one() {
    let vectors = clustered(2000, WIDTH, 2);
    let kept = |coder: VectorCoder| {
        let blocks = Blocks::of(&coder, &vectors);
        let mut found = 0;
        for query_vector in &vectors[..20] {
            let query = coder.query(query_vector).unwrap();
            let (mut exact, mut chosen) = (TopRows::new(20), TopRows::new(100));
            blocks
                .rows(&coder)
                .scan_full(&query, 0..2000, None, &mut exact);
            blocks
                .rows(&coder)
                .scan_prefix(&query, 0..2000, None, &mut chosen);
            let chosen: Vec<u32> = chosen
                .into_sorted()
                .into_iter()
                .map(|(row, _)| row)
                .collect();
            found += exact
                .into_sorted()
                .iter()
                .filter(|(row, _)| chosen.contains(row))
                .count();
        }
        found
    };
    let (rotated, raw) = (
        kept(rotated_coder(&vectors)),
        kept(VectorCoder::new(None, WIDTH, WIDTH, PREFIX).unwrap()),
    );
    assert!(rotated > raw, "{rotated} of 400 rotated, {raw} raw");
}

#[test]
fn a_truncated_vector_is_normalised_again() {
    let coder = VectorCoder::new(None, 4, 2, 1).unwrap();
    let blocks = Blocks::of(
        &coder,
        &[vec![3.0, 4.0, 100.0, 0.0], vec![0.0, 0.0, 1.0, 0.0]],
    );
    let query = coder.query(&[3.0, 4.0, 0.0, 7.0]).unwrap();
    assert!((blocks.rows(&coder).score(&query, 0).unwrap() - 1.0).abs() < 0.004);
    assert_eq!(
        blocks.rows(&coder).score(&query, 1),
        Some(0.0),
        "nothing of it is stored"
    );
}

#[test]
fn a_prefix_may_be_the_whole_vector() {
    let vectors = clustered(70, 16, 8);
    let coder = VectorCoder::new(None, 16, 16, 16).unwrap();
    let blocks = Blocks::of(&coder, &vectors);
    let query = coder.query(&vectors[2]).unwrap();
    let mut top = TopRows::new(1);
    blocks.rows(&coder).scan_full(&query, 0..70, None, &mut top);
    assert_eq!(top.into_sorted()[0].0, 2);
    assert!((blocks.rows(&coder).score(&query, 2).unwrap() - 1.0).abs() < 1e-3);
}

#[test]
fn known_vectors_have_known_codes() {
    let coder = VectorCoder::new(None, 4, 4, 2).unwrap();
    let coded = coder.prepare(&[2.0, -1.0, 0.5, 0.25]).unwrap();
    // 1 · 127 / 2 = 63.5 and 0.25 · 127 / 0.5 = 63.5: halves go to the even code.
    assert_eq!(coded.codes, [127, -64, 127, 64]);
    assert!((coded.prefix_inverse_norm - 1.0 / 142.214_f32).abs() < 1e-6);
}

#[test]
fn hostile_vectors_are_refused() {
    let coder = VectorCoder::new(None, 3, 3, 2).unwrap();
    assert_eq!(
        coder.query(&[1.0, 2.0]),
        Err(VectorError::Width {
            expected: 3,
            actual: 2
        })
    );
    assert_eq!(
        coder.query(&[1.0, f32::NAN, 0.0]),
        Err(VectorError::NotFinite { position: 1 })
    );
    assert_eq!(
        coder.prepare(&[f32::INFINITY, 0.0, 0.0]).unwrap_err(),
        VectorError::NotFinite { position: 0 }
    );
    assert_eq!(
        coder.prepare(&[0.0, -0.0, 0.0]).unwrap_err(),
        VectorError::Zero
    );
    assert!(VectorCoder::new(None, 3, 4, 2).is_err());
    assert!(VectorCoder::new(None, 3, 3, 0).is_err());
    assert!(VectorCoder::new(None, 5000, 5000, 64).is_err());
}

#[test]
fn blocks_that_contradict_each_other_are_refused() {
    let refused = |prefix: &[i8], rest: &[i8], scales: &[f32], norms: &[f32]| {
        CodedRows::new(4, 2, prefix, rest, scales, norms).is_err()
    };
    assert!(!refused(&[1, 2], &[3, 4], &[1.0, 1.0], &[1.0]));
    assert!(refused(&[1], &[3, 4], &[1.0, 1.0], &[1.0]));
    assert!(refused(&[1, 2], &[3, 4, 5], &[1.0, 1.0], &[1.0]));
    assert!(refused(&[1, 2], &[3, 4], &[1.0], &[1.0]));
    assert!(refused(&[1, 2], &[3, 4], &[1.0, 1.0], &[]));
}

fn product_with_transpose(rotation: &Rotation, width: usize) -> f32 {
    let columns: Vec<Vec<f32>> = (0..width)
        .map(|at| {
            rotation.apply(
                &(0..width)
                    .map(|other| f32::from(u8::from(at == other)))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    let mut largest_error = 0.0_f32;
    for (i, left) in columns.iter().enumerate() {
        for (j, right) in columns.iter().enumerate() {
            let product: f32 = left.iter().zip(right).map(|(l, r)| l * r).sum();
            largest_error = largest_error.max((product - f32::from(u8::from(i == j))).abs());
        }
    }
    largest_error
}

#[test]
fn a_rotation_is_orthogonal_whatever_it_was_fitted_on() {
    let one = clustered(1, 24, 3);
    let constant = vec![vec![0.25_f32; 24]; 50];
    let in_a_plane: Vec<Vec<f32>> = (0..50_u8)
        .map(|row| {
            (0..24)
                .map(|at| if at < 2 { f32::from(row + at) } else { 0.0 })
                .collect()
        })
        .collect();
    for samples in [one, constant, in_a_plane, clustered(500, 24, 4)] {
        let rotation = Rotation::fit(&samples.concat(), 24, 20, 8, 1).unwrap();
        assert!(product_with_transpose(&rotation, 24) < 1e-5);
    }
}

#[test]
fn the_same_sample_and_seed_give_the_same_rotation() {
    let samples = clustered(200, 48, 5).concat();
    let fit = |seed| {
        Rotation::fit(&samples, 48, 48, 16, seed)
            .unwrap()
            .to_bytes()
    };
    assert_eq!(fit(1), fit(1));
    assert_ne!(fit(1), fit(2));
}

#[test]
fn nothing_sensible_to_fit_on_is_refused() {
    assert_eq!(
        Rotation::fit(&[], 4, 4, 2, 0).unwrap_err(),
        VectorError::NoSamples
    );
    assert_eq!(
        Rotation::fit(&[0.0; 8], 4, 4, 2, 0).unwrap_err(),
        VectorError::Zero
    );
    assert_eq!(
        Rotation::fit(&[f32::NAN; 4], 4, 4, 2, 0).unwrap_err(),
        VectorError::NotFinite { position: 0 }
    );
    assert!(matches!(
        Rotation::fit(&[1.0; 7], 4, 4, 2, 0),
        Err(VectorError::Width { .. })
    ));
    assert!(matches!(
        Rotation::fit(&[1.0; 4], 4, 4, 5, 0),
        Err(VectorError::Dimensions { .. })
    ));
}

#[test]
fn a_rotation_survives_its_file_and_a_damaged_one_is_refused() {
    let rotation = Rotation::fit(&clustered(60, 16, 6).concat(), 16, 16, 8, 1).unwrap();
    let bytes = rotation.to_bytes();
    assert_eq!(Rotation::from_bytes(&bytes).unwrap(), rotation);
    for cut in [0, 7, 23, 24, bytes.len() - 1] {
        assert!(Rotation::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    for (at, value) in [
        (0, b'x'),
        (8, 17),
        (16, 99),
        (bytes.len() - 1, 0x7f),
        (27, 0xff),
    ] {
        let mut damaged = bytes.clone();
        damaged[at] = value;
        assert!(Rotation::from_bytes(&damaged).is_err(), "byte {at}");
    }
    let other = VectorCoder::new(Some(rotation), 16, 16, 4).unwrap_err();
    assert_eq!(
        other.to_string(),
        "the rotation was fitted for 16/16/8, the collection has 16/16/4"
    );
}

#[test]
fn a_packed_row_is_as_far_as_its_score_says() {
    let vectors = clustered(40, WIDTH, 7);
    let coder = rotated_coder(&vectors);
    let blocks = Blocks::of(&coder, &vectors);
    let layout = PackedLayout::new(WIDTH, PREFIX);
    let query = coder.query(&vectors[3]).unwrap();
    let packed_query = layout.pack_query(&query);
    assert_eq!(packed_query.len(), layout.row_bytes());
    let metric = layout.metric();
    for (row, vector) in vectors.iter().enumerate() {
        let coded = coder.prepare(vector).unwrap();
        let (prefix, rest) = coded.codes.split_at(PREFIX);
        let packed = layout.pack_row(prefix, rest, [coded.prefix_scale, coded.rest_scale]);
        let score = blocks.rows(&coder).score(&query, row).unwrap();
        assert!((1.0 - metric(packed_query.as_ptr(), packed.as_ptr()) - score).abs() < 0.01);
    }
}

#[test]
fn the_free_functions_use_the_detected_kernels() {
    assert_eq!(dot_i8(&[1, -2, 3], &[4, 5, -6]), -24);
    let mut dots = [0; 2];
    dot_rows(&[1, 2], &[3, 4, -5, 6], &mut dots);
    assert_eq!(dots, [11, 7]);
}

fn allowed(mask: Option<&[u64]>, row: usize) -> bool {
    mask.is_none_or(|words| {
        words
            .get(row / 64)
            .is_some_and(|word| word >> (row % 64) & 1 == 1)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn scans_choose_what_a_full_sort_chooses(
        rows in 0_usize..300,
        range in (0_usize..320, 0_usize..320),
        mask in prop::option::of(prop::collection::vec(prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), Just(5)], 0..6)),
        limit in 0_usize..40,
        seed in 0_u64..50,
    ) {
        let vectors = clustered(rows.max(1), 40, seed);
        let coder = VectorCoder::new(None, 40, 40, 33).unwrap();
        let blocks = Blocks::of(&coder, &vectors[..rows]);
        let query = coder.query(&vectors[0]).unwrap();
        let mut expected: Vec<(u32, f32)> = (range.0..range.1.min(rows))
            .filter(|&row| allowed(mask.as_deref(), row))
            .map(|row| (row as u32, blocks.rows(&coder).score(&query, row).unwrap()))
            .collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        expected.truncate(limit);
        let mut prefixes = Vec::new();
        for kernels in Backend::available().into_iter().filter_map(Kernels::of) {
            let segment = blocks.rows(&coder).with_kernels(kernels);
            let (mut full, mut prefix) = (TopRows::new(limit), TopRows::new(limit));
            segment.scan_full(&query, range.0..range.1, mask.as_deref(), &mut full);
            segment.scan_prefix(&query, range.0..range.1, mask.as_deref(), &mut prefix);
            prop_assert_eq!(&full.into_sorted(), &expected, "{:?}", kernels.backend());
            prefixes.push(prefix.into_sorted());
        }
        prop_assert!(prefixes.windows(2).all(|pair| pair[0] == pair[1]));
        prop_assert!(prefixes[0].iter().all(|&(row, _)| allowed(mask.as_deref(), row as usize)));
        prop_assert_eq!(prefixes[0].len(), expected.len());
    }
}

#[test]
fn stored_values_are_the_first_of_the_whole_rotated_vector() {
    let vectors = clustered(300, WIDTH, 3);
    let rotation = Rotation::fit(&vectors.concat(), WIDTH, 13, 13, 7).unwrap();
    let coder = VectorCoder::new(Some(rotation.clone()), WIDTH, 13, 13).unwrap();
    for vector in &vectors {
        let mut expected = vector.clone();
        vector_math::normalize(&mut expected).unwrap();
        expected = rotation.apply(&expected);
        expected.truncate(13);
        vector_math::normalize(&mut expected).unwrap();
        assert_eq!(coder.stored_values(vector).unwrap(), expected);
    }
    let outside = VectorCoder::new(None, 4, 2, 2).unwrap();
    let stored = outside.stored_values(&[0.0, 0.0, 1.0, 0.0]).unwrap();
    assert_eq!(stored, [0.0, 0.0]);
}
