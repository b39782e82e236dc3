//! From token vectors to scores, against three loops over floats.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::ops::Range;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vector_math::{Backend, Kernels, TokenLayout, TokenQuery, TokenRows, VectorError, normalize};

/// Token vectors of norm 1, one behind the other.
fn tokens(count: usize, dimensions: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut values: Vec<f32> = (0..count * dimensions)
        .map(|_| random.random_range(-1.0..1.0))
        .collect();
    for token in values.chunks_mut(dimensions) {
        normalize(token).unwrap();
    }
    values
}

/// A segment in memory.
struct Blocks {
    layout: TokenLayout,
    bytes: Vec<u8>,
    passages: Vec<Range<u32>>,
}

impl Blocks {
    fn of(dimensions: usize, passages: &[Vec<f32>]) -> Self {
        let layout = TokenLayout::new(dimensions).unwrap();
        let mut blocks = Self {
            layout,
            bytes: Vec::new(),
            passages: Vec::new(),
        };
        let mut end = 0;
        for passage in passages {
            let start = end;
            end += layout.pack_passage(passage, &mut blocks.bytes).unwrap() as u32;
            blocks.passages.push(start..end);
        }
        blocks
    }

    fn rows(&self) -> TokenRows<'_> {
        TokenRows::new(self.layout, &self.bytes).unwrap()
    }

    fn scores(&self, query: &TokenQuery) -> Vec<f32> {
        let scores = self.rows().score_while(query, &self.passages, |_| true);
        scores.unwrap()
    }
}

/// For each query token the largest cosine, and where it is.
fn three_loops(query: &[f32], passage: &[f32], dimensions: usize) -> Vec<(usize, f32)> {
    let dot =
        |left: &[f32], right: &[f32]| -> f32 { left.iter().zip(right).map(|(l, r)| l * r).sum() };
    query
        .chunks(dimensions)
        .filter_map(|query| {
            let cosines = passage.chunks(dimensions).map(|token| dot(query, token));
            cosines.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
        })
        .collect()
}

#[test]
fn scores_are_sums_of_the_largest_cosines() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for dimensions in [64, 96, 128] {
        let passages: Vec<Vec<f32>> = (0..60)
            .map(|length| tokens(length, dimensions, &mut random))
            .collect();
        let query = tokens(32, dimensions, &mut random);
        let blocks = Blocks::of(dimensions, &passages);
        let coded = TokenQuery::new(blocks.layout, &query).unwrap();
        for (score, passage) in blocks.scores(&coded).iter().zip(&passages) {
            let exact: f32 = three_loops(&query, passage, dimensions)
                .iter()
                .map(|(_, cosine)| cosine)
                .sum();
            // A standard deviation of .0027 per cosine, and 32 of them.
            assert!((score - exact).abs() < 0.06, "{score} for {exact}");
        }
    }
}

#[test]
fn a_token_matches_itself_best() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let passage = tokens(21, 96, &mut random);
    let blocks = Blocks::of(96, std::slice::from_ref(&passage));
    let query = TokenQuery::new(blocks.layout, &passage[7 * 96..]).unwrap();
    let matches = blocks.rows().matches(&query, 0..3).unwrap();
    let found: Vec<usize> = matches.iter().map(|best| best.token).collect();
    assert_eq!(found, (7..21).collect::<Vec<_>>());
    assert!(matches.iter().all(|best| (best.cosine - 1.0).abs() < 0.01));
}

#[test]
fn padding_does_not_match() {
    // Both tokens are opposite to the query: a padding of zeros would be better than they are.
    let blocks = Blocks::of(4, &[vec![-1.0, 0.0, 0.0, 0.0, -0.6, 0.8, 0.0, 0.0]]);
    let query = TokenQuery::new(blocks.layout, &[1.0, 0.0, 0.0, 0.0]).unwrap();
    let score = blocks.scores(&query)[0];
    assert!((score + 0.6).abs() < 0.01, "{score}");
    assert_eq!(blocks.rows().matches(&query, 0..1).unwrap()[0].token, 1);
}

#[test]
fn nothing_matches_nothing() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let passages = [
        tokens(3, 16, &mut random),
        Vec::new(),
        tokens(9, 16, &mut random),
    ];
    let blocks = Blocks::of(16, &passages);
    assert_eq!(blocks.passages, [0..1, 1..1, 1..3]);
    let query = TokenQuery::new(blocks.layout, &tokens(5, 16, &mut random)).unwrap();
    assert_eq!(query.tokens(), 5);
    assert_eq!(blocks.scores(&query)[1], 0.0);
    assert_eq!(blocks.rows().matches(&query, 1..1).unwrap(), []);
    let wordless = TokenQuery::new(blocks.layout, &[]).unwrap();
    assert_eq!(blocks.scores(&wordless), [0.0; 3]);
}

#[test]
fn scoring_stops_when_it_is_told_to() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let passages: Vec<Vec<f32>> = (1..=6)
        .map(|length| tokens(length, 24, &mut random))
        .collect();
    let blocks = Blocks::of(24, &passages);
    let query = TokenQuery::new(blocks.layout, &tokens(3, 24, &mut random)).unwrap();
    let mut asked = Vec::new();
    let order: Vec<Range<u32>> = blocks.passages.iter().rev().cloned().collect();
    let some = blocks.rows().score_while(&query, &order, |scored| {
        asked.push(scored);
        scored < 2
    });
    assert_eq!(asked, [0, 1, 2]);
    let all = blocks.scores(&query);
    assert_eq!(some.unwrap(), [all[5], all[4]]);
}

#[test]
fn passages_of_several_segments_score_as_in_their_own() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let segments: Vec<Blocks> = (0..3)
        .map(|_| {
            Blocks::of(
                32,
                &[tokens(9, 32, &mut random), tokens(30, 32, &mut random)],
            )
        })
        .collect();
    let query = TokenQuery::new(segments[0].layout, &tokens(7, 32, &mut random)).unwrap();
    let own: Vec<f32> = segments
        .iter()
        .map(|blocks| blocks.scores(&query)[1])
        .collect();
    let passages: Vec<_> = segments
        .iter()
        .map(|blocks| blocks.rows().passage(&blocks.passages[1]).unwrap())
        .collect();
    let scores = passages
        .iter()
        .enumerate()
        .map(|(at, passage)| passage.score(&query, passages.get(at + 1)).unwrap());
    assert_eq!(scores.collect::<Vec<_>>(), own);
    let narrow = TokenQuery::new(TokenLayout::new(16).unwrap(), &[1.0; 16]).unwrap();
    assert!(passages[0].score(&narrow, None).is_err());
}

#[test]
fn a_length_does_not_matter() {
    let blocks = Blocks::of(3, &[vec![3e30, 4e30, 0.0]]);
    let query = TokenQuery::new(blocks.layout, &[3e-30, 4e-30, 0.0]).unwrap();
    assert!((blocks.scores(&query)[0] - 1.0).abs() < 0.01);
}

#[test]
fn hostile_tokens_are_refused_by_their_position() {
    let layout = TokenLayout::new(2).unwrap();
    let refused = |values: &[f32]| {
        let query = TokenQuery::new(layout, values).unwrap_err();
        let mut blocks = vec![7];
        let passage = layout.pack_passage(values, &mut blocks).unwrap_err();
        assert_eq!(query, passage);
        assert_eq!(blocks, [7], "nothing is appended");
        query.to_string()
    };
    assert_eq!(
        refused(&[1.0, 0.0, 0.5, f32::NAN]),
        "token 1: component 1 of the vector is not finite"
    );
    assert_eq!(
        refused(&[1.0, 0.0, 0.0, 0.0]),
        "token 1: the vector is all zero"
    );
    assert_eq!(
        refused(&[1.0, 0.0, 1.0]),
        "token 1: the vector has 1 dimensions, 2 are needed"
    );
    for dimensions in [0, 4097, usize::MAX] {
        let refused = TokenLayout::new(dimensions).unwrap_err();
        assert_eq!(refused, VectorError::TokenDimensions { dimensions });
    }
}

#[test]
fn blocks_and_passages_that_cannot_be_are_refused() {
    let layout = TokenLayout::new(10).unwrap();
    assert_eq!(layout.block_bytes(), 128);
    assert!(TokenRows::new(layout, &[0; 130]).is_err());
    let rows = TokenRows::new(layout, &[128; 256]).unwrap();
    assert_eq!(rows.blocks(), 2);
    let query = TokenQuery::new(layout, &[1.0; 10]).unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "what a damaged file may say")]
    for passage in [0..3, 3..3, 2..1, 0..u32::MAX, u32::MAX..u32::MAX] {
        let error = VectorError::PassageBlocks {
            start: passage.start,
            end: passage.end,
            blocks: 2,
        };
        let scores = rows.score_while(&query, &[0..1, passage.clone()], |_| panic!("too early"));
        assert_eq!(scores.unwrap_err(), error);
        assert_eq!(rows.matches(&query, passage).unwrap_err(), error);
    }
    let other = TokenQuery::new(TokenLayout::new(11).unwrap(), &[1.0; 11]).unwrap();
    let width = VectorError::Width {
        expected: 10,
        actual: 11,
    };
    assert_eq!(rows.score_while(&other, &[], |_| true).unwrap_err(), width);
}

/// Bytes that no passage was ever packed to, as a damaged file has them: any score, no panic.
#[test]
fn damaged_blocks_are_scored_somehow() {
    let layout = TokenLayout::new(96).unwrap();
    let query = TokenQuery::new(layout, &[1.0; 96]).unwrap();
    let passages = [0..3, 1..2];
    for byte in [0, 255] {
        let blocks = vec![byte; 3 * layout.block_bytes()];
        for kernels in Backend::available().into_iter().filter_map(Kernels::of) {
            let rows = TokenRows::new(layout, &blocks)
                .unwrap()
                .with_kernels(kernels);
            let scores = rows.score_while(&query, &passages, |_| true).unwrap();
            assert!(scores[0].is_finite());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_backend_gives_the_bits_of_plain_loops(
        dimensions in prop_oneof![Just(64_usize), Just(96), Just(128), 1_usize..140],
        query_tokens in 0_usize..40,
        lengths in prop::collection::vec(prop_oneof![Just(0_usize), 1_usize..70], 0..8),
        seed: u64,
    ) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let passages: Vec<Vec<f32>> = lengths.iter().map(|&length| tokens(length, dimensions, &mut random)).collect();
        let blocks = Blocks::of(dimensions, &passages);
        let query = TokenQuery::new(blocks.layout, &tokens(query_tokens, dimensions, &mut random)).unwrap();
        let expected: Vec<u32> = blocks.passages.iter().map(|passage| {
            let matches = blocks.rows().matches(&query, passage.clone()).unwrap();
            matches.iter().fold(0.0_f32, |sum, best| sum + best.cosine).to_bits()
        }).collect();
        for kernels in Backend::available().into_iter().filter_map(Kernels::of) {
            let rows = blocks.rows().with_kernels(kernels);
            let scores = rows.score_while(&query, &blocks.passages, |_| true).unwrap();
            let scores: Vec<u32> = scores.into_iter().map(f32::to_bits).collect();
            prop_assert_eq!(&scores, &expected, "{:?}", kernels.backend());
        }
    }
}
