//! A limit on the calls in flight. Above it a call is refused at once: a caller that waits unseen has lost its time anyway.

use std::sync::Arc;

use search_core::ErrorKind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

use crate::around::{HttpRequest, HttpResponse};
use crate::guarded::{Guard, guarded};
use crate::status::status;
use crate::trace::is_probe;

impl Guard for OwnedSemaphorePermit {}

/// Refuses with RESOURCE_EXHAUSTED what exceeds the limit; the permit is held until the response has ended.
pub(crate) async fn refuse_above<S>(
    permits: Arc<Semaphore>,
    request: HttpRequest,
    mut rest: S,
) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    if is_probe(request.uri().path()) {
        // A busy server is not a dead one.
        return rest.call(request).await;
    }
    let Ok(permit) = permits.try_acquire_owned() else {
        let message = "too many calls in flight";
        return Ok(status(ErrorKind::ResourceExhausted, &message, Vec::new()).into_http());
    };
    let response = rest.call(request).await?;
    Ok(response.map(|body| guarded(body, permit)))
}
