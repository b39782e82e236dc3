//! Scores of given passages, the first ones first.
//!
//! A large request is cut into pieces that several threads work on. Each takes the next piece that nobody has, so that when the time is
//! over nearly everything that was scored is a prefix of the order: the rest is at most a piece per thread.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use search_core::Address;
use service_kit::compute::ComputeError;
use vector_math::{TokenPassage, TokenQuery};

use crate::error::Error;

/// Passages times query tokens that are not worth sharing: about a millisecond, with passages of 120 tokens of 96 dimensions.
const PIECE_TOKENS: usize = 5120;
/// A piece has as many passages at least, so that each has a next one to fetch.
const MIN_PIECE: usize = 8;

/// Parallel to the first addresses that were asked for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Scores {
    /// 0 where the passage is unknown.
    pub(crate) scores: Vec<f32>,
    /// Positions of addresses that name no passage, or one whose token vectors are damaged.
    pub(crate) unknown: Vec<u32>,
}

/// Scores in the order given; `passage` finds the tokens of a live passage. `proceed` is asked before each: once the deadline has passed,
/// what has been scored is the answer.
pub(crate) fn score<'a>(
    query: &TokenQuery,
    addresses: &[Address],
    passage: impl Fn(Address) -> Option<TokenPassage<'a>> + Sync,
    proceed: impl Fn() -> Result<(), ComputeError> + Sync,
) -> Result<Scores, Error> {
    let piece_size = (PIECE_TOKENS / query.tokens().max(1)).max(MIN_PIECE);
    let pieces: Vec<&[Address]> = addresses.chunks(piece_size).collect();
    let next = AtomicUsize::new(0);
    let score_next = |_| {
        let place = next.fetch_add(1, Ordering::Relaxed);
        let scored = score_piece(query, pieces[place], &passage, &proceed)?;
        Ok((place, scored))
    };
    let mut scored: Vec<(usize, Piece)> = (0..pieces.len())
        .into_par_iter()
        .map(score_next)
        .collect::<Result<_, Error>>()?;
    scored.sort_unstable_by_key(|(place, _)| *place);
    let scored = scored.into_iter().map(|(_, piece)| piece);
    joined(scored.collect(), addresses.len())
}

/// What one thread scored of a piece: all, or what it could.
struct Piece {
    /// None: the passage is unknown.
    scores: Vec<Option<f32>>,
    is_whole: bool,
}

fn score_piece<'a>(
    query: &TokenQuery,
    addresses: &[Address],
    passage: impl Fn(Address) -> Option<TokenPassage<'a>>,
    proceed: impl Fn() -> Result<(), ComputeError>,
) -> Result<Piece, Error> {
    let mut passages = addresses.iter().map(|address| passage(*address)).peekable();
    let mut scores = Vec::with_capacity(addresses.len());
    while scores.len() < addresses.len() {
        match proceed() {
            Ok(()) => {}
            Err(ComputeError::DeadlineExceeded) => break,
            Err(gone) => return Err(gone.into()),
        }
        let this = passages.next().flatten();
        let following = passages.peek().and_then(Option::as_ref);
        scores.push(match this {
            Some(this) => Some(this.score(query, following)?),
            None => None,
        });
    }
    Ok(Piece {
        is_whole: scores.len() == addresses.len(),
        scores,
    })
}

/// The pieces up to the first that was not finished.
fn joined(pieces: Vec<Piece>, asked: usize) -> Result<Scores, Error> {
    let finished = pieces.iter().take_while(|piece| piece.is_whole).count();
    let prefix = pieces.iter().take(finished + 1);
    let mut answer = Scores::default();
    for (position, score) in (0..).zip(prefix.flat_map(|piece| &piece.scores)) {
        answer.scores.push(score.unwrap_or_default());
        answer.unknown.extend(score.is_none().then_some(position));
    }
    if answer.scores.is_empty() && asked > 0 {
        return Err(ComputeError::DeadlineExceeded.into());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
