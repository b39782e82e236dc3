//! What the tokens of the query matched in the passages that are shown: people trust what they see.
//!
//! The scorers say which places match, an encoder what tokens are there. Both are asked when the page is known, for its hits alone, in
//! half of the time that is left, and only of a request that wants explanations. What cannot be had is missing in the trail, and
//! the stage says why.

use crate::clients::{ColbertClient, Match, Matched, Passage, QueryTokens, Target};
use crate::documents::{PassageRef, by_shard};
use crate::encode::tokens_of;
use crate::error::SearchError;
use crate::funnel::{Hit, Ranked, Run, StageWatch, TokenMatch, within};
use crate::tokens::Tokens;
use futures::future::join_all;
use search_core::{Address, Deadline, StageReason, StageReport, StageStatus};
use service_kit::now;
use tracing::Instrument;

/// The stage, in reports.
const STAGE: &str = "explain";
/// Most hits that are explained: what one call of a scorer takes.
const MAX_HITS: usize = ColbertClient::MOST_MATCHED;
/// Most bytes of all that is told: the answer has to hold the hits, too.
const MAX_BYTES: usize = 1024 * 1024;
/// What a match takes beside its tokens.
const MATCH_BYTES: usize = 16;
/// How much each similarity may be off for the rounding of floats.
const ROUNDING: f32 = 1e-4;

/// The query, and until when there is time.
#[derive(Clone, Copy, Debug)]
struct Asked<'q> {
    query: &'q QueryTokens,
    deadline: Option<Deadline>,
}

/// What a shard said about hits.
struct ShardMatches {
    shard: u32,
    /// Positions among the hits.
    positions: Vec<usize>,
    matched: Result<Matched, SearchError>,
}

impl Run<'_> {
    fn half_of_time_left(self) -> Option<Deadline> {
        let (deadline, now) = (self.plan.request.deadline?, now());
        let left = deadline.remaining(now).unwrap_or_default();
        Deadline::after(now, left / 2)
    }

    /// Fills in the matches of the hits that late interaction scored. None: there is nothing to explain.
    pub(crate) async fn explain(self, ranked: &Ranked, hits: &mut [Hit]) -> Option<StageReport> {
        let encoded = ranked.matched_with.as_deref()?;
        let query = tokens_of(encoded).ok()?;
        let has_text = |hit: &Hit| !hit.passage.text.trim().is_empty();
        let scored = hits.iter_mut();
        let scored = scored.filter(|hit| hit.is_matched() && has_text(hit));
        let mut hits: Vec<&mut Hit> = scored.collect();
        if hits.is_empty() {
            return None;
        }
        let mut watch = self.begin(STAGE);
        watch.report.candidates_in = hits.len() as u64;
        if hits.len() > MAX_HITS {
            watch.lessen(StageStatus::Partial, StageReason::Size);
            hits.truncate(MAX_HITS);
        }
        let asked = Asked {
            query,
            deadline: self.half_of_time_left(),
        };
        let span = tracing::info_span!("explain", hits = hits.len());
        let explained = self.explain_hits(asked, &mut hits, &mut watch);
        let explained = explained.instrument(span).await;
        watch.report.candidates_out = explained as u64;
        if explained == 0 && watch.report.reason.is_some() {
            watch.fail();
        }
        Some(watch.end())
    }

    /// Returns how many could be.
    async fn explain_hits(
        self,
        asked: Asked<'_>,
        hits: &mut [&mut Hit],
        watch: &mut StageWatch,
    ) -> usize {
        let shown: Vec<PassageRef> = hits.iter().map(|hit| hit.shown).collect();
        let passages: Vec<&Passage> = hits.iter().map(|hit| &hit.passage).collect();
        let (answers, tokens) = futures::join!(
            self.match_tokens(asked, &shown),
            self.tokens(&asked.query.fingerprint, &passages, asked.deadline),
        );
        let matches = matches_of_hits(answers, hits.len(), watch);
        match tokens {
            Ok(tokens) => tell(hits, &matches, &tokens, watch),
            Err(error) => {
                note(&error, watch);
                0
            }
        }
    }

    async fn match_tokens(self, asked: Asked<'_>, passages: &[PassageRef]) -> Vec<ShardMatches> {
        let shards = by_shard(passages.iter().copied().enumerate());
        let calls = shards.into_iter().map(|(shard, places)| async move {
            let (positions, addresses): (Vec<usize>, Vec<Address>) = places.into_iter().unzip();
            let matched = self.match_in_shard(asked, shard, &addresses);
            ShardMatches {
                shard,
                positions,
                matched: within(asked.deadline, matched).await,
            }
        });
        join_all(calls).await
    }

    async fn match_in_shard(
        self,
        asked: Asked<'_>,
        shard: u32,
        addresses: &[Address],
    ) -> Result<Matched, SearchError> {
        let target = Target {
            deadline: asked.deadline,
            ..self.target(shard)
        };
        let holders = self.placement.colbert.of_shard(shard);
        let call = self.mesh.colbert.call(holders, |client| {
            client.matches(target, asked.query, addresses)
        });
        Ok(call.await?)
    }
}

/// What the shards said, by hit; none of a hit whose shard did not answer.
fn matches_of_hits(
    answers: Vec<ShardMatches>,
    hits: usize,
    watch: &mut StageWatch,
) -> Vec<Option<Vec<Match>>> {
    let mut matches = vec![None; hits];
    for answer in answers {
        watch.ask(answer.shard);
        match answer.matched {
            Ok(matched) => {
                watch.time(matched.timing);
                for (position, found) in answer.positions.iter().zip(matched.passages) {
                    matches[*position] = Some(found);
                }
            }
            Err(error) => {
                watch.miss(answer.shard);
                note(&error, watch);
            }
        }
    }
    matches
}

/// Tells each hit what matched in it, until it is more than an answer holds. Returns of how many something could be told: a passage may
/// have no tokens.
fn tell(
    hits: &mut [&mut Hit],
    matches: &[Option<Vec<Match>>],
    tokens: &Tokens,
    watch: &mut StageWatch,
) -> usize {
    let (mut told, mut bytes) = (0, 0);
    let known = matches.iter().zip(&tokens.passages);
    for (hit, (matches, passage)) in hits.iter_mut().zip(known) {
        let Some(matches) = matches else { continue };
        let Some(passage) = passage else {
            watch.lessen(StageStatus::Partial, StageReason::Size);
            continue;
        };
        let sums_up = hit.is_sum_of(matches.iter().map(|found| found.cosine), ROUNDING);
        let found = named(&tokens.query, passage, matches).filter(|_| sums_up);
        let Some(found) = found else {
            tracing::warn!("what a scorer matches is not what it scored, or no token");
            watch.lessen(StageStatus::Partial, StageReason::Fault);
            continue;
        };
        if found.is_empty() {
            continue;
        }
        bytes += found.iter().map(bytes_of).sum::<usize>();
        if bytes > MAX_BYTES {
            watch.lessen(StageStatus::Partial, StageReason::Size);
            break;
        }
        hit.tell_matches(found.into_iter().map(token_match).collect());
        told += 1;
    }
    told
}

/// A token of the query, that of the passage that is most like it, and their cosine.
type Named<'t> = (&'t String, &'t String, f32);

/// None: there are no such tokens. A passage without tokens has no matches.
fn named<'t>(
    query: &'t [String],
    passage: &'t [String],
    matches: &[Match],
) -> Option<Vec<Named<'t>>> {
    if !matches.is_empty() && query.len() != matches.len() {
        return None;
    }
    let named = |(token, found): (&'t String, &Match)| {
        Some((token, passage.get(found.token)?, found.cosine))
    };
    query.iter().zip(matches).map(named).collect()
}

fn bytes_of((query_token, passage_token, _): &Named<'_>) -> usize {
    query_token.len() + passage_token.len() + MATCH_BYTES
}

fn token_match((query_token, passage_token, similarity): Named<'_>) -> TokenMatch {
    TokenMatch {
        query_token: query_token.clone(),
        passage_token: passage_token.clone(),
        similarity,
    }
}

/// Notes what keeps hits from being explained.
fn note(error: &SearchError, watch: &mut StageWatch) {
    tracing::warn!(%error, "not all hits are explained");
    watch.lessen(StageStatus::Partial, error.reason());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn matches(tokens: &[usize]) -> Vec<Match> {
        let found = tokens.iter().map(|token| Match {
            token: *token,
            cosine: 0.5,
        });
        found.collect()
    }

    #[test]
    fn tokens_are_named_and_places_beyond_them_are_refused() {
        let (query, passage) = (words("sea level"), words("the ocean rises"));
        let named = |tokens: &[usize]| {
            let found = named(&query, &passage, &matches(tokens))?;
            let texts = found
                .into_iter()
                .map(|(left, right, _)| format!("{left}→{right}"));
            Some(texts.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(named(&[1, 2]).unwrap(), "sea→ocean level→rises");
        assert_eq!(named(&[1, 1]).unwrap(), "sea→ocean level→ocean");
        assert_eq!(named(&[]).unwrap(), "");
        for wrong in [&[1, 3][..], &[usize::MAX, 0], &[1], &[1, 1, 1]] {
            assert_eq!(named(wrong), None, "{wrong:?}");
        }
    }
}
