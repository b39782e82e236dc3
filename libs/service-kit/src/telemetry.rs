//! Logs to stderr, and spans and metrics to an OTLP receiver where one is configured.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::Problems;

/// Spans leave at least this often.
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Metrics leave this often: sums, of which none is missed.
const METRICS_INTERVAL: Duration = Duration::from_secs(10);
/// A receiver that has not taken a batch in this time does not get it; also the longest wait for it at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Section `telemetry` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// What is logged: a level, or directives as in `info,tantivy=warn`.
    pub log: String,
    /// Where spans and metrics are sent by OTLP over gRPC, as in `http://collector:4317`. Unset: nowhere.
    pub otlp_endpoint: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            otlp_endpoint: None,
        }
    }
}

impl TelemetryConfig {
    /// Adds what is wrong with it.
    pub fn check(&self, path: &str, problems: &mut Problems) {
        if let Err(error) = EnvFilter::try_new(&self.log) {
            problems.add(format!("{path}.log"), error);
        }
        if let Some(endpoint) = &self.otlp_endpoint {
            let valid = endpoint.parse::<http::Uri>().is_ok_and(|uri| {
                uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
            });
            problems.require(valid, format!("{path}.otlp_endpoint"), || {
                format!("`{endpoint}` is not of the form http://host:port")
            });
        }
    }
}

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directives of `log` cannot be read.
    #[error("the log directives are invalid")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    /// No thread for the exporter.
    #[error("the exporter's thread could not be started")]
    Runtime(#[from] io::Error),
    /// The exporter cannot be built.
    #[error("the OTLP exporter could not be built")]
    Exporter(#[from] ExporterBuildError),
    /// Something in this process logs already.
    #[error("telemetry was started before")]
    Started(#[from] TryInitError),
}

/// Sends what is left when it is dropped: keep it until the process ends.
#[derive(Debug)]
#[must_use = "dropping it stops the export of spans and metrics"]
pub struct Telemetry {
    export: Option<Export>,
}

impl Telemetry {
    /// Starts logging, and exporting spans and metrics of `service` where `config` says so. Once per process, before anything is counted.
    ///
    /// # Errors
    /// See [`TelemetryError`].
    pub fn start(service: &str, config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let export = match &config.otlp_endpoint {
            Some(endpoint) => Some(Export::to(endpoint, service)?),
            None => None,
        };
        let log = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_filter(EnvFilter::try_new(&config.log)?);
        let spans = export.as_ref().map(|export| {
            tracing_opentelemetry::layer()
                .with_tracer(export.tracer())
                // Spans of the mesh are at this level; those of the transport below it would trace the export itself.
                .with_filter(LevelFilter::INFO)
        });
        tracing_subscriber::registry()
            .with(log)
            .with(spans)
            .try_init()?;
        Ok(Self { export })
    }

    /// Sends what is left and stops. Blocks for a few seconds at most.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(export) = self.export.take() {
            export.stop();
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The exporters on a runtime of their own: the last batch can be sent while the service's runtime is blocked or gone.
#[derive(Debug)]
struct Export {
    spans: SdkTracerProvider,
    metrics: SdkMeterProvider,
    runtime: Runtime,
}

impl Export {
    fn to(endpoint: &str, service: &str) -> Result<Self, TelemetryError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp-export")
            .enable_all()
            .build()?;
        let resource = resource(service);
        let inside = runtime.enter();
        let spans = spans_to(endpoint, resource.clone())?;
        let metrics = metrics_to(endpoint, resource)?;
        drop(inside);
        opentelemetry::global::set_meter_provider(metrics.clone());
        Ok(Self {
            spans,
            metrics,
            runtime,
        })
    }

    fn tracer(&self) -> SdkTracer {
        self.spans.tracer("finemesh")
    }

    fn stop(self) {
        warn_unsent("spans", self.spans.shutdown_with_timeout(EXPORT_TIMEOUT));
        warn_unsent(
            "metrics",
            self.metrics.shutdown_with_timeout(EXPORT_TIMEOUT),
        );
        // A runtime may not be dropped where async code runs; this may.
        self.runtime.shutdown_background();
    }
}

fn warn_unsent(what: &str, sent: OTelSdkResult) {
    if let Err(error) = sent {
        tracing::warn!(%error, "the last {what} could not be sent");
    }
}

fn spans_to(endpoint: &str, resource: Resource) -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let batches = BatchConfigBuilder::default()
        .with_scheduled_delay(EXPORT_INTERVAL)
        .build();
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(batches)
        .build();
    let provider = SdkTracerProvider::builder().with_span_processor(processor);
    Ok(provider.with_resource(resource).build())
}

fn metrics_to(endpoint: &str, resource: Resource) -> Result<SdkMeterProvider, ExporterBuildError> {
    let exporter = MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let reader = PeriodicReader::builder(exporter)
        .with_interval(METRICS_INTERVAL)
        .build();
    let provider = SdkMeterProvider::builder().with_reader(reader);
    Ok(provider.with_resource(resource).build())
}

/// Who sends: the service, and which of its processes.
fn resource(service: &str) -> Resource {
    let instance = RandomState::new().hash_one(std::process::id());
    Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new(
            "service.instance.id",
            format!("{instance:016x}"),
        ))
        .with_attribute(KeyValue::new("service.namespace", "finemesh"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}
