//! The service that ranks by words, and holds the stored documents.

use super::{
    Described, Fetched, Found, Passage, Peer, Reach, Scored, Target, Timing, positions, same_length,
};
use crate::error::{CallError, Service};
use search_core::{Address, Deadline, FieldError};
use search_proto::sparse::sparse_retriever_service_client::SparseRetrieverServiceClient;
use search_proto::{common, convert, sparse};
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel, now, with_deadline};

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
        let request = with_deadline(common::DescribeRequest {}, deadline, now());
        self.peer
            .described(self.client.clone().describe(request).await)
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
        query: &str,
        addresses: &[Address],
    ) -> Result<Scored, CallError> {
        let request = sparse::ScoreRequest {
            snapshot: target.snapshot(),
            query: query.to_owned(),
            addresses: convert::addresses_to_wire(addresses),
            shard: target.shard,
        };
        let answer = self
            .client
            .clone()
            .score(with_deadline(request, target.deadline, now()))
            .await;
        let scored = self.peer.answer(answer)?;
        self.peer.scored(addresses.len(), &scored)
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
        let answer = self
            .client
            .clone()
            .fetch(with_deadline(request, target.deadline, now()))
            .await;
        let fetched = self.peer.answer(answer)?;
        passages(fetched, addresses.len()).map_err(|error| self.peer.malformed(&error))
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
