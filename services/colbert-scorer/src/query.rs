//! The tokens of a query, coded as the passages are.

use search_core::FieldError;
use segment::colbert::TokenCoder;
use vector_math::{TokenQuery, VectorError};

/// Tokens that are matched between two looks at the clock: matching is plain loops.
const MATCHED_TOKENS: usize = 32;

/// A query's token vectors, as the encoder gave them.
#[derive(Debug, Clone)]
pub(crate) struct QueryTokens {
    /// Components of a vector.
    pub(crate) width: usize,
    /// One behind the other; finite, none all zero.
    pub(crate) vectors: Vec<f32>,
    pub(crate) encoder_fingerprint: String,
}

/// A query whose tokens are told apart.
pub(crate) struct SeparateTokens {
    /// How many tokens the query has.
    pub(crate) tokens: usize,
    /// Which of them are coded, ascending.
    pub(crate) coded: Vec<u16>,
    /// The coded ones, some at a time.
    pub(crate) parts: Vec<TokenQuery>,
}

impl QueryTokens {
    pub(crate) fn count(&self) -> usize {
        self.vectors.len() / self.width
    }

    /// Codes them for scoring.
    pub(crate) fn code(&self, coder: &TokenCoder) -> Result<TokenQuery, FieldError> {
        self.check_width(coder)?;
        let projected = coder.project(&self.vectors).map_err(unusable)?;
        TokenQuery::new(coder.layout(), &projected.vectors).map_err(unusable)
    }

    /// Codes them for matching. A token that lies wholly in the dimensions that are not stored is not coded: its cosine with any other
    /// is 0.
    pub(crate) fn code_separately(&self, coder: &TokenCoder) -> Result<SeparateTokens, FieldError> {
        self.check_width(coder)?;
        let projected = coder.project(&self.vectors).map_err(unusable)?;
        let layout = coder.layout();
        let parts = projected
            .vectors
            .chunks(MATCHED_TOKENS * layout.dimensions())
            .map(|tokens| TokenQuery::new(layout, tokens).map_err(unusable));
        Ok(SeparateTokens {
            tokens: self.count(),
            parts: parts.collect::<Result<_, _>>()?,
            coded: projected.positions,
        })
    }

    fn check_width(&self, coder: &TokenCoder) -> Result<(), FieldError> {
        if self.width == coder.width() {
            return Ok(());
        }
        let message = format!(
            "is {}, the passages' tokens have {}",
            self.width,
            coder.width()
        );
        Err(FieldError::new("query.dimensions", message))
    }
}

fn unusable(error: VectorError) -> FieldError {
    FieldError::new("query.vectors", error.to_string())
}
