//! Model bundles on the command line: a pair model's, made of the small graph and the golden pair beside
//! libs/inference's tests.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::{Finemesh, models_are_here};

const LIBS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../libs/inference/tests/pair_graphs"
);
const VECTORS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../trainer/tests/vectors/exact_match.json"
);

/// Its one golden score is what the graph gives for `ids`, all in segment 0 or 1.
fn reranker(folder: PathBuf) -> PathBuf {
    fs::create_dir_all(&folder).unwrap();
    let vectors: Value = serde_json::from_slice(&fs::read(VECTORS).unwrap()).unwrap();
    fs::copy(
        Path::new(LIBS).join("score.onnx"),
        folder.join("model.onnx"),
    )
    .unwrap();
    let write =
        |file: &str, value: &Value| fs::write(folder.join(file), value.to_string()).unwrap();
    write("tokenizer.json", &vectors["tokenizer"]);
    write(
        "bundle.json",
        &json!({
            "format": 1, "name": "small reranker", "task": "rerank", "max_tokens": 30, "pad_token_id": 0,
            "pair": { "max_query_tokens": 8, "segments": "plain" }, "outputs": { "score": "score" },
            "lowercase": false, "tolerance": 1e-3, "source": "a test",
        }),
    );
    let id = |piece: &str| {
        vectors["tokenizer"]["model"]["vocab"][piece]
            .as_f64()
            .unwrap()
    };
    let ids = [
        id("[CLS]"),
        id("apple"),
        id("[SEP]"),
        id("pear"),
        id("[SEP]"),
    ];
    let positions = 0.01 + 0.02 + 0.03 + 0.04;
    let score = ids.iter().sum::<f64>() / 1000.0 + positions - 2.0 * 0.5;
    let entry = json!({
        "query": "apple", "passage": "pear", "segment_ids": [0, 0, 0, 1, 1], "score": score,
        "token_ids": ids.map(|id| id as u32),
    });
    write(
        "golden.json",
        &json!({ "origin": "by hand", "entries": [entry] }),
    );
    folder
}

fn cause(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

#[test]
fn a_reranker_verifies_is_listed_and_is_no_encoder() {
    if !models_are_here() {
        return;
    }
    let mesh = Finemesh::new();
    let models = mesh.folder().join("models");
    let bundle = reranker(models.join("mine"));
    let broken = reranker(models.join("torn"));
    fs::remove_file(broken.join("golden.json")).unwrap();
    let path = bundle.to_str().unwrap();

    let verified = mesh.ok(&["models", "verify", path]);
    assert!(
        verified.starts_with("small reranker: 1 golden pairs verified\nfingerprint "),
        "{verified}"
    );

    let config = format!("[models]\ncache_folder = {models:?}\n");
    let config = mesh.file("models.toml", &config);
    let listed = mesh.json(&[
        "--config",
        config.to_str().unwrap(),
        "models",
        "list",
        "--json",
    ]);
    let [mine, torn] = listed["others"].as_array().unwrap().as_slice() else {
        panic!("{listed}");
    };
    assert_eq!(
        (&mine["name"], &mine["task"]),
        (&json!("small reranker"), &json!("rerank"))
    );
    assert_eq!(
        (&mine["max_tokens"], &mine["max_query_tokens"]),
        (&json!(30), &json!(8))
    );
    assert!(verified.contains(mine["fingerprint"].as_str().unwrap()));
    assert!(
        torn["error"]
            .as_str()
            .unwrap()
            .contains("golden.json: missing"),
        "{torn}"
    );

    let as_encoder = mesh.file(
        "encoder.toml",
        &format!("[models]\nencoder_bundle = {bundle:?}\n"),
    );
    let (code, message) =
        mesh.fails(&["--config", as_encoder.to_str().unwrap(), "models", "verify"]);
    assert_eq!(code, 1);
    assert!(
        cause(&message).contains("bundle.json: task: is rerank, must be encode here"),
        "{message}"
    );
}

#[test]
fn what_a_bundle_does_not_keep_is_said() {
    if !models_are_here() {
        return;
    }
    let mesh = Finemesh::new();
    let refused = |file: &str, from: &str, to: &str| {
        let bundle = reranker(mesh.folder().join("mine"));
        let content = fs::read_to_string(bundle.join(file)).unwrap();
        assert!(content.contains(from), "{content}");
        fs::write(bundle.join(file), content.replacen(from, to, 1)).unwrap();
        let (code, message) = mesh.fails(&["models", "verify", bundle.to_str().unwrap()]);
        assert_eq!(code, 1);
        message
    };
    let message = refused("golden.json", "\"score\":-0.", "\"score\":-9.");
    assert!(
        message.contains("\"apple | pear\"): the score is -0."),
        "{message}"
    );
    let message = refused("golden.json", "\"token_ids\":[2,", "\"token_ids\":[0,");
    assert!(message.contains("the token ids are [2, "), "{message}");
    let message = refused("bundle.json", "\"score\":\"score\"", "\"score\":\"logit\"");
    assert!(
        message.contains("outputs.logit: is missing; the graph gives score"),
        "{message}"
    );
}
