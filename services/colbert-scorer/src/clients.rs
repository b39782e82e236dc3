//! The encoder as the scoring of texts needs it: token vectors, so many texts at a time that the answer fits into a message, and no trust
//! in what it answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use search_core::{Deadline, ErrorKind, FieldError};
use search_proto::convert;
use search_proto::encoder::encoder_service_client::EncoderServiceClient;
use search_proto::encoder::{
    Bundle, DescribeRequest, EncodeRequest, EncodeResponse, Task, TokenVectors,
};
use service_kit::status::{fields_of, kind_of, pushback_of};
use service_kit::{Channels, MAX_MESSAGE_BYTES, MeshChannel, now, with_deadline};
use tonic::Status;

use crate::error::Error;

/// The encoders that there are, asked in turn.
pub(crate) struct Encoders {
    replicas: Channels,
    turn: AtomicUsize,
}

struct Replica {
    name: String,
    client: EncoderServiceClient<MeshChannel>,
}

/// A bundle with token vectors at one of the encoders.
pub(crate) struct TokenEncoder {
    replica: Replica,
    bundle: Bundle,
}

/// What texts are, for the bundle's prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Query,
    Passage,
}

/// Token vectors of texts, in their order.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    /// By text: row-major [tokens, dimensions].
    pub(crate) texts: Vec<Vec<f32>>,
    pub(crate) truncated_texts: u32,
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
}

impl Encoders {
    pub(crate) fn new(replicas: Channels) -> Self {
        Self {
            replicas,
            turn: AtomicUsize::new(0),
        }
    }

    /// The bundle of this fingerprint, or of none the first with token vectors, at the next encoder that has it.
    pub(crate) async fn bundle(
        &self,
        fingerprint: &str,
        deadline: Option<Deadline>,
    ) -> Result<TokenEncoder, Error> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failure = Error::NoEncoder;
        let replicas = self.replicas.now();
        for place in 0..replicas.len() {
            let channel = &replicas[turn.wrapping_add(place) % replicas.len()];
            let replica = Replica::new(channel.clone());
            match replica.bundle(fingerprint, deadline).await {
                Ok(bundle) => return Ok(TokenEncoder { replica, bundle }),
                Err(error) => {
                    tracing::debug!(%error, "asking another encoder");
                    failure = error;
                }
            }
        }
        Err(failure)
    }
}

impl Replica {
    fn new(channel: MeshChannel) -> Self {
        Self {
            name: channel.name().to_owned(),
            client: EncoderServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    async fn bundle(&self, fingerprint: &str, deadline: Option<Deadline>) -> Result<Bundle, Error> {
        let request = with_deadline(DescribeRequest {}, deadline, now());
        let described = self.client.clone().describe(request).await;
        let described = described
            .map_err(|status| self.failed(&status))?
            .into_inner();
        chosen(&described.bundles, fingerprint).map_err(|refused| match refused {
            Refused::NotServed => Error::OtherBundle {
                expected: fingerprint.to_owned(),
                encoder: self.name.clone(),
                served: named(&described.bundles),
            },
            Refused::NoTokenVectors(bundles) => Error::NoTokenVectors {
                encoder: self.name.clone(),
                bundles: named(&bundles),
            },
        })
    }

    fn failed(&self, status: &Status) -> Error {
        Error::Encoder {
            encoder: self.name.clone(),
            kind: kind_of(status),
            message: status.message().to_owned(),
            pushback: pushback_of(status),
        }
    }

    /// The answer breaks the contract.
    fn malformed(&self, error: &FieldError) -> Error {
        self.internal(format!("gave an invalid answer: {error}"))
    }

    fn internal(&self, message: String) -> Error {
        Error::Encoder {
            encoder: self.name.clone(),
            kind: ErrorKind::Internal,
            message,
            pushback: None,
        }
    }
}

/// Why an encoder cannot be asked.
enum Refused {
    NotServed,
    /// These could be meant.
    NoTokenVectors(Vec<Bundle>),
}

fn chosen(served: &[Bundle], fingerprint: &str) -> Result<Bundle, Refused> {
    let is_meant = |bundle: &&Bundle| fingerprint.is_empty() || bundle.fingerprint == fingerprint;
    let meant: Vec<Bundle> = served.iter().filter(is_meant).cloned().collect();
    if meant.is_empty() && !fingerprint.is_empty() {
        return Err(Refused::NotServed);
    }
    let found = meant.iter().find(|bundle| bundle.token_dimensions > 0);
    found.cloned().ok_or(Refused::NoTokenVectors(meant))
}

fn named(bundles: &[Bundle]) -> String {
    let names: Vec<String> = bundles
        .iter()
        .map(|bundle| format!("{} ({})", bundle.fingerprint, bundle.name))
        .collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(" and "),
    }
}

impl TokenEncoder {
    pub(crate) fn fingerprint(&self) -> &str {
        &self.bundle.fingerprint
    }

    /// Components of a token vector.
    pub(crate) fn dimensions(&self) -> usize {
        self.bundle.token_dimensions as usize
    }

    /// Most texts of one call.
    pub(crate) fn most_texts(&self) -> usize {
        convert::most_encoded_texts(&self.bundle, true, MAX_MESSAGE_BYTES)
    }

    /// Encodes texts that are `first` and following ones of the request: an error says so.
    pub(crate) async fn encode(
        &self,
        texts: Vec<String>,
        role: Role,
        first: usize,
        deadline: Option<Deadline>,
    ) -> Result<Encoded, Error> {
        let asked = texts.len();
        let request = EncodeRequest {
            texts,
            task: match role {
                Role::Query => Task::Query.into(),
                Role::Passage => Task::Passage.into(),
            },
            with_token_vectors: true,
            expected_fingerprint: self.bundle.fingerprint.clone(),
        };
        let request = with_deadline(request, deadline, now());
        let answer = self.replica.client.clone().encode(request).await;
        let answer = answer.map_err(|status| self.refused(&status, role, first))?;
        self.read(answer.into_inner(), asked)
            .map_err(|error| self.replica.malformed(&error))
    }

    /// A text that the encoder refuses is the caller's, under the caller's name for it.
    fn refused(&self, status: &Status, role: Role, first: usize) -> Error {
        let failed = || self.replica.failed(status);
        if kind_of(status) != ErrorKind::InvalidArgument {
            return failed();
        }
        let text = fields_of(status)
            .into_iter()
            .find_map(|field| Some((place_of_text(&field.path)?, field.message)));
        match (text, role) {
            (Some((_, message)), Role::Query) => FieldError::new("query", message).into(),
            (Some((place, message)), Role::Passage) => {
                FieldError::new(format!("texts[{}]", first.saturating_add(place)), message).into()
            }
            // The request is of our making.
            (None, _) => self.replica.internal(status.message().to_owned()),
        }
    }

    fn read(&self, answer: EncodeResponse, asked: usize) -> Result<Encoded, FieldError> {
        if answer.fingerprint != self.bundle.fingerprint {
            let message = format!("is {}, not {}", answer.fingerprint, self.bundle.fingerprint);
            return Err(FieldError::new("fingerprint", message));
        }
        if answer.token_vectors.len() != asked {
            let message = format!(
                "has {} entries for {asked} texts",
                answer.token_vectors.len()
            );
            return Err(FieldError::new("token_vectors", message));
        }
        let numbered = answer.token_vectors.into_iter().enumerate();
        let vectors = |(place, vectors): (usize, TokenVectors)| {
            self.checked(vectors)
                .map_err(|error| error.inside(&format!("token_vectors[{place}]")))
        };
        let timing = answer.timing.unwrap_or_default();
        Ok(Encoded {
            texts: numbered.map(vectors).collect::<Result<_, _>>()?,
            truncated_texts: answer.truncated_texts,
            queue: Duration::from_micros(timing.queue_us),
            compute: Duration::from_micros(timing.compute_us),
        })
    }

    /// Whole vectors of the bundle's width. What is in them is seen when they are coded.
    fn checked(&self, vectors: TokenVectors) -> Result<Vec<f32>, FieldError> {
        let dimensions = self.dimensions();
        if vectors.dimensions as usize != dimensions {
            let message = format!("is {}, not {dimensions}", vectors.dimensions);
            return Err(FieldError::new("dimensions", message));
        }
        if !vectors.vectors.len().is_multiple_of(dimensions) {
            let message = format!(
                "has {} numbers for {dimensions} dimensions",
                vectors.vectors.len()
            );
            return Err(FieldError::new("vectors", message));
        }
        Ok(vectors.vectors)
    }

    /// Token vectors that cannot be coded.
    pub(crate) fn unusable(&self, text: usize, error: &dyn std::fmt::Display) -> Error {
        let field = FieldError::new(format!("token_vectors[{text}]"), error.to_string());
        self.replica.malformed(&field)
    }
}

/// The place that `texts[7]` names.
fn place_of_text(path: &str) -> Option<usize> {
    path.strip_prefix("texts[")?.split(']').next()?.parse().ok()
}
