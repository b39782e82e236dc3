//! The caller's `grpc-timeout`: parsed, handed to the handler as a [`Deadline`], and enforced on both sides of a hop.
//!
//! At the deadline the handler's future is dropped, so that its work stops, and DEADLINE_EXCEEDED is answered. tonic alone
//! would answer CANCELLED "Timeout expired", and nothing at all for a response that has begun to stream.

use std::time::{Duration, Instant};

use http::HeaderMap;
use search_core::{Deadline, ErrorKind, FieldError};
use tonic::Status;
use tower::Service;

use crate::around::{HttpRequest, HttpResponse};
use crate::guarded::{EndWith, guarded};
use crate::status::status;

/// Name of the header.
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// By the gRPC specification a timeout has at most this many digits.
const MAX_DIGITS: usize = 8;
/// A server answers this much before the deadline: the answer has a way to go, and tonic's own timer (which says
/// CANCELLED) must not be first.
const ANSWER_MARGIN: Duration = Duration::from_millis(1);

/// The time now, by the runtime's clock: a test that pauses it moves this too.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// When the caller of this request stops waiting. None: the caller set no timeout.
#[must_use]
pub fn deadline_of<T>(request: &tonic::Request<T>) -> Option<Deadline> {
    request.extensions().get::<Deadline>().copied()
}

/// What is wrong with a `grpc-timeout`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MAX_DIGITS} digits and one of H, M, S, m, u, n")]
pub struct InvalidTimeout;

/// Reads a `grpc-timeout`: one to eight digits and a unit.
///
/// # Errors
/// [`InvalidTimeout`] for anything else.
pub fn parse_timeout(text: &str) -> Result<Duration, InvalidTimeout> {
    let (unit_at, unit) = text.char_indices().next_back().ok_or(InvalidTimeout)?;
    let digits = &text[..unit_at];
    let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || digits.len() > MAX_DIGITS || !only_digits {
        return Err(InvalidTimeout);
    }
    let amount = digits.parse::<u64>().map_err(|_| InvalidTimeout)?;
    match unit {
        'H' => Ok(Duration::from_secs(amount * 3600)),
        'M' => Ok(Duration::from_secs(amount * 60)),
        'S' => Ok(Duration::from_secs(amount)),
        'm' => Ok(Duration::from_millis(amount)),
        'u' => Ok(Duration::from_micros(amount)),
        'n' => Ok(Duration::from_nanos(amount)),
        _ => Err(InvalidTimeout),
    }
}

/// The timeout that the headers ask for.
fn timeout_in(headers: &HeaderMap) -> Result<Option<Duration>, InvalidTimeout> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| InvalidTimeout)?;
    parse_timeout(text).map(Some)
}

/// Server side: the handler finds the [`Deadline`] in the request's extensions and is dropped when it passes.
pub(crate) async fn obey<S>(mut request: HttpRequest, rest: S) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    let timeout = match timeout_in(request.headers()) {
        Ok(timeout) => timeout,
        Err(invalid) => return Ok(refuse(&invalid)),
    };
    let until = timeout.and_then(|timeout| now().checked_add(before_the_caller(timeout)));
    if let Some(until) = until {
        request.extensions_mut().insert(Deadline::new(until));
    }
    within(until, request, rest).await
}

/// Client side: stops waiting at the deadline, whatever the peer does.
pub(crate) async fn keep<S>(request: HttpRequest, rest: S) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    // A header that our own side wrote is valid; if it were not, the peer would say so.
    let timeout = timeout_in(request.headers()).unwrap_or_default();
    let until = timeout.and_then(|timeout| now().checked_add(timeout));
    within(until, request, rest).await
}

fn refuse(invalid: &InvalidTimeout) -> HttpResponse {
    let field = FieldError::new(GRPC_TIMEOUT, invalid.to_string());
    status(
        ErrorKind::InvalidArgument,
        &field.to_string(),
        vec![field.clone()],
    )
    .into_http()
}

fn before_the_caller(timeout: Duration) -> Duration {
    timeout - ANSWER_MARGIN.min(timeout / 2)
}

/// Calls `rest` unless `until` has passed, and drops the call, or ends its response, when it passes.
async fn within<S>(
    until: Option<Instant>,
    request: HttpRequest,
    mut rest: S,
) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    let Some(until) = until else {
        return rest.call(request).await;
    };
    let mut timer = Box::pin(tokio::time::sleep_until(until.into()));
    tokio::select! {
        biased;
        () = &mut timer => Ok(exceeded().into_http()),
        answer = rest.call(request) => {
            let end = async move {
                timer.await;
                exceeded()
            };
            Ok(answer?.map(|body| guarded(body, EndWith(Box::pin(end)))))
        }
    }
}

fn exceeded() -> Status {
    status(
        ErrorKind::DeadlineExceeded,
        &"the caller's deadline has passed",
        Vec::new(),
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_unit_is_read() {
        let cases = [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0m", Duration::ZERO),
            ("00000007S", Duration::from_secs(7)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let hostile = [
            "",
            "S",
            "1",
            "1s",
            "1h",
            "-1S",
            "+1S",
            " 1S",
            "1 S",
            "1S ",
            "1.5S",
            "1e3S",
            "100000000S",
            "1SS",
            "1µ",
            "１S",
            "0x1S",
            "\u{0}S",
            "💣",
        ];
        for text in hostile {
            assert_eq!(parse_timeout(text), Err(InvalidTimeout), "{text:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_bytes(b"\xff1S").unwrap());
        assert_eq!(timeout_in(&headers), Err(InvalidTimeout));
    }

    #[test]
    fn the_longest_timeout_is_a_time_or_no_deadline() {
        let longest = parse_timeout("99999999H").unwrap();
        let _ = now().checked_add(before_the_caller(longest));
    }

    #[test]
    fn the_server_answers_before_the_caller_leaves() {
        assert_eq!(
            before_the_caller(Duration::from_millis(100)),
            Duration::from_millis(99)
        );
        assert_eq!(
            before_the_caller(Duration::from_micros(10)),
            Duration::from_micros(5)
        );
        assert_eq!(before_the_caller(Duration::ZERO), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = parse_timeout(&text);
        }

        #[test]
        fn what_tonic_writes_is_read_to_its_precision(nanos in 0_u64..=u64::MAX / 4) {
            let timeout = Duration::from_nanos(nanos);
            let mut request = tonic::Request::new(());
            request.set_timeout(timeout);
            let text = request.metadata().get(GRPC_TIMEOUT).unwrap().to_str().unwrap();
            let read = parse_timeout(text).unwrap();
            prop_assert!(read <= timeout);
            // Eight digits: seven of them are exact at least.
            prop_assert!(timeout - read <= timeout / 1_000_000 + Duration::from_nanos(1));
        }

        #[test]
        fn digits_and_unit_are_what_is_read(amount in 0_u64..100_000_000, unit in "[HMSmun]") {
            let unit_nanos: u128 = match unit.as_str() {
                "H" => 3_600_000_000_000,
                "M" => 60_000_000_000,
                "S" => 1_000_000_000,
                "m" => 1_000_000,
                "u" => 1_000,
                _ => 1,
            };
            let read = parse_timeout(&format!("{amount}{unit}")).unwrap();
            prop_assert_eq!(read.as_nanos(), u128::from(amount) * unit_nanos);
        }
    }
}
