//! A tower layer from one async function of the request and the rest of the chain, so that each layer is read as it runs.

use std::future::Future;
use std::mem;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::body::Body;
use tower::{Layer, Service};

/// A gRPC request as a layer sees it.
pub(crate) type HttpRequest = http::Request<Body>;
/// A gRPC response as a layer sees it.
pub(crate) type HttpResponse = http::Response<Body>;

/// Wraps a service in an async function `(request, rest of the chain) -> response`.
pub(crate) fn around<F>(wrap: F) -> AroundLayer<F> {
    AroundLayer { wrap }
}

/// See [`around`].
#[derive(Clone)]
pub(crate) struct AroundLayer<F> {
    wrap: F,
}

impl<F: Clone, S> Layer<S> for AroundLayer<F> {
    type Service = Around<F, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Around {
            wrap: self.wrap.clone(),
            inner,
        }
    }
}

/// See [`around`].
#[derive(Clone)]
pub(crate) struct Around<F, S> {
    wrap: F,
    inner: S,
}

impl<F, S, Answer> Service<HttpRequest> for Around<F, S>
where
    F: Fn(HttpRequest, S) -> Answer,
    Answer: Future<Output = Result<HttpResponse, S::Error>> + Send + 'static,
    S: Service<HttpRequest, Response = HttpResponse> + Clone,
{
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<HttpResponse, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        // The clone has not been polled ready; the one that has been must be the one that is called.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        Box::pin((self.wrap)(request, ready))
    }
}
