//! A collection with judged queries, as small as it can be, and pipelines within budgets on it.

use std::path::PathBuf;

use crate::process::{Finemesh, models_are_here};

const DOCUMENTS: &str = r#"{"_id":"deadline","text":"A client sets a deadline on a gRPC request; the server stops working when it has passed."}
{"_id":"coffee","text":"Grind the beans freshly and pour water just off the boil."}
{"_id":"tea","text":"Green tea is steeped for two minutes at seventy degrees."}
{"_id":"queue","text":"A bounded queue refuses requests that it has no room for."}
{"_id":"bread","text":"Let the dough rise over night, and bake it in a hot pot."}
"#;
const QUERIES: &str = r#"{"_id":"1","text":"time limit of a remote call"}
{"_id":"2","text":"how hot is water for coffee"}
{"_id":"3","text":"steeping green leaves"}
{"_id":"4","text":"too many requests"}
{"_id":"5","text":"baking a loaf"}
{"_id":"6","text":"nobody judged this"}
"#;
const QRELS: &str =
    "query\tdocument\tgrade\n1\tdeadline\t1\n2\tcoffee\t1\n3\ttea\t1\n4\tqueue\t1\n5\tbread\t1\n";

/// The collection `small`, indexed, with its queries and judgements.
pub(crate) struct JudgedCollection {
    pub(crate) mesh: Finemesh,
    pub(crate) queries: PathBuf,
    pub(crate) qrels: PathBuf,
}

impl JudgedCollection {
    pub(crate) fn indexed() -> Self {
        let mesh = Finemesh::new();
        let documents = mesh.file("documents.jsonl", DOCUMENTS);
        mesh.ok(&[
            "index",
            "--collection",
            "small",
            documents.to_str().unwrap(),
        ]);
        Self {
            queries: mesh.file("queries.jsonl", QUERIES),
            qrels: mesh.file("qrels.tsv", QRELS),
            mesh,
        }
    }

    /// A command on the collection and its queries.
    pub(crate) fn command<'a>(&'a self, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let queries = self.queries.to_str().unwrap();
        let first = [command, "--collection", "small", "--queries", queries];
        [&first[..], more].concat()
    }

    /// The same, with the judgements.
    pub(crate) fn judged_command<'a>(&'a self, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let qrels = ["--qrels", self.qrels.to_str().unwrap()];
        self.command(command, &[&qrels[..], more].concat())
    }
}

#[test]
fn pipelines_are_measured_within_budgets_and_drawn() {
    if !models_are_here() {
        return;
    }
    let small = JudgedCollection::indexed();
    let plot = small.mesh.folder().join("plot.svg");
    let pipelines = ["--pipeline", "sparse,hybrid", "--budgets", "60000,none"];
    let drawn = ["--plot", plot.to_str().unwrap()];
    let eval = small.judged_command("eval", &[&pipelines[..], &drawn].concat());
    let result = small.mesh.json(&[&eval[..], &["--json"]].concat());
    let rows = result["pipelines"].as_object().unwrap();
    let names: Vec<&String> = rows.keys().collect();
    assert_eq!(
        names,
        [
            "sparse budget=60000",
            "sparse budget=none",
            "hybrid budget=60000",
            "hybrid budget=none"
        ]
    );
    let hybrid = &rows["hybrid budget=60000"];
    assert_eq!(
        (&hybrid["pipeline"], &hybrid["budget_ms"]),
        (&"hybrid".into(), &60_000.into())
    );
    assert_eq!(
        (&hybrid["too_late"], &hybrid["degraded"]),
        (&0.into(), &0.into())
    );
    assert_eq!(hybrid["ndcg@10"], rows["hybrid budget=none"]["ndcg@10"]);
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("hybrid") && svg.contains("60000"), "{svg}");
    let table = small.mesh.ok(&eval);
    assert!(
        table.contains("60000 ms") && table.contains("too late"),
        "{table}"
    );
}

#[test]
fn budgets_that_are_none_are_refused() {
    let mesh = Finemesh::new();
    let eval = [
        "eval",
        "--collection",
        "c",
        "--queries",
        "q",
        "--qrels",
        "r",
    ];
    for wrong in [
        &["--budgets", "0"][..],
        &["--budgets", "25,NaN"],
        &["--budgets", "600001"],
        &["--plot", "plot.svg"],
    ] {
        let (code, message) = mesh.fails(&[&eval[..], wrong].concat());
        assert_eq!(code, 2, "{wrong:?}: {message}");
    }
}
