//! Which token of a passage each token of a query matches best, for explanations.

use search_core::Address;
use segment::colbert::ColbertPart;
use service_kit::compute::ComputeError;
use vector_math::TokenMatch;

use crate::error::Error;
use crate::query::SeparateTokens;

/// What an uncoded token of a query matches: anything, by nothing.
const NO_MATCH: TokenMatch = TokenMatch {
    token: 0,
    cosine: 0.0,
};

/// For each passage a match for each token of the query, by the place of the passage's token among those that the encoder gives vectors of.
/// None for a passage that is unknown or has no tokens. `part` finds the segment of a live passage; `proceed` is asked again and again.
pub(crate) fn matches<'a>(
    query: &SeparateTokens,
    addresses: &[Address],
    part: impl Fn(Address) -> Option<&'a ColbertPart>,
    proceed: impl Fn() -> Result<(), ComputeError>,
) -> Result<Vec<Vec<TokenMatch>>, Error> {
    let of_passage = |address: &Address| match part(*address) {
        Some(part) => matches_of(query, part, address.ordinal(), &proceed),
        None => Ok(Vec::new()),
    };
    addresses.iter().map(of_passage).collect()
}

fn matches_of(
    query: &SeparateTokens,
    part: &ColbertPart,
    ordinal: u32,
    proceed: impl Fn() -> Result<(), ComputeError>,
) -> Result<Vec<TokenMatch>, Error> {
    let has_tokens = part
        .passage(ordinal)
        .is_some_and(|blocks| !blocks.is_empty());
    if !has_tokens {
        return Ok(Vec::new());
    }
    let mut found = Vec::with_capacity(query.coded.len());
    for tokens in &query.parts {
        proceed()?;
        found.extend(part.matches(tokens, ordinal)?);
    }
    let mut matches = vec![NO_MATCH; query.tokens];
    for (token, best) in query.coded.iter().zip(found) {
        matches[usize::from(*token)] = best;
    }
    Ok(matches)
}

#[cfg(test)]
mod tests;
