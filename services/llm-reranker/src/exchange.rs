//! One request to the endpoint and its answer, whatever it does: read within bounds, and sorted into what can be done about it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use service_kit::ConfigError;

use crate::completion::{Answer, error_code};
use crate::config::Destination;

/// Many times the longest ranking with all its thoughts.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Longer than any network needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than the minute after which most servers close idle connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Some characters of what an endpoint says about an error, for the debug log.
const LOGGED_CHARS: usize = 300;

/// Sends a request. The connection is HTTP/1.1: prompts go out a few at a time, and every compatible server speaks it.
trait SendRequest: Send + Sync {
    fn send(&self, request: Request<Full<Bytes>>) -> ResponseFuture;
}

impl<C: Connect + Clone + Send + Sync + 'static> SendRequest for Client<C, Full<Bytes>> {
    fn send(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        self.request(request)
    }
}

/// A way to the endpoint. Redirections are not followed: a key goes where the configuration says, and nowhere else.
pub(crate) struct Exchange {
    destination: Destination,
    client: Box<dyn SendRequest>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The endpoint has too much to do, or is out of order for the moment: worth another try.
    Busy {
        status: StatusCode,
        retry_after: Option<Duration>,
    },
    /// It was not reached: worth another try.
    Unreached(String),
    /// It broke off: worth another try, though it may have done the work.
    Broken(String),
    /// It took longer than it may. What it did is paid for, and would take as long again.
    TooSlow,
    /// The account has nothing left. Waiting does not help.
    OutOfQuota,
    /// It does not take this request.
    Refused {
        status: StatusCode,
        code: Option<String>,
    },
    /// What came is no chat completion.
    Unreadable(String),
}

impl Failure {
    /// Whether the endpoint may have done what was asked, and be paid for it.
    pub(crate) fn may_cost(&self) -> bool {
        matches!(self, Self::TooSlow | Self::Unreadable(_) | Self::Broken(_))
    }
}

/// Over TCP, and TLS with the roots of the system (`SSL_CERT_FILE` names others) where the address is https.
pub(crate) fn over_network(
    destination: Destination,
    connections: usize,
) -> Result<Exchange, TlsError> {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    if destination.uri.scheme() != Some(&Scheme::HTTPS) {
        // An endpoint inside the cluster is reached from an image without roots too.
        return Ok(Exchange::over(tcp, destination, connections));
    }
    tcp.enforce_http(false);
    let tls = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(TlsError)?;
    let connector = tls.https_only().enable_http1().wrap_connector(tcp);
    Ok(Exchange::over(connector, destination, connections))
}

/// TLS cannot be used here.
#[derive(Debug, thiserror::Error)]
#[error("the system's root certificates cannot be read")]
pub struct TlsError(#[source] std::io::Error);

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration lacks something.
    #[error("the reranker over a language model cannot start")]
    Config(#[from] ConfigError),
    /// See there.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Exchange {
    /// Over connections of this kind, of which so many are kept.
    pub(crate) fn over<C>(connector: C, destination: Destination, connections: usize) -> Self
    where
        C: Connect + Clone + Send + Sync + 'static,
    {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(connections)
            .build(connector);
        Self {
            destination,
            client: Box::new(client),
        }
    }

    /// Sends a body and reads the answer. Dropped, the request is abandoned.
    pub(crate) async fn ask(&self, body: Bytes) -> Result<Answer, Failure> {
        let response = self.client.send(self.request(body)).await;
        let response = response.map_err(|error| no_response(&error))?;
        let (head, body) = response.into_parts();
        let read = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = read.map_err(|error| unfinished(&*error))?.to_bytes();
        if head.status == StatusCode::OK {
            return answer(&head.headers, &body);
        }
        self.log_refusal(head.status, &body);
        refusal(head.status, &head.headers, &body)
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.destination.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.destination.api_key {
            headers.insert(AUTHORIZATION, key.header());
        }
        request
    }

    fn log_refusal(&self, status: StatusCode, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let text = match &self.destination.api_key {
            Some(key) => key.redacted(&text),
            None => text.into_owned(),
        };
        let said: String = text.chars().take(LOGGED_CHARS).collect();
        tracing::debug!(%status, said, "the endpoint did not answer");
    }
}

fn no_response(error: &hyper_util::client::legacy::Error) -> Failure {
    // The source says more: "connection refused", "invalid HTTP version parsed".
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    let reason = format!("{error}{}", cause.unwrap_or_default());
    if error.is_connect() {
        Failure::Unreached(reason)
    } else {
        Failure::Broken(reason)
    }
}

fn unfinished(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Failure {
    if error.is::<LengthLimitError>() {
        Failure::Unreadable(format!("it is longer than {MAX_ANSWER_BYTES} bytes"))
    } else {
        Failure::Broken(format!("it broke off in the middle of its answer: {error}"))
    }
}

fn answer(headers: &HeaderMap, body: &[u8]) -> Result<Answer, Failure> {
    if !is_json(headers) {
        return Err(Failure::Unreadable("its content type is not JSON".into()));
    }
    Answer::read(body).map_err(|malformed| Failure::Unreadable(malformed.to_string()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = value
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Failure> {
    let code = error_code(body);
    match (status.as_u16(), code.as_deref()) {
        // Some gateways put a model's refusal so. It is about the texts, not about the request.
        (400, Some("content_filter")) => Ok(Answer::default()),
        (429, Some("insufficient_quota")) => Err(Failure::OutOfQuota),
        // 529: overloaded, as some gateways hand it on.
        (408 | 429 | 500 | 502 | 503 | 504 | 529, _) => Err(Failure::Busy {
            status,
            retry_after: retry_after(headers),
        }),
        _ => Err(Failure::Refused { status, code }),
    }
}

/// In seconds; of a date nothing is known, for clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_is_json_or_not() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/html", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_json(&headers), expected, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn only_seconds_are_waited_for() {
        for (value, expected) in [
            ("7", Some(7)),
            ("-1", None),
            ("1.5", None),
            ("99999999999999999999999", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            assert_eq!(
                retry_after(&headers),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
