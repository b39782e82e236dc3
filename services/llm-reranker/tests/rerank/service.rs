//! The service over a scripted endpoint, and its client.

use std::sync::Arc;
use std::time::Duration;

use llm_reranker::{App, Config, RawConfig};
use search_core::Deadline;
use search_proto::rerank::reranker_service_client::RerankerServiceClient;
use search_proto::rerank::{RerankRequest, RerankResponse};
use service_kit::status::fields_of;
use service_kit::{
    MAX_MESSAGE_BYTES, MeshChannel, Problems, ServerBuilder, ServerLimits, with_deadline,
};
use tonic::{Code, Status, Streaming};

use crate::endpoint::Endpoint;

pub(crate) struct Service {
    pub(crate) app: Arc<App>,
    pub(crate) client: RerankerServiceClient<MeshChannel>,
}

/// A configuration for an endpoint that is anywhere.
pub(crate) fn raw() -> RawConfig {
    RawConfig {
        endpoint: "http://llm.example/v1".into(),
        model: "some-model".into(),
        ..RawConfig::default()
    }
}

pub(crate) fn checked(raw: RawConfig) -> Config {
    let mut problems = Problems::default();
    let config = raw.validate("llm_reranker", &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    config
}

impl Service {
    pub(crate) fn start(endpoint: &Endpoint, raw: RawConfig) -> Self {
        Self::over(App::start_over(checked(raw), endpoint.connector()).unwrap())
    }

    pub(crate) fn over(app: Arc<App>) -> Self {
        let mut builder = ServerBuilder::new(ServerLimits::default());
        app.add_to(&mut builder);
        let server = builder.build(search_proto::FILE_DESCRIPTOR_SET).unwrap();
        let (listener, channel) = service_kit::in_process("llm-reranker");
        tokio::spawn(server.serve_in_process(listener, std::future::pending()));
        let client = RerankerServiceClient::new(channel)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { app, client }
    }

    pub(crate) async fn rerank(
        &mut self,
        request: RerankRequest,
    ) -> Result<RerankResponse, Status> {
        Ok(self.client.rerank(request).await?.into_inner())
    }

    pub(crate) async fn rerank_within(
        &mut self,
        time: Duration,
        request: RerankRequest,
    ) -> Result<RerankResponse, Status> {
        Ok(self
            .client
            .rerank(within(time, request))
            .await?
            .into_inner())
    }

    pub(crate) async fn stream_within(
        &mut self,
        time: Duration,
        request: RerankRequest,
    ) -> Result<Streaming<RerankResponse>, Status> {
        Ok(self
            .client
            .rerank_stream(within(time, request))
            .await?
            .into_inner())
    }

    /// The code, and the paths of the fields that are wrong.
    pub(crate) async fn refused(&mut self, request: RerankRequest) -> (Code, String) {
        let status = self.rerank(request).await.unwrap_err();
        let paths: Vec<String> = fields_of(&status)
            .into_iter()
            .map(|field| field.path)
            .collect();
        (status.code(), paths.join(","))
    }
}

fn within(time: Duration, request: RerankRequest) -> tonic::Request<RerankRequest> {
    let now = service_kit::now();
    with_deadline(request, Deadline::after(now, time), now)
}

/// All messages until the end.
pub(crate) async fn all(
    mut stream: Streaming<RerankResponse>,
) -> (Vec<RerankResponse>, Option<Status>) {
    let mut messages = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, None),
            Err(status) => return (messages, Some(status)),
        }
    }
}

/// Passages that are worth so much.
pub(crate) fn request(worths: &[i64]) -> RerankRequest {
    RerankRequest {
        query: "a query".into(),
        passages: worths
            .iter()
            .map(|worth| format!("passage worth {worth}"))
            .collect(),
        ..RerankRequest::default()
    }
}

/// When to try again, as the status says.
pub(crate) fn pushback_ms(status: &Status) -> Option<u64> {
    let value = status.metadata().get("grpc-retry-pushback-ms")?;
    Some(value.to_str().unwrap().parse().unwrap())
}
