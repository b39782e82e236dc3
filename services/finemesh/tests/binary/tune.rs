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
        &["--queries-curve", "0"],
        &["--queries-curve", "ten"],
    ] {
        let (code, message) = mesh.fails(&[&tune[..], wrong].concat());
        assert_eq!(code, 2, "{wrong:?}: {message}");
    }
}

#[test]
fn weights_are_fitted_and_told() {
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
    let curve = result["curve"].as_array().unwrap();
    assert_eq!((curve.len(), &curve[1]["queries"]), (2, &2.into()));
    assert_eq!(result, small.mesh.json(&tune), "the seed decides");

    let text = small.mesh.ok(&small.judged_command("tune", &[]));
    assert!(text.contains("[orchestrator.pipelines.hybrid]"), "{text}");
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
