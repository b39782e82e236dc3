//! `finemesh tune`, from the command line to the configuration.

use crate::judged::JudgedCollection;
use crate::process::{Finemesh, models_are_here};

#[test]
fn shares_and_numbers_that_leave_nothing_are_refused() {
    let mesh = Finemesh::new();
    let tune = [
        "tune",
        "--collection",
        "c",
        "--queries",
        "q",
        "--qrels",
        "r",
    ];
    for wrong in [
        &["--held-out", "0"][..],
        &["--held-out", "1"],
        &["--held-out", "NaN"],
        &["--regret", "0"],
        &["--regret", "1"],
        &["--queries-curve", "0"],
        &["--queries-curve", "ten"],
    ] {
        let (code, message) = mesh.fails(&[&tune[..], wrong].concat());
        assert_eq!(code, 2, "{wrong:?}: {message}");
    }
}

#[test]
fn weights_and_thresholds_are_fitted_and_told() {
    if !models_are_here() {
        return;
    }
    let small = JudgedCollection::indexed();
    let tune = small.judged_command("tune", &["--queries-curve", "1,2", "--json"]);
    let result = small.mesh.json(&tune);
    assert_eq!(result["pipeline"], "hybrid");
    let queries = ["fitting_queries", "held_out_queries"].map(|key| result[key].as_u64().unwrap());
    assert_eq!(queries.iter().sum::<u64>(), 5);
    let weight = &result["weights"][0];
    assert_eq!(
        (&weight["setting"], &weight["default"]),
        (&"fusion.alpha".into(), &0.6.into())
    );
    let moved = weight["tuned"].as_f64().unwrap() - 0.6;
    assert!(
        moved.abs() < 0.04,
        "a few queries move nothing far: {result}"
    );
    for key in [
        "default_ndcg@10",
        "tuned_ndcg@10",
        "gain",
        "gain_low",
        "gain_high",
    ] {
        assert!(result["held_out"][key].is_f64(), "{key}: {result}");
    }
    let thresholds = result["thresholds"].as_array().unwrap();
    let settings = thresholds
        .iter()
        .map(|row| row["setting"].as_str().unwrap());
    assert_eq!(
        settings.collect::<Vec<_>>(),
        ["routing.lexical_share", "routing.sparse_margin"]
    );
    assert_eq!(result["regret_tolerance"], 0.005);
    for row in thresholds {
        assert!(row["value"].is_null(), "a few queries turn nothing on");
        for key in [
            "left_out_share",
            "regret",
            "regret_low",
            "regret_high",
            "saved_ms",
        ] {
            assert_eq!(row[key], 0.0, "{key}: {result}");
        }
    }
    let curve = result["curve"].as_array().unwrap();
    assert_eq!((curve.len(), &curve[1]["queries"]), (2, &2.into()));
    assert_eq!(result, small.mesh.json(&tune), "the seed decides");

    let text = small.mesh.ok(&small.judged_command("tune", &[]));
    assert!(text.contains("[orchestrator.pipelines.hybrid]"), "{text}");
    assert!(text.contains("routing.sparse_margin"), "{text}");
    assert!(!text.contains("routing = "), "{text}");
}

#[test]
fn weights_go_into_a_configuration_that_is_one() {
    if !models_are_here() {
        return;
    }
    let small = JudgedCollection::indexed();
    let config = small
        .mesh
        .file("finemesh.toml", "# ours\n[server]\nmax_calls = 7\n");
    let config = config.to_str().unwrap();
    let written = small
        .mesh
        .json(&small.judged_command("tune", &["--write", config, "--json"]));
    let text = std::fs::read_to_string(config).unwrap();
    let tuned = &written["weights"][0]["tuned"];
    assert!(
        text.starts_with("# ours\n[server]\nmax_calls = 7\n"),
        "{text}"
    );
    assert!(
        text.contains(&format!("fusion = {{ alpha = {tuned} }}")),
        "{text}"
    );
    assert!(!text.contains("routing"), "{text}");
    small.mesh.ok(&["check-config", config]);

    for (more, expected) in [
        (
            ["--write", "/does/not/exist.toml"],
            "--write: /does/not/exist.toml cannot be read",
        ),
        (["--queries-curve", "4"], "--queries-curve"),
        (["--pipeline", "sparse"], "no weight can be fitted"),
    ] {
        let (code, message) = small.mesh.fails(&small.judged_command("tune", &more));
        assert!(code == 1 && message.contains(expected), "{message}");
    }
}

/// Whoever allows a threshold to cost nearly everything has it from a few queries.
#[test]
fn thresholds_that_are_worth_it_go_into_a_configuration() {
    if !models_are_here() {
        return;
    }
    let small = JudgedCollection::indexed();
    let config = small.mesh.file("finemesh.toml", "");
    let config = config.to_str().unwrap();
    let lax = ["--regret", "0.99", "--held-out", "0.2"];
    let more = [&lax[..], &["--write", config, "--json"]].concat();
    let written = small.mesh.json(&small.judged_command("tune", &more));
    let margin = &written["thresholds"][1];
    assert_eq!(margin["setting"], "routing.sparse_margin");
    let value = margin["value"].as_f64().unwrap();
    assert!(value > 0.0 && value <= 1.0, "{written}");
    let text = std::fs::read_to_string(config).unwrap();
    let number = &margin["value"];
    assert!(
        text.contains(&format!("routing = {{ sparse_margin = {number} }}")),
        "{text}"
    );
    small.mesh.ok(&["check-config", config]);

    let table = small.mesh.ok(&small.judged_command("tune", &lax));
    assert!(
        table.contains(&format!("sparse_margin = {number}")),
        "{table}"
    );
}

/// A pipeline of one retriever has a gate, and where that is the sparse one, a share of words to route by.
#[test]
fn a_pipeline_has_the_thresholds_of_its_stages() {
    if !models_are_here() {
        return;
    }
    let small = JudgedCollection::indexed();
    let config = small.mesh.file(
        "finemesh.toml",
        "[orchestrator.pipelines.read]\nstages = [\"sparse\"]\nrerank = { window = 5 }\n\
         [orchestrator.pipelines.near]\nstages = [\"dense\"]\nrerank = { window = 5 }\n",
    );
    let config = config.to_str().unwrap();
    for (pipeline, expected) in [
        ("read", &["routing.lexical_share", "rerank.gate_margin"][..]),
        ("near", &["rerank.gate_margin"]),
    ] {
        let more = ["--pipeline", pipeline, "--config", config, "--json"];
        let result = small.mesh.json(&small.judged_command("tune", &more));
        let rows = result["thresholds"].as_array().unwrap();
        let settings = rows.iter().map(|row| row["setting"].as_str().unwrap());
        assert_eq!(settings.collect::<Vec<_>>(), expected, "{pipeline}");
    }
}
