//! Metrics for Prometheus: its text format over HTTP, at `/metrics`.

use std::io;
use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::error::OTelSdkError;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};

/// Where metrics are asked for.
pub(super) struct Endpoint {
    registry: Registry,
    listener: TcpListener,
}

impl Endpoint {
    /// Binds at once, so that a taken port is told at the start.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            registry: Registry::new(),
            listener,
        })
    }

    /// What collects the metrics that are asked for here.
    pub(super) fn reader(&self) -> Result<PrometheusExporter, OTelSdkError> {
        opentelemetry_prometheus::exporter()
            .with_registry(self.registry.clone())
            .scope_info_enabled(false)
            .build()
    }

    /// Answers until it is dropped.
    pub(super) async fn serve(self) {
        let served = async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let router = Router::new().route("/metrics", get(metrics));
            axum::serve(listener, router.with_state(self.registry)).await
        };
        if let Err(error) = served.await {
            tracing::error!(%error, "metrics are no longer served");
        }
    }
}

async fn metrics(State(registry): State<Registry>) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
