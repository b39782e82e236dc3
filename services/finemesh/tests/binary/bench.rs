//! `finemesh bench`, from the command line to the documented JSON.

use serde_json::Value;

use crate::judged::JudgedCollection;
use crate::process::{Finemesh, models_are_here};

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn what_cannot_be_offered_is_refused() {
    let mesh = Finemesh::new();
    let bench = ["bench", "--collection", "c", "--queries", "q"];
    for wrong in [
        &[][..],
        &["--qps", "0"],
        &["--qps", "NaN"],
        &["--qps", "10,-1"],
        &["--qps", "10", "--budget-ms", "0"],
        &["--qps", "10", "--duration-s", "0"],
        &["--qps", "10", "--critical-share", "1.1"],
        &["--qps", "10", "--critical-share", "NaN"],
        &["--qps", "10", "--k", "0"],
        &["--qps", "10", "--arrivals", "closed"],
    ] {
        let (code, message) = mesh.fails(&[&bench[..], wrong].concat());
        assert_eq!(code, 2, "{wrong:?}: {message}");
    }
}

#[test]
fn a_load_is_offered_counted_and_told() {
    if !models_are_here() {
        return;
    }
    let small = JudgedCollection::indexed();
    let load = [
        "--pipeline",
        "sparse",
        "--qps",
        "20,40",
        "--duration-s",
        "1",
        "--warmup-s",
        "0",
        "--arrivals",
        "constant",
        "--budget-ms",
        "60000",
        "--critical-share",
        "0.5",
    ];
    let bench = small.command("bench", &load);
    let result = small.mesh.json(&[&bench[..], &["--json"]].concat());
    let run = [
        "collection",
        "pipeline",
        "k",
        "budget_ms",
        "critical_share",
        "arrivals",
        "seed",
        "duration_s",
        "warmup_s",
        "rates",
    ];
    assert_eq!(keys(&result), run);
    let counts = [
        "arrivals",
        "answered",
        "achieved_qps",
        "goodput_qps",
        "late_share",
        "latency_us",
        "degraded_share",
        "degraded_stages",
        "errors",
        "stages",
        "sent_late_us",
    ];
    let rates = result["rates"].as_array().unwrap();
    assert_eq!(rates.len(), 2);
    for rate in rates {
        assert_eq!(
            keys(rate),
            [&counts[..], &["offered_qps", "by_criticality"]].concat()
        );
        assert_eq!(rate["arrivals"], rate["answered"]);
        assert_eq!(
            (&rate["late_share"], &rate["errors"]),
            (&0.0.into(), &serde_json::json!({}))
        );
        assert_eq!(
            keys(&rate["latency_us"]),
            ["p50", "p90", "p99", "p99.9", "max"]
        );
        assert_eq!(keys(&rate["stages"]["sparse"]), ["p50", "p99", "max"]);
        let classes = &rate["by_criticality"];
        assert_eq!(keys(classes), ["critical", "sheddable"]);
        let arrivals = |class: &str| classes[class]["arrivals"].as_u64().unwrap();
        assert_eq!(
            arrivals("critical") + arrivals("sheddable"),
            rate["arrivals"].as_u64().unwrap()
        );
        assert_eq!(keys(&classes["critical"]), counts);
    }
    assert_eq!(rates[0]["arrivals"], 19);
    let table = small.mesh.ok(&bench);
    assert!(
        table.contains("offered qps") && table.contains("sheddable"),
        "{table}"
    );
}

#[test]
fn what_is_wrong_with_every_request_is_told_at_once() {
    if !models_are_here() {
        return;
    }
    let small = JudgedCollection::indexed();
    let load = [
        "--pipeline",
        "nonsense",
        "--qps",
        "1",
        "--duration-s",
        "86400",
    ];
    let (code, message) = small.mesh.fails(&small.command("bench", &load));
    assert!(code == 1 && message.contains("pipeline"), "{message}");
}
