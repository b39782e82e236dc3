//! The service that ranks by vectors.

use super::{Described, Encoded, Found, Peer, Reach, Scored, Target, Timing};
use crate::error::{CallError, Service};
use search_core::{Address, Deadline};
use search_proto::dense::dense_retriever_service_client::DenseRetrieverServiceClient;
use search_proto::{common, convert, dense, sparse};
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel, now, with_deadline};

/// One dense retriever.
#[derive(Clone, Debug)]
pub(crate) struct DenseClient {
    peer: Peer,
    client: DenseRetrieverServiceClient<MeshChannel>,
}

impl DenseClient {
    pub(crate) fn new(channel: MeshChannel) -> Self {
        Self {
            peer: Peer::new(Service::DenseRetriever, &channel),
            client: DenseRetrieverServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    pub(crate) async fn describe(
        &self,
        deadline: Option<Deadline>,
    ) -> Result<Described, CallError> {
        let request = with_deadline(common::DescribeRequest {}, deadline, now());
        self.peer
            .described(self.client.clone().describe(request).await)
    }

    pub(crate) async fn search(
        &self,
        target: Target<'_>,
        query: &Encoded,
        reach: Reach<'_>,
    ) -> Result<Found, CallError> {
        let request = dense::SearchRequest {
            snapshot: target.snapshot(),
            vector: query.vector.clone(),
            encoder_fingerprint: query.fingerprint.clone(),
            limit: reach.limit,
            // The collection's own.
            prefix_depth: 0,
            filter: reach.filter.map(convert::filter_to_wire),
            shard: target.shard,
        };
        let answer = self
            .client
            .clone()
            .search(with_deadline(request, target.deadline, now()))
            .await;
        let found = self.peer.answer(answer)?;
        Ok(Found {
            candidates: self.peer.candidates(found.candidates, reach)?,
            refused_segments: found.refused_segments,
            timing: Timing::from_wire(found.timing),
        })
    }

    pub(crate) async fn score(
        &self,
        target: Target<'_>,
        query: &Encoded,
        addresses: &[Address],
    ) -> Result<Scored, CallError> {
        let request = dense::ScoreRequest {
            snapshot: target.snapshot(),
            vector: query.vector.clone(),
            encoder_fingerprint: query.fingerprint.clone(),
            addresses: convert::addresses_to_wire(addresses),
            shard: target.shard,
        };
        let answer = self
            .client
            .clone()
            .score(with_deadline(request, target.deadline, now()))
            .await;
        let scored = self.peer.answer(answer)?;
        // A vector excludes nothing; otherwise the answers are alike.
        let scored = sparse::ScoreResponse {
            scores: scored.scores,
            excluded: Vec::new(),
            unknown: scored.unknown,
            timing: scored.timing,
        };
        self.peer.scored(addresses.len(), &scored)
    }
}
