//! The chat completions of OpenAI's API, as far as they are needed: what is sent, and what comes back.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::prompt::Prompt;
use crate::usage::Tokens;

/// As many alternatives of a token as the API gives.
const TOP_ALTERNATIVES: u64 = 20;
/// A token for so many bytes: fewer than in English text, so that estimates are high.
const BYTES_PER_TOKEN: usize = 3;
/// Either of these limits the answer; the second is the newer name, and models that reason know only that one.
const ANSWER_LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// What does not change from request to request.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) model: String,
    pub(crate) parameters: BTreeMap<String, Value>,
    /// Whether the probabilities of the first token are asked for.
    pub(crate) with_alternatives: bool,
}

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) body: Bytes,
    /// Estimates of what it may cost.
    pub(crate) estimate: Tokens,
}

/// What the endpoint answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    /// Empty for a refusal.
    pub(crate) text: String,
    /// What the first token could have been, and how likely.
    pub(crate) first_token: Vec<Alternative>,
    /// None: the endpoint does not say.
    pub(crate) tokens: Option<Tokens>,
}

/// One token that could have been.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Alternative {
    pub(crate) token: String,
    pub(crate) logprob: f64,
}

/// A token for each three bytes.
pub(crate) fn estimated_tokens(bytes: usize) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN) as u64
}

impl Template {
    /// `answer_tokens` limit the answer unless the parameters do.
    pub(crate) fn request(&self, prompt: &Prompt, answer_tokens: u64) -> Request {
        let mut body = Map::new();
        body.insert("model".into(), json!(self.model));
        body.insert(
            "messages".into(),
            json!([
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ]),
        );
        body.insert("temperature".into(), json!(0));
        if self.answer_limit().is_none() {
            body.insert("max_tokens".into(), json!(answer_tokens));
        }
        if self.with_alternatives {
            body.insert("logprobs".into(), json!(true));
            body.insert("top_logprobs".into(), json!(TOP_ALTERNATIVES));
        }
        body.extend(self.parameters.clone());
        Request {
            body: Value::Object(body).to_string().into(),
            estimate: Tokens {
                prompt: estimated_tokens(prompt.bytes()),
                completion: self.answer_limit().unwrap_or(answer_tokens),
            },
        }
    }

    /// The limit that the parameters set.
    pub(crate) fn answer_limit(&self) -> Option<u64> {
        ANSWER_LIMITS
            .iter()
            .find_map(|name| self.parameters.get(*name)?.as_u64())
    }
}

#[derive(Deserialize)]
struct WireAnswer {
    choices: Vec<WireChoice>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct WireChoice {
    message: WireMessage,
    logprobs: Option<WireLogprobs>,
}

#[derive(Deserialize)]
struct WireMessage {
    content: Option<String>,
}

#[derive(Deserialize)]
struct WireLogprobs {
    content: Option<Vec<WireToken>>,
}

#[derive(Deserialize)]
struct WireToken {
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

/// Why a body is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    /// Only where: what it says of the value could be any text of any length.
    #[error("it is not the JSON of a chat completion (line {line}, column {column})")]
    Json { line: usize, column: usize },
    #[error("it has no choices")]
    NoChoice,
}

impl From<serde_json::Error> for Malformed {
    fn from(error: serde_json::Error) -> Self {
        Self::Json {
            line: error.line(),
            column: error.column(),
        }
    }
}

impl Answer {
    /// Reads the body of an answer. A refusal is an answer that says nothing.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Malformed> {
        let wire: WireAnswer = serde_json::from_slice(body)?;
        let choice = wire.choices.into_iter().next().ok_or(Malformed::NoChoice)?;
        let first = choice
            .logprobs
            .and_then(|logprobs| logprobs.content?.into_iter().next());
        Ok(Self {
            text: choice.message.content.unwrap_or_default(),
            first_token: first.map(|token| token.top_logprobs).unwrap_or_default(),
            tokens: tokens_of(&wire.usage),
        })
    }
}

fn tokens_of(usage: &Value) -> Option<Tokens> {
    let count = |name: &str| usage.get(name)?.as_u64();
    Some(Tokens {
        prompt: count("prompt_tokens")?,
        completion: count("completion_tokens")?,
    })
}

/// A word that says why an endpoint refused: its `error.code`, or `error.type`. Nothing else of it is fit for a message.
pub(crate) fn error_code(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error")?;
    let words = ["code", "type"]
        .iter()
        .filter_map(|name| error.get(*name)?.as_str());
    let mut plain = words.filter(|word| is_plain(word));
    plain.next().map(str::to_owned)
}

fn is_plain(word: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=64).contains(&word.len()) && word.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(parameters: &[(&str, Value)]) -> Template {
        let parameters = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        Template {
            model: "m".into(),
            parameters: parameters.collect(),
            with_alternatives: false,
        }
    }

    fn body(template: &Template) -> Value {
        let prompt = Prompt {
            system: "s".into(),
            user: "u\n\"".into(),
        };
        serde_json::from_slice(&template.request(&prompt, 7).body).unwrap()
    }

    #[test]
    fn a_request_says_what_the_api_wants() {
        let expected = json!({
            "model": "m",
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u\n\""}],
            "temperature": 0,
            "max_tokens": 7,
        });
        assert_eq!(body(&template(&[])), expected);
    }

    #[test]
    fn parameters_replace_what_is_sent_by_default() {
        let template = template(&[
            ("max_completion_tokens", json!(900)),
            ("temperature", json!(1)),
        ]);
        let body = body(&template);
        assert_eq!(
            (&body["max_completion_tokens"], &body["temperature"]),
            (&json!(900), &json!(1))
        );
        assert_eq!(body.get("max_tokens"), None);
        let prompt = Prompt {
            system: "1234".into(),
            user: "567".into(),
        };
        let estimate = template.request(&prompt, 7).estimate;
        assert_eq!(
            estimate,
            Tokens {
                prompt: 3,
                completion: 900
            }
        );
    }

    #[test]
    fn the_probabilities_of_the_first_token_are_read() {
        let answer = json!({
            "choices": [{
                "message": {"role": "assistant", "content": "Yes"},
                "logprobs": {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": [{"token": "Yes", "logprob": -0.1, "bytes": null}]}]},
                "finish_reason": "stop",
            }],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
        });
        let answer = Answer::read(answer.to_string().as_bytes()).unwrap();
        let alternative = Alternative {
            token: "Yes".into(),
            logprob: -0.1,
        };
        let tokens = Some(Tokens {
            prompt: 5,
            completion: 1,
        });
        assert_eq!(
            answer,
            Answer {
                text: "Yes".into(),
                first_token: vec![alternative],
                tokens
            }
        );
    }

    #[test]
    fn a_refusal_says_nothing() {
        let refusal = br#"{"choices": [{"message": {"content": null, "refusal": "No [1]"}, "logprobs": null}], "usage": {"prompt_tokens": -3}}"#;
        assert_eq!(Answer::read(refusal).unwrap(), Answer::default());
    }

    #[test]
    fn what_is_no_completion_is_malformed() {
        let deep = "[".repeat(100_000);
        for body in [
            "",
            "{}",
            "[]",
            "{\"choices\": []}",
            "{\"choices\": [{}]}",
            "{\"choices\": [{\"message\": {\"content\": 3}}]}",
            "nul",
            &deep,
        ] {
            assert!(Answer::read(body.as_bytes()).is_err(), "{body:.40}");
        }
        assert!(Answer::read(b"{\"choices\": [{\"message\": {\"content\": \"\xff\"}}]}").is_err());
        let malformed = Answer::read(b"{\"choices\": \"some text\"}").unwrap_err();
        assert_eq!(
            malformed.to_string(),
            "it is not the JSON of a chat completion (line 1, column 23)"
        );
    }

    #[test]
    fn only_a_plain_word_is_repeated() {
        let code = |body: &str| error_code(body.as_bytes());
        assert_eq!(
            code(r#"{"error": {"code": "content_filter"}}"#).unwrap(),
            "content_filter"
        );
        assert_eq!(
            code(r#"{"error": {"code": 400, "type": "BadRequestError"}}"#).unwrap(),
            "BadRequestError"
        );
        for body in [
            r#"{"error": {"code": "a b"}}"#,
            r#"{"error": "no"}"#,
            r#"{"error": {"code": ""}}"#,
            "<html>",
        ] {
            assert_eq!(code(body), None);
        }
    }
}
