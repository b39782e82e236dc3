//! A second bundle that rescores, from its making to a hit: the same model under another name, and so with another fingerprint.

use std::path::PathBuf;

use serde_json::Value;

use crate::process::{Finemesh, models_are_here};

const DOCUMENTS: &str = r#"{"_id":"deadline","text":"A client sets a deadline on a gRPC request; the server stops working when it has passed."}
{"_id":"coffee","text":"Grind the beans freshly and pour water just off the boil."}
{"_id":"tea","text":"Green tea is steeped for two minutes at seventy degrees."}
"#;

/// Makes a bundle of the configured encoder's model, and a configuration with a pipeline that uses it.
fn with_second_bundle(mesh: &Finemesh) -> PathBuf {
    let models = mesh.json(&["models", "list", "--json"]);
    let (source, bundle) = (
        models["encoder"]["folder"].as_str().unwrap(),
        mesh.folder().join("second"),
    );
    let bundle = bundle.to_str().unwrap();
    mesh.ok(&["models", "make", source, bundle]);
    let config = format!(
        "[models]\nrescorer_bundle = {bundle:?}\n\
         [orchestrator.pipelines.rescored]\nstages = [\"sparse\", \"dense\"]\nrescore = {{ window = 2, weight = 0.5 }}\n"
    );
    mesh.file("rescoring.toml", &config)
}

fn fingerprint(models: &Value, role: &str) -> String {
    models[role]["fingerprint"].as_str().unwrap().to_owned()
}

#[test]
fn two_bundles_index_and_search_together() {
    if !models_are_here() {
        return;
    }
    let mesh = Finemesh::new();
    let config = with_second_bundle(&mesh);
    let config = ["--config", config.to_str().unwrap()];
    let documents = mesh.file("documents.jsonl", DOCUMENTS);
    let index = [
        "index",
        "--collection",
        "small",
        documents.to_str().unwrap(),
    ];
    let stages = ["--stages", "sparse,dense,rescore", "--json"];
    let summary = mesh.json(&[&config[..], &index, &stages].concat());
    let bytes = &summary["bytes"];
    assert!(bytes["rescore"].as_u64().unwrap() > 3 * 384, "{summary}");

    let search = [
        "search",
        "--collection",
        "small",
        "--pipeline",
        "rescored",
        "--explain",
        "--json",
    ];
    let answer = mesh.json(&[&config[..], &search, &["time limit of a remote call"]].concat());
    assert_eq!(answer["degraded"], false, "{answer}");
    let hits = answer["hits"].as_array().unwrap();
    assert_eq!(hits[0]["id"], "deadline");
    for (place, hit) in hits.iter().enumerate() {
        let trail = hit["trail"].as_array().unwrap();
        let raw = |stage: &str| {
            let entry = trail.iter().find(|entry| entry["stage"] == stage);
            entry.map(|entry| entry["raw"].as_f64().unwrap())
        };
        assert_eq!(raw("rescore").is_some(), place < 2, "{hit}");
        // The same weights say the same, but for what int8 rounds away.
        if let Some(rescored) = raw("rescore") {
            assert!((rescored - raw("dense").unwrap()).abs() < 0.02, "{hit}");
        }
        let sum: f64 = trail
            .iter()
            .map(|entry| entry["contribution"].as_f64().unwrap())
            .sum();
        assert!(
            (sum - hit["score"].as_f64().unwrap()).abs() < 1e-12,
            "{hit}"
        );
    }

    // Without the second bundle nothing can be added, but what is there is found.
    let models = mesh.json(&[&config[..], &["models", "list", "--json"]].concat());
    let (_, message) = mesh.fails(&index);
    assert!(
        message.contains(&fingerprint(&models, "rescorer")),
        "{message}"
    );
    let plain = mesh.json(&["search", "--collection", "small", "--json", "coffee"]);
    assert_eq!(
        (&plain["degraded"], &plain["hits"][0]["id"]),
        (&false.into(), &"coffee".into())
    );
    mesh.ok(&[&config[..], &["models", "verify"]].concat());
}

#[test]
fn the_encoders_own_bundle_is_no_second_one() {
    if !models_are_here() {
        return;
    }
    let mesh = Finemesh::new();
    let models = mesh.json(&["models", "list", "--json"]);
    let folder = models["encoder"]["folder"].as_str().unwrap();
    let config = mesh.file(
        "same.toml",
        &format!("[models]\nrescorer_bundle = {folder:?}\n"),
    );
    let search = [
        "--config",
        config.to_str().unwrap(),
        "search",
        "--collection",
        "small",
        "x",
    ];
    let (_, message) = mesh.fails(&search);
    assert!(message.contains("models.rescorer_bundle"), "{message}");
    assert!(
        message.contains(&fingerprint(&models, "encoder")),
        "{message}"
    );
}
