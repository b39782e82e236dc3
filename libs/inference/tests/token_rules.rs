//! Which tokens have vectors: the default bundle with rules of its own. Needs the models: see `models`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod linked_bundle;
mod models;

use std::path::{Path, PathBuf};

use inference::pull::Installed;
use inference::{
    BundleEncoder, EncodeError, EncodeJob, Encoded, EncoderOptions, LoadError, OnnxRuntime,
    Priority, Task, TextEncoder,
};
use linked_bundle::{edit, linked_copy};
use models::installed_or_skip;
use proptest::prelude::*;
use search_core::Criticality;
use serde_json::{Value, json};
use tempfile::TempDir;

const WIDTH: usize = 384;
/// Two roundings of the same.
const TOLERANCE: f32 = 1e-5;

const OPTIONS: EncoderOptions = EncoderOptions {
    threads: 1,
    batch_tokens: 256,
    queue_texts: 64,
};

/// Copies of the default bundle in a folder of their own.
struct Bundles {
    installed: Installed,
    folder: TempDir,
}

impl Bundles {
    fn new() -> Option<Self> {
        let installed = installed_or_skip()?;
        let folder = tempfile::tempdir_in(installed.encoder_bundle.parent().unwrap()).unwrap();
        Some(Self { installed, folder })
    }

    /// A copy without golden token vectors, whose description has these rules.
    fn with_rules(&self, name: &str, rules: &Value) -> PathBuf {
        let bundle = self.folder.path().join(name);
        linked_copy(&self.installed.encoder_bundle, &bundle);
        edit_json(&bundle.join("bundle.json"), |it| {
            it["token_vectors"] = rules.clone()
        });
        edit_json(&bundle.join("golden.json"), |it| {
            let entry = it["entries"][0].as_object_mut().unwrap();
            entry.remove("token_vectors").unwrap();
        });
        bundle
    }

    fn open(&self, bundle: &Path) -> Result<BundleEncoder, LoadError> {
        let runtime = OnnxRuntime::on_cpu(&self.installed.ort_library);
        BundleEncoder::open(&runtime, bundle, OPTIONS)
    }

    fn plain(&self) -> BundleEncoder {
        self.open(&self.installed.encoder_bundle).unwrap()
    }

    fn refusal(&self, name: &str, rules: &Value) -> String {
        let bundle = self.with_rules(name, rules);
        self.open(&bundle).err().unwrap().to_string()
    }
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    edit(path, |json| {
        let mut value = serde_json::from_str(&json).unwrap();
        change(&mut value);
        value.to_string()
    });
}

/// As those that search with masks have them.
fn rules() -> Value {
    json!({
        "left_out_of_passages": ["[CLS]", "[SEP]", ".", ",", "?"],
        "query_masks": { "token": "[MASK]", "tokens": 12 },
    })
}

fn job(text: &str, task: Task, with_token_vectors: bool) -> EncodeJob {
    EncodeJob {
        texts: vec![text.to_owned()],
        task,
        with_token_vectors,
        priority: Priority::Interactive,
        criticality: Criticality::Critical,
        deadline: None,
    }
}

async fn encode(encoder: &BundleEncoder, text: &str, task: Task) -> Encoded {
    encoder.encode(job(text, task, true)).await.unwrap()
}

async fn tokens(encoder: &BundleEncoder, text: &str, task: Task) -> Vec<String> {
    let tokens = encoder.tokens(vec![text.to_owned()], task).await.unwrap();
    tokens.into_iter().next().unwrap()
}

fn token_vectors(encoded: &Encoded) -> &[f32] {
    &encoded.token_vectors.as_ref().unwrap()[0]
}

fn are_close(one: &[f32], other: &[f32]) -> bool {
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < TOLERANCE;
    one.len() == other.len() && one.iter().zip(other).all(close)
}

#[tokio::test]
async fn without_rules_each_token_that_is_read_has_a_vector() {
    let Some(bundles) = Bundles::new() else {
        return;
    };
    let encoder = bundles.plain();
    let expected = ["[CLS]", "re", "##rank", "##ing", ",", "[SEP]"];
    for task in [Task::Query, Task::Passage] {
        assert_eq!(tokens(&encoder, "Reranking,", task).await, expected);
    }
    let long = "word ".repeat(400);
    assert_eq!(tokens(&encoder, &long, Task::Passage).await.len(), 256);
    let error = encoder.tokens(vec!["fine".into(), String::new()], Task::Query);
    let error = error.await.unwrap_err();
    assert!(
        matches!(error, EncodeError::InvalidText { index: 1, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn tokens_of_passages_are_left_out_and_the_others_keep_their_vectors() {
    let Some(bundles) = Bundles::new() else {
        return;
    };
    let ruled = bundles
        .open(&bundles.with_rules("ruled", &rules()))
        .unwrap();
    let text = "Shards, segments. What else?";
    let kept = ["shards", "segments", "what", "else"];
    let found = tokens(&ruled, text, Task::Passage).await;
    let words: Vec<&str> = found
        .iter()
        .map(|token| token.trim_start_matches("##"))
        .collect();
    assert_eq!(words.concat(), kept.concat());
    let (plain, ruled) = (
        encode(&bundles.plain(), text, Task::Passage).await,
        encode(&ruled, text, Task::Passage).await,
    );
    let all = tokens(&bundles.plain(), text, Task::Passage).await;
    let of_kept = all.iter().zip(token_vectors(&plain).chunks(WIDTH));
    let of_kept = of_kept.filter(|(token, _)| found.contains(token));
    let of_kept: Vec<f32> = of_kept.flat_map(|(_, vector)| vector).copied().collect();
    assert!(are_close(token_vectors(&ruled), &of_kept));
    assert!(are_close(&ruled.vectors, &plain.vectors));
    assert_eq!(ruled.tokens, plain.tokens);
}

#[tokio::test]
async fn masks_that_are_not_attended_to_change_nothing_but_their_own_vectors() {
    let Some(bundles) = Bundles::new() else {
        return;
    };
    let (plain, ruled) = (
        bundles.plain(),
        bundles
            .open(&bundles.with_rules("ruled", &rules()))
            .unwrap(),
    );
    let text = "how are shards searched?";
    let found = tokens(&ruled, text, Task::Query).await;
    assert_eq!((found.len(), found[11].as_str()), (12, "[MASK]"));
    let masks = found.iter().filter(|token| *token == "[MASK]").count();
    let without = encode(&plain, text, Task::Query).await;
    let with = encode(&ruled, text, Task::Query).await;
    assert_eq!(token_vectors(&with).len(), 12 * WIDTH);
    let own = &token_vectors(&with)[..(12 - masks) * WIDTH];
    assert!(are_close(own, token_vectors(&without)));
    assert!(are_close(&with.vectors, &without.vectors));
    let sentence = ruled.encode(job(text, Task::Query, false)).await.unwrap();
    assert!(are_close(&sentence.vectors, &without.vectors));
    assert_eq!(
        (&with.tokens, &sentence.tokens),
        (&without.tokens, &without.tokens)
    );
    // Passages are not filled up, and what is long enough keeps its tokens.
    assert_eq!(tokens(&ruled, "shards", Task::Passage).await.len(), 1);
    let long = "word ".repeat(30);
    assert_eq!(tokens(&ruled, &long, Task::Query).await.len(), 32);
}

#[tokio::test]
async fn masks_that_are_attended_to_are_part_of_every_query() {
    let Some(bundles) = Bundles::new() else {
        return;
    };
    let rules = json!({ "query_masks": { "token": "[MASK]", "tokens": 12, "attended": true } });
    let bundle = bundles.with_rules("attended", &rules);
    // Its own query was computed without them.
    edit_json(&bundle.join("golden.json"), |it| {
        let entries = it["entries"].as_array_mut().unwrap();
        entries.retain(|entry| entry["task"] == "passage");
    });
    let (plain, ruled) = (bundles.plain(), bundles.open(&bundle).unwrap());
    let text = "how are shards searched?";
    let with = encode(&ruled, text, Task::Query).await;
    let sentence = ruled.encode(job(text, Task::Query, false)).await.unwrap();
    assert_eq!((with.tokens[0], sentence.tokens[0]), (12, 12));
    assert!(are_close(&with.vectors, &sentence.vectors));
    let without = encode(&plain, text, Task::Query).await;
    assert!(!are_close(&with.vectors, &without.vectors));
}

#[tokio::test]
async fn golden_token_vectors_are_those_that_are_served() {
    let Some(bundles) = Bundles::new() else {
        return;
    };
    let bundle = bundles.with_rules("ruled", &rules());
    let encoder = bundles.open(&bundle).unwrap();
    let served = encode(&encoder, "set a deadline", Task::Query).await;
    let golden = |name: &str, vectors: &[f32]| {
        let copy = bundles.folder.path().join(name);
        linked_copy(&bundle, &copy);
        edit_json(&copy.join("golden.json"), |it| {
            it["entries"][0]["token_vectors"] = json!(vectors);
        });
        bundles
            .open(&copy)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let mut vectors = token_vectors(&served).to_vec();
    assert_eq!(golden("same", &vectors), Ok(()));
    let error = golden("short", &vectors[WIDTH..]).unwrap_err();
    assert!(
        error.contains("golden.json: entries[0].token_vectors: has"),
        "{error}"
    );
    *vectors.last_mut().unwrap() += 0.01;
    let error = golden("other", &vectors).unwrap_err();
    assert!(error.contains("token_vectors component 4607"), "{error}");
}

#[tokio::test]
async fn golden_passages_without_the_tokens_that_are_left_out_are_compared() {
    let Some(bundles) = Bundles::new() else {
        return;
    };
    let bundle = bundles.with_rules("ruled", &rules());
    let (plain, ruled) = (bundles.plain(), bundles.open(&bundle).unwrap());
    let text = "Shards, segments.";
    let golden = |name: &str, vectors: &[f32], sentence: &[f32], token_ids: &Value| {
        let copy = bundles.folder.path().join(name);
        linked_copy(&bundle, &copy);
        edit_json(&copy.join("golden.json"), |it| {
            it["entries"] = json!([{
                "task": "passage", "text": text, "token_ids": token_ids,
                "vector": sentence, "token_vectors": vectors,
            }]);
        });
        bundles
            .open(&copy)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let (all, kept) = (
        encode(&plain, text, Task::Passage).await,
        encode(&ruled, text, Task::Passage).await,
    );
    let ids = token_ids(&bundle, &tokens(&plain, text, Task::Passage).await);
    assert_eq!(
        golden("kept", token_vectors(&kept), &kept.vectors, &ids),
        Ok(())
    );
    let error = golden("all", token_vectors(&all), &kept.vectors, &ids).unwrap_err();
    assert!(error.contains("token_vectors has"), "{error}");
    let error = golden("cut", &token_vectors(&kept)[1..], &kept.vectors, &ids).unwrap_err();
    assert!(error.contains("entries[0].token_vectors: has"), "{error}");
}

fn token_ids(bundle: &Path, tokens: &[String]) -> Value {
    let tokenizer = std::fs::read(bundle.join("tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    let vocabulary = &tokenizer["model"]["vocab"];
    tokens
        .iter()
        .map(|token| vocabulary[token].clone())
        .collect()
}

#[test]
fn wrong_rules_are_refused_by_field() {
    let Some(bundles) = Bundles::new() else {
        return;
    };
    let masks =
        |token: &str, tokens: usize| json!({ "query_masks": { "token": token, "tokens": tokens } });
    let left_out = |tokens: &[&str]| json!({ "left_out_of_passages": tokens });
    let cases = [
        (
            left_out(&[".", "no such"]),
            "left_out_of_passages[1]: \"no such\" is not in",
        ),
        (
            left_out(&[".", ",", "."]),
            "left_out_of_passages[2]: \".\" is named twice",
        ),
        (
            masks("[NONE]", 32),
            "query_masks.token: \"[NONE]\" is not in",
        ),
        (masks("[MASK]", 0), "query_masks.tokens: is 0, must be 1 to"),
        (
            masks("[MASK]", 257),
            "query_masks.tokens: is 257, must be 1 to max_tokens = 256",
        ),
    ];
    for (index, (rules, expected)) in cases.into_iter().enumerate() {
        let error = bundles.refusal(&index.to_string(), &rules);
        assert!(
            error.contains(&format!("bundle.json: token_vectors.{expected}")),
            "{error}"
        );
    }
    let error = bundles.refusal("field", &json!({ "query_mask": {} }));
    assert!(
        error.contains("bundle.json: unknown field `query_mask`"),
        "{error}"
    );
    let bundle = bundles.with_rules("no vectors", &rules());
    edit_json(&bundle.join("bundle.json"), |it| {
        it["token_dimensions"] = json!(0);
        it["outputs"]["tokens"] = Value::Null;
    });
    let error = bundles.open(&bundle).err().unwrap().to_string();
    assert!(
        error.contains("bundle.json: token_vectors: is given, but"),
        "{error}"
    );
}

#[test]
fn of_any_text_there_are_as_many_tokens_as_token_vectors() {
    let Some(bundles) = Bundles::new() else {
        return;
    };
    let encoders = [
        bundles.plain(),
        bundles
            .open(&bundles.with_rules("ruled", &rules()))
            .unwrap(),
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let texts = "(\\PC{1,40}|[a-z,.? ]{1,80}|\\[MASK\\]{1,20}|.{1,20})";
    proptest!(ProptestConfig::with_cases(48), |(text in texts, is_query in any::<bool>())| {
        let task = if is_query { Task::Query } else { Task::Passage };
        for encoder in &encoders {
            let encoded = runtime.block_on(encode(encoder, &text, task));
            let tokens = runtime.block_on(tokens(encoder, &text, task));
            prop_assert_eq!(tokens.len() * WIDTH, token_vectors(&encoded).len());
        }
    });
}
