//! Settings of the service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use service_kit::{ConfigError, Problems};

use crate::api_key::{ApiKey, InvalidKey};

/// As many passages as one prompt can usefully hold.
const MAX_WINDOW: usize = 100;
/// The longest passage of the contract.
const MAX_PASSAGE_CHARS: usize = 1024 * 1024;
/// More than any endpoint takes of one caller.
const MAX_CONCURRENT_REQUESTS: usize = 1024;
/// An hour.
const MAX_REQUEST_TIMEOUT_MS: u64 = 3_600_000;
/// More than one process needs.
const MAX_CACHE_MIB: u64 = 65_536;
/// Variables that start so are settings themselves, and shown as such.
const SETTINGS_PREFIX: &str = "FINEMESH__";
/// What the service says itself in each request.
const OWN_PARAMETERS: [&str; 6] = [
    "model",
    "messages",
    "stream",
    "n",
    "logprobs",
    "top_logprobs",
];

/// How the model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// To put the passages of a window in order.
    Listwise,
    /// About each passage alone, whether it answers the query.
    Pointwise,
}

/// The section as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// Base address of the API, such as `https://api.openai.com/v1`. Empty: the service is off.
    pub endpoint: String,
    /// The model's name there.
    pub model: String,
    /// Name of the environment variable that holds the API key. Empty: none.
    pub api_key_env: String,
    /// File that holds the API key. Empty: none.
    pub api_key_file: PathBuf,
    /// How the model is asked.
    pub method: Method,
    /// Passages in a prompt (listwise).
    pub window: usize,
    /// By how many passages a window is before the one that was ranked last (listwise).
    pub step: usize,
    /// Characters of a passage that the model gets.
    pub passage_chars: usize,
    /// More members of each request, as the endpoint knows them.
    pub parameters: BTreeMap<String, Value>,
    /// Requests in flight, of all calls.
    pub concurrent_requests: usize,
    /// For one answer of the endpoint; a call's own deadline may be earlier.
    pub request_timeout_ms: u64,
    /// Tokens that one call may take, as estimated before it begins; 0: no limit.
    pub call_tokens: u64,
    /// Tokens of this process in 24 hours; 0: no limit.
    pub day_tokens: u64,
    /// Requests of this process in 24 hours; 0: no limit.
    pub day_requests: u64,
    /// Memory for answers; 0: none is kept.
    pub answer_cache_mib: u64,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            model: String::new(),
            api_key_env: String::new(),
            api_key_file: PathBuf::new(),
            method: Method::Listwise,
            // Those of RankGPT (Sun et al. 2023).
            window: 20,
            step: 10,
            // About 400 words: longer than the passages of an index.
            passage_chars: 2400,
            parameters: BTreeMap::new(),
            concurrent_requests: 4,
            // A slow model on a busy machine; a reasoning one may need more.
            request_timeout_ms: 60_000,
            // 100 passages of 2,000 characters by windows of 20: 9 windows of 14,000 tokens.
            call_tokens: 200_000,
            // Some dollars with a small hosted model.
            day_tokens: 5_000_000,
            day_requests: 10_000,
            // Some 100,000 rankings.
            answer_cache_mib: 64,
        }
    }
}

/// The checked section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The section's name, for what is found wrong when the service starts.
    section: String,
    /// Of chat completions; none: the service is off.
    uri: Option<Uri>,
    pub(crate) model: String,
    api_key: KeySource,
    pub(crate) method: Method,
    pub(crate) window: usize,
    pub(crate) step: usize,
    pub(crate) passage_chars: usize,
    pub(crate) parameters: BTreeMap<String, Value>,
    pub(crate) concurrent_requests: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) call_tokens: Option<u64>,
    pub(crate) day_tokens: Option<u64>,
    pub(crate) day_requests: Option<u64>,
    pub(crate) answer_cache_bytes: u64,
}

/// Where the API key is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeySource {
    None,
    Variable(String),
    File(PathBuf),
}

/// Where a started service sends its prompts.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) uri: Uri,
    pub(crate) api_key: Option<ApiKey>,
}

impl Config {
    /// The endpoint and its key, which is read now: whoever only checks a file need not have it.
    pub(crate) fn destination(&self) -> Result<Destination, ConfigError> {
        let mut problems = Problems::default();
        let field = |name: &str| format!("{}.{name}", self.section);
        let missing = "must name an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1";
        let uri = problems.check(field("endpoint"), self.uri.clone().ok_or(missing));
        let api_key = match &self.api_key {
            KeySource::None => None,
            KeySource::Variable(name) => {
                problems.check(field("api_key_env"), key_of_variable(name))
            }
            KeySource::File(path) => problems.check(field("api_key_file"), key_of_file(path)),
        };
        let is_complete = problems.into_result(());
        match (uri, is_complete) {
            (Some(uri), Ok(())) => Ok(Destination { uri, api_key }),
            (_, Err(mistakes)) => Err(mistakes),
            (None, Ok(())) => unreachable!("a missing endpoint is a mistake"),
        }
    }
}

fn key_of_variable(name: &str) -> Result<ApiKey, String> {
    let text =
        std::env::var(name).map_err(|error| format!("{name}: {}", why_unreadable(&error)))?;
    ApiKey::new(&text).map_err(|InvalidKey| format!("{name} {InvalidKey}"))
}

/// The error of a variable that is not Unicode would repeat it.
fn why_unreadable(error: &std::env::VarError) -> &'static str {
    match error {
        std::env::VarError::NotPresent => "is not set",
        std::env::VarError::NotUnicode(_) => "is not UTF-8",
    }
}

fn key_of_file(path: &Path) -> Result<ApiKey, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{shown}: cannot be read: {error}"))?;
    ApiKey::new(&text).map_err(|InvalidKey| format!("{shown} {InvalidKey}"))
}

impl RawConfig {
    /// Notes every mistake; `path` is the section's name.
    pub fn validate(self, path: &str, problems: &mut Problems) -> Config {
        let field = |name: &str| format!("{path}.{name}");
        let mut within = |name: &str, value: u64, least: u64, most: u64| {
            problems.require((least..=most).contains(&value), field(name), || {
                format!("must be {least} to {most}")
            });
        };
        within("window", self.window as u64, 2, MAX_WINDOW as u64);
        within("step", self.step as u64, 1, self.window.max(2) as u64 - 1);
        within(
            "passage_chars",
            self.passage_chars as u64,
            1,
            MAX_PASSAGE_CHARS as u64,
        );
        within(
            "concurrent_requests",
            self.concurrent_requests as u64,
            1,
            MAX_CONCURRENT_REQUESTS as u64,
        );
        within(
            "request_timeout_ms",
            self.request_timeout_ms,
            1,
            MAX_REQUEST_TIMEOUT_MS,
        );
        within("answer_cache_mib", self.answer_cache_mib, 0, MAX_CACHE_MIB);
        problems.require(
            self.endpoint.is_empty() || !self.model.is_empty(),
            field("model"),
            || "must be the name of a model at the endpoint",
        );
        self.check_key_source(path, problems);
        self.check_parameters(path, problems);
        let uri = problems.check(field("endpoint"), completions_uri(&self.endpoint));
        self.checked(path, uri.flatten())
    }

    fn check_key_source(&self, path: &str, problems: &mut Problems) {
        let has_file = !self.api_key_file.as_os_str().is_empty();
        problems.require(
            self.api_key_env.is_empty() || !has_file,
            format!("{path}.api_key_file"),
            || "must be empty where api_key_env is set: there is one key",
        );
        let name = &self.api_key_env;
        let is_name = !name.contains(['=', '\0']) && !name.starts_with(SETTINGS_PREFIX);
        problems.require(is_name, format!("{path}.api_key_env"), || {
            format!(
                "must be the name of a variable, not one of {SETTINGS_PREFIX}…, which are settings"
            )
        });
    }

    fn check_parameters(&self, path: &str, problems: &mut Problems) {
        for (name, value) in &self.parameters {
            let field = format!("{path}.parameters.{name}");
            let is_own = OWN_PARAMETERS.contains(&name.as_str());
            problems.require(!is_own, &field, || "is set by the service itself");
            problems.require(!value.is_null(), &field, || "must be a value that JSON has");
        }
    }

    fn checked(self, section: &str, uri: Option<Uri>) -> Config {
        let limit = |value: u64| (value > 0).then_some(value);
        Config {
            section: section.to_owned(),
            uri,
            model: self.model,
            api_key: if !self.api_key_env.is_empty() {
                KeySource::Variable(self.api_key_env)
            } else if !self.api_key_file.as_os_str().is_empty() {
                KeySource::File(self.api_key_file)
            } else {
                KeySource::None
            },
            method: self.method,
            window: self.window,
            step: self.step,
            passage_chars: self.passage_chars,
            parameters: self.parameters,
            concurrent_requests: self.concurrent_requests,
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            call_tokens: limit(self.call_tokens),
            day_tokens: limit(self.day_tokens),
            day_requests: limit(self.day_requests),
            answer_cache_bytes: self.answer_cache_mib.saturating_mul(1024 * 1024),
        }
    }
}

/// Where chat completions are below a base address; none where that is empty.
fn completions_uri(base: &str) -> Result<Option<Uri>, String> {
    if base.is_empty() {
        return Ok(None);
    }
    let wanted = "must be a base address such as https://api.openai.com/v1";
    let uri: Uri = base.parse().map_err(|_| wanted.to_owned())?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().filter(|_| is_web).ok_or(wanted)?;
    if authority.as_str().contains('@') {
        // Not repeated: it holds a password.
        return Err(
            "must hold no user or password: the key is in api_key_env or api_key_file".into(),
        );
    }
    if uri.query().is_some()
        || uri
            .path()
            .trim_end_matches('/')
            .ends_with("/chat/completions")
    {
        return Err(format!(
            "{wanted}, without /chat/completions and without a query"
        ));
    }
    let completions = format!("{}/chat/completions", base.trim_end_matches('/'));
    completions.parse().map(Some).map_err(|_| wanted.to_owned())
}

#[cfg(test)]
mod tests;
