//! What can be wrong with vectors and rotations.

/// Why a vector or a rotation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    /// The vector has another width than the collection's.
    #[error("the vector has {actual} dimensions, {expected} are needed")]
    Width {
        /// Dimensions that are needed.
        expected: usize,
        /// Dimensions that were given.
        actual: usize,
    },
    /// A component is NaN or infinite.
    #[error("component {position} of the vector is not finite")]
    NotFinite {
        /// Where it is, from 0.
        position: usize,
    },
    /// Every component is zero: no direction, no cosine.
    #[error("the vector is all zero")]
    Zero,
    /// Dimensions that can't be.
    #[error(
        "{dimensions} dimensions with a prefix of {prefix_dimensions} don't fit a width of {width}"
    )]
    Dimensions {
        /// Width of the model's vectors.
        width: usize,
        /// Dimensions to store.
        dimensions: usize,
        /// Dimensions of the prefix.
        prefix_dimensions: usize,
    },
    /// Rotation and coder disagree.
    #[error("the rotation was fitted for {rotation}, the collection has {collection}")]
    RotationShape {
        /// `width/dimensions/prefix` of the rotation.
        rotation: String,
        /// `width/dimensions/prefix` of the collection.
        collection: String,
    },
    /// A rotation file that isn't one.
    #[error("damaged rotation: {0}")]
    DamagedRotation(&'static str),
    /// There is nothing to fit a rotation on.
    #[error("a rotation needs at least one vector")]
    NoSamples,
    /// The eigenvectors could not be computed.
    #[error("the eigenvectors of the sample could not be computed")]
    NoEigenvectors,
    /// Blocks of codes whose sizes contradict each other.
    #[error("{what} has {actual} values, {expected} are needed")]
    BlockSize {
        /// Which block.
        what: &'static str,
        /// Values that are needed.
        expected: usize,
        /// Values that were given.
        actual: usize,
    },
    /// A token vector of a query or a passage is wrong.
    #[error("token {token}: {source}")]
    Token {
        /// Which, from 0.
        token: usize,
        /// What is wrong with it.
        source: Box<VectorError>,
    },
    /// A text of more tokens than are counted.
    #[error("{tokens} tokens are more than the {} that a text may have", usize::from(u16::MAX) + 1)]
    TooManyTokens {
        /// Tokens that were given.
        tokens: usize,
    },
    /// Token vectors of dimensions that can't be.
    #[error("token vectors of {dimensions} dimensions are not possible")]
    TokenDimensions {
        /// Dimensions that were asked for.
        dimensions: usize,
    },
    /// A passage's tokens lie outside the blocks.
    #[error("a passage at blocks {start} to {end} of {blocks}")]
    PassageBlocks {
        /// Its first block.
        start: u32,
        /// The block behind its last.
        end: u32,
        /// Blocks there are.
        blocks: usize,
    },
}
