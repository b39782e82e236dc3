//! One span per call on each side of a hop, joined by W3C trace context in the request's headers.
//!
//! Attributes follow OpenTelemetry's conventions for RPC. A span lasts until its response has ended, and ends as cancelled
//! unless a status was seen.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::{Code, Status};
use tower::Service;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::around::{HttpRequest, HttpResponse};
use crate::guarded::{Guard, guarded};

/// Whether this is a probe: asked every few seconds by whoever runs the process, and of no interest in a trace.
fn is_probe(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.")
}

/// Server side: a span under the caller's.
pub(crate) async fn serve<S>(request: HttpRequest, mut rest: S) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    if is_probe(request.uri().path()) {
        return rest.call(request).await;
    }
    let (service, method) = split(request.uri().path());
    let span = tracing::info_span!(
        "serve",
        otel.kind = "server",
        otel.name = format!("{service}/{method}"),
        otel.status_code = Empty,
        otel.status_description = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
    );
    let caller = TraceContextPropagator::new().extract(&Headers(request.headers()));
    // Fails where nothing records spans; then there is nothing to join.
    let _ = span.set_parent(caller);
    observe(Side::Server, span, request, rest).await
}

/// Client side: a span under the current one, whose context the request carries.
pub(crate) async fn call<S>(mut request: HttpRequest, rest: S) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    let path = request.uri().path().to_owned();
    let (service, method) = split(&path);
    let span = tracing::info_span!(
        "call",
        otel.kind = "client",
        otel.name = format!("{service}/{method}"),
        otel.status_code = Empty,
        otel.status_description = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
    );
    let mut headers = HeadersMut(request.headers_mut());
    TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
    observe(Side::Client, span, request, rest).await
}

/// Runs the call inside the span and lets the span last as long as the response.
async fn observe<S>(
    side: Side,
    span: Span,
    request: HttpRequest,
    mut rest: S,
) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    let mut outcome = Outcome::new(side, span.clone());
    let response = rest.call(request).instrument(span).await?;
    outcome.trailers(response.headers());
    Ok(response.map(|body| guarded(body, outcome)))
}

/// `/package.Service/Method`
fn split(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').unwrap_or((path, ""))
}

#[derive(Clone, Copy)]
enum Side {
    Server,
    Client,
}

/// How a call ended, written to its span once.
struct Outcome {
    side: Side,
    span: Span,
    settled: bool,
}

impl Outcome {
    fn new(side: Side, span: Span) -> Self {
        Self {
            side,
            span,
            settled: false,
        }
    }

    fn settle(&mut self, code: Code, message: &str) {
        self.settled = true;
        self.span
            .record("rpc.grpc.status_code", i64::from(code as i32));
        if is_error(self.side, code) {
            self.span.record("otel.status_code", "ERROR");
            self.span.record("otel.status_description", message);
        }
    }
}

impl Guard for Outcome {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(trailers) {
            self.settle(status.code(), status.message());
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(Code::Cancelled, "abandoned before it was answered");
        }
    }
}

/// By OpenTelemetry's conventions the caller's faults are no errors of the server.
fn is_error(side: Side, code: Code) -> bool {
    match side {
        Side::Client => code != Code::Ok,
        Side::Server => matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ),
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes());
        let value = HeaderValue::from_str(&value);
        // A foreign trace state that is no header value is left out; the trace goes on without it.
        if let (Ok(name), Ok(value)) = (name, value) {
            self.0.insert(name, value);
        }
    }
}
