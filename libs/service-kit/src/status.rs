//! Error kinds on the wire: one table from [`ErrorKind`] to gRPC codes, and back.
//!
//! A refused field travels as `google.rpc.BadRequest`, so that a client can name it without parsing a sentence.

use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use search_core::{ErrorKind, FieldError};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// When to try again, by the gRPC specification (A6): milliseconds, negative for not at all.
const PUSHBACK_METADATA: &str = "grpc-retry-pushback-ms";

/// The longest message of a status: several times what our own sentences need, and well below what clients take of headers.
const MAX_SENTENCE_BYTES: usize = 2048;

/// What a refusal for load says of trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// After this time.
    After(Duration),
    /// Not at all.
    Never,
}

impl Pushback {
    fn millis(self) -> i64 {
        match self {
            // At least one: to try again at once would add to the load.
            Self::After(time) => i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1),
            Self::Never => -1,
        }
    }
}

/// The one table.
#[must_use]
pub fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The status of an error; `fields` says which parts of the request are wrong.
#[must_use]
pub fn status(kind: ErrorKind, message: &dyn Display, fields: Vec<FieldError>) -> Status {
    let message = presentable(&message.to_string());
    if fields.is_empty() {
        return Status::new(code_of(kind), message);
    }
    let violations: Vec<FieldViolation> = fields
        .into_iter()
        .map(|field| FieldViolation::new(field.path, presentable(&field.message)))
        .collect();
    let details = ErrorDetails::with_bad_request(violations);
    Status::with_error_details(code_of(kind), message, details)
}

/// What a message repeats of a request may be anything: it travels in a header, whose size is limited, and ends in somebody's log.
fn presentable(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_SENTENCE_BYTES);
    let shown = message[..end].chars();
    let mut text: String = shown
        .map(|character| match character.is_control() {
            true => char::REPLACEMENT_CHARACTER,
            false => character,
        })
        .collect();
    if end < message.len() {
        text.push('…');
    }
    text
}

/// The same status, which says when to try again, if there is something to say.
#[must_use]
pub fn with_pushback(mut status: Status, pushback: Option<Pushback>) -> Status {
    if let Some(pushback) = pushback {
        let millis = MetadataValue::from(pushback.millis());
        status.metadata_mut().insert(PUSHBACK_METADATA, millis);
    }
    status
}

/// When a peer says to try again.
#[must_use]
pub fn pushback_of(status: &Status) -> Option<Pushback> {
    let millis = status.metadata().get(PUSHBACK_METADATA)?;
    let millis: i64 = millis.to_str().ok()?.parse().ok()?;
    Some(match u64::try_from(millis) {
        Ok(millis) => Pushback::After(Duration::from_millis(millis)),
        Err(_) => Pushback::Never,
    })
}

/// INVALID_ARGUMENT for one field.
#[must_use]
pub fn invalid(field: FieldError) -> Status {
    status(
        ErrorKind::InvalidArgument,
        &field.to_string(),
        vec![field.clone()],
    )
}

/// The fields that a status complains about.
#[must_use]
pub fn fields_of(status: &Status) -> Vec<FieldError> {
    let violations = status
        .get_details_bad_request()
        .map(|bad_request| bad_request.field_violations);
    violations
        .unwrap_or_default()
        .into_iter()
        .map(|violation| FieldError::new(violation.field, violation.description))
        .collect()
}

/// The kind of a status that a peer answered, or that the transport made up in its place.
#[must_use]
pub fn kind_of(status: &Status) -> ErrorKind {
    if status.code() == Code::Cancelled && status.message() == "Timeout expired" {
        // tonic's words for a deadline that passed.
        return ErrorKind::DeadlineExceeded;
    }
    if is_broken_connection(status) {
        return ErrorKind::Unavailable;
    }
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => {
            ErrorKind::FailedPrecondition
        }
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        // A peer that does not let us in is as good as none; another one may.
        Code::Unavailable | Code::PermissionDenied | Code::Unauthenticated => {
            ErrorKind::Unavailable
        }
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Cancelled => ErrorKind::Cancelled,
        Code::DataLoss => ErrorKind::DataLoss,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::Ok | Code::Unknown | Code::Internal => ErrorKind::Internal,
    }
}

/// A status that came over the wire has no source. One that has was made here, of an error of the transport: what the peer
/// would have said never arrived.
fn is_broken_connection(status: &Status) -> bool {
    status.source().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ErrorKind; 10] = [
        ErrorKind::InvalidArgument,
        ErrorKind::NotFound,
        ErrorKind::FailedPrecondition,
        ErrorKind::ResourceExhausted,
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Cancelled,
        ErrorKind::DataLoss,
        ErrorKind::Unimplemented,
        ErrorKind::Internal,
    ];

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in KINDS {
            let there = status(kind, &"why", Vec::new());
            assert_eq!(kind_of(&there), kind);
            assert_eq!(there.message(), "why");
        }
    }

    #[test]
    fn no_two_kinds_share_a_code() {
        for (index, kind) in KINDS.iter().enumerate() {
            for other in &KINDS[..index] {
                assert_ne!(code_of(*kind), code_of(*other));
            }
        }
    }

    #[test]
    fn fields_survive_the_wire() {
        let fields = vec![
            FieldError::new("k", "must be 1 to 1000"),
            FieldError::new("filter.range.lower", "must be finite"),
        ];
        let sent = status(ErrorKind::InvalidArgument, &"bad request", fields.clone());
        let headers = sent.into_http::<()>().into_parts().0.headers;
        let received = Status::from_header_map(&headers).unwrap();
        assert_eq!(fields_of(&received), fields);
        assert_eq!(kind_of(&received), ErrorKind::InvalidArgument);
    }

    #[test]
    fn what_a_message_repeats_is_bounded_and_cannot_forge_a_log() {
        let long = "é".repeat(MAX_SENTENCE_BYTES);
        let sent = status(ErrorKind::FailedPrecondition, &long, Vec::new());
        assert_eq!(
            sent.message(),
            format!("{}…", "é".repeat(MAX_SENTENCE_BYTES / 2))
        );
        let fields = vec![FieldError::new("k", "a\r\nb")];
        let sent = status(ErrorKind::InvalidArgument, &"c\0d", fields);
        assert_eq!(sent.message(), "c\u{fffd}d");
        assert_eq!(fields_of(&sent)[0].message, "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn a_pushback_is_read_as_it_was_said() {
        let said = |value: &'static str| {
            let mut status = Status::resource_exhausted("full");
            let value = MetadataValue::from_static(value);
            status.metadata_mut().insert(PUSHBACK_METADATA, value);
            pushback_of(&status)
        };
        assert_eq!(said("70"), Some(Pushback::After(Duration::from_millis(70))));
        assert_eq!(said("-1"), Some(Pushback::Never));
        assert_eq!(said("soon"), None);
        assert_eq!(pushback_of(&Status::ok("")), None);
    }

    #[test]
    fn a_pushback_is_at_least_a_millisecond_or_negative() {
        let said = |pushback| {
            let status = with_pushback(Status::resource_exhausted("full"), pushback);
            let value = status.metadata().get("grpc-retry-pushback-ms").cloned();
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        let after = |micros| said(Some(Pushback::After(Duration::from_micros(micros))));
        assert_eq!(after(0).as_deref(), Some("1"));
        assert_eq!(after(2500).as_deref(), Some("2"));
        assert_eq!(said(Some(Pushback::Never)).as_deref(), Some("-1"));
        assert_eq!(said(None), None);
    }

    #[test]
    fn tonics_timeout_is_a_deadline_and_a_plain_cancel_is_not() {
        let timeout = Status::cancelled("Timeout expired");
        assert_eq!(kind_of(&timeout), ErrorKind::DeadlineExceeded);
        assert_eq!(kind_of(&Status::cancelled("")), ErrorKind::Cancelled);
    }

    #[test]
    fn a_broken_connection_is_unavailable() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let broken = Status::from_error(Box::new(reset));
        assert_eq!(kind_of(&broken), ErrorKind::Unavailable);
    }
}
