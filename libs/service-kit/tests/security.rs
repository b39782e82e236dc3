//! Who gets through to a server over real connections: TLS, certificates that are replaced, names, keys.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Ready, ready};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use service_kit::access::Access;
use service_kit::tls::{ClientTls, ClientTlsConfig, ServerTls, ServerTlsConfig};
use service_kit::{Dialer, MeshChannel, Readiness, Security, ServerBuilder, ServerLimits};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service, ServiceExt};

/// Answers every call with OK.
#[derive(Clone)]
struct Yes;

impl NamedService for Yes {
    const NAME: &'static str = "test.Yes";
}

impl Service<http::Request<Body>> for Yes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: http::Request<Body>) -> Self::Future {
        ready(Ok(Status::ok("").into_http()))
    }
}

async fn serve(security: Security) -> SocketAddr {
    let mut builder = ServerBuilder::new(ServerLimits::default());
    builder.add(Yes, &Readiness::ready());
    let server = builder.build(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = server
        .unwrap()
        .serve_secured(listener, security, std::future::pending());
    tokio::spawn(served);
    address
}

async fn ask(channel: &MeshChannel, method: &str) -> Code {
    let request = http::Request::post(format!("/test.Yes/{method}"));
    let request = request.body(Body::empty()).unwrap();
    let Ok(response) = channel.clone().oneshot(request).await;
    Status::from_header_map(response.headers()).unwrap().code()
}

async fn probe(channel: &MeshChannel) -> Code {
    let request = HealthCheckRequest::default();
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// A CA, and a folder for what it signs.
struct Ca {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    fn certificate(&self) -> PathBuf {
        self.path("ca")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Certificate and key of the owner of these names.
    fn sign(&self, names: &[&str]) -> (PathBuf, PathBuf) {
        let files = (self.path(names[0]), self.path(&format!("{}.key", names[0])));
        self.sign_into(names, &files);
        files
    }

    fn sign_into(&self, names: &[&str], (certificate, key): &(PathBuf, PathBuf)) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let signed = params.signed_by(&pair, &self.issuer).unwrap();
        fs::write(certificate, signed.pem()).unwrap();
        fs::write(key, pair.serialize_pem()).unwrap();
    }
}

fn server_tls(own: &(PathBuf, PathBuf), client_ca: Option<&Ca>) -> Security {
    let config = ServerTlsConfig {
        certificate: own.0.clone(),
        key: own.1.clone(),
        client_ca: client_ca.map(Ca::certificate).unwrap_or_default(),
    };
    Security {
        tls: Some(ServerTls::load(&config).unwrap()),
        access: Access::default(),
    }
}

fn dialer(ca: &Ca, own: Option<&(PathBuf, PathBuf)>) -> Dialer {
    let (certificate, key) = own.cloned().unwrap_or_default();
    let config = ClientTlsConfig {
        ca: ca.certificate(),
        certificate,
        key,
    };
    Dialer::tls(ClientTls::load(&config).unwrap())
}

fn channel(dialer: &Dialer, address: SocketAddr) -> MeshChannel {
    dialer
        .channel(&format!("localhost:{}", address.port()))
        .unwrap()
}

#[tokio::test]
async fn a_peer_is_trusted_by_its_ca_and_its_name() {
    let (ca, other) = (Ca::new(), Ca::new());
    let address = serve(server_tls(&ca.sign(&["localhost"]), None)).await;
    assert_eq!(
        ask(&channel(&dialer(&ca, None), address), "A").await,
        Code::Ok
    );
    let untrusting = channel(&dialer(&other, None), address);
    assert_eq!(ask(&untrusting, "A").await, Code::Unavailable);
    let plain = channel(&Dialer::plaintext(), address);
    assert_eq!(ask(&plain, "A").await, Code::Unavailable);

    let elsewhere = serve(server_tls(&ca.sign(&["elsewhere"]), None)).await;
    let misled = channel(&dialer(&ca, None), elsewhere);
    assert_eq!(ask(&misled, "A").await, Code::Unavailable);
    let probe_tls = ClientTls::of_a_probe(&ClientTlsConfig::default()).unwrap();
    let probing = channel(&Dialer::tls(probe_tls), elsewhere);
    assert_eq!(probe(&probing).await, Code::Ok);
}

#[tokio::test]
async fn callers_without_a_certificate_of_the_ca_do_not_get_in() {
    let (ca, other) = (Ca::new(), Ca::new());
    let address = serve(server_tls(&ca.sign(&["localhost"]), Some(&ca))).await;
    let (known, stranger) = (ca.sign(&["caller"]), other.sign(&["caller"]));
    for (own, expected) in [
        (Some(&known), Code::Ok),
        (Some(&stranger), Code::Unavailable),
        (None, Code::Unavailable),
    ] {
        let channel = channel(&dialer(&ca, own), address);
        assert_eq!(ask(&channel, "A").await, expected);
        assert_eq!(probe(&channel).await, expected);
    }
}

#[tokio::test]
async fn who_may_call_what_is_a_matter_of_names() {
    let ca = Ca::new();
    let mut security = server_tls(&ca.sign(&["localhost"]), Some(&ca));
    let rules = [("test.Yes", "orchestrator"), ("test.Yes/Open", "other")];
    let rules = rules.map(|(rpc, name)| (rpc.to_owned(), [name.to_owned()].into()));
    security.access = Access::default().with_callers(BTreeMap::from(rules));
    let address = serve(security).await;
    for (names, a, open) in [
        (&["orchestrator"][..], Code::Ok, Code::PermissionDenied),
        (&["pod", "other"], Code::PermissionDenied, Code::Ok),
        (&["nobody"], Code::PermissionDenied, Code::PermissionDenied),
    ] {
        let channel = channel(&dialer(&ca, Some(&ca.sign(names))), address);
        let got = (ask(&channel, "A").await, ask(&channel, "Open").await);
        assert_eq!(got, (a, open), "{names:?}");
        assert_eq!(probe(&channel).await, Code::Ok);
    }
}

#[tokio::test]
async fn certificates_are_replaced_under_a_running_server() {
    let (ca, next) = (Ca::new(), Ca::new());
    let own = ca.sign(&["localhost"]);
    let address = serve(server_tls(&own, None)).await;
    let before = channel(&dialer(&ca, None), address);
    assert_eq!(ask(&before, "A").await, Code::Ok);
    next.sign_into(&["localhost"], &own);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::task::yield_now().await;
    tokio::time::resume();
    assert_eq!(
        ask(&channel(&dialer(&next, None), address), "A").await,
        Code::Ok
    );
    let old = channel(&dialer(&ca, None), address);
    assert_eq!(ask(&old, "A").await, Code::Unavailable);
    assert_eq!(ask(&before, "A").await, Code::Ok, "a connection stays");
}

#[tokio::test]
async fn who_says_nothing_holds_up_nobody() {
    let ca = Ca::new();
    let address = serve(server_tls(&ca.sign(&["localhost"]), None)).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    silent[0]
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(
        ask(&channel(&dialer(&ca, None), address), "A").await,
        Code::Ok
    );
}

#[tokio::test]
async fn a_key_has_to_be_shown_where_there_are_keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    fs::write(&file, "a-key-of-some-length\n\nanother-key-of-length \n").unwrap();
    let access = Access::default().with_api_keys(&file).unwrap();
    let address = serve(Security { tls: None, access }).await;
    let plain = Dialer::plaintext();
    let with = |key: &str| channel(&plain.clone().with_api_key(key).unwrap(), address);
    assert_eq!(ask(&with("a-key-of-some-length"), "A").await, Code::Ok);
    assert_eq!(ask(&with("another-key-of-length"), "A").await, Code::Ok);
    for wrong in ["", "a-key-of-some-lengt", "a-key-of-some-length2", "*"] {
        assert_eq!(
            ask(&with(wrong), "A").await,
            Code::Unauthenticated,
            "{wrong}"
        );
    }
    let without = channel(&plain, address);
    assert_eq!(ask(&without, "A").await, Code::Unauthenticated);
    assert_eq!(probe(&without).await, Code::Ok);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told() {
    let ca = Ca::new();
    let write = |name: &str, text: &str| {
        let path = ca.path(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (own, other) = (ca.sign(&["a"]), ca.sign(&["b"]));
    let empty = write("empty", "");
    let keys = |path: &Path| Access::default().with_api_keys(path).map(drop);
    let tls = |certificate: &Path, key: &Path| {
        let config = ServerTlsConfig {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            client_ca: PathBuf::new(),
        };
        ServerTls::load(&config).map(drop)
    };
    for (loaded, told) in [
        (keys(&ca.path("nowhere")), "nowhere: No such file"),
        (keys(&empty), "empty: holds no key"),
        (
            keys(&write("short", "x\n")),
            "short: line 1: a key has at least",
        ),
        (
            keys(&write("spaced", "a key with several words\n")),
            "spaced: line 1",
        ),
        (tls(&empty, &own.1), "empty: holds no certificate"),
        (tls(&own.0, &empty), "empty: no items found"),
        (tls(&own.0, &other.1), "b.key: keys may not be consistent"),
    ] {
        let error = loaded.unwrap_err().to_string();
        assert!(error.contains(told), "{error} has no {told}");
    }
}
