//! Quality on real judged collections, through the real binary. Skipped, with a word, where they are absent.

mod common;

use std::path::{Path, PathBuf};

use common::{Finemesh, models_are_here};

fn collection(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data")
        .join(name);
    if !folder.is_dir() {
        eprintln!(
            "skipped: the judged collection {name} is not at {}",
            folder.display()
        );
        return None;
    }
    Some(folder)
}

fn evaluate(mesh: &Finemesh, folder: &Path, extra: &[&str]) -> serde_json::Value {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
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
    ];
    mesh.json(&[&eval, extra].concat())["pipelines"].clone()
}

fn index(folder: &Path, extra: &[&str]) -> Finemesh {
    let mesh = Finemesh::new();
    let corpus = folder.join("corpus.jsonl.gz");
    mesh.ok(&[
        &["index", "--collection", "judged", corpus.to_str().unwrap()],
        extra,
    ]
    .concat());
    mesh
}

#[test]
fn sparse_on_scifact() {
    let Some(folder) = collection("scifact") else {
        return;
    };
    if !models_are_here() {
        return;
    }
    let mesh = index(&folder, &["--stages", "sparse"]);
    let sparse = &evaluate(&mesh, &folder, &["--pipeline", "sparse"])["sparse"];
    assert!(sparse["ndcg@10"].as_f64().unwrap() >= 0.670, "{sparse}");
    assert_eq!(sparse["degraded"], 0);
}

#[test]
fn hybrid_on_cranfield_is_no_worse_than_its_better_half() {
    let Some(folder) = collection("cranfield") else {
        return;
    };
    if !models_are_here() {
        return;
    }
    let mesh = index(&folder, &[]);
    let pipelines = evaluate(&mesh, &folder, &[]);
    let ndcg = |pipeline: &str| pipelines[pipeline]["ndcg@10"].as_f64().unwrap();
    assert!(
        ndcg("hybrid") >= ndcg("sparse").max(ndcg("dense")),
        "{pipelines}"
    );
    assert!(ndcg("hybrid") >= 0.38, "{pipelines}");
}
