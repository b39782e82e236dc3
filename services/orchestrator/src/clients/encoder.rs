//! The service that makes vectors of texts.

use super::peer::{Peer, same_length};
use super::{Encoded, QueryTokens, Timing};
use crate::error::{CallError, Service};
use search_core::{Deadline, FieldError};
use search_proto::encoder;
use search_proto::encoder::encoder_service_client::EncoderServiceClient;
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel};

/// Most tokens of a query; a scorer's limit.
const MAX_QUERY_TOKENS: usize = 1024;

/// One encoder.
#[derive(Clone, Debug)]
pub(crate) struct EncoderClient {
    peer: Peer,
    client: EncoderServiceClient<MeshChannel>,
}

/// What texts are; a bundle may have a prompt for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Query,
    Passage,
}

/// What is to be encoded, and with which bundle: that of the fingerprint; of none, with what an encoder serves first. The caller
/// compares the fingerprint of what it gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) query: &'a str,
    pub(crate) fingerprint: &'a str,
    /// The vectors of its tokens, too.
    pub(crate) with_tokens: bool,
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
        let mut client = self.client.clone();
        let send = |request| async move { client.describe(request).await };
        let described = self.peer.ask(encoder::DescribeRequest {}, deadline, send);
        let bundles = described.await?.bundles.into_iter();
        Ok(bundles.map(|bundle| bundle.fingerprint).collect())
    }

    /// Encodes one query.
    pub(crate) async fn encode(
        &self,
        wish: Wish<'_>,
        deadline: Option<Deadline>,
    ) -> Result<Encoded, CallError> {
        let request = encoder::EncodeRequest {
            texts: vec![wish.query.to_owned()],
            task: encoder::Task::Query.into(),
            with_token_vectors: wish.with_tokens,
            expected_fingerprint: wish.fingerprint.to_owned(),
        };
        let mut client = self.client.clone();
        let send = |request| async move { client.encode(request).await };
        let mut encoded = self.peer.ask(request, deadline, send).await?;
        self.peer.checked(check_vector(&encoded))?;
        let token_vectors = std::mem::take(&mut encoded.token_vectors);
        let tokens = wish.with_tokens.then(|| {
            let tokens = query_tokens(token_vectors, &encoded.fingerprint);
            self.peer.checked(tokens)
        });
        Ok(Encoded {
            vector: encoded.vectors,
            tokens,
            fingerprint: encoded.fingerprint,
            timing: Timing::from_wire(encoded.timing),
        })
    }

    /// The tokens of each of these texts, as the vocabulary of the bundle of this fingerprint writes them: those that vectors stand for.
    pub(crate) async fn tokenize(
        &self,
        texts: Vec<String>,
        task: Task,
        fingerprint: &str,
        deadline: Option<Deadline>,
    ) -> Result<Vec<Vec<String>>, CallError> {
        let asked = texts.len();
        let request = encoder::TokenizeRequest {
            texts,
            task: task.to_wire().into(),
            expected_fingerprint: fingerprint.to_owned(),
        };
        let mut client = self.client.clone();
        let send = |request| async move { client.tokenize(request).await };
        let tokenized = self.peer.ask(request, deadline, send).await?;
        self.peer
            .checked(check_tokens(&tokenized, asked, fingerprint))?;
        let texts = tokenized.texts.into_iter();
        Ok(texts.map(|text| text.tokens).collect())
    }
}

impl Task {
    const fn to_wire(self) -> encoder::Task {
        match self {
            Self::Query => encoder::Task::Query,
            Self::Passage => encoder::Task::Passage,
        }
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
    check_finite(&encoded.vectors)
}

fn check_finite(vectors: &[f32]) -> Result<(), FieldError> {
    if vectors.iter().all(|number| number.is_finite()) {
        return Ok(());
    }
    Err(FieldError::new("vectors", "must be finite"))
}

/// The token vectors of the one text that was sent.
fn query_tokens(
    wire: Vec<encoder::TokenVectors>,
    fingerprint: &str,
) -> Result<QueryTokens, FieldError> {
    same_length("token_vectors", wire.len(), 1)?;
    let encoder::TokenVectors {
        dimensions,
        vectors,
    } = wire.into_iter().next().unwrap_or_default();
    check_token_vectors(&vectors, dimensions as usize)
        .map_err(|error| error.inside("token_vectors[0]"))?;
    Ok(QueryTokens {
        dimensions,
        vectors,
        fingerprint: fingerprint.to_owned(),
    })
}

fn check_token_vectors(vectors: &[f32], dimensions: usize) -> Result<(), FieldError> {
    let tokens = vectors.len().checked_div(dimensions).unwrap_or(0);
    let is_whole = tokens * dimensions == vectors.len();
    if !is_whole || !(1..=MAX_QUERY_TOKENS).contains(&tokens) {
        let message = format!(
            "has {} numbers for {dimensions} dimensions and 1 to {MAX_QUERY_TOKENS} tokens",
            vectors.len()
        );
        return Err(FieldError::new("vectors", message));
    }
    check_finite(vectors)?;
    let is_zero = |token: &[f32]| token.iter().all(|number| *number == 0.0);
    if vectors.chunks(dimensions).any(is_zero) {
        return Err(FieldError::new("vectors", "must not be zero"));
    }
    Ok(())
}

fn check_tokens(
    tokenized: &encoder::TokenizeResponse,
    asked: usize,
    fingerprint: &str,
) -> Result<(), FieldError> {
    same_length("texts", tokenized.texts.len(), asked)?;
    if tokenized.fingerprint == fingerprint {
        return Ok(());
    }
    let message = format!(
        "is {}, where {fingerprint} was asked for",
        tokenized.fingerprint
    );
    Err(FieldError::new("fingerprint", message))
}
