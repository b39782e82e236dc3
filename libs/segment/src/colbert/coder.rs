//! From the token vectors of a bundle to those that are stored.

use vector_math::{Rotation, TokenLayout, VectorCoder, VectorError};

use super::pooling::{Pooled, pool};
use crate::manifest::ColbertSettings;

/// Codes the token vectors of a collection: the same for all its segments, and for its queries.
#[derive(Debug, Clone)]
pub struct TokenCoder {
    projection: VectorCoder,
    layout: TokenLayout,
    pooling: usize,
}

/// Token vectors as they are scored, and which of those that were given they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProjectedTokens {
    /// Row-major [tokens, stored dimensions], each of norm 1.
    pub vectors: Vec<f32>,
    /// By token: its place among those that were given, from 0. Ascending.
    pub positions: Vec<u16>,
}

/// The tokens of a passage as they are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedTokens {
    /// Whole blocks, as [`TokenLayout::pack_passage`] makes them.
    pub blocks: Vec<u8>,
    /// By place in the blocks: which of the encoder's tokens is there, from 0. The last is repeated as its token is.
    pub positions: Vec<u16>,
}

impl TokenCoder {
    /// A coder with the collection's rotation, if it has one. A rotation of another shape is refused.
    pub fn new(
        settings: &ColbertSettings,
        rotation: Option<Rotation>,
    ) -> Result<Self, VectorError> {
        let (width, stored) = (
            settings.token_dimensions as usize,
            settings.dimensions as usize,
        );
        Ok(Self {
            projection: VectorCoder::new(rotation, width, stored, stored)?,
            layout: TokenLayout::new(stored)?,
            pooling: settings.pooling as usize,
        })
    }

    /// Width of the token vectors that it takes.
    #[must_use]
    pub fn width(&self) -> usize {
        self.projection.width()
    }

    /// How the codes lie in memory.
    #[must_use]
    pub fn layout(&self) -> TokenLayout {
        self.layout
    }

    /// Rotates and cuts token vectors that lie one behind the other.
    ///
    /// A token that lies wholly in the dimensions that are not stored is left out: its cosine with any other would be 0.
    /// Refuses another width, NaN, infinities, the zero vector, and more than 65,536 tokens.
    pub fn project(&self, tokens: &[f32]) -> Result<ProjectedTokens, VectorError> {
        let count = tokens.len().div_ceil(self.width());
        let mut projected = ProjectedTokens {
            vectors: Vec::with_capacity(count * self.dimensions()),
            positions: Vec::with_capacity(count),
        };
        for (place, token) in tokens.chunks(self.width()).enumerate() {
            let position =
                u16::try_from(place).map_err(|_| VectorError::TooManyTokens { tokens: count })?;
            let stored = self.projection.stored_values(token)?;
            if stored.iter().any(|value| *value != 0.0) {
                projected.vectors.extend(stored);
                projected.positions.push(position);
            }
        }
        Ok(projected)
    }

    /// A passage as [`super::ColbertWriter::push`] takes it. Refuses what [`TokenCoder::project`] refuses.
    pub fn pack(&self, tokens: &[f32]) -> Result<PackedTokens, VectorError> {
        let mut tokens_to_store = self.project(tokens)?;
        if self.pooling > 1 {
            tokens_to_store = self.pooled(&tokens_to_store);
        }
        let ProjectedTokens {
            vectors,
            mut positions,
        } = tokens_to_store;
        let mut blocks = Vec::new();
        let count = self.layout.pack_passage(&vectors, &mut blocks)?;
        if let Some(&last) = positions.last() {
            positions.resize(count * TokenLayout::BLOCK_TOKENS, last);
        }
        Ok(PackedTokens { blocks, positions })
    }

    fn pooled(&self, tokens: &ProjectedTokens) -> ProjectedTokens {
        let Pooled { vectors, nearest } = pool(&tokens.vectors, self.dimensions(), self.pooling);
        let positions = nearest.iter().map(|&token| tokens.positions[token]);
        ProjectedTokens {
            vectors,
            positions: positions.collect(),
        }
    }

    fn dimensions(&self) -> usize {
        self.layout.dimensions()
    }
}
