//! The service that ranks by words, and holds the stored documents.

use super::peer::{Expected, Peer, WireScores, positions, same_length};
use super::{Described, Fetched, Found, Passage, Reach, Scored, Target, Timing};
use crate::error::{CallError, Service};
use search_core::{Address, Deadline, FieldError};
use search_proto::sparse::sparse_retriever_service_client::SparseRetrieverServiceClient;
use search_proto::{common, convert, sparse};
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel};

/// One sparse retriever, which holds the stored documents too.
#[derive(Clone, Debug)]
pub(crate) struct SparseClient {
    peer: Peer,
    client: SparseRetrieverServiceClient<MeshChannel>,
}

impl SparseClient {
    pub(crate) fn new(channel: MeshChannel) -> Self {
        Self {
            peer: Peer::new(Service::SparseRetriever, &channel),
            client: SparseRetrieverServiceClient::new(channel)
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
        query: &str,
        reach: Reach<'_>,
    ) -> Result<Found, CallError> {
        let request = sparse::SearchRequest {
            snapshot: target.snapshot(),
            query: query.to_owned(),
            limit: reach.limit,
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
        query: &str,
        addresses: &[Address],
    ) -> Result<Scored, CallError> {
        let request = sparse::ScoreRequest {
            snapshot: target.snapshot(),
            query: query.to_owned(),
            addresses: convert::addresses_to_wire(addresses),
            shard: target.shard,
        };
        let mut client = self.client.clone();
        let send = |request| async move { client.score(request).await };
        let scored = self.peer.ask(request, target.deadline, send).await?;
        let scored = WireScores {
            scores: scored.scores,
            excluded: scored.excluded,
            unknown: scored.unknown,
            timing: scored.timing,
        };
        self.peer.scored(Expected::All(addresses.len()), &scored)
    }

    pub(crate) async fn fetch(
        &self,
        target: Target<'_>,
        addresses: &[Address],
        ids_only: bool,
    ) -> Result<Fetched, CallError> {
        let request = sparse::FetchRequest {
            snapshot: target.snapshot(),
            addresses: convert::addresses_to_wire(addresses),
            ids_only,
            shard: target.shard,
        };
        let mut client = self.client.clone();
        let send = |request| async move { client.fetch(request).await };
        let fetched = self.peer.ask(request, target.deadline, send).await?;
        self.peer.checked(passages(fetched, addresses.len()))
    }
}

fn passages(wire: sparse::FetchResponse, asked: usize) -> Result<Fetched, FieldError> {
    same_length("passages", wire.passages.len(), asked)?;
    let unknown = positions(&wire.unknown, asked, "unknown")?;
    let mut passages: Vec<_> = wire
        .passages
        .into_iter()
        .map(|passage| Some(passage_from_wire(passage)))
        .collect();
    for position in unknown {
        passages[position] = None;
    }
    Ok(Fetched {
        passages,
        timing: Timing::from_wire(wire.timing),
    })
}

fn passage_from_wire(wire: sparse::Passage) -> Passage {
    Passage {
        document_id: wire.document_id,
        title: wire.title,
        text: wire.text,
        metadata_json: wire.metadata_json,
        passage: wire.passage,
    }
}
