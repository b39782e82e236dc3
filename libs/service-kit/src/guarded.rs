//! Response bodies that do something until they end: an answer is over when its last frame is, not when its head is.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// Watches a response to its end. Dropped when the response is over or abandoned.
pub(crate) trait Guard: Send + Unpin + 'static {
    /// Asked before each frame: a status here ends the response with it.
    fn interrupt(&mut self, _context: &mut Context<'_>) -> Poll<Status> {
        Poll::Pending
    }

    /// Sees the trailers.
    fn trailers(&mut self, _trailers: &HeaderMap) {}
}

/// Holds `guard` until `body` has ended.
pub(crate) fn guarded<G: Guard>(body: Body, guard: G) -> Body {
    Body::new(GuardedBody {
        body,
        guard: Some(guard),
    })
}

struct GuardedBody<G> {
    body: Body,
    /// Gone when the body has ended.
    guard: Option<G>,
}

impl<G: Guard> GuardedBody<G> {
    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        let mut trailers = HeaderMap::new();
        if let Err(error) = status.add_header(&mut trailers) {
            tracing::error!(%error, "a status could not be written as trailers");
        }
        if let Some(mut guard) = self.guard.take() {
            guard.trailers(&trailers);
        }
        self.body = Body::empty();
        Frame::trailers(trailers)
    }

    fn see(&mut self, next: &Option<Result<Frame<Bytes>, Status>>) {
        match (next, &mut self.guard) {
            (None | Some(Err(_)), guard) => *guard = None,
            (Some(Ok(frame)), Some(guard)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    guard.trailers(trailers);
                }
            }
            (Some(Ok(_)), None) => {}
        }
    }
}

impl<G: Guard> http_body::Body for GuardedBody<G> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(guard) = &mut self.guard
            && let Poll::Ready(status) = guard.interrupt(context)
        {
            return Poll::Ready(Some(Ok(self.end(&status))));
        }
        let next = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        self.see(&next);
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends a response when a future is done.
pub(crate) struct EndWith<F>(pub(crate) Pin<Box<F>>);

impl<F: Future<Output = Status> + Send + 'static> Guard for EndWith<F> {
    fn interrupt(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        self.0.as_mut().poll(context)
    }
}
