//! The service that reads the query and its passages together, and says what it has scored batch by batch.

use super::Timing;
use super::peer::{Peer, same_length};
use crate::error::{CallError, Service};
use crate::funnel::Reading;
use search_core::{Deadline, FieldError, Score};
pub(crate) use search_proto::convert::MAX_PASSAGE_BYTES;
use search_proto::rerank;
use search_proto::rerank::reranker_service_client::RerankerServiceClient;
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel};
use tonic::codec::Streaming;

/// One service that reranks.
#[derive(Clone, Debug)]
pub(crate) struct RerankerClient {
    peer: Peer,
    client: RerankerServiceClient<MeshChannel>,
}

/// What the model said about a passage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ReadPassage {
    pub(crate) logit: Score,
    pub(crate) reading: Reading,
}

impl RerankerClient {
    pub(crate) fn new(channel: MeshChannel) -> Self {
        Self {
            peer: Peer::new(Service::CrossEncoder, &channel),
            client: RerankerServiceClient::new(channel)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// Has the passages scored, best first. Nothing has been scored when this returns.
    pub(crate) async fn rerank(
        &self,
        query: String,
        passages: Vec<String>,
        deadline: Option<Deadline>,
    ) -> Result<Reranking, CallError> {
        let read = vec![None; passages.len()];
        let request = rerank::RerankRequest {
            query,
            passages,
            ..rerank::RerankRequest::default()
        };
        let mut client = self.client.clone();
        let send = |request| async move { client.rerank_stream(request).await };
        Ok(Reranking {
            stream: self.peer.ask(request, deadline, send).await?,
            peer: self.peer.clone(),
            read,
            messages: 0,
            fingerprint: None,
            timing: Timing::default(),
        })
    }
}

/// A call that brings scores batch by batch. Dropped, it is cancelled: what waits is not computed.
#[derive(Debug)]
pub(crate) struct Reranking {
    peer: Peer,
    stream: Streaming<rerank::RerankResponse>,
    /// Parallel to the passages; none where there is no score yet.
    read: Vec<Option<ReadPassage>>,
    /// How many have come.
    messages: usize,
    /// Of the model that scores: one for the whole call.
    fingerprint: Option<String>,
    timing: Timing,
}

impl Reranking {
    /// Takes the next batch; false when there is none, or none is needed. An answer that breaks the contract is an error, and nothing
    /// counts that the peer has said.
    pub(crate) async fn next(&mut self) -> Result<bool, CallError> {
        if self.read.iter().all(Option::is_some) {
            return Ok(false);
        }
        let message = self.stream.message().await;
        let Some(batch) = self.peer.message(message)? else {
            return Ok(false);
        };
        let taken = self.take(batch);
        if taken.is_err() {
            self.read.fill(None);
        }
        self.peer.checked(taken)?;
        Ok(true)
    }

    /// What is scored so far, parallel to the passages.
    pub(crate) fn read(&self) -> &[Option<ReadPassage>] {
        &self.read
    }

    /// Time waited and time computed so far.
    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    fn take(&mut self, batch: rerank::RerankResponse) -> Result<(), FieldError> {
        self.messages += 1;
        if self.messages > self.read.len() + 1 {
            // Each brings a score, and one may bring none: else a peer could go on for ever without saying anything.
            return Err(FieldError::new("indexes", "are none once more"));
        }
        let scored = batch.indexes.len();
        same_length("logits", batch.logits.len(), scored)?;
        same_length("scores", batch.scores.len(), scored)?;
        same_length("tokens", batch.tokens.len(), scored)?;
        same_length("batches", batch.batches.len(), scored)?;
        for entry in 0..scored {
            self.take_entry(&batch, entry)?;
        }
        self.check_model(batch.fingerprint)?;
        let timing = Timing::from_wire(batch.timing);
        self.timing.queue_us = self.timing.queue_us.saturating_add(timing.queue_us);
        self.timing.compute_us = self.timing.compute_us.saturating_add(timing.compute_us);
        Ok(())
    }

    fn take_entry(
        &mut self,
        batch: &rerank::RerankResponse,
        entry: usize,
    ) -> Result<(), FieldError> {
        let index = batch.indexes[entry];
        let refuse = |message: String| FieldError::new(format!("indexes[{entry}]"), message);
        let passages = self.read.len();
        let place = self
            .read
            .get_mut(index as usize)
            .ok_or_else(|| refuse(format!("{index} is no position of {passages} passages")))?;
        if place.is_some() {
            return Err(refuse(format!("{index} is scored already")));
        }
        *place = Some(read_passage(batch, entry)?);
        Ok(())
    }

    /// Scores of two models cannot be compared.
    fn check_model(&mut self, fingerprint: String) -> Result<(), FieldError> {
        match &self.fingerprint {
            Some(first) if *first != fingerprint => {
                let message = format!("is {fingerprint}, and was {first} before");
                Err(FieldError::new("fingerprint", message))
            }
            Some(_) => Ok(()),
            None => {
                self.fingerprint = Some(fingerprint);
                Ok(())
            }
        }
    }
}

fn read_passage(batch: &rerank::RerankResponse, entry: usize) -> Result<ReadPassage, FieldError> {
    let logit = Score::try_from(batch.logits[entry])
        .map_err(|error| FieldError::new(format!("logits[{entry}]"), error.to_string()))?;
    let calibrated = batch.scores[entry];
    if !(0.0..=1.0).contains(&calibrated) {
        let message = format!("is {calibrated}; 0 to 1 are allowed");
        return Err(FieldError::new(format!("scores[{entry}]"), message));
    }
    let reading = Reading {
        calibrated,
        tokens: batch.tokens[entry],
        batch: batch.batches[entry],
    };
    Ok(ReadPassage { logit, reading })
}
