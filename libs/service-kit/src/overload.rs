//! Limits on the calls in flight. Above them a call is refused at once: a caller that waits unseen has lost its time anyway.
//!
//! Which limit depends on what the descriptors say of the method. Unary calls have one that follows their latency ([`ConcurrencyLimit`]).
//! Calls that stream last as long as their caller has something to say, a run of the indexer for hours: how long they take says
//! nothing of the load, so they are no samples, and they are counted for themselves, against the fixed bound; a slow search refuses no run.
//! What asks how the server is (health, reflection, `Describe`) is cheap, and has to be answered by a busy server: it is neither limited
//! nor counted. A busy server is not a dead one: health knows nothing of these limits, or a load balancer would send all calls to
//! the others, and those down too.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::HeaderMap;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use search_core::{Criticality, ErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};
use tower::Service;

use crate::around::{HttpRequest, HttpResponse};
use crate::criticality;
use crate::deadline::now;
use crate::guarded::{Guard, guarded};
use crate::limit::{ConcurrencyLimit, Ended, places_of};
use crate::rpcs::methods;
use crate::status::{Pushback, status, with_pushback};
use load_metrics::{Counts, Refused};

/// The limits of one server. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Overload {
    unary: Arc<Mutex<ConcurrencyLimit>>,
    streams: Arc<Semaphore>,
    most_streams: usize,
    /// Paths of the methods that stream.
    streaming: Arc<HashSet<String>>,
    counts: Counts,
}

impl Overload {
    /// At most so many unary calls, and as many that stream.
    pub(crate) fn new(calls: usize, descriptors: &FileDescriptorSet) -> Self {
        let streaming = methods(descriptors).filter(|(_, method)| is_streaming(method));
        Self {
            unary: Arc::new(Mutex::new(ConcurrencyLimit::new(calls))),
            streams: Arc::new(Semaphore::new(calls)),
            most_streams: calls,
            streaming: Arc::new(streaming.map(|(path, _)| path).collect()),
            counts: Counts::of("server"),
        }
    }

    /// Refuses with RESOURCE_EXHAUSTED what exceeds a limit; its place is held until the response has ended.
    pub(crate) async fn refuse_above<S>(
        self,
        request: HttpRequest,
        mut rest: S,
    ) -> Result<HttpResponse, S::Error>
    where
        S: Service<HttpRequest, Response = HttpResponse>,
    {
        let path = request.uri().path();
        if asks_how_it_is(path) {
            return rest.call(request).await;
        }
        let mut place = match self.enter(path, criticality::current()) {
            Ok(place) => place,
            Err(refusal) => return Ok(refusal.into_http()),
        };
        let response = rest.call(request).await?;
        place.trailers(response.headers());
        Ok(response.map(|body| guarded(body, place)))
    }

    fn enter(&self, path: &str, criticality: Criticality) -> Result<Place, Status> {
        let place = match self.streaming.contains(path) {
            true => self.enter_stream(criticality),
            false => self.enter_unary(path, criticality),
        };
        place.map_err(|pushback| {
            self.counts.refused(Refused::Limit, criticality);
            let message = "too many calls in flight";
            let refusal = status(ErrorKind::ResourceExhausted, &message, Vec::new());
            with_pushback(refusal, pushback)
        })
    }

    fn enter_stream(&self, criticality: Criticality) -> Result<Place, Option<Pushback>> {
        let in_flight = self.most_streams - self.streams.available_permits();
        let is_free = in_flight as f64 + 1.0 <= places_of(self.most_streams as f64, criticality);
        let permit = is_free.then(|| Arc::clone(&self.streams).try_acquire_owned());
        let permit = permit.and_then(Result::ok);
        // When a stream ends nobody knows.
        permit
            .map(|permit| Place::Stream { _permit: permit })
            .ok_or(None)
    }

    fn enter_unary(&self, path: &str, criticality: Criticality) -> Result<Place, Option<Pushback>> {
        let entered = lock(&self.unary).enter(criticality);
        entered.map_err(|after| Some(Pushback::After(after)))?;
        Ok(Place::Unary(Unary {
            limit: Arc::clone(&self.unary),
            path: path.to_owned(),
            began: now(),
            ended: Ended::Otherwise,
        }))
    }
}

/// A panic while the lock is held leaves numbers that are consistent enough to go on.
fn lock(limit: &Mutex<ConcurrencyLimit>) -> MutexGuard<'_, ConcurrencyLimit> {
    limit.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the call is about the server itself.
fn asks_how_it_is(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.Health/")
        || path.starts_with("/grpc.reflection.")
        || path.ends_with("/Describe")
}

fn is_streaming(method: &MethodDescriptorProto) -> bool {
    method.client_streaming() || method.server_streaming()
}

/// A call in flight.
enum Place {
    Unary(Unary),
    Stream { _permit: OwnedSemaphorePermit },
}

struct Unary {
    limit: Arc<Mutex<ConcurrencyLimit>>,
    path: String,
    began: Instant,
    ended: Ended,
}

impl Guard for Place {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if let (Self::Unary(unary), Some(status)) = (self, Status::from_header_map(trailers)) {
            unary.ended = match status.code() {
                Code::Ok => Ended::Answered,
                Code::DeadlineExceeded => Ended::Late,
                _ => Ended::Otherwise,
            };
        }
    }
}

impl Drop for Unary {
    fn drop(&mut self) {
        let (now, began) = (now(), self.began);
        let took = now.saturating_duration_since(began);
        lock(&self.limit).leave(&self.path, self.ended, took, now);
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{FileDescriptorProto, ServiceDescriptorProto};

    use super::*;

    fn descriptors() -> FileDescriptorSet {
        let method = |name: &str, client_streaming, server_streaming| MethodDescriptorProto {
            name: Some(name.to_owned()),
            client_streaming: Some(client_streaming),
            server_streaming: Some(server_streaming),
            ..MethodDescriptorProto::default()
        };
        let service = ServiceDescriptorProto {
            name: Some("Indexer".to_owned()),
            method: vec![
                method("Index", true, true),
                method("SetStages", false, true),
                method("Delete", false, false),
            ],
            ..ServiceDescriptorProto::default()
        };
        FileDescriptorSet {
            file: vec![FileDescriptorProto {
                package: Some("test.v1".to_owned()),
                service: vec![service],
                ..FileDescriptorProto::default()
            }],
        }
    }

    #[test]
    fn streams_and_unary_calls_take_no_places_from_each_other() {
        let overload = Overload::new(1, &descriptors());
        let enter = |path| overload.enter(path, Criticality::Critical);
        let unary = enter("/test.v1.Indexer/Delete").ok().unwrap();
        let stream = enter("/test.v1.Indexer/Index").ok().unwrap();
        let refused = |path| enter(path).err().map(|status| status.code());
        let exhausted = Some(Code::ResourceExhausted);
        assert_eq!(refused("/test.v1.Indexer/Delete"), exhausted);
        assert_eq!(refused("/test.v1.Indexer/SetStages"), exhausted);
        drop(unary);
        assert_eq!(refused("/test.v1.Indexer/Delete"), None);
        drop(stream);
        assert_eq!(refused("/test.v1.Indexer/SetStages"), None);
    }

    #[test]
    fn sheddable_streams_leave_a_quarter_of_the_places() {
        let overload = Overload::new(4, &descriptors());
        let enter = |criticality| overload.enter("/test.v1.Indexer/Index", criticality).ok();
        let sheddable: Vec<_> = (0..4)
            .filter_map(|_| enter(Criticality::Sheddable))
            .collect();
        assert_eq!(sheddable.len(), 3);
        let critical: Vec<_> = (0..4)
            .filter_map(|_| enter(Criticality::Critical))
            .collect();
        assert_eq!(critical.len(), 1);
    }

    #[test]
    fn only_what_is_about_the_server_itself_is_let_by() {
        for path in [
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/finemesh.sparse.v1.SparseRetrieverService/Describe",
        ] {
            assert!(asks_how_it_is(path), "{path}");
        }
        for path in [
            "/finemesh.search.v1.SearchService/Search",
            "/Describe/Search",
            "/",
        ] {
            assert!(!asks_how_it_is(path), "{path}");
        }
    }
}
