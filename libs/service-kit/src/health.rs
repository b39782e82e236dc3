//! What `grpc.health.v1` says: each service as ready as its [`Readiness`], the server (the empty name) when all are.

use std::sync::Arc;

use futures::future::select_all;
use search_core::ErrorKind;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Service;

use crate::around::{HttpRequest, HttpResponse};
use crate::guarded::{EndWith, guarded};
use crate::readiness::Readiness;
use crate::status::status;

/// The name of the server as a whole.
const OVERALL: &str = "";

/// Ends what watches health when the server drains, after it was told that nothing is ready.
pub(crate) async fn end_watch<S>(
    draining: CancellationToken,
    request: HttpRequest,
    mut rest: S,
) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    if request.uri().path() != "/grpc.health.v1.Health/Watch" {
        return rest.call(request).await;
    }
    let response = rest.call(request).await?;
    let end = async move {
        draining.cancelled().await;
        // Health was reported before: that message is first.
        tokio::task::yield_now().await;
        let message = "the server shuts down";
        status(ErrorKind::Unavailable, &message, Vec::new())
    };
    Ok(response.map(|body| guarded(body, EndWith(Box::pin(end)))))
}

/// A service and its readiness.
#[derive(Debug)]
pub(crate) struct Watched {
    service: &'static str,
    readiness: Readiness,
}

impl Watched {
    pub(crate) fn new(service: &'static str, readiness: &Readiness) -> Self {
        Self {
            service,
            readiness: readiness.clone(),
        }
    }
}

/// Reports readiness to the health service.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    reporter: HealthReporter,
    watched: Arc<Vec<Watched>>,
}

impl Health {
    pub(crate) fn new(reporter: HealthReporter, watched: Vec<Watched>) -> Self {
        Self {
            reporter,
            watched: Arc::new(watched),
        }
    }

    /// Reports what is so now.
    pub(crate) async fn update(&self) {
        let mut all_ready = true;
        for watched in self.watched.iter() {
            let ready = watched.readiness.is_ready();
            all_ready &= ready;
            self.report(watched.service, ready).await;
        }
        self.report(OVERALL, all_ready).await;
    }

    /// Reports each change until `stop`, then nothing more, for ever.
    pub(crate) async fn follow(&self, stop: &CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.follow_changes() => {}
        }
        std::future::pending().await
    }

    async fn follow_changes(&self) {
        let readiness = self.watched.iter().map(|watched| &watched.readiness);
        let mut watches: Vec<_> = readiness.map(Readiness::watch).collect();
        if watches.is_empty() {
            return;
        }
        loop {
            let changes = watches.iter_mut().map(|watch| Box::pin(watch.changed()));
            // The senders live in `watched`: no channel closes while this waits.
            let _ = select_all(changes).await;
            self.update().await;
        }
    }

    /// Nothing is ready any more.
    pub(crate) async fn stop(&self) {
        for watched in self.watched.iter() {
            self.report(watched.service, false).await;
        }
        self.report(OVERALL, false).await;
    }

    async fn report(&self, service: &str, ready: bool) {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.reporter.set_service_status(service, status).await;
    }
}
