//! A panic in a handler becomes INTERNAL for its one caller; the process serves on.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use search_core::ErrorKind;
use tower::Service;

use crate::around::{HttpRequest, HttpResponse};
use crate::status::status;

/// Runs the rest of the chain and catches its panic.
pub(crate) async fn catch<S>(request: HttpRequest, mut rest: S) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    let path = request.uri().path().to_owned();
    let answer = async { rest.call(request).await };
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(answer) => answer,
        Err(panic) => {
            tracing::error!(path, panic = text_of(&*panic), "a handler panicked");
            // What it said is for the log; the caller cannot act on it.
            let message = "the service failed unexpectedly; its log says more";
            Ok(status(ErrorKind::Internal, &message, Vec::new()).into_http())
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a text")
}
