//! One hop, client to server, in paused time: deadlines, overload, criticality, panics, readiness, drain.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame};
use search_core::{Criticality, Deadline, ErrorKind};
use service_kit::status::{fields_of, kind_of};
use service_kit::{MeshChannel, Readiness, Server, ServerBuilder, ServerLimits, in_process};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service, ServiceExt};

/// Does what the method's name says.
#[derive(Clone, Default)]
struct Scripted {
    /// Handlers that run now.
    running: Arc<AtomicUsize>,
    started: Arc<Notify>,
    finish: Arc<Notify>,
    /// Asked by `Relay`.
    peer: Arc<OnceLock<MeshChannel>>,
}

impl NamedService for Scripted {
    const NAME: &'static str = "test.Scripted";
}

/// Counts down when the handler ends or is dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    async fn answer(self, request: http::Request<Body>) -> Body {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(Arc::clone(&self.running));
        self.started.notify_one();
        match request.uri().path().rsplit('/').next() {
            Some("Wait") => self.finish.notified().await,
            Some("Panic") => panic!("as the test asked for"),
            Some("Criticality") => return text(service_kit::criticality::current().as_str()),
            Some("Relay") => {
                let (_, said) = call(self.peer.get().unwrap(), "Criticality", None).await;
                return text(&said);
            }
            Some("Stream") => return Body::new(Endless),
            Some("Deadline") => {
                let deadline = request.extensions().get::<Deadline>().copied();
                let left = deadline.map(|deadline| deadline.instant() - Instant::now().into_std());
                return text(&format!("{left:?}"));
            }
            _ => {}
        }
        Body::empty()
    }
}

impl Service<http::Request<Body>> for Scripted {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(http::Response::new(this.answer(request).await)) })
    }
}

/// A response that has begun and does not end.
struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Pending
    }
}

fn text(text: &str) -> Body {
    Body::new(OnlyData(Some(text.to_owned().into())))
}

struct OnlyData(Option<Bytes>);

impl http_body::Body for OnlyData {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }
}

struct Hop {
    scripted: Scripted,
    readiness: Readiness,
    channel: MeshChannel,
    shutdown: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

fn server(limits: ServerLimits, scripted: &Scripted, readiness: &Readiness) -> Server {
    let mut builder = ServerBuilder::new(limits);
    builder.add(scripted.clone(), readiness);
    builder
        .build(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .unwrap()
}

fn hop(limits: ServerLimits) -> Hop {
    let scripted = Scripted::default();
    let readiness = Readiness::ready();
    let server = server(limits, &scripted, &readiness);
    let (listener, channel) = in_process("scripted");
    let (shutdown, signal) = oneshot::channel();
    let served = tokio::spawn(async move {
        let signal = async { signal.await.unwrap_or_default() };
        server.serve_in_process(listener, signal).await.unwrap();
    });
    Hop {
        scripted,
        readiness,
        channel,
        shutdown: Some(shutdown),
        served,
    }
}

/// The status and the data of the answer.
async fn call(channel: &MeshChannel, method: &str, timeout: Option<&str>) -> (Status, String) {
    let timeout = timeout.map(|timeout| ("grpc-timeout", timeout));
    call_with(channel, method, timeout).await
}

async fn call_with(
    channel: &MeshChannel,
    method: &str,
    header: Option<(&str, &str)>,
) -> (Status, String) {
    let mut request = http::Request::post(format!("/test.Scripted/{method}"));
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request.body(Body::empty()).unwrap();
    let Ok(response) = channel.clone().oneshot(request).await;
    read(response).await
}

async fn read(response: http::Response<Body>) -> (Status, String) {
    let mut status = Status::from_header_map(response.headers());
    let mut data = String::new();
    let mut body = response.into_body();
    while let Some(frame) =
        std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await
    {
        match frame {
            Err(error) => return (error, data),
            Ok(frame) => {
                status = frame
                    .trailers_ref()
                    .and_then(Status::from_header_map)
                    .or(status);
                let bytes = frame.into_data().unwrap_or_default();
                data.push_str(std::str::from_utf8(&bytes).unwrap());
            }
        }
    }
    (status.unwrap_or_else(|| Status::ok("")), data)
}

async fn is_serving(channel: &MeshChannel, service: &str) -> bool {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.unwrap().into_inner().status == 1
}

#[tokio::test(start_paused = true)]
async fn a_late_handler_is_dropped_at_the_deadline() {
    let hop = hop(ServerLimits::default());
    let start = Instant::now();
    let (status, _) = call(&hop.channel, "Wait", Some("100m")).await;
    assert_eq!(kind_of(&status), ErrorKind::DeadlineExceeded);
    let waited = start.elapsed();
    assert!(
        (Duration::from_millis(99)..=Duration::from_millis(101)).contains(&waited),
        "{waited:?}"
    );
    assert_eq!(hop.scripted.running.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_has_begun_ends_at_the_deadline() {
    let hop = hop(ServerLimits::default());
    let start = Instant::now();
    let (status, _) = call(&hop.channel, "Stream", Some("2S")).await;
    assert_eq!(kind_of(&status), ErrorKind::DeadlineExceeded);
    assert!(start.elapsed() <= Duration::from_millis(2001));
}

#[tokio::test(start_paused = true)]
async fn the_handler_sees_the_deadline() {
    let hop = hop(ServerLimits::default());
    let (_, left) = call(&hop.channel, "Deadline", Some("5S")).await;
    assert_eq!(left, "Some(4.999s)");
    let (_, left) = call(&hop.channel, "Deadline", None).await;
    assert_eq!(left, "None");
    let (_, left) = call(&hop.channel, "Deadline", Some("99999999H")).await;
    assert!(left.starts_with("Some("), "{left}");
}

#[tokio::test(start_paused = true)]
async fn no_time_left_is_refused_before_the_handler_runs() {
    let hop = hop(ServerLimits::default());
    let (status, _) = call(&hop.channel, "Wait", Some("0n")).await;
    assert_eq!(kind_of(&status), ErrorKind::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_is_none_is_refused_by_name() {
    let hop = hop(ServerLimits::default());
    for hostile in ["-1S", "forever", "100000000S", "1"] {
        let (status, _) = call(&hop.channel, "Now", Some(hostile)).await;
        assert_eq!(kind_of(&status), ErrorKind::InvalidArgument, "{hostile}");
        assert_eq!(fields_of(&status)[0].path, "grpc-timeout");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_one_callers_internal_error() {
    let hop = hop(ServerLimits::default());
    let (status, _) = call(&hop.channel, "Panic", None).await;
    assert_eq!(kind_of(&status), ErrorKind::Internal);
    assert!(!status.message().contains("as the test asked for"));
    let (status, _) = call(&hop.channel, "Now", None).await;
    assert_eq!(status.code(), tonic::Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn calls_above_the_limit_are_refused_and_probes_are_not() {
    let limits = ServerLimits {
        calls: 1,
        ..ServerLimits::default()
    };
    let hop = hop(limits);
    let channel = hop.channel.clone();
    let first = tokio::spawn(async move { call(&channel, "Wait", None).await });
    hop.scripted.started.notified().await;
    let (status, _) = call(&hop.channel, "Now", None).await;
    assert_eq!(kind_of(&status), ErrorKind::ResourceExhausted);
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert!(pushback.to_str().unwrap().parse::<u32>().unwrap() > 0);
    assert!(is_serving(&hop.channel, "").await);
    assert!(is_serving(&hop.channel, "test.Scripted").await);
    // Not counted either: it would have taken the place of a call.
    let (described, _) = call(&hop.channel, "Describe", None).await;
    assert_eq!(described.code(), tonic::Code::Ok);
    hop.scripted.finish.notify_one();
    assert_eq!(first.await.unwrap().0.code(), tonic::Code::Ok);
    let (status, _) = call(&hop.channel, "Now", None).await;
    assert_eq!(status.code(), tonic::Code::Ok);
}

fn critical(word: &str) -> Option<(&str, &str)> {
    Some(("finemesh-criticality", word))
}

#[tokio::test(start_paused = true)]
async fn a_sheddable_call_leaves_room_for_critical_ones() {
    let limits = ServerLimits {
        calls: 4,
        ..ServerLimits::default()
    };
    let hop = hop(limits);
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let channel = hop.channel.clone();
            tokio::spawn(async move { call(&channel, "Wait", None).await })
        })
        .collect();
    while hop.scripted.running.load(Ordering::SeqCst) < 3 {
        tokio::task::yield_now().await;
    }
    let ask = |word| call_with(&hop.channel, "Now", critical(word));
    let (refused, _) = ask("sheddable").await;
    assert_eq!(kind_of(&refused), ErrorKind::ResourceExhausted);
    let (answered, _) = ask("critical").await;
    assert_eq!(answered.code(), tonic::Code::Ok);
    for _ in &waiting {
        hop.scripted.finish.notify_one();
        tokio::task::yield_now().await;
    }
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn criticality_goes_with_a_call_over_every_hop() {
    let (first, second) = (hop(ServerLimits::default()), hop(ServerLimits::default()));
    first.scripted.peer.set(second.channel.clone()).unwrap();
    for word in ["critical", "sheddable"] {
        let (_, said) = call_with(&first.channel, "Criticality", critical(word)).await;
        assert_eq!(said, word);
        let (_, relayed) = call_with(&first.channel, "Relay", critical(word)).await;
        assert_eq!(relayed, word);
    }
    let (_, silent) = call(&first.channel, "Relay", None).await;
    assert_eq!(silent, "critical");
    let sheddable = call(&first.channel, "Relay", None);
    let sheddable = service_kit::criticality::scope(Criticality::Sheddable, sheddable);
    assert_eq!(sheddable.await.1, "sheddable");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_criticality_is_refused_by_name() {
    let hop = hop(ServerLimits::default());
    for hostile in ["", "Critical", "most"] {
        let (status, _) = call_with(&hop.channel, "Now", critical(hostile)).await;
        assert_eq!(kind_of(&status), ErrorKind::InvalidArgument, "{hostile}");
        assert_eq!(fields_of(&status)[0].path, "finemesh-criticality");
    }
}

#[tokio::test(start_paused = true)]
async fn health_follows_readiness() {
    let hop = hop(ServerLimits::default());
    assert!(is_serving(&hop.channel, "test.Scripted").await);
    for ready in [false, true, false] {
        hop.readiness.set(ready);
        while is_serving(&hop.channel, "test.Scripted").await != ready {}
        assert_eq!(is_serving(&hop.channel, "").await, ready);
    }
    let waiting = hop.readiness.clone();
    let woken = tokio::spawn(async move { waiting.wait().await });
    hop.readiness.set(true);
    woken.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_calls_finish_and_takes_no_more() {
    let mut hop = hop(ServerLimits::default());
    let channel = hop.channel.clone();
    let last = tokio::spawn(async move { call(&channel, "Wait", None).await });
    hop.scripted.started.notified().await;
    hop.shutdown.take().unwrap().send(()).unwrap();
    // Refused as soon as the listener is gone; until then a connection may still be half open.
    let refused = async {
        while kind_of(&call(&hop.channel, "Now", None).await.0) != ErrorKind::Unavailable {}
    };
    refused.await;
    assert!(!hop.served.is_finished());
    hop.scripted.finish.notify_one();
    assert_eq!(last.await.unwrap().0.code(), tonic::Code::Ok);
    hop.served.await.unwrap();
}

/// And does not hold up the drain.
#[tokio::test(start_paused = true)]
async fn who_watches_health_is_told_of_the_drain() {
    let mut hop = hop(ServerLimits::default());
    let channel = hop.channel.clone();
    let last = tokio::spawn(async move { call(&channel, "Wait", None).await });
    hop.scripted.started.notified().await;
    let request = HealthCheckRequest::default();
    let watch = HealthClient::new(hop.channel.clone()).watch(request).await;
    let mut watch = watch.unwrap().into_inner();
    let serving = watch.message().await.unwrap().unwrap();
    assert_eq!(serving.status(), ServingStatus::Serving);
    let start = Instant::now();
    hop.shutdown.take().unwrap().send(()).unwrap();
    let draining = watch.message().await.unwrap().unwrap();
    assert_eq!(draining.status(), ServingStatus::NotServing);
    let end = watch.message().await.unwrap_err();
    assert_eq!(kind_of(&end), ErrorKind::Unavailable, "{end}");
    hop.scripted.finish.notify_one();
    assert_eq!(last.await.unwrap().0.code(), tonic::Code::Ok);
    hop.served.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_has_an_end() {
    let limits = ServerLimits::default();
    let mut hop = hop(limits);
    let channel = hop.channel.clone();
    let last = tokio::spawn(async move { call(&channel, "Wait", None).await });
    hop.scripted.started.notified().await;
    let start = Instant::now();
    hop.shutdown.take().unwrap().send(()).unwrap();
    hop.served.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), limits.drain.as_secs());
    assert_eq!(kind_of(&last.await.unwrap().0), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_killed_server_is_unavailable() {
    let hop = hop(ServerLimits::default());
    let channel = hop.channel.clone();
    let last = tokio::spawn(async move { call(&channel, "Wait", None).await });
    hop.scripted.started.notified().await;
    hop.served.abort();
    assert_eq!(kind_of(&last.await.unwrap().0), ErrorKind::Unavailable);
    let (status, _) = call(&hop.channel, "Now", None).await;
    assert_eq!(kind_of(&status), ErrorKind::Unavailable);
    assert!(
        status.message().contains("scripted"),
        "{}",
        status.message()
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_in_the_middle_of_an_answer_is_unavailable() {
    let hop = hop(ServerLimits::default());
    let request = http::Request::post("/test.Scripted/Stream").body(Body::empty());
    let Ok(begun) = hop.channel.clone().oneshot(request.unwrap()).await;
    hop.served.abort();
    let (status, _) = read(begun).await;
    assert_eq!(kind_of(&status), ErrorKind::Unavailable, "{status:?}");
}

#[tokio::test]
async fn the_same_over_tcp() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let scripted = Scripted::default();
    let server = server(ServerLimits::default(), &scripted, &Readiness::ready());
    let served = tokio::spawn(server.serve(listener, std::future::pending()));
    let channel = MeshChannel::tcp(&address).unwrap();
    let (status, _) = call(&channel, "Now", None).await;
    assert_eq!(status.code(), tonic::Code::Ok);
    let (status, _) = call(&channel, "Wait", Some("20m")).await;
    assert_eq!(kind_of(&status), ErrorKind::DeadlineExceeded);
    assert!(is_serving(&channel, "test.Scripted").await);
    served.abort();
    let _ = served.await;
    let (status, _) = call(&channel, "Now", None).await;
    assert_eq!(kind_of(&status), ErrorKind::Unavailable);
    assert!(status.message().contains(&address), "{}", status.message());
}
