//! The command line as a user meets it: real binary, real models, embedded mesh.

use crate::process::{Finemesh, models_are_here};

const DOCUMENTS: &str = r#"{"_id":"deadline","title":"Deadlines","text":"A client sets a deadline on a gRPC request; the server stops working when it has passed.","metadata":{"year":2021,"lang":"en"}}
{"_id":"coffee","title":"Coffee","text":"Grind the beans freshly and pour water just off the boil.","metadata":{"year":2018,"lang":"en"}}
{"_id":"tee","title":"Tee","text":"Gruener Tee zieht zwei Minuten bei siebzig Grad.","metadata":{"year":2022,"lang":"de"}}
"#;

fn indexed() -> Finemesh {
    let mesh = Finemesh::new();
    let file = mesh.file("documents.jsonl", DOCUMENTS);
    mesh.ok(&["index", "--collection", "small", file.to_str().unwrap()]);
    mesh
}

fn ids(answer: &serde_json::Value) -> Vec<&str> {
    answer["hits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| hit["id"].as_str().unwrap())
        .collect()
}

#[test]
fn search_finds_filters_and_explains() {
    if !models_are_here() {
        return;
    }
    let mesh = indexed();
    let search = |extra: &[&str]| {
        mesh.json(&[&["search", "--collection", "small", "--json"], extra].concat())
    };

    let answer = search(&["time limit of a remote call", "--explain"]);
    assert_eq!(ids(&answer)[0], "deadline");
    assert_eq!(answer["degraded"], false);
    for hit in answer["hits"].as_array().unwrap() {
        let trail = hit["trail"].as_array().unwrap();
        let sum: f64 = trail
            .iter()
            .map(|step| step["contribution"].as_f64().unwrap())
            .sum();
        assert!((sum - hit["score"].as_f64().unwrap()).abs() < 1e-12);
    }
    for stage in answer["stages"].as_array().unwrap() {
        assert_eq!(stage["status"], "complete");
        assert_eq!(stage["reason"], serde_json::Value::Null);
    }

    assert_eq!(
        ids(&search(&[
            "drink",
            "--filter",
            "year >= 2019 and lang = \"de\""
        ])),
        ["tee"]
    );
    assert_eq!(
        ids(&search(&["request -deadline", "--pipeline", "sparse"])),
        Vec::<&str>::new()
    );
    assert_eq!(
        ids(&search(&["\"off the boil\"", "--pipeline", "sparse"])),
        ["coffee"]
    );
}

#[test]
fn a_second_run_replaces_and_delete_removes() {
    if !models_are_here() {
        return;
    }
    let mesh = indexed();
    let newer = mesh.file(
        "newer.jsonl",
        r#"{"_id":"coffee","text":"Now about espresso machines."}"#,
    );
    let summary = mesh.json(&[
        "index",
        "--collection",
        "small",
        "--json",
        newer.to_str().unwrap(),
    ]);
    assert_eq!(
        (&summary["snapshot"], &summary["replaced"]),
        (&2.into(), &1.into())
    );
    let found = |query: &str| {
        let answer = mesh.json(&[
            "search",
            "--collection",
            "small",
            "--pipeline",
            "sparse",
            "--json",
            query,
        ]);
        ids(&answer)
            .iter()
            .map(|id| (*id).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(found("espresso"), ["coffee"]);
    assert!(found("grind").is_empty());

    let deleted = mesh.json(&[
        "delete",
        "--collection",
        "small",
        "--json",
        "coffee",
        "nobody",
    ]);
    assert_eq!(
        (&deleted["deleted"], &deleted["unknown"][0]),
        (&1.into(), &"nobody".into())
    );
    assert!(found("espresso").is_empty());
}

#[test]
fn stages_come_and_go_without_the_documents() {
    if !models_are_here() {
        return;
    }
    let mesh = Finemesh::new();
    let file = mesh.file("documents.jsonl", DOCUMENTS);
    let index = ["index", "--collection", "small"];
    mesh.ok(&[&index[..], &["--stages", "sparse", file.to_str().unwrap()]].concat());
    let search = [
        "search",
        "--collection",
        "small",
        "--json",
        "time limit of a remote call",
    ];
    let (_, message) = mesh.fails(&search);
    assert!(message.contains("vectors"), "{message}");

    let stages = |stages: &str| mesh.json(&[&index[..], &["--json", "--stages", stages]].concat());
    let summary = stages("sparse,dense,colbert");
    assert_eq!(
        (&summary["snapshot"], &summary["documents"]),
        (&2.into(), &3.into())
    );
    let bytes: Vec<&String> = summary["bytes"].as_object().unwrap().keys().collect();
    assert_eq!(bytes, ["colbert", "dense"]);
    let answer = mesh.json(&search);
    assert_eq!(ids(&answer)[0], "deadline");
    for stage in answer["stages"].as_array().unwrap() {
        assert_eq!(stage["status"], "complete", "{stage}");
    }
    let again = mesh.ok(&[&index[..], &["--stages", "sparse,colbert,dense"]].concat());
    assert!(again.contains("nothing was changed"), "{again}");
    let summary = stages("sparse,dense");
    assert_eq!(
        (&summary["snapshot"], &summary["documents"]),
        (&3.into(), &0.into())
    );
    assert_eq!(ids(&mesh.json(&search))[0], "deadline");
    // The snapshot before has vectors, and is not asked.
    stages("sparse");
    let (_, message) = mesh.fails(&search);
    assert!(message.contains("vectors"), "{message}");

    for (collection, stages, expected) in [
        ("small", "dense", "stages: must include sparse"),
        ("small", "sparse,nonsense", "stages[1]"),
        ("absent", "sparse", "collection absent does not exist"),
    ] {
        let wishes = ["index", "--collection", collection, "--stages", stages];
        let (code, message) = mesh.fails(&wishes);
        assert!(code == 1 && message.contains(expected), "{message}");
    }
    for alone in [&["--stages", "sparse", "--shards", "2"][..], &[]] {
        assert_eq!(mesh.fails(&[&index[..], alone].concat()).0, 2);
    }
}

#[test]
fn invalid_lines_are_named_and_nothing_is_written() {
    if !models_are_here() {
        return;
    }
    let mesh = Finemesh::new();
    let file = mesh.file("broken.jsonl", "{\"_id\":\"a\",\"text\":\"fine\"}\n{oops\n{\"text\":\"no id\"}\n{\"_id\":\"a\",\"text\":\"again\"}\n");
    let path = file.to_str().unwrap();
    let (code, message) = mesh.fails(&["index", "--collection", "c", path]);
    assert_eq!(code, 1);
    for line in [":2:", ":3:", ":4:"] {
        assert!(
            message.contains(&format!("broken.jsonl{line}")),
            "{message}"
        );
    }
    let (_, message) = mesh.fails(&["search", "--collection", "c", "fine"]);
    assert!(message.contains("collection"), "{message}");

    let summary = mesh.json(&[
        "index",
        "--collection",
        "c",
        "--skip-invalid",
        "--json",
        path,
    ]);
    assert_eq!(
        (&summary["documents"], &summary["invalid"]),
        (&1.into(), &3.into())
    );
}

#[test]
fn wrong_requests_are_explained() {
    if !models_are_here() {
        return;
    }
    let mesh = indexed();
    for (arguments, expected) in [
        (vec!["search", "--collection", "absent", "x"], "collection"),
        (vec!["search", "--collection", "small", "  "], "query"),
        (
            vec!["search", "--collection", "small", "--k", "0", "x"],
            "k",
        ),
        (
            vec![
                "search",
                "--collection",
                "small",
                "--pipeline",
                "nonsense",
                "x",
            ],
            "pipeline",
        ),
        (
            vec![
                "search",
                "--collection",
                "small",
                "--filter",
                "year >=",
                "x",
            ],
            "--filter",
        ),
        (
            vec![
                "search",
                "--collection",
                "small",
                "--filter",
                "colour = 3",
                "x",
            ],
            "filter",
        ),
        (
            vec!["search", "--collection", "small", "--alpha", "1.5", "x"],
            "alpha",
        ),
    ] {
        let (code, message) = mesh.fails(&arguments);
        assert!(
            code == 1 && message.contains(expected),
            "{arguments:?}: {code} {message}"
        );
        assert!(!message.contains("panicked"), "{message}");
    }
}

#[test]
fn every_mistake_of_a_configuration_is_told_at_once() {
    let mesh = Finemesh::new();
    let file = mesh.file(
        "bad.toml",
        "[server]\naddress = \"nowhere\"\n[encoder]\nno_such_key = 1\n",
    );
    let (code, message) = mesh.fails(&["check-config", file.to_str().unwrap()]);
    assert_eq!(code, 64);
    assert!(message.contains("no_such_key"), "{message}");
    let good = mesh.file("good.toml", "[server]\naddress = \"127.0.0.1:0\"\n");
    mesh.ok(&["check-config", good.to_str().unwrap()]);
}

#[test]
fn the_cargo_corpus_is_jsonl_that_can_be_indexed() {
    let mesh = Finemesh::new();
    let out = mesh.folder().join("crates.jsonl");
    mesh.ok(&["corpus", "cargo", "--out", out.to_str().unwrap()]);
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text.lines().count() > 100);
    for line in text.lines() {
        let document: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(document["_id"].is_string() && document["text"].as_str().unwrap().len() >= 200);
    }
}
