//! The service that ranks by vectors.

use super::peer::{Expected, Peer, WireScores};
use super::{Described, Encoded, Found, Reach, Scored, Target};
use crate::error::{CallError, Service};
use search_core::{Address, Deadline};
use search_proto::dense::dense_retriever_service_client::DenseRetrieverServiceClient;
use search_proto::{common, convert, dense};
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel};

/// One dense retriever.
#[derive(Clone, Debug)]
pub(crate) struct DenseClient {
    peer: Peer,
    client: DenseRetrieverServiceClient<MeshChannel>,
}

impl DenseClient {
    /// Most addresses of one call of [`DenseClient::score`].
    pub(crate) const MOST_SCORED: usize = 65_536;

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
        let mut client = self.client.clone();
        let send = |request| async move { client.describe(request).await };
        let described = self.peer.ask(common::DescribeRequest {}, deadline, send);
        Ok(self.peer.described(described.await?))
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
        let mut client = self.client.clone();
        let send = |request| async move { client.search(request).await };
        let found = self.peer.ask(request, target.deadline, send).await?;
        let (candidates, refused) = (found.candidates, found.refused_segments);
        self.peer.found(reach, candidates, refused, found.timing)
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
        let mut client = self.client.clone();
        let send = |request| async move { client.score(request).await };
        let scored = self.peer.ask(request, target.deadline, send).await?;
        // A vector excludes nothing.
        let scored = WireScores {
            scores: scored.scores,
            excluded: Vec::new(),
            unknown: scored.unknown,
            timing: scored.timing,
        };
        self.peer.scored(Expected::All(addresses.len()), &scored)
    }
}
