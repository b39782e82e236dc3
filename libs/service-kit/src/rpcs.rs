//! The RPCs of a server, as its descriptors name them, and what is counted of their calls.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use load_metrics::InFlight;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto};
use tonic::{Code, Status};
use tower::Service;

use crate::around::{HttpRequest, HttpResponse};
use crate::guarded::{Guard, guarded};

/// `/package.Service/Method` of each method, and what is said of it.
pub(crate) fn methods(
    descriptors: &FileDescriptorSet,
) -> impl Iterator<Item = (String, &MethodDescriptorProto)> {
    descriptors.file.iter().flat_map(methods_of_file)
}

fn methods_of_file(
    file: &FileDescriptorProto,
) -> impl Iterator<Item = (String, &MethodDescriptorProto)> {
    let of_package = match file.package() {
        "" => String::new(),
        package => format!("{package}."),
    };
    file.service.iter().flat_map(move |service| {
        let of_service = format!("/{of_package}{}", service.name());
        let methods = service.method.iter();
        methods.map(move |method| (format!("{of_service}/{}", method.name()), method))
    })
}

/// The labels of the RPCs by their paths: what else is asked for is not worth a label, and could be anything.
#[derive(Debug, Clone)]
pub(crate) struct Rpcs(Arc<HashMap<String, Arc<str>>>);

impl Rpcs {
    pub(crate) fn new(descriptors: &FileDescriptorSet) -> Self {
        let label = |path: &str| path.trim_start_matches('/').into();
        let labels = methods(descriptors).map(|(path, _)| {
            let label = label(&path);
            (path, label)
        });
        Self(Arc::new(labels.collect()))
    }

    /// Counts a call of one of them until its response has ended.
    pub(crate) async fn count<S>(
        self,
        request: HttpRequest,
        mut rest: S,
    ) -> Result<HttpResponse, S::Error>
    where
        S: Service<HttpRequest, Response = HttpResponse>,
    {
        let Some(label) = self.0.get(request.uri().path()) else {
            return rest.call(request).await;
        };
        let mut call = Call(InFlight::begin(Arc::clone(label)));
        let response = rest.call(request).await?;
        call.trailers(response.headers());
        Ok(response.map(|body| guarded(body, call)))
    }
}

struct Call(InFlight);

impl Guard for Call {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(trailers) {
            self.0.end(name_of(status.code()));
        }
    }
}

/// As gRPC's documentation writes it.
const fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
