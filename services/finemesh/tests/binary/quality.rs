//! Quality on real judged collections, through the real binary. Skipped, with a word, where they are absent.

use std::path::{Path, PathBuf};

use crate::process::{Finemesh, models_are_here};
use serde_json::Value;

/// The folder of a BEIR collection: below `$FINEMESH_JUDGED_DATA`, or beside the checkout in `shared/data`.
fn collection(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let data = std::env::var_os("FINEMESH_JUDGED_DATA").map_or(beside, PathBuf::from);
    let folder = data.join(name);
    if !folder.is_dir() {
        eprintln!("skipped: no judged collection at {}", folder.display());
        return None;
    }
    Some(folder)
}

/// Indexes a collection and measures the default pipelines on its test queries.
fn evaluated(name: &str) -> Option<Value> {
    let folder = collection(name).filter(|_| models_are_here())?;
    let path = |file: &str| folder.join(file).to_str().unwrap().to_owned();
    let mesh = Finemesh::new();
    let corpus = path("corpus.jsonl.gz");
    // Cranfield has two documents without a text.
    mesh.ok(&["index", "--collection", "judged", "--skip-invalid", &corpus]);
    let (queries, qrels) = (path("queries.jsonl"), path("qrels/test.tsv"));
    let eval = [
        "eval",
        "--collection",
        "judged",
        "--queries",
        &queries,
        "--qrels",
        &qrels,
        "--json",
        "--per-query",
    ];
    let pipelines = mesh.json(&eval)["pipelines"].clone();
    assert_means_are_of_the_queries(&pipelines);
    Some(pipelines)
}

fn assert_means_are_of_the_queries(pipelines: &Value) {
    for (name, pipeline) in pipelines.as_object().unwrap() {
        let queries = pipeline["per_query"].as_object().unwrap();
        for metric in ["ndcg@10", "recall@100", "mrr@10"] {
            let values = queries
                .values()
                .map(|query| query[metric].as_f64().unwrap());
            let mean = values.sum::<f64>() / queries.len() as f64;
            let said = pipeline[metric].as_f64().unwrap();
            assert!((mean - said).abs() < 1e-9, "{name} {metric}: {mean} {said}");
        }
    }
}

fn metric(pipelines: &Value, pipeline: &str, metric: &str) -> f64 {
    let value = pipelines[pipeline][metric].as_f64();
    value.unwrap_or_else(|| panic!("{pipeline} has no {metric}: {pipelines}"))
}

#[test]
fn scifact() {
    let Some(pipelines) = evaluated("scifact") else {
        return;
    };
    let ndcg = |pipeline| metric(&pipelines, pipeline, "ndcg@10");
    assert!(ndcg("sparse") >= 0.670, "{pipelines}");
    assert!(ndcg("dense") >= 0.640, "{pipelines}");
    assert!(ndcg("hybrid") >= 0.728, "{pipelines}");
    assert!(
        metric(&pipelines, "hybrid", "recall@100") >= 0.950,
        "{pipelines}"
    );
    assert_eq!(pipelines["hybrid"]["degraded"], 0);
}

#[test]
fn hybrid_on_cranfield_is_no_worse_than_its_better_half() {
    let Some(pipelines) = evaluated("cranfield") else {
        return;
    };
    let ndcg = |pipeline| metric(&pipelines, pipeline, "ndcg@10");
    assert!(
        ndcg("hybrid") >= ndcg("sparse").max(ndcg("dense")),
        "{pipelines}"
    );
    assert!(ndcg("hybrid") >= 0.38, "{pipelines}");
}
