//! Queries are private: what a log and a trace may show of them. Alone in its process, since other threads without a subscriber
//! would decide whether spans are recorded.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(dead_code, reason = "the scripted peers can more than is needed here")]

#[path = "funnel/fakes.rs"]
mod fakes;

use fakes::{Mesh, request, small};
use search_proto::search;
use tonic::Code;

/// Where the log of a test goes.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_query_is_in_no_span_and_no_log_above_debug() {
    use tracing_subscriber::fmt::format::FmtSpan;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_span_events(FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
    let mesh = Mesh::start(small()).await;
    let secret = || search::SearchRequest {
        query: "zanzibar".to_owned(),
        ..request("hybrid")
    };
    mesh.ask(secret()).await.unwrap();
    mesh.change(|script| {
        script.failures = vec![
            ("encode", None, Code::Unavailable),
            ("sparse.score", None, Code::Internal),
        ]
    });
    mesh.ask(secret()).await.unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for span in ["search", "encode", "retrieve", "complete", "fuse", "fetch"] {
        assert!(text.contains(span), "{span}");
    }
    assert!(!text.contains("zanzibar"));
}
