//! What was written is what is scored; what is damaged is refused by name and never panics.

use std::path::Path;

use proptest::prelude::*;
use vector_math::{Rotation, TokenQuery};

use super::{ColbertPart, ColbertWriter, OFFSETS, POSITIONS, PackedTokens, TOKENS, TokenCoder};
use crate::manifest::ColbertSettings;
use crate::{SegmentError, store::PartFiles};

const WIDTH: usize = 40;

fn settings(dimensions: u32, pooling: u32) -> ColbertSettings {
    ColbertSettings {
        fingerprint: "f".to_owned(),
        token_dimensions: WIDTH as u32,
        dimensions,
        rotated: dimensions < WIDTH as u32,
        rotation_sample: 1000,
        pooling,
    }
}

/// The same for the same token. (SplitMix64, so that this crate needs no generator.)
fn token(seed: u64) -> Vec<f32> {
    let noise = |at: u64| {
        let mut mixed = (seed << 20 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    // Half of the components are small: a cut to the others loses little.
    let small = |at: u64| if at.is_multiple_of(2) { 1.0 } else { 0.05 };
    (0..WIDTH as u64).map(|at| small(at) * noise(at)).collect()
}

fn outside_the_cut() -> Vec<f32> {
    let mut outside = vec![0.0; WIDTH];
    outside[30] = 1.0;
    outside
}

/// A passage of as many tokens as its ordinal says, the first of none.
fn tokens(ordinal: u32) -> Vec<f32> {
    (0..u64::from(ordinal))
        .flat_map(|at| token(u64::from(ordinal) << 8 | at))
        .collect()
}

fn plain() -> TokenCoder {
    TokenCoder::new(&settings(WIDTH as u32, 1), None).unwrap()
}

fn write(folder: &Path, coder: &TokenCoder, passages: u32) {
    let mut writer = ColbertWriter::new(folder, coder.layout()).unwrap();
    for ordinal in 0..passages {
        writer.push(&coder.pack(&tokens(ordinal)).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

fn open(folder: &Path, dimensions: u32, passages: u32) -> Result<ColbertPart, SegmentError> {
    ColbertPart::open(
        &PartFiles::of_folder(folder)?,
        &settings(dimensions, 1),
        passages,
    )
}

fn query(coder: &TokenCoder, tokens: &[f32]) -> TokenQuery {
    TokenQuery::new(coder.layout(), &coder.project(tokens).unwrap().vectors).unwrap()
}

fn score(part: &ColbertPart, query: &TokenQuery, ordinal: u32) -> f32 {
    let passage = part.passage(ordinal).unwrap();
    part.rows()
        .score_while(query, &[passage], |_| true)
        .unwrap()[0]
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let dot = |left: &[f32], right: &[f32]| -> f32 {
        left.iter()
            .zip(right)
            .map(|(left, right)| left * right)
            .sum()
    };
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

fn exact(query: &[f32], passage: &[f32]) -> f32 {
    let best = |query: &[f32]| {
        let cosines = passage.chunks(WIDTH).map(|token| cosine(query, token));
        cosines.fold(f32::MIN, f32::max)
    };
    query.chunks(WIDTH).map(best).sum()
}

#[test]
fn what_was_written_is_scored() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &plain(), 20);
    let part = open(folder.path(), WIDTH as u32, 20).unwrap();
    let query_tokens: Vec<f32> = (0..5).flat_map(|at| token(9 << 8 | at)).collect();
    let query = query(&plain(), &query_tokens);
    assert_eq!(score(&part, &query, 0), 0.0);
    for ordinal in 1..20 {
        let (found, wanted) = (
            score(&part, &query, ordinal),
            exact(&query_tokens, &tokens(ordinal)),
        );
        assert!(
            (found - wanted).abs() < 0.05,
            "{ordinal}: {found}, not {wanted}"
        );
    }
    assert_eq!((part.passages(), part.passage(20)), (20, None));
    assert_eq!(part.layout(), plain().layout());
}

#[test]
fn blocks_are_mapped_at_a_cache_line() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &plain(), 10);
    let PackedTokens { blocks, .. } = plain().pack(&tokens(9)).unwrap();
    let file = std::fs::read(folder.path().join(TOKENS)).unwrap();
    assert!(file.ends_with(&blocks) && blocks.len().is_multiple_of(64));
    let passages_before: usize = (0..9_u32).map(|ordinal| ordinal.div_ceil(8) as usize).sum();
    let block_bytes = plain().layout().block_bytes();
    assert_eq!(
        file.len() - blocks.len(),
        64 + passages_before * block_bytes
    );
}

#[test]
fn a_rotation_keeps_what_matters_in_fewer_dimensions() {
    let sample: Vec<f32> = (0..400).flat_map(|seed| token(seed << 8)).collect();
    let rotation = Rotation::fit(&sample, WIDTH, 20, 20, 7).unwrap();
    let coder = TokenCoder::new(&settings(20, 1), Some(rotation)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &coder, 20);
    let part = open(folder.path(), 20, 20).unwrap();
    let itself = score(&part, &query(&coder, &token(9 << 8)), 9);
    assert!((itself - 1.0).abs() < 0.01, "{itself}");
    let other = token(3 << 8);
    let (found, wanted) = (
        score(&part, &query(&coder, &other), 9),
        exact(&other, &tokens(9)),
    );
    assert!((found - wanted).abs() < 0.05, "{found}, not {wanted}");
}

#[test]
fn pooling_halves_the_blocks_and_keeps_what_tokens_have_in_common() {
    let coder = TokenCoder::new(&settings(WIDTH as u32, 2), None).unwrap();
    let pairs: Vec<f32> = (0..16)
        .flat_map(|seed| [token(seed), token(seed)].concat())
        .collect();
    let passage = coder.pack(&pairs).unwrap();
    assert_eq!(passage.blocks.len(), 2 * coder.layout().block_bytes());
    let singles: Vec<f32> = (0..16).flat_map(token).collect();
    assert_eq!(passage.blocks, plain().pack(&singles).unwrap().blocks);
    // Of two equal ones the first.
    let firsts: Vec<u16> = (0..16).map(|pair| 2 * pair).collect();
    assert_eq!(passage.positions, firsts);
}

#[test]
fn tokens_that_are_none_are_refused_and_those_outside_the_cut_left_out() {
    let coder = TokenCoder::new(&settings(20, 1), None).unwrap();
    let outside = outside_the_cut();
    assert!(coder.project(&outside).unwrap().vectors.is_empty());
    assert_eq!(coder.pack(&outside).unwrap(), PackedTokens::default());
    let between = coder.project(&[token(1), outside, token(2)].concat());
    assert_eq!(between.unwrap().positions, [0, 2]);
    for wrong in [
        vec![0.0; WIDTH],
        vec![f32::NAN; WIDTH],
        vec![1.0; WIDTH + 1],
    ] {
        assert!(coder.pack(&wrong).is_err());
    }
    let narrow = Rotation::fit(&token(1), WIDTH, 10, 10, 7).unwrap();
    assert!(TokenCoder::new(&settings(20, 1), Some(narrow)).is_err());
}

#[test]
fn a_segment_without_passages_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &plain(), 0);
    let part = open(folder.path(), WIDTH as u32, 0).unwrap();
    assert_eq!((part.rows().blocks(), part.passage(0)), (0, None));
}

#[test]
fn half_a_block_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ColbertWriter::new(folder.path(), plain().layout()).unwrap();
    let outcome = writer.push(&PackedTokens {
        blocks: vec![0; 32],
        positions: Vec::new(),
    });
    assert!(matches!(outcome, Err(SegmentError::Invalid { .. })));
}

#[test]
fn positions_of_more_or_fewer_tokens_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let passage = plain().pack(&tokens(9)).unwrap();
    for count in [0, 8, 9, 15, 24] {
        let mut wrong = passage.clone();
        wrong.positions.resize(count, 0);
        let mut writer = ColbertWriter::new(folder.path(), plain().layout()).unwrap();
        let outcome = writer.push(&wrong);
        assert!(
            matches!(outcome, Err(SegmentError::Invalid { .. })),
            "{count}"
        );
    }
}

#[test]
fn a_match_names_the_token_of_the_encoder() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &plain(), 12);
    let part = open(folder.path(), WIDTH as u32, 12).unwrap();
    let query = query(&plain(), &[token(9 << 8 | 8), token(9 << 8 | 3)].concat());
    let matches = part.matches(&query, 9).unwrap();
    assert_eq!(
        matches.iter().map(|found| found.token).collect::<Vec<_>>(),
        [8, 3]
    );
    let sum: f32 = matches.iter().map(|found| found.cosine).sum();
    assert_eq!(sum, score(&part, &query, 9));
    assert_eq!(part.positions(9).unwrap(), (0..9).collect::<Vec<u16>>());
    // A passage without tokens, and none at all.
    assert!(part.positions(0).unwrap().is_empty());
    assert_eq!(part.positions(12), None);
    for nothing in [0, 12] {
        assert_eq!(part.matches(&query, nothing).unwrap(), []);
    }
    let narrow = TokenQuery::new(vector_math::TokenLayout::new(8).unwrap(), &[1.0; 8]);
    assert!(part.matches(&narrow.unwrap(), 9).is_err());
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &plain(), 30);
    let refused = |dimensions, passages| match open(folder.path(), dimensions, passages) {
        Err(SegmentError::Damaged { file, .. }) => file,
        other => panic!("{other:?}"),
    };
    let width = WIDTH as u32;
    assert_eq!(refused(width, 29), OFFSETS);
    assert_eq!(refused(width - 8, 30), TOKENS);
    for name in [TOKENS, OFFSETS, POSITIONS] {
        let path = folder.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 4, 40, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(refused(width, 30), name, "{name} cut to {length}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(refused(width, 30), name);
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(open(folder.path(), width, 30).is_ok());
}

#[test]
fn offsets_that_fall_or_start_late_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &plain(), 20);
    let path = folder.path().join(OFFSETS);
    let whole = std::fs::read(&path).unwrap();
    for (at, wrong) in [(0, 1_u32), (5, 1000), (20, 0)] {
        let mut damaged = whole.clone();
        damaged[64 + 4 * at..][..4].copy_from_slice(&wrong.to_le_bytes());
        std::fs::write(&path, &damaged).unwrap();
        match open(folder.path(), WIDTH as u32, 20) {
            Err(SegmentError::Damaged { file, .. }) => assert_eq!(file, OFFSETS),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_flipped_byte_never_panics(file in 0_usize..3, at in 0_usize..3000, flip in 1_u8..=255) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &plain(), 12);
        let path = folder.path().join([TOKENS, OFFSETS, POSITIONS][file]);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(part) = open(folder.path(), WIDTH as u32, 12) {
            let query = query(&plain(), &tokens(5));
            for ordinal in 0..12 {
                prop_assert!(score(&part, &query, ordinal).is_finite());
                prop_assert!(part.matches(&query, ordinal).is_ok());
                prop_assert!(part.positions(ordinal).is_some());
            }
        }
    }

    /// What is stored under a position is the encoder's token there, or one pooled of it and others that it is the nearest of.
    #[test]
    fn positions_are_those_of_the_tokens_that_were_stored(
        seeds in prop::collection::vec(prop::option::weighted(0.8, 0_u64..40), 0..60),
        pooling in 1_u32..=3,
    ) {
        let coder = TokenCoder::new(&settings(20, pooling), None).unwrap();
        let given: Vec<Vec<f32>> = seeds.iter().map(|seed| seed.map_or_else(outside_the_cut, token)).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ColbertWriter::new(folder.path(), coder.layout()).unwrap();
        for passage in [&tokens(3), &given.concat(), &tokens(4)] {
            writer.push(&coder.pack(passage).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let part = open(folder.path(), 20, 3).unwrap();
        let positions = part.positions(1).unwrap();
        let kept = seeds.iter().flatten().count();
        prop_assert_eq!(positions.len(), kept.div_ceil(pooling as usize));
        let distinct: std::collections::BTreeSet<&u16> = positions.iter().collect();
        prop_assert_eq!(distinct.len(), positions.len());
        prop_assert!(positions.iter().all(|&it| seeds[usize::from(it)].is_some()));
        prop_assert_eq!(part.positions(2).unwrap().len(), 4_usize.div_ceil(pooling as usize));
        for (place, &position) in positions.iter().enumerate() {
            let itself = query(&coder, &given[usize::from(position)]);
            let matches = part.matches(&itself, 1).unwrap();
            prop_assert!(positions.contains(&(matches[0].token as u16)));
            if pooling == 1 {
                // Of equal tokens the first.
                let first = seeds.iter().position(|it| *it == seeds[usize::from(position)]);
                prop_assert_eq!(Some(matches[0].token), first, "at {}", place);
            }
        }
    }
}
