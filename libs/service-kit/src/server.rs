//! A gRPC server: services with their readiness, health and reflection, behind one chain of layers; served over a
//! listener that is handed in, and drained within a bound.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use futures::{Stream, StreamExt};
use http::Request;
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::Server as TonicServer;
use tonic_health::server::HealthReporter;
use tower::Service;

use crate::access::Access;
use crate::around::around;
use crate::health::{Health, Watched, end_watch};
use crate::overload::Overload;
use crate::readiness::Readiness;
use crate::rpcs::Rpcs;
use crate::tls::ServerTls;
use crate::transport::{Accepted, Cuttable, InProcessListener, pipes, secured_sockets, sockets};
use crate::{criticality, deadline, malformed, panics, trace};

/// Largest message, in either direction. A thousand hits with their texts are 2 MiB, 65,536 addresses 0.5 MiB.
/// Every generated server and client is given it as its decoding and encoding limit.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Streams of one connection; a peer opens another connection for more.
const STREAMS_PER_CONNECTION: u32 = 1024;
/// A dead peer is noticed after interval + timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// See [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a server may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Unary calls in flight, at most, and as many that stream; more are refused with RESOURCE_EXHAUSTED. Of unary calls fewer are taken
    /// while answers take a multiple of their usual time.
    pub calls: usize,
    /// How long calls may go on after the shutdown signal; then their connections are cut.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            calls: 1024,
            // Less than the 30 s after which containers are killed.
            drain: Duration::from_secs(20),
        }
    }
}

/// Who can connect to a server, and what it asks of its callers. By default: anyone, for anything, without TLS.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// None: plaintext.
    pub tls: Option<ServerTls>,
    /// Who may call what.
    pub access: Access,
}

/// Why a server could not be built or went down.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The descriptor set for reflection is not one.
    #[error("the descriptor set for reflection is invalid")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("serving failed")]
    Transport(#[source] tonic::transport::Error),
}

/// Collects services; see [`Server`].
#[derive(Debug)]
pub struct ServerBuilder {
    limits: ServerLimits,
    routes: Routes,
    watched: Vec<Watched>,
}

impl ServerBuilder {
    /// No services yet.
    #[must_use]
    pub fn new(limits: ServerLimits) -> Self {
        Self {
            limits,
            routes: Routes::default(),
            watched: Vec::new(),
        }
    }

    /// Adds a generated server. `readiness` is what the health service says of it.
    ///
    /// Message sizes are the generated server's: give it `max_decoding_message_size` and `max_encoding_message_size` of
    /// [`MAX_MESSAGE_BYTES`].
    pub fn add<S>(&mut self, service: S, readiness: &Readiness) -> &mut Self
    where
        S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let routes = std::mem::take(&mut self.routes);
        self.routes = routes.add_service(service);
        self.watched.push(Watched::new(S::NAME, readiness));
        self
    }

    /// Adds health and reflection over `descriptor_set`.
    ///
    /// # Errors
    /// When the descriptor set cannot be read.
    pub fn build(self, descriptor_set: &[u8]) -> Result<Server, ServerError> {
        let descriptors = FileDescriptorSet::decode(descriptor_set)
            .map_err(|error| ServerError::Reflection(error.into()))?;
        let reporter = HealthReporter::new();
        let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptor_set)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(ServerError::Reflection)?;
        let routes = self
            .routes
            .add_service(tonic_health::pb::health_server::HealthServer::new(health))
            .add_service(reflection);
        Ok(Server {
            limits: self.limits,
            routes: routes.prepare(),
            rpcs: Rpcs::new(&descriptors),
            overload: Overload::new(self.limits.calls, &descriptors),
            health: Health::new(reporter, self.watched),
        })
    }
}

/// A server that is ready to listen. Clones share services, limits and health, and may listen at several places.
#[derive(Debug, Clone)]
pub struct Server {
    limits: ServerLimits,
    routes: Routes,
    rpcs: Rpcs,
    overload: Overload,
    health: Health,
}

impl Server {
    /// Serves TCP connections until `shutdown`, then drains. Dropping the future cuts all connections.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        self.serve_secured(listener, Security::default(), shutdown)
            .await
    }

    /// The same to those who may call.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve_secured(
        self,
        listener: TcpListener,
        security: Security,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let Security { tls, access } = security;
        match tls {
            Some(tls) => {
                let connections = secured_sockets(listener, tls);
                self.serve_streams(connections, access, shutdown).await
            }
            None => {
                let connections = sockets(listener);
                self.serve_streams(connections, access, shutdown).await
            }
        }
    }

    /// Serves in-process connections, as [`Server::serve`] does: the callers are parts of this process.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve_in_process(
        self,
        listener: InProcessListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        self.serve_streams(pipes(listener), Access::default(), shutdown)
            .await
    }

    async fn serve_streams<T>(
        self,
        connections: impl Stream<Item = io::Result<Accepted<T>>>,
        access: Access,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.health.update().await;
        let health = self.health.clone();
        let limits = self.limits;
        let draining = CancellationToken::new();
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();

        let signal = async {
            shutdown.await;
            // Before the last call is answered: whoever probes stops sending more.
            health.stop().await;
            draining.cancel();
        };
        let cuttable = connections.map(|io| io.map(|io| Cuttable::new(io, cut.clone())));
        let served = self.transport(cuttable, access, draining.clone(), signal);
        let bound = async {
            draining.cancelled().await;
            tokio::time::sleep(limits.drain).await;
        };
        tokio::pin!(served);
        tokio::select! {
            result = &mut served => return result,
            () = health.follow(&draining) => unreachable!("health is followed for ever"),
            () = bound => tracing::warn!(?limits.drain, "calls still in flight are cut"),
        }
        cut.cancel();
        served.await
    }

    /// The layers, outermost first.
    async fn transport<T>(
        self,
        connections: impl Stream<Item = io::Result<Cuttable<T>>>,
        access: Access,
        draining: CancellationToken,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (rpcs, overload) = (self.rpcs, self.overload);
        TonicServer::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            // A caller whose deadline passes resets its streams, many at once where many queries share a connection. By
            // default 20 of them are taken for an attack and cost everyone the connection.
            .http2_max_pending_accept_reset_streams(Some(STREAMS_PER_CONNECTION as usize))
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            // Outermost: a call that is refused, late or panics has a span like any other.
            .layer(around(trace::serve))
            // Refusals too.
            .layer(around(move |request, rest| {
                rpcs.clone().count(request, rest)
            }))
            // Before whoever may not call takes a place of those who may.
            .layer(around(move |request, rest| {
                access.clone().obey(request, rest)
            }))
            // All that is done for a call is as critical as it says; the limits ask for it first.
            .layer(around(criticality::serve))
            // Before anything is spent on the call.
            .layer(around(move |request, rest| {
                overload.clone().refuse_above(request, rest)
            }))
            // Whoever watches the health of a server that drains is told, and let go: it would hold the drain up to its bound.
            .layer(around(move |request, rest| {
                end_watch(draining.clone(), request, rest)
            }))
            // Above the handler, whose future it drops; below the refusals, which take no time.
            .layer(around(deadline::obey))
            // The layers above see it as the refusal that it is.
            .layer(around(malformed::refuse))
            // Innermost: the layers above see a panic as an answer.
            .layer(around(panics::catch))
            .serve_with_incoming_shutdown(self.routes, connections, shutdown)
            .await
            .map_err(ServerError::Transport)
    }
}
