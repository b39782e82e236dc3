//! Logs to stderr; spans and metrics to an OTLP receiver, and metrics for Prometheus, where they are configured.

mod prometheus;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
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
use crate::telemetry::prometheus::Endpoint;

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
    /// IP address and port where Prometheus asks for metrics, at `/metrics`. Unset: nowhere.
    pub prometheus_address: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            otlp_endpoint: None,
            prometheus_address: None,
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
        if let Some(address) = &self.prometheus_address {
            let valid = address.parse::<SocketAddr>().is_ok();
            problems.require(valid, format!("{path}.prometheus_address"), || {
                format!("{address:?} is not an IP address and port")
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
    /// Nobody can ask for metrics there.
    #[error("telemetry.prometheus_address: cannot listen on {address}")]
    Listen {
        /// As configured.
        address: String,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// Metrics cannot be collected.
    #[error("the metrics for Prometheus could not be started")]
    Collect(#[from] OTelSdkError),
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
        let export = Export::start(service, config)?;
        let log = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_filter(EnvFilter::try_new(&config.log)?);
        let tracer = export.as_ref().and_then(Export::tracer);
        let spans = tracer.map(|tracer| {
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
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

/// What leaves the process, on a runtime of its own: the last batch can be sent, and metrics be asked for, while the service's runtime is
/// blocked or gone.
#[derive(Debug)]
struct Export {
    spans: Option<SdkTracerProvider>,
    metrics: SdkMeterProvider,
    runtime: Runtime,
}

impl Export {
    /// None where nothing is to leave.
    fn start(service: &str, config: &TelemetryConfig) -> Result<Option<Self>, TelemetryError> {
        let otlp = config.otlp_endpoint.as_deref();
        let endpoint = config.prometheus_address.as_deref().map(listen);
        let endpoint = endpoint.transpose()?;
        if otlp.is_none() && endpoint.is_none() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            .enable_all()
            .build()?;
        let resource = resource(service);
        let inside = runtime.enter();
        let spans = otlp.map(|receiver| spans_to(receiver, resource.clone()));
        let mut metrics = SdkMeterProvider::builder().with_resource(resource);
        if let Some(receiver) = otlp {
            metrics = metrics.with_reader(metrics_to(receiver)?);
        }
        if let Some(endpoint) = endpoint {
            metrics = metrics.with_reader(endpoint.reader()?);
            runtime.spawn(endpoint.serve());
        }
        drop(inside);
        let metrics = metrics.build();
        opentelemetry::global::set_meter_provider(metrics.clone());
        Ok(Some(Self {
            spans: spans.transpose()?,
            metrics,
            runtime,
        }))
    }

    fn tracer(&self) -> Option<SdkTracer> {
        let spans = self.spans.as_ref();
        spans.map(|spans| spans.tracer("finemesh"))
    }

    fn stop(self) {
        if let Some(spans) = self.spans {
            warn_unsent("spans", spans.shutdown_with_timeout(EXPORT_TIMEOUT));
        }
        warn_unsent(
            "metrics",
            self.metrics.shutdown_with_timeout(EXPORT_TIMEOUT),
        );
        // A runtime may not be dropped where async code runs; this may.
        self.runtime.shutdown_background();
    }
}

fn listen(address: &str) -> Result<Endpoint, TelemetryError> {
    let bound = address.parse().map_err(io::Error::other);
    bound
        .and_then(Endpoint::bind)
        .map_err(|cause| TelemetryError::Listen {
            address: address.to_owned(),
            cause,
        })
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

fn metrics_to(endpoint: &str) -> Result<PeriodicReader<MetricExporter>, ExporterBuildError> {
    let exporter = MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let reader = PeriodicReader::builder(exporter);
    Ok(reader.with_interval(METRICS_INTERVAL).build())
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
