//! The secret that the endpoint wants. It is in no message and no log.

use std::fmt;

use http::HeaderValue;

/// Longer than any key.
const MAX_KEY_BYTES: usize = 16 * 1024;

/// A key as it goes into the `Authorization` header.
#[derive(Clone)]
pub(crate) struct ApiKey {
    key: String,
    header: HeaderValue,
}

impl ApiKey {
    /// Reads a key; white space around it (a file's last line end) is not part of it.
    pub(crate) fn new(text: &str) -> Result<Self, InvalidKey> {
        let key = text.trim();
        let is_printable = key.bytes().all(|byte| byte.is_ascii_graphic());
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !is_printable {
            return Err(InvalidKey);
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| InvalidKey)?;
        header.set_sensitive(true);
        Ok(Self {
            key: key.to_owned(),
            header,
        })
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// The text without the key, for a log: endpoints repeat what they were sent.
    pub(crate) fn redacted(&self, text: &str) -> String {
        text.replace(&self.key, "…")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(…)")
    }
}

/// What is there is no key. The message doesn't repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("holds no key: 1 to {MAX_KEY_BYTES} printable ASCII characters without spaces")]
pub(crate) struct InvalidKey;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_to_the_endpoint_only() {
        let key = ApiKey::new(" sk-secret\r\n").unwrap();
        assert_eq!(key.header().to_str().unwrap(), "Bearer sk-secret");
        assert!(!format!("{key:?} {:?}", key.header()).contains("secret"));
        assert_eq!(key.redacted("key sk-secret is wrong"), "key … is wrong");
    }

    #[test]
    fn what_cannot_be_a_header_is_no_key() {
        for text in [
            "",
            " \n",
            "two words",
            "line\nbreak",
            "schlüssel",
            &"k".repeat(MAX_KEY_BYTES + 1),
        ] {
            assert_eq!(ApiKey::new(text).unwrap_err(), InvalidKey);
        }
    }
}
