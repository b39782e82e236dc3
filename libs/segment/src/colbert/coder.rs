//! From the token vectors of a bundle to those that are stored.

use vector_math::{Rotation, TokenLayout, VectorCoder, VectorError};

use super::pooling::pool;
use crate::manifest::ColbertSettings;

/// Codes the token vectors of a collection: the same for all its segments, and for its queries.
#[derive(Debug, Clone)]
pub struct TokenCoder {
    projection: VectorCoder,
    layout: TokenLayout,
    pooling: usize,
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

    /// Rotates and cuts token vectors that lie one behind the other: [tokens, stored dimensions], of norm 1.
    ///
    /// A token that lies wholly in the dimensions that are not stored is left out: its cosine with any other would be 0.
    /// Refuses another width, NaN, infinities and the zero vector.
    pub fn project(&self, tokens: &[f32]) -> Result<Vec<f32>, VectorError> {
        let mut projected = Vec::with_capacity(tokens.len() / self.width() * self.dimensions());
        for token in tokens.chunks(self.width()) {
            let stored = self.projection.stored_values(token)?;
            if stored.iter().any(|value| *value != 0.0) {
                projected.extend(stored);
            }
        }
        Ok(projected)
    }

    /// The blocks of a passage: what [`super::ColbertWriter::push`] takes. Refuses what [`TokenCoder::project`] refuses.
    pub fn pack(&self, tokens: &[f32]) -> Result<Vec<u8>, VectorError> {
        let mut projected = self.project(tokens)?;
        if self.pooling > 1 {
            projected = pool(&projected, self.dimensions(), self.pooling);
        }
        let mut blocks = Vec::new();
        self.layout.pack_passage(&projected, &mut blocks)?;
        Ok(blocks)
    }

    fn dimensions(&self) -> usize {
        self.layout.dimensions()
    }
}
