//! The service that makes vectors of queries.

use super::{Encoded, Peer, Timing};
use crate::error::{CallError, Service};
use search_core::{Deadline, FieldError};
use search_proto::encoder;
use search_proto::encoder::encoder_service_client::EncoderServiceClient;
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel, now, with_deadline};

/// One encoder.
#[derive(Clone, Debug)]
pub(crate) struct EncoderClient {
    peer: Peer,
    client: EncoderServiceClient<MeshChannel>,
}

impl EncoderClient {
    pub(crate) fn new(channel: MeshChannel) -> Self {
        Self {
            peer: Peer::new(Service::Encoder, &channel),
            client: EncoderServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// Fingerprints of the bundles that it serves.
    pub(crate) async fn bundles(
        &self,
        deadline: Option<Deadline>,
    ) -> Result<Vec<String>, CallError> {
        let request = with_deadline(encoder::DescribeRequest {}, deadline, now());
        let described = self
            .peer
            .answer(self.client.clone().describe(request).await)?;
        let bundles = described.bundles.into_iter();
        Ok(bundles.map(|bundle| bundle.fingerprint).collect())
    }

    /// Encodes one query with the bundle of this fingerprint; of none, with what the encoder serves first: the caller compares the
    /// fingerprint of what it gets.
    pub(crate) async fn encode(
        &self,
        text: String,
        fingerprint: &str,
        deadline: Option<Deadline>,
    ) -> Result<Encoded, CallError> {
        let request = encoder::EncodeRequest {
            texts: vec![text],
            task: encoder::Task::Query.into(),
            with_token_vectors: false,
            expected_fingerprint: fingerprint.to_owned(),
        };
        let answer = self
            .client
            .clone()
            .encode(with_deadline(request, deadline, now()))
            .await;
        let encoded = self.peer.answer(answer)?;
        check_vector(&encoded).map_err(|error| self.peer.malformed(&error))?;
        Ok(Encoded {
            vector: encoded.vectors,
            fingerprint: encoded.fingerprint,
            timing: Timing::from_wire(encoded.timing),
        })
    }
}

fn check_vector(encoded: &encoder::EncodeResponse) -> Result<(), FieldError> {
    let is_one_vector =
        !encoded.vectors.is_empty() && encoded.vectors.len() == encoded.dimensions as usize;
    if !is_one_vector {
        let message = format!(
            "has {} numbers for {} dimensions",
            encoded.vectors.len(),
            encoded.dimensions
        );
        return Err(FieldError::new("vectors", message));
    }
    if encoded.vectors.iter().any(|number| !number.is_finite()) {
        return Err(FieldError::new("vectors", "must be finite"));
    }
    Ok(())
}
