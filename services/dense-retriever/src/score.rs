//! Scores of given passages.

use rayon::prelude::*;
use search_core::Address;
use vector_math::CodedQuery;

use crate::error::Error;
use crate::loader::{Segment, Vectors};

/// Passages that one thread scores between two looks at the clock: about a tenth of a millisecond.
const CHUNK: usize = 1024;

/// Parallel to the addresses that were asked for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Scores {
    /// 0 where the passage is unknown.
    pub(crate) scores: Vec<f32>,
    /// Positions of addresses that name no passage, or one whose vector is damaged.
    pub(crate) unknown: Vec<u32>,
}

/// Full-width cosines with the vectors that are meant; `locate` finds the segment of a live passage.
pub(crate) fn score<'a>(
    query: &CodedQuery,
    vectors: Vectors,
    addresses: &[Address],
    locate: impl Fn(Address) -> Option<&'a Segment> + Sync,
    proceed: impl Fn() -> Result<(), Error> + Sync,
) -> Result<Scores, Error> {
    let score_one = |address: &Address| {
        let segment = locate(*address)?;
        let part = segment.part.of(vectors)?;
        part.rows().score(query, address.ordinal() as usize)
    };
    let chunks: Vec<Vec<Option<f32>>> = addresses
        .par_chunks(CHUNK)
        .map(|chunk| proceed().map(|()| chunk.iter().map(score_one).collect()))
        .collect::<Result<_, Error>>()?;
    let mut answer = Scores::default();
    for (position, score) in (0..).zip(chunks.into_iter().flatten()) {
        answer.scores.push(score.unwrap_or_default());
        answer.unknown.extend(score.is_none().then_some(position));
    }
    Ok(answer)
}
