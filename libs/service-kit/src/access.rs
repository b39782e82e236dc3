//! Who may call what: callers that show a key, and callers whose certificates have a name.
//!
//! A check of health is open to all who can connect: it says nothing but whether the server is well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap};
use prost::Message;
use prost_types::FileDescriptorSet;
use subtle::{Choice, ConstantTimeEq};
use tonic::Status;
use tower::Service;

use crate::around::{HttpRequest, HttpResponse};
use crate::reloaded::{Content, FileError, Reloaded};
use crate::rpcs::methods;
use crate::transport::Caller;

/// Bytes of a key, at least: shorter ones can be guessed.
const LEAST_KEY_BYTES: usize = 16;

/// What callers have to show.
#[derive(Debug, Clone, Default)]
pub struct Access {
    keys: Option<Reloaded<Vec<Key>>>,
    /// By `package.Service` or `package.Service/Method`.
    callers: Arc<BTreeMap<String, BTreeSet<String>>>,
}

impl Access {
    /// Whoever calls has to show one of the keys in the file, one a line; it is read again when it changes. Must be called inside the
    /// runtime.
    ///
    /// # Errors
    /// [`FileError`] where it cannot be used.
    #[must_use = "access is not limited by an error"]
    pub fn with_api_keys(self, file: &Path) -> Result<Self, FileError> {
        let keys = Reloaded::load(vec![file.to_owned()], |contents| keys(&contents[0]))?;
        Ok(Self {
            keys: Some(keys),
            ..self
        })
    }

    /// What is named here, `package.Service` or `package.Service/Method`, may be called by those only whose certificates have one of the
    /// names. A method is ruled by its own entry, if there is one, else by its service's.
    #[must_use]
    pub fn with_callers(self, callers: BTreeMap<String, BTreeSet<String>>) -> Self {
        Self {
            callers: Arc::new(callers),
            ..self
        }
    }

    /// Whether a key has to be shown.
    #[must_use]
    pub const fn asks_for_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Answers for the server where the caller may not call.
    pub(crate) async fn obey<S>(
        self,
        request: HttpRequest,
        mut rest: S,
    ) -> Result<HttpResponse, S::Error>
    where
        S: Service<HttpRequest, Response = HttpResponse>,
    {
        let path = request.uri().path();
        match self.check(path, request.headers(), request.extensions()) {
            Ok(()) => rest.call(request).await,
            Err(refusal) => Ok(refusal.into_http()),
        }
    }

    fn check(
        &self,
        path: &str,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<(), Status> {
        if path == "/grpc.health.v1.Health/Check" {
            return Ok(());
        }
        if let Some(keys) = &self.keys {
            check_key(&keys.now(), headers)?;
        }
        self.check_caller(path.trim_start_matches('/'), extensions.get::<Caller>())
    }

    fn check_caller(&self, rpc: &str, caller: Option<&Caller>) -> Result<(), Status> {
        let service = rpc.split_once('/').map_or(rpc, |(service, _)| service);
        let Some(allowed) = self.callers.get(rpc).or_else(|| self.callers.get(service)) else {
            return Ok(());
        };
        let names = caller.map_or(&[][..], Caller::names);
        if names.iter().any(|name| allowed.contains(name)) {
            return Ok(());
        }
        tracing::warn!(rpc, ?names, "a caller is refused");
        let message = match names {
            [] => format!("{rpc} is for callers with a certificate that has a name"),
            names => format!("{rpc} is not for {}", names.join(", ")),
        };
        Err(Status::permission_denied(message))
    }
}

/// Whether the descriptors have this `package.Service` or `package.Service/Method`.
#[must_use]
pub fn is_rpc(descriptor_set: &[u8], name: &str) -> bool {
    let Ok(descriptors) = FileDescriptorSet::decode(descriptor_set) else {
        return false;
    };
    let mut paths = methods(&descriptors);
    paths.any(|(path, _)| {
        let rest = path.trim_start_matches('/').strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// A key that compares in the same time wherever another one of its length differs.
struct Key(Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key")
    }
}

fn check_key(keys: &[Key], headers: &HeaderMap) -> Result<(), Status> {
    let shown = headers.get(AUTHORIZATION);
    let shown = shown.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let Some(shown) = shown else {
        let message = "authorization: a key is needed, as in `authorization: Bearer KEY`";
        return Err(Status::unauthenticated(message));
    };
    // All of them, so that the time does not tell which one is near.
    let is_known = keys
        .iter()
        .fold(Choice::from(0), |known, key| known | key.0.ct_eq(shown));
    if bool::from(is_known) {
        Ok(())
    } else {
        Err(Status::unauthenticated("authorization: the key is unknown"))
    }
}

fn keys(content: &Content) -> Result<Vec<Key>, FileError> {
    let lines = content.bytes.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.map(|(number, line)| (number + 1, line.trim_ascii()));
    let mut keys = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        if line.len() < LEAST_KEY_BYTES
            || line.starts_with(b"#")
            || !line.iter().all(u8::is_ascii_graphic)
        {
            return Err(content.error(format!(
                "line {number}: a key has at least {LEAST_KEY_BYTES} characters, ASCII without spaces, and does not begin with #"
            )));
        }
        keys.push(Key(line.to_vec()));
    }
    if keys.is_empty() {
        return Err(content.error("holds no key"));
    }
    Ok(keys)
}
