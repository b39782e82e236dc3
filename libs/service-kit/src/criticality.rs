//! The header `finemesh-criticality`: `critical` or `sheddable`, absent `critical`. It goes with a call over every hop: the server's layer
//! keeps it beside the handler's future, the channel's layer writes it on whatever that future asks of peers.
//!
//! A task that is spawned is not beside it any more: who spawns one that calls peers wraps it in [`scope`], with [`current`] of before.

use std::future::Future;

use http::{HeaderMap, HeaderName, HeaderValue};
use search_core::criticality::UnknownCriticality;
use search_core::{Criticality, FieldError};
use tower::Service;

use crate::around::{HttpRequest, HttpResponse};
use crate::status::invalid;

/// Name of the header.
pub const CRITICALITY: HeaderName = HeaderName::from_static("finemesh-criticality");

tokio::task_local! {
    static CURRENT: Criticality;
}

/// Of the call that this task answers; critical where it answers none.
#[must_use]
pub fn current() -> Criticality {
    CURRENT.try_with(|current| *current).unwrap_or_default()
}

/// Runs a future whose calls are of this criticality.
pub async fn scope<F: Future>(criticality: Criticality, future: F) -> F::Output {
    CURRENT.scope(criticality, future).await
}

/// Server side: what the caller says is so for all that is done for the call.
pub(crate) async fn serve<S>(request: HttpRequest, mut rest: S) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    match criticality_in(request.headers()) {
        Ok(criticality) => scope(criticality, rest.call(request)).await,
        Err(unknown) => {
            let field = FieldError::new(CRITICALITY.as_str(), unknown.to_string());
            Ok(invalid(field).into_http())
        }
    }
}

/// Client side: the request says it, unless it says something already.
pub(crate) async fn call<S>(mut request: HttpRequest, mut rest: S) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    if let Ok(current) = CURRENT.try_with(|current| *current) {
        let headers = request.headers_mut().entry(CRITICALITY);
        headers.or_insert(HeaderValue::from_static(current.as_str()));
    }
    rest.call(request).await
}

fn criticality_in(headers: &HeaderMap) -> Result<Criticality, UnknownCriticality> {
    let Some(value) = headers.get(CRITICALITY) else {
        return Ok(Criticality::default());
    };
    let word = value.to_str().map_err(|_| UnknownCriticality)?;
    word.parse()
}
