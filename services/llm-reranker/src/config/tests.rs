use super::*;

fn mistakes(raw: RawConfig) -> Vec<String> {
    let mut problems = Problems::default();
    raw.validate("llm_reranker", &mut problems);
    let paths = problems.iter().map(|problem| problem.path.clone());
    paths.collect()
}

fn with_endpoint(endpoint: &str) -> RawConfig {
    RawConfig {
        endpoint: endpoint.into(),
        model: "m".into(),
        ..RawConfig::default()
    }
}

#[test]
fn every_mistake_is_noted_with_its_path() {
    assert_eq!(mistakes(RawConfig::default()), [""; 0]);
    let raw = RawConfig {
        endpoint: "ftp://host".into(),
        model: String::new(),
        api_key_env: "FINEMESH__LLM_RERANKER__KEY".into(),
        api_key_file: "key".into(),
        method: Method::Pointwise,
        window: 1,
        step: 0,
        passage_chars: 0,
        parameters: BTreeMap::from([("model".into(), 1.into()), ("seed".into(), Value::Null)]),
        concurrent_requests: 0,
        request_timeout_ms: 0,
        call_tokens: 0,
        day_tokens: 0,
        day_requests: 0,
        answer_cache_mib: u64::MAX,
    };
    let names = [
        "window",
        "step",
        "passage_chars",
        "concurrent_requests",
        "request_timeout_ms",
        "answer_cache_mib",
        "model",
        "api_key_file",
        "api_key_env",
        "parameters.model",
        "parameters.seed",
        "endpoint",
    ];
    assert_eq!(
        mistakes(raw),
        names.map(|name| format!("llm_reranker.{name}"))
    );
}

#[test]
fn a_step_leaves_something_of_a_window_to_the_next() {
    let raw = RawConfig {
        window: 4,
        step: 4,
        ..RawConfig::default()
    };
    assert_eq!(mistakes(raw), ["llm_reranker.step"]);
}

#[test]
fn completions_are_below_the_base_address() {
    for base in ["http://h:1/v1", "http://h:1/v1/"] {
        let uri = completions_uri(base).unwrap().unwrap();
        assert_eq!(uri, "http://h:1/v1/chat/completions");
    }
    assert_eq!(
        completions_uri("https://h").unwrap().unwrap(),
        "https://h/chat/completions"
    );
    assert_eq!(completions_uri(""), Ok(None));
}

#[test]
fn an_address_that_is_no_base_is_a_mistake() {
    let wrong = [
        "h:1",
        "/v1",
        "http://",
        "http://h/v1/chat/completions",
        "http://h/v1?key=1",
        "http://me:pw@h/v1",
        "http://h/ v1",
    ];
    for base in wrong {
        assert_eq!(
            mistakes(with_endpoint(base)),
            ["llm_reranker.endpoint"],
            "{base}"
        );
    }
    assert!(
        !completions_uri("http://me:pw@h/v1")
            .unwrap_err()
            .contains("pw")
    );
}

#[test]
fn a_service_without_an_endpoint_does_not_start() {
    let config = RawConfig::default().validate("llm_reranker", &mut Problems::default());
    let error = config.destination().unwrap_err().to_string();
    assert!(
        error.contains("llm_reranker.endpoint: must name"),
        "{error}"
    );
}

#[test]
fn a_key_is_read_when_the_service_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let raw = RawConfig {
        api_key_file: path.clone(),
        ..with_endpoint("http://h/v1")
    };
    let config = raw.validate("llm_reranker", &mut Problems::default());
    let error = config.destination().unwrap_err().to_string();
    assert!(
        error.contains("llm_reranker.api_key_file: ") && error.contains("cannot be read"),
        "{error}"
    );
    std::fs::write(&path, "two words").unwrap();
    let error = config.destination().unwrap_err().to_string();
    assert!(
        error.contains("holds no key") && !error.contains("two words"),
        "{error}"
    );
    std::fs::write(&path, "sk-1\n").unwrap();
    let key = config.destination().unwrap().api_key.unwrap();
    assert_eq!(key.header().to_str().unwrap(), "Bearer sk-1");
}

#[test]
fn a_key_that_is_not_set_is_a_mistake() {
    let raw = RawConfig {
        api_key_env: "NO_SUCH_KEY_IS_SET".into(),
        ..with_endpoint("http://h/v1")
    };
    let config = raw.validate("llm_reranker", &mut Problems::default());
    let error = config.destination().unwrap_err().to_string();
    assert!(
        error.contains("llm_reranker.api_key_env: NO_SUCH_KEY_IS_SET: is not set"),
        "{error}"
    );
}
