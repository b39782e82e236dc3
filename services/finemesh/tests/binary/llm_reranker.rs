//! `serve --target llm-reranker` over an endpoint on a socket, alone and as the reranker of a mesh.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use search_proto::rerank::RerankRequest;
use search_proto::rerank::reranker_service_client::RerankerServiceClient;
use service_kit::MeshChannel;

use crate::process::{Finemesh, Served, models_are_here};

/// A model that puts the last passage first, and tells what it was sent.
fn endpoint() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let (seen, requests) = channel();
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let seen = seen.clone();
            thread::spawn(move || answer_all(connection, &seen));
        }
    });
    (address, requests)
}

/// Until the connection ends.
fn answer_all(mut connection: TcpStream, seen: &Sender<String>) -> Option<()> {
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))?;
        let mut body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let user = body["messages"][1]["content"].as_str()?;
        let passages = user.lines().filter(|line| line.starts_with('[')).count();
        let ids: Vec<String> = (1..=passages).rev().map(|id| format!("[{id}]")).collect();
        let message = serde_json::json!({"choices": [{"message": {"content": ids.join(" > ")}}]});
        let answer = message.to_string();
        let length = answer.len();
        seen.send(format!("{head}{user}")).ok()?;
        write!(connection, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{answer}").ok()?;
    }
}

fn reranker(finemesh: &Finemesh, endpoint: &str) -> Served {
    let settings = [
        ("FINEMESH__LLM_RERANKER__ENDPOINT", endpoint),
        ("FINEMESH__LLM_RERANKER__MODEL", "some-model"),
        ("FINEMESH__LLM_RERANKER__API_KEY_ENV", "KEY_OF_THE_ENDPOINT"),
        ("KEY_OF_THE_ENDPOINT", "sk-secret"),
    ];
    Served::start(finemesh, "llm-reranker", &settings)
}

#[test]
fn without_an_endpoint_it_does_not_start() {
    let finemesh = Finemesh::new();
    let file = finemesh.file("finemesh.toml", "[server]\naddress = '127.0.0.1:0'\n");
    let config = file.to_str().unwrap();
    let (code, error) = finemesh.fails(&["--config", config, "serve", "--target", "llm-reranker"]);
    assert_eq!(code, 64);
    assert!(
        error.contains("llm_reranker.endpoint: must name"),
        "{error}"
    );
}

#[tokio::test]
async fn the_process_asks_the_endpoint_with_its_key() {
    let finemesh = Finemesh::new();
    let (address, requests) = endpoint();
    let served = reranker(&finemesh, &address);
    let channel = MeshChannel::tcp(served.address.trim_start_matches("http://")).unwrap();
    let request = RerankRequest {
        query: "which".into(),
        passages: ["first", "second", "third"].map(str::to_owned).into(),
        ..RerankRequest::default()
    };
    let answer = RerankerServiceClient::new(channel)
        .rerank(request)
        .await
        .unwrap();
    assert_eq!(answer.into_inner().indexes, [2, 1, 0]);
    let seen = requests.recv().unwrap();
    assert!(
        seen.contains("authorization: Bearer sk-secret\r\n"),
        "{seen}"
    );
    assert!(seen.contains("[3] third\n"), "{seen}");
}

#[test]
fn a_mesh_reranks_with_it() {
    if !models_are_here() {
        return;
    }
    let finemesh = Finemesh::new();
    let lines = ["one", "two", "three"]
        .map(|id| format!("{{\"_id\": \"{id}\", \"text\": \"the sea and {id}\"}}\n"));
    let corpus = finemesh.file("corpus.jsonl", &lines.concat());
    finemesh.ok(&[
        "index",
        "--collection",
        "c",
        "--stages",
        "sparse",
        corpus.to_str().unwrap(),
    ]);
    let (address, _requests) = endpoint();
    let reranker = reranker(&finemesh, &address);
    let sparse = Served::start(&finemesh, "sparse-retriever", &[]);
    let pipelines =
        "{ judged = { stages = [\"sparse\"], rerank = { window = 20, weight = 1.0 } } }";
    let settings = [
        ("FINEMESH__PEERS__SPARSE_RETRIEVER", &*sparse.as_peers()),
        ("FINEMESH__PEERS__CROSS_ENCODER", &*reranker.as_peers()),
        ("FINEMESH__ORCHESTRATOR__PIPELINES", pipelines),
    ];
    let orchestrator = Served::start(&finemesh, "orchestrator", &settings);
    let ids = |pipeline: &str| -> Vec<String> {
        let arguments = [
            "--address",
            &orchestrator.address,
            "search",
            "--collection",
            "c",
            "--pipeline",
            pipeline,
            "--json",
            "sea",
        ];
        let ask = |_| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_finemesh"));
            command.args(arguments).output().unwrap()
        };
        // The retriever may not have loaded the collection yet, nor the orchestrator heard of it.
        let mut outputs = (0..100).map(ask);
        let output = outputs.find(|output| output.status.success());
        let output = output.expect("the collection is there after a while");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("an answer");
        assert_eq!(answer["degraded"], false, "{answer:#}");
        let hits = answer["hits"].as_array().unwrap().iter();
        hits.map(|hit| hit["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut earlier = ids("sparse");
    assert_eq!(earlier.len(), 3);
    earlier.reverse();
    assert_eq!(ids("judged"), earlier, "the model puts the last first");
}
