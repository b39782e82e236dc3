//! Channels to peers: connected when first used, over TCP with TLS or without, or inside the process, with trace context and deadline on
//! each call.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderValue;
use http::header::{AUTHORIZATION, InvalidHeaderValue};
use hyper_util::rt::TokioIo;
use search_core::{Deadline, ErrorKind};
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::around::{HttpRequest, HttpResponse, around};
use crate::status::status;
use crate::tls::{ClientTls, server_name};
use crate::{criticality, deadline, trace};

/// A peer in the same cluster answers a connect in a millisecond; one that has not in this time is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A dead peer (no reset, no answer) is noticed after interval + timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// See [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel to one peer, for every generated client. Clones share the connection.
///
/// Whatever goes wrong on the way is a status: UNAVAILABLE where the peer cannot be reached, DEADLINE_EXCEEDED where the
/// request's timeout passes. Generated clients need `max_decoding_message_size(`[`crate::MAX_MESSAGE_BYTES`]`)`.
#[derive(Clone)]
pub struct MeshChannel {
    name: Arc<str>,
    service: BoxCloneSyncService<HttpRequest, HttpResponse, Infallible>,
}

/// An address that no channel can be made for.
#[derive(Debug, thiserror::Error)]
#[error("`{address}` is no address; expected host:port")]
pub struct InvalidAddress {
    address: String,
    #[source]
    cause: Option<tonic::transport::Error>,
}

impl InvalidAddress {
    pub(crate) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            cause: None,
        }
    }
}

/// Makes channels, all with TLS or none.
#[derive(Debug, Clone)]
pub struct Dialer {
    tls: Option<ClientTls>,
    authorization: Option<HeaderValue>,
}

impl Dialer {
    /// Channels without TLS.
    #[must_use]
    pub const fn plaintext() -> Self {
        Self {
            tls: None,
            authorization: None,
        }
    }

    /// Channels with TLS: a peer's certificate has to be for the host of its address.
    #[must_use]
    pub const fn tls(tls: ClientTls) -> Self {
        Self {
            tls: Some(tls),
            authorization: None,
        }
    }

    /// Channels on which each call shows this key.
    ///
    /// # Errors
    /// Where it is no header's value.
    pub fn with_api_key(self, key: &str) -> Result<Self, InvalidHeaderValue> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {key}"))?;
        authorization.set_sensitive(true);
        Ok(Self {
            authorization: Some(authorization),
            ..self
        })
    }

    /// A channel over TCP to `host:port` (or `http://host:port`). Connects when first used, and again after a failure. Must be called
    /// inside the runtime.
    ///
    /// # Errors
    /// [`InvalidAddress`] when it is not of that form.
    pub fn channel(&self, address: &str) -> Result<MeshChannel, InvalidAddress> {
        let endpoint = endpoint(address)?;
        let host = endpoint.uri().host().unwrap_or_default().to_owned();
        Ok(self.over(address, endpoint, &host))
    }

    /// The same to one of the addresses that a host has.
    pub(crate) fn channel_at(&self, address: SocketAddr, host: &str) -> MeshChannel {
        let endpoint = endpoint(&address.to_string()).expect("a socket address is host and port");
        // By both: another host's certificate may come to the same address.
        self.over(&format!("{address} ({host})"), endpoint, host)
    }

    fn over(&self, name: &str, endpoint: Endpoint, host: &str) -> MeshChannel {
        let endpoint = endpoint
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = match &self.tls {
            None => endpoint.connect_lazy(),
            Some(tls) => {
                let (tls, host) = (tls.clone(), host.to_owned());
                let connect = move |uri| connect_securely(uri, tls.clone(), host.clone());
                endpoint.connect_with_connector_lazy(tower::service_fn(connect))
            }
        };
        MeshChannel::over(name, channel, self.authorization.clone())
    }
}

async fn connect_securely(
    uri: Uri,
    tls: ClientTls,
    host: String,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let address = uri.authority().map_or("", |authority| authority.as_str());
    let name = server_name(&host).map_err(io::Error::other)?;
    let connect = async {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        tls.connector().connect(name, socket).await
    };
    // A peer may take the connection and say nothing.
    Ok(TokioIo::new(timeout(CONNECT_TIMEOUT, connect).await??))
}

impl MeshChannel {
    /// A channel without TLS, as [`Dialer::channel`] makes it.
    ///
    /// # Errors
    /// As there.
    pub fn tcp(address: &str) -> Result<Self, InvalidAddress> {
        Dialer::plaintext().channel(address)
    }

    /// A channel whose connections `connect` makes.
    pub(crate) fn in_process<C, F>(name: &str, connect: C) -> Self
    where
        C: Service<Uri, Response = TokioIo<DuplexStream>, Error = io::Error, Future = F>,
        C: Send + 'static,
        F: Future<Output = Result<TokioIo<DuplexStream>, io::Error>> + Send + 'static,
    {
        let endpoint = Endpoint::from_static("http://in-process");
        Self::over(name, endpoint.connect_with_connector_lazy(connect), None)
    }

    fn over(name: &str, channel: Channel, authorization: Option<HeaderValue>) -> Self {
        let name: Arc<str> = name.into();
        let peer = Peer {
            name: Arc::clone(&name),
            channel,
            authorization,
        };
        let service = ServiceBuilder::new()
            // Outermost: the span covers the wait for a connection too, and records what the deadline layer answers.
            .layer(around(trace::call))
            // In the caller's task, which knows for whom the call is made.
            .layer(around(criticality::call))
            // Around the transport, which knows no deadline inside a process and calls it CANCELLED over TCP.
            .layer(around(deadline::keep))
            .service(peer);
        Self {
            name,
            service: BoxCloneSyncService::new(service),
        }
    }

    /// The address, or the name of an in-process peer.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for MeshChannel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "MeshChannel({})", self.name)
    }
}

impl Service<HttpRequest> for MeshChannel {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        self.service.call(request)
    }
}

/// Lets the call carry what is left until `deadline`; nothing left is sent as zero, and refused before the wire.
#[must_use]
pub fn with_deadline<T>(message: T, deadline: Option<Deadline>, now: Instant) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline.remaining(now).unwrap_or_default());
    }
    request
}

/// Whether a channel can be made for the address, for the check of a configuration.
///
/// # Errors
/// [`InvalidAddress`] when it is not of the form `host:port`.
pub fn check_address(address: &str) -> Result<(), InvalidAddress> {
    endpoint(address).map(drop)
}

fn endpoint(address: &str) -> Result<Endpoint, InvalidAddress> {
    let invalid = |cause| InvalidAddress {
        address: address.to_owned(),
        cause,
    };
    let authority = address.strip_prefix("http://").unwrap_or(address);
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|cause| invalid(Some(cause)))?;
    let uri = endpoint.uri();
    let has_host_and_port =
        uri.port_u16().is_some() && uri.host().is_some_and(|host| !host.is_empty());
    if has_host_and_port && matches!(uri.path(), "" | "/") {
        Ok(endpoint)
    } else {
        Err(invalid(None))
    }
}

/// The transport itself, whose failures become statuses here.
#[derive(Clone)]
struct Peer {
    name: Arc<str>,
    channel: Channel,
    authorization: Option<HeaderValue>,
}

impl Service<HttpRequest> for Peer {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The wait for the connection belongs to the call, where its span and its deadline are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: HttpRequest) -> Self::Future {
        let name = Arc::clone(&self.name);
        if let Some(authorization) = &self.authorization {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let answer = self.channel.clone().oneshot(request);
        answer
            .map(move |answer| Ok(answer.unwrap_or_else(|error| broken(&name, &error))))
            .boxed()
    }
}

fn broken(peer: &str, error: &tonic::transport::Error) -> HttpResponse {
    let causes = chain(error);
    let timed_out = causes
        .iter()
        .any(|cause| cause.is::<tonic::TimeoutExpired>());
    let kind = if timed_out {
        ErrorKind::DeadlineExceeded
    } else {
        ErrorKind::Unavailable
    };
    let reasons: Vec<String> = causes.iter().map(ToString::to_string).collect();
    let message = format!("{peer}: {}", reasons.join(": "));
    status(kind, &message, Vec::new()).into_http()
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_host_and_port_make_an_address() {
        for valid in [
            "localhost:1",
            "127.0.0.1:7700",
            "[::1]:7700",
            "http://encoder:7700",
        ] {
            assert_eq!(MeshChannel::tcp(valid).unwrap().name(), valid);
        }
        for invalid in [
            "",
            "localhost",
            ":7700",
            "host:99999",
            "https://host:1",
            "a b:1",
            "host:1/path",
        ] {
            let error = MeshChannel::tcp(invalid).unwrap_err();
            assert!(
                error.to_string().contains("expected host:port"),
                "{invalid}"
            );
        }
    }

    #[test]
    fn what_is_left_is_what_the_call_may_take() {
        let now = Instant::now();
        let timeout = |left: Option<Duration>| {
            let deadline = left.map(|left| Deadline::new(now + left));
            let request = with_deadline((), deadline, now);
            let text = request.metadata().get("grpc-timeout")?.to_str();
            Some(deadline::parse_timeout(text.unwrap()).unwrap())
        };
        assert_eq!(timeout(None), None);
        assert_eq!(timeout(Some(Duration::ZERO)), Some(Duration::ZERO));
        let two_seconds = Duration::from_secs(2);
        assert_eq!(timeout(Some(two_seconds)), Some(two_seconds));
    }
}
