//! What is counted arrives at a real OTLP receiver, at the latest when the process ends, and Prometheus gets it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};

use load_metrics::{Counts, Dropped, InFlight, Refused};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, metric, number_data_point};
use search_core::Criticality;
use service_kit::{Telemetry, TelemetryConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Request, Response, Status};

/// Passes on what it gets.
struct Receiver(Sender<Metric>);

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let resources = request.into_inner().resource_metrics.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_metrics);
        for metric in scopes.flat_map(|scope| scope.metrics) {
            self.0.send(metric).unwrap();
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// Labels as `key=value`, in order, and the sum.
fn point(point: &NumberDataPoint) -> (Vec<String>, i64) {
    let labels = point.attributes.iter().map(|label| {
        let value = label.value.clone().unwrap().value;
        match value {
            Some(Value::StringValue(text)) => format!("{}={text}", label.key),
            other => panic!("{} is {other:?}", label.key),
        }
    });
    let mut labels: Vec<String> = labels.collect();
    labels.sort();
    let Some(number_data_point::Value::AsInt(sum)) = point.value else {
        panic!("{point:?}")
    };
    (labels, sum)
}

fn points(metrics: &[Metric], name: &str) -> Vec<(Vec<String>, i64)> {
    let metric = metrics.iter().rfind(|metric| metric.name == name).unwrap();
    let Some(metric::Data::Sum(sum)) = &metric.data else {
        panic!("{metric:?}")
    };
    sum.data_points.iter().map(point).collect()
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// What Prometheus gets.
async fn scrape(address: SocketAddr) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_arrive_when_the_process_ends() {
    let (sender, received) = channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder()
        .add_service(MetricsServiceServer::new(Receiver(sender)));
    let served = tokio::spawn(server.serve_with_incoming(incoming));
    let prometheus = free_address();
    let config = TelemetryConfig {
        prometheus_address: Some(prometheus.to_string()),
        otlp_endpoint: Some(format!("http://{address}")),
        ..TelemetryConfig::default()
    };
    let telemetry = Telemetry::start("test", &config).unwrap();

    let counts = Counts::of("dense");
    counts.refused(Refused::Deadline, Criticality::Sheddable);
    counts.refused(Refused::Deadline, Criticality::Sheddable);
    counts.dropped(Dropped::Cancelled, 3);
    let waited = std::time::Duration::from_millis(3);
    counts.waited(waited, Some(4 * waited));
    InFlight::begin("test.v1.Service/Method").end("OK");
    let _in_flight = InFlight::begin("test.v1.Service/Other");
    let text = scrape(prometheus).await;
    for line in [
        "finemesh_calls_refused_total{criticality=\"sheddable\",place=\"dense\",reason=\"deadline\"} 2",
        "finemesh_queue_budget_share_bucket{place=\"dense\",le=\"0.3\"} 1",
        "finemesh_queue_budget_share_bucket{place=\"dense\",le=\"0.2\"} 0",
        "finemesh_calls_duration_seconds_count{rpc=\"test.v1.Service/Method\",status=\"OK\"} 1",
        "finemesh_calls_in_flight{rpc=\"test.v1.Service/Method\"} 0",
        "finemesh_calls_in_flight{rpc=\"test.v1.Service/Other\"} 1",
    ] {
        assert!(
            text.lines().any(|told| told == line),
            "{line} is not in\n{text}"
        );
    }
    tokio::task::spawn_blocking(|| telemetry.shutdown())
        .await
        .unwrap();
    served.abort();

    let metrics: Vec<Metric> = received.try_iter().collect();
    let labels = |labels: &[&str]| labels.iter().map(ToString::to_string).collect::<Vec<_>>();
    let refused = labels(&["criticality=sheddable", "place=dense", "reason=deadline"]);
    assert_eq!(points(&metrics, "finemesh.calls.refused"), [(refused, 2)]);
    let dropped = labels(&["place=dense", "reason=cancelled"]);
    assert_eq!(points(&metrics, "finemesh.work.dropped"), [(dropped, 3)]);
    let queue = "finemesh.queue.duration";
    assert!(
        metrics
            .iter()
            .any(|metric| metric.name == queue && metric.unit == "s")
    );
}
