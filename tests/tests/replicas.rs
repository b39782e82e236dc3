//! Replicas that die while queries are answered: no query fails, and few calls are made more than once.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{SdkMeterProvider, Temporality};
use search_proto::search::{SearchRequest, SearchResponse};
use testkit::corpus::animals;
use testkit::{Mesh, MeshOptions, request};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;

/// Callers that ask one query after the other.
const CALLERS: usize = 4;
const QUERIES_OF_CALLER: usize = 30;
/// Extra calls that a service may be sent before any are earned.
const INITIAL_EXTRA: u64 = 10;

/// Calls by service and kind.
type Calls = BTreeMap<(String, String), u64>;

/// Keeps what the counter of calls said last.
#[derive(Clone, Debug, Default)]
struct LastCalls(Arc<Mutex<Calls>>);

impl PushMetricExporter for LastCalls {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let scopes = metrics.scope_metrics();
        let mut metrics = scopes.flat_map(|scope| scope.metrics());
        if let Some(metric) = metrics.find(|metric| metric.name() == "orchestrator.calls") {
            *self.0.lock().unwrap() = calls_of(metric);
        }
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

fn calls_of(metric: &Metric) -> Calls {
    let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else {
        panic!("{metric:?} is no counter");
    };
    let points = sum.data_points().map(|point| {
        let labels: BTreeMap<&str, String> = point
            .attributes()
            .map(|label| (label.key.as_str(), label.value.to_string()))
            .collect();
        let key = (labels["service"].clone(), labels["kind"].clone());
        (key, point.value())
    });
    points.collect()
}

fn hybrid() -> SearchRequest {
    SearchRequest {
        pipeline: "hybrid".to_owned(),
        k: Some(1000),
        ..request("the cat")
    }
}

/// Asks from several callers at once, and tells after each answer.
fn ask_at_once(
    mesh: &Mesh,
    answered: &watch::Sender<usize>,
) -> JoinSet<Result<Vec<SearchResponse>, Status>> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut client, answered) = (mesh.search_client(), answered.clone());
        callers.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..QUERIES_OF_CALLER {
                answers.push(client.search(hybrid()).await?.into_inner());
                answered.send_modify(|count| *count += 1);
            }
            Ok(answers)
        });
    }
    callers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_each_retriever_dies_under_queries_and_none_fails() {
    let last_calls = LastCalls::default();
    let provider = SdkMeterProvider::builder()
        .with_periodic_exporter(last_calls.clone())
        .build();
    opentelemetry::global::set_meter_provider(provider.clone());
    let options = MeshOptions {
        shards: 2,
        replicas: vec![Vec::new(), Vec::new()],
        ..MeshOptions::default()
    };
    let mut mesh = Mesh::start_with(options, &animals()).await.unwrap();
    let before = mesh.ask(hybrid()).await.unwrap();

    let answered = watch::Sender::new(0);
    let callers = ask_at_once(&mesh, &answered);
    let quarter = CALLERS * QUERIES_OF_CALLER / 4;
    let mut answers = answered.subscribe();
    answers.wait_for(|count| *count >= quarter).await.unwrap();
    mesh.sparse[0].kill().await;
    answers
        .wait_for(|count| *count >= 2 * quarter)
        .await
        .unwrap();
    mesh.dense[1].kill().await;
    for answers in callers.join_all().await {
        for answer in answers.unwrap() {
            assert_eq!(answer.hits, before.hits);
            assert!(!answer.degraded, "{:#?}", answer.stages);
        }
    }

    provider.force_flush().unwrap();
    let calls = last_calls.0.lock().unwrap().clone();
    for service in ["sparse-retriever", "dense-retriever"] {
        let of_kind = |kind: &str| calls.get(&(service.to_owned(), kind.to_owned()));
        let first = *of_kind("first").unwrap();
        let extra = of_kind("hedge").unwrap_or(&0) + of_kind("retry").unwrap_or(&0);
        assert!(first >= 240, "{service}: {calls:?}");
        assert!(extra <= first / 10 + INITIAL_EXTRA, "{service}: {calls:?}");
    }
}
