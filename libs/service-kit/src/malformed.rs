//! A request whose bytes are not the message that they should be, as with a text that is not UTF-8, is the caller's fault and
//! named by its field: INVALID_ARGUMENT. tonic alone answers INTERNAL, as if it were ours.

use search_core::{ErrorKind, FieldError};
use tonic::{Code, Status};
use tower::Service;

use crate::around::{HttpRequest, HttpResponse};
use crate::status::status;

/// How prost begins what it says of such a message. Then `Message.field: ` for each level, the innermost first, and what is wrong.
const DECODING_FAILED: &str = "failed to decode Protobuf message: ";

/// Answers what the rest of the chain does, but for a request that could not be decoded.
pub(crate) async fn refuse<S>(request: HttpRequest, mut rest: S) -> Result<HttpResponse, S::Error>
where
    S: Service<HttpRequest, Response = HttpResponse>,
{
    let response = rest.call(request).await?;
    let refusal = Status::from_header_map(response.headers()).and_then(|status| refusal(&status));
    Ok(refusal.map_or(response, |status| status.into_http()))
}

fn refusal(answered: &Status) -> Option<Status> {
    if answered.code() != Code::Internal {
        return None;
    }
    let mut what = answered.message().strip_prefix(DECODING_FAILED)?;
    let mut fields = Vec::new();
    while let Some((place, rest)) = what.split_once(": ") {
        let Some((_, field)) = place.split_once('.') else {
            break;
        };
        fields.insert(0, field);
        what = rest;
    }
    let error = FieldError::new(fields.join("."), what);
    let message = error.to_string();
    Some(status(ErrorKind::InvalidArgument, &message, vec![error]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fields_of;

    #[test]
    fn the_field_is_named_from_the_outside() {
        let answered = Status::internal(
            "failed to decode Protobuf message: Inner.text: Outer.inner: invalid string value: data is not UTF-8 encoded",
        );
        let refused = refusal(&answered).unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let expected = FieldError::new(
            "inner.text",
            "invalid string value: data is not UTF-8 encoded",
        );
        assert_eq!(fields_of(&refused), [expected]);
        let nowhere = Status::internal("failed to decode Protobuf message: buffer underflow");
        assert_eq!(
            fields_of(&refusal(&nowhere).unwrap())[0].message,
            "buffer underflow"
        );
    }

    #[test]
    fn our_own_failures_stay_ours() {
        assert!(refusal(&Status::internal("the model failed")).is_none());
        assert!(refusal(&Status::unavailable(DECODING_FAILED)).is_none());
    }
}
