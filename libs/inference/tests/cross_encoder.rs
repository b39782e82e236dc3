//! A pair model's bundle, from the folder to the scores. The graphs are computed by hand here; they are made by
//! `pair_graphs/pair_graphs.py`, and the tokenizer is the trainer's. Needs ONNX Runtime: see `models`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod models;

use std::fs;
use std::path::Path;

use inference::{
    AnyBundle, Bundle, BundleEncoder, CrossEncoder, EncoderOptions, GoldenError, LoadError,
    OnnxRuntime, ScoreError,
};
use models::installed_or_skip;
use serde_json::{Value, json};

const SEGMENT_WEIGHTS: [f64; 4] = [0.0, -0.5, 1.0, 2.0];
const GRAPHS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pair_graphs");
/// Written by the trainer: pairs with their ids, and the tokenizer.
const VECTORS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../services/trainer/tests/vectors/exact_match.json"
);

/// A bundle folder that is gone with its test.
struct Folder(tempfile::TempDir);

impl Folder {
    /// The bundle that is right.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let vectors: Value = serde_json::from_slice(&fs::read(VECTORS).unwrap()).unwrap();
        folder.graph("score.onnx");
        folder.write("tokenizer.json", &vectors["tokenizer"]);
        folder.write("bundle.json", &description(&vectors));
        let entries: Vec<Value> = cases(&vectors).iter().map(golden_entry).collect();
        folder.write(
            "golden.json",
            &json!({ "origin": "by hand", "entries": entries }),
        );
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn graph(&self, name: &str) {
        fs::copy(Path::new(GRAPHS).join(name), self.path().join("model.onnx")).unwrap();
    }

    fn write(&self, file: &str, value: &Value) {
        fs::write(self.path().join(file), value.to_string()).unwrap();
    }

    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path().join(file)).unwrap()).unwrap();
        change(&mut value);
        self.write(file, &value);
    }
}

fn description(vectors: &Value) -> Value {
    json!({
        "format": 1,
        "name": "by hand",
        "task": "rerank",
        "pair": { "max_query_tokens": vectors["max_query_tokens"], "segments": "exact_match_v1" },
        "outputs": { "score": "score" },
        "max_tokens": vectors["max_tokens"],
        // An id that would be seen in a score if padding were.
        "pad_token_id": 100,
        "lowercase": false,
        "tolerance": 1e-3,
        "source": "a test",
    })
}

/// Pairs whose ids are small enough for the graph.
fn cases(vectors: &Value) -> Vec<Value> {
    let cases = vectors["cases"].as_array().unwrap();
    let within = cases
        .iter()
        .filter(|case| numbers(&case["token_ids"]).iter().sum::<f64>() < 1900.0);
    within.cloned().collect()
}

fn golden_entry(case: &Value) -> Value {
    json!({
        "query": case["query"],
        "passage": case["passage"],
        "token_ids": case["token_ids"],
        "segment_ids": case["exact_match_v1"],
        "score": by_hand(case),
    })
}

/// What the graph computes.
fn by_hand(case: &Value) -> f64 {
    let (ids, segments) = (
        numbers(&case["token_ids"]),
        numbers(&case["exact_match_v1"]),
    );
    let of_token = |(position, (id, segment)): (usize, (&f64, &f64))| {
        SEGMENT_WEIGHTS[*segment as usize] + id / 1000.0 + position as f64 / 100.0
    };
    ids.iter().zip(&segments).enumerate().map(of_token).sum()
}

fn numbers(value: &Value) -> Vec<f64> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|number| number.as_f64().unwrap()).collect()
}

/// ONNX Runtime, if it is there.
fn runtime() -> Option<OnnxRuntime> {
    installed_or_skip().map(|installed| OnnxRuntime::on_cpu(installed.ort_library))
}

/// Why a bundle is not served, with its causes.
fn refusal(runtime: &OnnxRuntime, folder: &Folder) -> String {
    let error = CrossEncoder::open(runtime, folder.path(), 1).err().unwrap();
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

#[test]
fn scores_come_in_the_callers_order_whatever_is_batched_together() {
    let Some(runtime) = runtime() else { return };
    let folder = Folder::new();
    let mut encoder = CrossEncoder::open(&runtime, folder.path(), 1).unwrap();
    assert_eq!(
        (
            encoder.info().name.as_str(),
            encoder.info().max_tokens,
            encoder.info().max_query_tokens
        ),
        ("by hand", 30, 8)
    );
    let bundle = AnyBundle::read(folder.path()).unwrap();
    assert!(
        matches!(&bundle, AnyBundle::Rerank(it) if it.fingerprint() == encoder.info().fingerprint)
    );

    // Every length, shuffled: what one passage gets alone it gets among all others too.
    let passages: Vec<String> = (0..60).map(|row| "a ".repeat(row * 7 % 25)).collect();
    let scores = encoder.score("one shard", &passages).unwrap();
    for (passage, score) in passages.iter().zip(&scores) {
        let alone = encoder.score("one shard", &[passage]).unwrap();
        assert!(
            (alone[0] - score).abs() < 1e-5,
            "{passage}: {alone:?} and {score}"
        );
    }
    // By hand: [CLS] one shard [SEP] a [SEP]; segments 0 0 0 0 1 1, ids from the tokenizer's file.
    let tokenizer: Value =
        serde_json::from_slice(&fs::read(folder.path().join("tokenizer.json")).unwrap()).unwrap();
    let id = |piece: &str| tokenizer["model"]["vocab"][piece].clone();
    let ids = json!([
        id("[CLS]"),
        id("one"),
        id("shard"),
        id("[SEP]"),
        id("a"),
        id("[SEP]")
    ]);
    let expected = by_hand(&json!({ "token_ids": ids, "exact_match_v1": [0, 0, 0, 0, 1, 1] }));
    let got = encoder.score("one shard", &["a"]).unwrap()[0];
    assert!(
        (f64::from(got) - expected).abs() < 1e-4,
        "{got} and {expected}"
    );

    let scores = encoder
        .score("deadline", &["the mesh", "the deadline"])
        .unwrap();
    assert!(
        scores[1] > scores[0] + 2.0,
        "a shared word counts: {scores:?}"
    );
    assert!(
        encoder
            .score("deadline", &[] as &[&str])
            .unwrap()
            .is_empty()
    );
}

#[test]
fn hostile_texts_are_refused_by_place_and_the_encoder_goes_on() {
    let Some(runtime) = runtime() else { return };
    let folder = Folder::new();
    let mut encoder = CrossEncoder::open(&runtime, folder.path(), 1).unwrap();
    for query in ["", " \u{200b}\n"] {
        let error = encoder.score(query, &["fine"]).unwrap_err();
        assert_eq!(error.to_string(), "query: has no tokens");
    }
    let huge = "a".repeat(1024 * 1024 + 1);
    let error = encoder.score("mesh", &["fine", &huge]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "passages[1]: has 1048577 bytes, must have at most 1048576"
    );
    let error = encoder.score(&huge, &["fine"]).unwrap_err();
    assert!(matches!(error, ScoreError::InvalidQuery { .. }), "{error}");

    // 26 tokens of an id near 100 are more than the graph's root can bear.
    let error = encoder
        .score("mesh", &["a", &"the ".repeat(40)])
        .unwrap_err();
    assert_eq!(error.to_string(), "passages[1]: the model's score is NaN");

    let odd = [
        "",
        "\0\u{feff}\u{202e}",
        "🦀🦀",
        &"x".repeat(5000),
        "[CLS] [SEP] [PAD]",
    ];
    let scores = encoder.score("mesh \0 🦀", &odd).unwrap();
    assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
}

#[test]
fn what_the_graph_cannot_read_is_an_error() {
    let Some(runtime) = runtime() else { return };
    let folder = Folder::new();
    // The graph has 40 positions, and no golden pair comes so far.
    folder.edit("bundle.json", |json| json["max_tokens"] = json!(60));
    folder.edit("golden.json", |json| {
        json["entries"].as_array_mut().unwrap().truncate(1);
    });
    let mut encoder = CrossEncoder::open(&runtime, folder.path(), 1).unwrap();
    let error = encoder.score("mesh", &["a ".repeat(50)]).unwrap_err();
    assert!(matches!(error, ScoreError::Model(_)), "{error}");
    assert_eq!(encoder.score("mesh", &["a"]).unwrap().len(), 1);
}

#[test]
fn a_golden_pair_that_comes_out_otherwise_stops_it_with_what_differs() {
    let Some(runtime) = runtime() else { return };
    let vectors: Value = serde_json::from_slice(&fs::read(VECTORS).unwrap()).unwrap();
    let case = &vectors["cases"][1];
    let differs = |name: &str, ids: &Value, wrong_at: usize| {
        let shown = |ids: &[Value]| format!("{:?}", numbers(&json!(ids[..4])));
        let mut wrong = ids.as_array().unwrap()[wrong_at..].to_vec();
        let got = shown(&wrong);
        wrong[0] = json!(0);
        format!(
            "golden text 1 (\"sharding budgets | Budgets, one budget; sharding is not a s\"): the {name} are {got} \
             from token {wrong_at} on, golden.json has {}",
            shown(&wrong)
        )
        .replace(".0", "")
    };
    let folder = Folder::new();
    folder.edit("golden.json", |json| {
        json["entries"][1]["token_ids"][2] = json!(0)
    });
    assert_eq!(
        refusal(&runtime, &folder),
        differs("token ids", &case["token_ids"], 2)
    );
    let folder = Folder::new();
    folder.edit("golden.json", |json| {
        json["entries"][1]["segment_ids"][1] = json!(0)
    });
    assert_eq!(
        refusal(&runtime, &folder),
        differs("segment ids", &case["exact_match_v1"], 1)
    );
    let folder = Folder::new();
    folder.edit("golden.json", |json| {
        json["entries"][0]["score"] = json!(9.5)
    });
    let error = CrossEncoder::open(&runtime, folder.path(), 1)
        .err()
        .unwrap();
    let LoadError::Golden(GoldenError::Score {
        index,
        got,
        expected,
        tolerance,
        ..
    }) = error
    else {
        panic!("{error}");
    };
    assert_eq!((index, expected, tolerance), (0, 9.5, 1e-3));
    assert!((f64::from(got) - by_hand(&vectors["cases"][0])).abs() < 1e-4);

    // Another tokenizer.
    let folder = Folder::new();
    folder.edit("tokenizer.json", |json| {
        json["normalizer"]["lowercase"] = json!(false)
    });
    let message = refusal(&runtime, &folder);
    assert!(message.contains("the token ids are"), "{message}");
    // Plain segments for a model that was trained with marks.
    let folder = Folder::new();
    folder.edit("bundle.json", |json| {
        json["pair"]["segments"] = json!("plain")
    });
    let message = refusal(&runtime, &folder);
    assert!(
        message.contains("segment_ids: has a 2; pair.segments has ids below 2"),
        "{message}"
    );
}

#[test]
fn a_graph_that_does_not_fit_its_description_is_refused_with_the_reason() {
    let Some(runtime) = runtime() else { return };
    let refused = |graph: &str, expected: &[&str]| {
        let folder = Folder::new();
        folder.graph(graph);
        let message = refusal(&runtime, &folder);
        assert!(
            expected.iter().all(|part| message.contains(part)),
            "{message}"
        );
    };
    refused(
        "two_scores.onnx",
        &[
            "model.onnx: outputs.score: is ",
            "needs f32 of the shape [any]",
        ],
    );
    refused(
        "no_segments.onnx",
        &["model.onnx: inputs: token_type_ids is missing"],
    );
    refused(
        "unknown_operator.onnx",
        &["model.onnx: ONNX Runtime cannot load it", "Frobnicate"],
    );
    let folder = Folder::new();
    folder.edit("bundle.json", |json| {
        json["outputs"]["score"] = json!("logits")
    });
    let message = refusal(&runtime, &folder);
    assert!(
        message.contains("outputs.logits: is missing; the graph gives score"),
        "{message}"
    );
}

#[test]
fn every_mistake_of_a_description_is_named() {
    let folder = Folder::new();
    folder.edit("bundle.json", |json| {
        json["format"] = json!(2);
        json["name"] = json!(" ");
        json["pair"]["max_query_tokens"] = json!(27);
        json["outputs"]["score"] = json!("");
        json["tolerance"] = json!(100.0);
    });
    folder.edit("golden.json", |json| {
        json["entries"][0]["segment_ids"]
            .as_array_mut()
            .unwrap()
            .pop();
        json["entries"][1]["token_ids"] = json!([]);
    });
    let message = AnyBundle::read(folder.path()).unwrap_err().to_string();
    for expected in [
        "bundle.json: format: is 2; this version reads 1",
        "bundle.json: name: is empty",
        "bundle.json: pair.max_query_tokens: is 27, must be 1 to max_tokens - 4 = 26",
        "bundle.json: outputs.score: is empty",
        "golden.json: entries[0].segment_ids: has 15 ids, must have as many as token_ids: 16",
        "golden.json: entries[1].token_ids: has 0 ids, must have 1 to max_tokens = 30",
        "golden.json: entries: are too close in score for the tolerance of 100",
    ] {
        assert!(
            message.contains(expected),
            "{expected} is not in\n{message}"
        );
    }
    let refused = |change: &dyn Fn(&mut Value), expected: &str| {
        let folder = Folder::new();
        folder.edit("bundle.json", change);
        let message = AnyBundle::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused(
        &|json| json["dimensions"] = json!(384),
        "unknown field `dimensions`",
    );
    refused(
        &|json| json["pair"]["segments"] = json!("exact_match_v2"),
        "unknown variant `exact_match_v2`",
    );
    refused(
        &|json| json["task"] = json!("summarise"),
        "unknown variant `summarise`, expected `encode` or `rerank`",
    );
    refused(
        &|json| json["tolerance"] = json!(0.0),
        "tolerance: is 0, must be above 0",
    );
}

#[test]
fn a_bundle_of_another_task_is_refused_by_name() {
    let folder = Folder::new();
    let refused = Bundle::read(folder.path()).unwrap_err().to_string();
    assert!(
        refused.ends_with("bundle.json: task: is rerank, must be encode here"),
        "{refused}"
    );
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let runtime = OnnxRuntime::on_cpu(&installed.ort_library);
    let as_encoder = BundleEncoder::open(&runtime, folder.path(), EncoderOptions::default());
    assert_eq!(as_encoder.err().unwrap().to_string(), refused);
    let as_reranker = CrossEncoder::open(&runtime, &installed.encoder_bundle, 1);
    let refused = as_reranker.err().unwrap().to_string();
    assert!(
        refused.ends_with("bundle.json: task: is encode, must be rerank here"),
        "{refused}"
    );
}
