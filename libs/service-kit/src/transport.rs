//! What bytes travel over: TCP with Nagle's algorithm off, with TLS or without, or a pipe inside the process; all can be cut.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::unfold;
use futures::{Stream, StreamExt, future};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::client::MeshChannel;
use crate::tls::{ServerTls, names_of};

/// Bytes in flight in one direction of an in-process connection: a whole answer of a thousand hits fits.
const PIPE_BYTES: usize = 256 * 1024;
/// Connections of an in-process listener that wait to be accepted.
const BACKLOG: usize = 64;
/// A caller's part of a handshake is two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way; more connections wait to be accepted. Some kilobytes each.
const MAX_HANDSHAKES: usize = 4096;
/// Rest after a failed accept (no file handles left, say), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Accepts the connections of one in-process address.
#[derive(Debug)]
pub struct InProcessListener {
    connections: mpsc::Receiver<DuplexStream>,
}

/// A listener inside this process and a channel to it. Calls fail with UNAVAILABLE once the listener is gone.
#[must_use]
pub fn in_process(name: &str) -> (InProcessListener, MeshChannel) {
    let (sender, connections) = mpsc::channel(BACKLOG);
    let connect = tower::service_fn(move |_| connect(sender.clone()));
    (
        InProcessListener { connections },
        MeshChannel::in_process(name, connect),
    )
}

async fn connect(listener: mpsc::Sender<DuplexStream>) -> io::Result<TokioIo<DuplexStream>> {
    let (here, there) = duplex(PIPE_BYTES);
    let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "nothing listens");
    listener.send(there).await.map_err(gone)?;
    Ok(TokioIo::new(here))
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    names: Arc<[String]>,
}

impl Caller {
    /// By the certificate that it has shown.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    fn of<T>(connection: &TlsStream<T>) -> Self {
        let (_, session) = connection.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        Self {
            names: shown.map(names_of).unwrap_or_default().into(),
        }
    }
}

/// A connection, and who has made it.
pub(crate) type Accepted<T> = (T, Caller);

/// The connections of an in-process listener.
pub(crate) fn pipes(
    listener: InProcessListener,
) -> impl Stream<Item = io::Result<Accepted<DuplexStream>>> {
    unfold(listener, async |mut listener| {
        let connection = listener.connections.recv().await?;
        Some((Ok((connection, Caller::default())), listener))
    })
}

/// The connections of a TCP listener.
pub(crate) fn sockets(
    listener: TcpListener,
) -> impl Stream<Item = io::Result<Accepted<TcpStream>>> {
    accepted(listener).map(|socket| socket.map(|socket| (socket, Caller::default())))
}

/// The same, where callers speak TLS. One that does not, or takes too long to, is let go, and holds up nobody: handshakes run beside the
/// accepting, and beside each other.
pub(crate) fn secured_sockets(
    listener: TcpListener,
    tls: ServerTls,
) -> impl Stream<Item = io::Result<Accepted<TlsStream<TcpStream>>>> {
    let handshakes = accepted(listener).map(move |socket| {
        let acceptor = tls.acceptor();
        async move {
            match socket {
                Ok(socket) => tokio::spawn(handshake(acceptor, socket))
                    .await
                    .ok()?
                    .map(Ok),
                Err(error) => Some(Err(error)),
            }
        }
    });
    handshakes
        .buffer_unordered(MAX_HANDSHAKES)
        .filter_map(future::ready)
}

async fn handshake(
    acceptor: TlsAcceptor,
    socket: TcpStream,
) -> Option<Accepted<TlsStream<TcpStream>>> {
    let peer = socket.peer_addr().ok();
    let accepted = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await;
    match accepted.unwrap_or_else(|late| Err(late.into())) {
        Ok(connection) => {
            let caller = Caller::of(&connection);
            Some((connection, caller))
        }
        Err(error) => {
            tracing::info!(?peer, %error, "a connection did not get to TLS");
            None
        }
    }
}

fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    unfold(listener, async |listener| {
        let accepted = accept(&listener).await;
        if let Err(error) = &accepted {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_RETRY).await;
        }
        Some((accepted, listener))
    })
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _peer): (TcpStream, SocketAddr) = listener.accept().await?;
    // tonic leaves accepted streams of a foreign listener as they are; with Nagle's algorithm an answer of more than
    // one packet waits for the peer's delayed acknowledgement: 44 ms instead of 0.2.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that breaks when it is told to.
pub(crate) struct Cuttable<T> {
    io: T,
    caller: Caller,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<T> Cuttable<T> {
    pub(crate) fn new((io, caller): Accepted<T>, cut: CancellationToken) -> Self {
        Self {
            io,
            caller,
            cut: Box::pin(cut.cancelled_owned()),
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<T> Connected for Cuttable<T> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Cuttable<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cuttable<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
