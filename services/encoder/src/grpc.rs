//! The contract `finemesh.encoder.v1`: requests are checked, texts encoded, vectors packed.

use std::sync::Arc;

use inference::{EncoderInfo, Task};
use search_core::FieldError;
use search_proto::convert;
use search_proto::encoder::encoder_service_server::{EncoderService, EncoderServiceServer};
use search_proto::encoder::{
    self as wire, DescribeRequest, DescribeResponse, EncodeRequest, EncodeResponse, TextTokens,
    TokenVectors, TokenizeRequest, TokenizeResponse,
};
use service_kit::status::with_pushback;
use service_kit::{MAX_MESSAGE_BYTES, ServerBuilder, deadline_of};
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::app::{self, App, Bundle, Encodings};
use crate::error::Error;

/// Most bytes of one text: many times what a model reads.
const MAX_TEXT_BYTES: usize = 64 * 1024;

impl App {
    /// Adds the service to a server.
    pub fn add_to(self: &Arc<Self>, server: &mut ServerBuilder) {
        let service = EncoderServiceServer::from_arc(Arc::clone(self))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        server.add(service, self.readiness());
    }

    async fn answer_encode(
        &self,
        request: Request<EncodeRequest>,
    ) -> Result<EncodeResponse, Error> {
        let deadline = deadline_of(&request);
        let request = request.into_inner();
        let bundle = self.bundle(&request.expected_fingerprint)?;
        let task = task_from_wire(request.task)?;
        check_texts(&request.texts, request.with_token_vectors, bundle.info())?;
        let span = tracing::info_span!(
            "encode texts",
            bundle = bundle.info().name,
            texts = request.texts.len(),
            cached_texts = tracing::field::Empty,
            truncated_texts = tracing::field::Empty,
            tokens = tracing::field::Empty,
            queue_us = tracing::field::Empty,
            compute_us = tracing::field::Empty,
        );
        let (texts, with_token_vectors) = (request.texts, request.with_token_vectors);
        let encode = bundle.encode(app::Request {
            texts,
            task,
            with_token_vectors,
            deadline,
        });
        let encodings = encode.instrument(span.clone()).await?;
        let answer = answer_to_wire(encodings, bundle.info(), with_token_vectors);
        record(&span, &answer);
        Ok(answer)
    }

    async fn answer_tokenize(&self, request: TokenizeRequest) -> Result<TokenizeResponse, Error> {
        let bundle = self.bundle(&request.expected_fingerprint)?;
        let task = task_from_wire(request.task)?;
        let info = bundle.info();
        if info.token_dimensions == 0 {
            return Err(without_token_vectors("expected_fingerprint", info).into());
        }
        check_texts(&request.texts, false, info)?;
        let texts = bundle.tokens(request.texts, task).await?;
        Ok(TokenizeResponse {
            texts: texts
                .into_iter()
                .map(|tokens| TextTokens { tokens })
                .collect(),
            fingerprint: info.fingerprint.clone(),
        })
    }
}

#[tonic::async_trait]
impl EncoderService for App {
    async fn encode(
        &self,
        request: Request<EncodeRequest>,
    ) -> Result<Response<EncodeResponse>, Status> {
        self.answer_encode(request)
            .await
            .map(Response::new)
            .map_err(|error| status(&error))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        self.answer_tokenize(request.into_inner())
            .await
            .map(Response::new)
            .map_err(|error| status(&error))
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let bundles = self.bundles().map(Bundle::info).map(bundle_to_wire);
        Ok(Response::new(described(bundles.collect())))
    }
}

/// The first bundle is described twice: callers that know of one only read the outer fields.
fn described(bundles: Vec<wire::Bundle>) -> DescribeResponse {
    let first = bundles.first().cloned().unwrap_or_default();
    DescribeResponse {
        name: first.name,
        fingerprint: first.fingerprint,
        dimensions: first.dimensions,
        token_dimensions: first.token_dimensions,
        max_tokens: first.max_tokens,
        matryoshka_dimensions: first.matryoshka_dimensions,
        bundles,
    }
}

fn bundle_to_wire(info: &EncoderInfo) -> wire::Bundle {
    let widths = info.matryoshka_dimensions.iter();
    wire::Bundle {
        name: info.name.clone(),
        fingerprint: info.fingerprint.clone(),
        dimensions: info.dimensions as u32,
        token_dimensions: info.token_dimensions as u32,
        max_tokens: info.max_tokens as u32,
        matryoshka_dimensions: widths.map(|&width| width as u32).collect(),
    }
}

fn status(error: &Error) -> Status {
    if let Error::Encode(cause @ inference::EncodeError::Model(source)) = error {
        tracing::error!(error = %cause, cause = %source, "encoding failed");
    }
    let status = service_kit::status::status(error.kind(), error, error.fields());
    with_pushback(status, error.pushback())
}

fn task_from_wire(task: i32) -> Result<Task, FieldError> {
    match wire::Task::try_from(task) {
        Ok(wire::Task::Query) => Ok(Task::Query),
        Ok(wire::Task::Passage) => Ok(Task::Passage),
        Ok(wire::Task::Unspecified) | Err(_) => Err(convert::unknown_number("task", task)),
    }
}

fn check_texts(
    texts: &[String],
    with_token_vectors: bool,
    info: &EncoderInfo,
) -> Result<(), FieldError> {
    if with_token_vectors && info.token_dimensions == 0 {
        return Err(without_token_vectors("with_token_vectors", info));
    }
    let most =
        convert::most_encoded_texts(&bundle_to_wire(info), with_token_vectors, MAX_MESSAGE_BYTES);
    convert::check_texts(texts, most, MAX_TEXT_BYTES)
        .map_err(|error| explained(error, with_token_vectors))
}

fn without_token_vectors(field: &str, info: &EncoderInfo) -> FieldError {
    FieldError::new(field, format!("bundle {} has no token vectors", info.name))
}

/// Says why fewer texts than usual are taken.
fn explained(error: FieldError, with_token_vectors: bool) -> FieldError {
    match error.path == "texts" && with_token_vectors {
        true => FieldError::new(
            "texts",
            format!("{} where token vectors are wanted", error.message),
        ),
        false => error,
    }
}

fn answer_to_wire(
    encodings: Encodings,
    info: &EncoderInfo,
    with_token_vectors: bool,
) -> EncodeResponse {
    let mut vectors = Vec::with_capacity(encodings.texts.len() * info.dimensions);
    encodings
        .texts
        .iter()
        .for_each(|text| vectors.extend_from_slice(&text.vector));
    let token_vectors = encodings
        .texts
        .iter()
        .filter(|_| with_token_vectors)
        .map(|text| TokenVectors {
            dimensions: info.token_dimensions as u32,
            vectors: text.token_vectors.clone().unwrap_or_default(),
        });
    EncodeResponse {
        dimensions: info.dimensions as u32,
        vectors,
        token_vectors: token_vectors.collect(),
        fingerprint: info.fingerprint.clone(),
        tokens: encodings.texts.iter().map(|text| text.tokens).collect(),
        truncated_texts: encodings.truncated_texts,
        cached_texts: encodings.cached_texts,
        timing: Some(convert::timing_to_wire(encodings.queue, encodings.compute)),
    }
}

fn record(span: &tracing::Span, answer: &EncodeResponse) {
    span.record("cached_texts", answer.cached_texts);
    span.record("truncated_texts", answer.truncated_texts);
    span.record("tokens", answer.tokens.iter().sum::<u32>());
    let timing = answer.timing.unwrap_or_default();
    span.record("queue_us", timing.queue_us);
    span.record("compute_us", timing.compute_us);
}
