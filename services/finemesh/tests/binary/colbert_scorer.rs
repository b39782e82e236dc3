//! `serve --target colbert-scorer` over what `index` has written, with an encoder of another process, and the scorer inside `up`.

use search_proto::colbert::colbert_scorer_service_client::ColbertScorerServiceClient;
use search_proto::colbert::{QueryTokens, ScoreRequest, ScoreTextsRequest};
use search_proto::common::{DescribeRequest, HeldSnapshot};
use search_proto::encoder::encoder_service_client::EncoderServiceClient;
use search_proto::encoder::{EncodeRequest, Task};
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel};
use tonic::Code;

use crate::process::{Finemesh, Served, models_are_here};

const TEXTS: [&str; 3] = [
    "A client sets a deadline on a gRPC request; the server stops working when it has passed.",
    "Grind the beans freshly and pour water just off the boil.",
    "Green tea is steeped for two minutes at seventy degrees.",
];
const QUERY: &str = "how hot is the water for green tea";

fn channel(served: &Served) -> MeshChannel {
    MeshChannel::tcp(served.address.trim_start_matches("http://")).unwrap()
}

fn indexed() -> Finemesh {
    let finemesh = Finemesh::new();
    let lines: Vec<String> = TEXTS
        .iter()
        .enumerate()
        .map(|(id, text)| format!("{{\"_id\": \"d{id}\", \"text\": \"{text}\"}}\n"))
        .collect();
    let corpus = finemesh.file("corpus.jsonl", &lines.concat());
    let corpus = corpus.to_str().unwrap();
    let stages = ["--stages", "sparse,dense,colbert"];
    finemesh.ok(&[&["index", "--collection", "c", corpus][..], &stages].concat());
    finemesh
}

async fn held(served: &Served) -> HeldSnapshot {
    let mut client = ColbertScorerServiceClient::new(channel(served));
    for _ in 0..10_000 {
        let described = client.describe(DescribeRequest {}).await.unwrap();
        // It may not have looked at the store yet.
        if let Some(held) = described.into_inner().snapshots.pop() {
            return held;
        }
    }
    panic!("the scorer never held the collection");
}

/// As a search asks: the query's tokens from the encoder, scores from the scorer.
async fn score_passages(scorer: &Served, encoder: &Served) -> Vec<f32> {
    let request = EncodeRequest {
        texts: vec![QUERY.to_owned()],
        task: Task::Query.into(),
        with_token_vectors: true,
        expected_fingerprint: held(scorer).await.encoder_fingerprint,
    };
    let encoded = EncoderServiceClient::new(channel(encoder))
        .encode(request)
        .await;
    let mut encoded = encoded.unwrap().into_inner();
    let tokens = encoded.token_vectors.remove(0);
    let request = ScoreRequest {
        snapshot: held(scorer).await.snapshot,
        query: Some(QueryTokens {
            dimensions: tokens.dimensions,
            vectors: tokens.vectors,
            encoder_fingerprint: encoded.fingerprint,
        }),
        addresses: vec![0, 1, 2],
        shard: 0,
    };
    let scored = ColbertScorerServiceClient::new(channel(scorer))
        .score(request)
        .await;
    let scored = scored.unwrap().into_inner();
    assert_eq!((scored.scores.len(), scored.unknown), (3, vec![]));
    scored.scores
}

fn texts() -> ScoreTextsRequest {
    ScoreTextsRequest {
        query: QUERY.to_owned(),
        texts: TEXTS.map(str::to_owned).to_vec(),
        expected_fingerprint: String::new(),
    }
}

async fn score_texts(scorer: &Served) -> Vec<f32> {
    let client = ColbertScorerServiceClient::new(channel(scorer));
    let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
    client
        .score_texts(texts())
        .await
        .unwrap()
        .into_inner()
        .scores
}

#[tokio::test]
async fn processes_and_a_whole_mesh_give_the_same_scores() {
    if !models_are_here() {
        return;
    }
    let finemesh = indexed();
    let encoder = Served::start(&finemesh, "encoder", &[]);
    let peers = [("FINEMESH__PEERS__ENCODER", &*encoder.as_peers())];
    let alone = Served::start(&finemesh, "colbert-scorer", &peers);
    let mesh = Served::start(&finemesh, "all", &[]);
    let passages = score_passages(&alone, &encoder).await;
    assert_eq!(passages, score_passages(&mesh, &mesh).await);
    // At the model's own width, of which the collection keeps a quarter.
    let full_width = score_texts(&alone).await;
    assert_eq!(full_width, score_texts(&mesh).await);
    for scores in [passages, full_width] {
        assert!(scores[2] > scores[0] && scores[2] > scores[1], "{scores:?}");
    }
}

#[tokio::test]
async fn without_an_encoder_texts_are_refused_and_the_key_is_named() {
    let finemesh = Finemesh::new();
    let served = Served::start(&finemesh, "colbert-scorer", &[]);
    let refused = ColbertScorerServiceClient::new(channel(&served))
        .score_texts(texts())
        .await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("peers.encoder"), "{status}");
}
