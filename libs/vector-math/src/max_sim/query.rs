//! The tokens of a query as the kernels take them.

use super::layout::{PASSAGE_STEPS, tile_position};
use super::{MAX_QUERY_CODE, TokenLayout};
use crate::VectorError;
use crate::kernels::max_sim::{QueryTile, TILE_TOKENS};

/// A query's coded tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenQuery {
    layout: TokenLayout,
    tiles: Vec<QueryTile>,
    /// By token: what a dot product of codes is multiplied with to become a cosine.
    scales: Vec<f32>,
}

impl TokenQuery {
    /// Codes the token vectors of a query, which lie one behind the other.
    ///
    /// Vectors are normalised; those that [`crate::normalize`] refuses are named by their token.
    pub fn new(layout: TokenLayout, tokens: &[f32]) -> Result<Self, VectorError> {
        let tokens = layout.normalized(tokens)?;
        let coded: Vec<(Vec<i8>, f32)> = tokens
            .iter()
            .map(|token| code_token(token, layout.query_steps()))
            .collect();
        Ok(Self {
            layout,
            tiles: coded
                .chunks(TILE_TOKENS)
                .map(|tokens| tile(layout, tokens))
                .collect(),
            scales: coded.iter().map(|(_, scale)| *scale).collect(),
        })
    }

    /// Tokens of the query.
    pub fn tokens(&self) -> usize {
        self.scales.len()
    }

    /// What it was coded for.
    pub fn layout(&self) -> TokenLayout {
        self.layout
    }

    pub(crate) fn code(&self, token: usize, dimension: usize) -> i8 {
        self.tiles[token / TILE_TOKENS].code(token % TILE_TOKENS, dimension)
    }

    pub(crate) fn scale(&self, token: usize) -> f32 {
        self.scales[token]
    }

    /// Four tokens each, with their scales; the last tile may have fewer scales.
    pub(crate) fn tiles(&self) -> impl ExactSizeIterator<Item = (&QueryTile, &[f32])> {
        self.tiles.iter().zip(self.scales.chunks(TILE_TOKENS))
    }
}

/// Codes of a vector of norm 1, and their scale, with which the decoded vector has norm 1 again.
fn code_token(values: &[f32], most_steps: f32) -> (Vec<i8>, f32) {
    let limit = f32::from(MAX_QUERY_CODE);
    let largest = values
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let steps = most_steps.min(limit / largest);
    let codes: Vec<i8> = values
        .iter()
        .map(|value| (value * steps).round_ties_even().clamp(-limit, limit) as i8)
        .collect();
    let squares: i32 = codes.iter().map(|&code| i32::from(code).pow(2)).sum();
    let scale = 1.0 / (f64::from(squares).sqrt() * f64::from(PASSAGE_STEPS));
    (codes, scale as f32)
}

/// Interleaves up to four tokens; the others are zeros.
fn tile(layout: TokenLayout, tokens: &[(Vec<i8>, f32)]) -> QueryTile {
    let mut interleaved = vec![0; layout.tile_codes()];
    for (token, (codes, _)) in tokens.iter().enumerate() {
        for (dimension, code) in codes.iter().enumerate() {
            interleaved[tile_position(token, dimension)] = *code;
        }
    }
    QueryTile::new(interleaved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::max_sim::MAX_NORMS;
    use proptest::prelude::*;

    fn unit(values: &[f32]) -> Vec<f32> {
        let mut values = values.to_vec();
        crate::normalize(&mut values).unwrap();
        values
    }

    fn norm(codes: &[i8]) -> f64 {
        let squares: i32 = codes.iter().map(|&code| i32::from(code).pow(2)).sum();
        f64::from(squares).sqrt()
    }

    /// Vectors with few large components, with many equal ones, and with anything between.
    fn vectors() -> impl Strategy<Value = Vec<f32>> {
        let component =
            prop_oneof![3 => -1.0_f32..1.0, 1 => Just(0.0), 1 => Just(1.0), 1 => Just(-20.0)];
        prop::collection::vec(component, 1..300).prop_filter("a direction", |values| {
            values.iter().any(|value| *value != 0.0)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn codes_stay_within_their_bounds(vector in vectors()) {
            let layout = TokenLayout::new(vector.len()).unwrap();
            let (query, _) = code_token(&unit(&vector), layout.query_steps());
            let mut blocks = Vec::new();
            layout.pack_passage(&vector, &mut blocks).unwrap();
            let passage: Vec<i8> = (0..vector.len()).map(|at| layout.code(&blocks, 0, at)).collect();
            prop_assert!(norm(&query) * norm(&passage) <= MAX_NORMS);
            prop_assert!(query.iter().all(|code| (-MAX_QUERY_CODE..=MAX_QUERY_CODE).contains(code)));
            prop_assert!(passage.iter().all(|code| *code > i8::MIN));
        }

        #[test]
        fn a_decoded_token_has_norm_one_and_the_same_direction(vector in vectors()) {
            let vector = unit(&vector);
            let steps = TokenLayout::new(vector.len()).unwrap().query_steps();
            let (codes, scale) = code_token(&vector, steps);
            let decoded: Vec<f32> = codes.iter().map(|&code| f32::from(code) * scale * PASSAGE_STEPS).collect();
            let norm: f32 = decoded.iter().map(|value| value * value).sum();
            prop_assert!((norm - 1.0).abs() < 1e-4);
            let cosine: f32 = decoded.iter().zip(&vector).map(|(l, r)| l * r).sum();
            prop_assert!(cosine > 0.98, "{}", cosine);
        }
    }

    #[test]
    fn known_vectors_have_known_codes() {
        // 63 / .8 = 78.75 steps.
        let (codes, scale) = code_token(&[0.6, 0.8, 0.0, 0.0], 250.0);
        assert_eq!(codes, [47, 63, 0, 0]);
        assert_eq!(scale, (1.0 / (6178_f64.sqrt() * 127.0)) as f32);
        let (codes, _) = code_token(&[0.1; 100], 243.0);
        assert_eq!(codes, [24; 100]);
    }

    #[test]
    fn queries_get_what_passages_leave() {
        // 32,767 / (127 + 5) − 5 at 100 dimensions.
        let steps = TokenLayout::new(100).unwrap().query_steps();
        assert_eq!(steps, (32_767.0_f64 / 132.0 - 5.0) as f32);
    }
}
