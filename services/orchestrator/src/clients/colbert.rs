//! The service that scores by the vectors of tokens.

use super::peer::{Expected, Peer, WireScores, same_length};
use super::{Described, Match, QueryTokens, Scored, Target, Timing};
use crate::error::{CallError, Service};
use search_core::{Address, Deadline, FieldError};
use search_proto::colbert::colbert_scorer_service_client::ColbertScorerServiceClient;
use search_proto::{colbert, common, convert};
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel};

/// One scorer.
#[derive(Clone, Debug)]
pub(crate) struct ColbertClient {
    peer: Peer,
    client: ColbertScorerServiceClient<MeshChannel>,
}

/// What a scorer says about tokens that match.
#[derive(Clone, Debug)]
pub(crate) struct Matched {
    /// Parallel to the addresses; each parallel to the query's tokens, or empty where the scorer has no tokens of the passage.
    pub(crate) passages: Vec<Vec<Match>>,
    pub(crate) timing: Timing,
}

impl ColbertClient {
    /// Most addresses of one call of [`ColbertClient::score`].
    pub(crate) const MOST_SCORED: usize = 10_000;
    /// Most addresses of one call of [`ColbertClient::matches`].
    pub(crate) const MOST_MATCHED: usize = 100;

    pub(crate) fn new(channel: MeshChannel) -> Self {
        Self {
            peer: Peer::new(Service::ColbertScorer, &channel),
            client: ColbertScorerServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    pub(crate) async fn describe(
        &self,
        deadline: Option<Deadline>,
    ) -> Result<Described, CallError> {
        let mut client = self.client.clone();
        let send = |request| async move { client.describe(request).await };
        let described = self.peer.ask(common::DescribeRequest {}, deadline, send);
        Ok(self.peer.described(described.await?))
    }

    /// MaxSim of passages, the best candidates first: of as many of them as the scorer gets done in time.
    pub(crate) async fn score(
        &self,
        target: Target<'_>,
        query: &QueryTokens,
        addresses: &[Address],
    ) -> Result<Scored, CallError> {
        let request = colbert::ScoreRequest {
            snapshot: target.snapshot(),
            query: Some(query_to_wire(query)),
            addresses: convert::addresses_to_wire(addresses),
            shard: target.shard,
        };
        let mut client = self.client.clone();
        let send = |request| async move { client.score(request).await };
        let scored = self.peer.ask(request, target.deadline, send).await?;
        // MaxSim excludes nothing.
        let scored = WireScores {
            scores: scored.scores,
            excluded: Vec::new(),
            unknown: scored.unknown,
            timing: scored.timing,
        };
        self.peer.scored(Expected::AtMost(addresses.len()), &scored)
    }

    /// Which token of each passage each of the query's matches best.
    pub(crate) async fn matches(
        &self,
        target: Target<'_>,
        query: &QueryTokens,
        addresses: &[Address],
    ) -> Result<Matched, CallError> {
        let request = colbert::MatchRequest {
            snapshot: target.snapshot(),
            query: Some(query_to_wire(query)),
            addresses: convert::addresses_to_wire(addresses),
            shard: target.shard,
        };
        let mut client = self.client.clone();
        let send = |request| async move { client.r#match(request).await };
        let matched = self.peer.ask(request, target.deadline, send).await?;
        self.peer
            .checked(matched_from_wire(&matched, addresses.len(), query.count()))
    }
}

fn query_to_wire(query: &QueryTokens) -> colbert::QueryTokens {
    colbert::QueryTokens {
        dimensions: query.dimensions,
        vectors: query.vectors.clone(),
        encoder_fingerprint: query.fingerprint.clone(),
    }
}

fn matched_from_wire(
    wire: &colbert::MatchResponse,
    passages: usize,
    query_tokens: usize,
) -> Result<Matched, FieldError> {
    same_length("passages", wire.passages.len(), passages)?;
    let read = |(position, passage): (usize, &colbert::PassageMatches)| {
        matches_from_wire(passage, query_tokens)
            .map_err(|error| error.inside(&format!("passages[{position}]")))
    };
    let passages = wire.passages.iter().enumerate().map(read);
    Ok(Matched {
        passages: passages.collect::<Result<_, _>>()?,
        timing: Timing::from_wire(wire.timing),
    })
}

fn matches_from_wire(
    wire: &colbert::PassageMatches,
    query_tokens: usize,
) -> Result<Vec<Match>, FieldError> {
    same_length("cosines", wire.cosines.len(), wire.tokens.len())?;
    if !wire.tokens.is_empty() {
        same_length("tokens", wire.tokens.len(), query_tokens)?;
    }
    if wire.cosines.iter().any(|cosine| !cosine.is_finite()) {
        return Err(FieldError::new("cosines", "must be finite"));
    }
    let matches = wire.tokens.iter().zip(&wire.cosines);
    let matches = matches.map(|(token, cosine)| Match {
        token: *token as usize,
        cosine: *cosine,
    });
    Ok(matches.collect())
}
