//! What a hybrid answer costs outside encoder and retrievers: real gRPC hops over loopback TCP to peers that answer at once from
//! memory. Sizes are those of SciFact: 1000 passages by each retriever, 1900 together, 10 hits.

use criterion::{Criterion, criterion_group, criterion_main};
use orchestrator::{App, Config, Peers};
use search_proto::dense::dense_retriever_service_server::{
    DenseRetrieverService, DenseRetrieverServiceServer,
};
use search_proto::encoder::encoder_service_server::{EncoderService, EncoderServiceServer};
use search_proto::search::search_service_client::SearchServiceClient;
use search_proto::sparse::sparse_retriever_service_server::{
    SparseRetrieverService, SparseRetrieverServiceServer,
};
use search_proto::{common, dense, encoder, search, sparse};
use service_kit::{MeshChannel, Readiness, ServerBuilder, ServerLimits};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

const PASSAGES: u64 = 5183;
const DEPTH: u64 = 1000;
/// The dense retriever's first passage: 100 of its thousand are the sparse retriever's too.
const FIRST_DENSE: u64 = 900;
const FINGERPRINT: &str = "f00d";

/// A score for each passage, without order in the addresses.
fn score(address: u64) -> f32 {
    (address.wrapping_mul(2_654_435_761) % 10_007) as f32 / 100.0
}

fn best(first: u64) -> Option<common::Candidates> {
    let mut addresses: Vec<u64> = (first..first + DEPTH).collect();
    addresses.sort_by(|left, right| score(*right).total_cmp(&score(*left)).then(left.cmp(right)));
    let scores = addresses.iter().map(|address| score(*address)).collect();
    Some(common::Candidates {
        places: vec![0; addresses.len()],
        addresses,
        scores,
    })
}

/// Answers made ahead.
#[derive(Clone)]
struct Canned {
    sparse: sparse::SearchResponse,
    dense: dense::SearchResponse,
}

impl Canned {
    fn new() -> Self {
        Self {
            sparse: sparse::SearchResponse {
                candidates: best(0),
                ..Default::default()
            },
            dense: dense::SearchResponse {
                candidates: best(FIRST_DENSE),
                ..Default::default()
            },
        }
    }

    fn described() -> Response<common::DescribeResponse> {
        let snapshot = common::Snapshot {
            collection: "scifact".to_owned(),
            number: 1,
        };
        let held = common::HeldSnapshot {
            snapshot: Some(snapshot),
            shards: 1,
            held_shards: vec![0],
            encoder_fingerprint: FINGERPRINT.to_owned(),
            passages: PASSAGES,
            refused_segments: Vec::new(),
            rescore_fingerprint: String::new(),
            colbert_fingerprint: String::new(),
            title_tokens: 126,
        };
        Response::new(common::DescribeResponse {
            snapshots: vec![held],
            refused_collections: Vec::new(),
        })
    }
}

#[tonic::async_trait]
impl EncoderService for Canned {
    async fn encode(
        &self,
        _request: Request<encoder::EncodeRequest>,
    ) -> Result<Response<encoder::EncodeResponse>, Status> {
        Ok(Response::new(encoder::EncodeResponse {
            dimensions: 384,
            vectors: vec![0.05; 384],
            fingerprint: FINGERPRINT.to_owned(),
            ..Default::default()
        }))
    }

    async fn tokenize(
        &self,
        _: Request<encoder::TokenizeRequest>,
    ) -> Result<Response<encoder::TokenizeResponse>, Status> {
        Err(Status::unimplemented("tokenize"))
    }

    async fn describe(
        &self,
        _request: Request<encoder::DescribeRequest>,
    ) -> Result<Response<encoder::DescribeResponse>, Status> {
        Ok(Response::new(encoder::DescribeResponse::default()))
    }
}

#[tonic::async_trait]
impl SparseRetrieverService for Canned {
    async fn search(
        &self,
        _request: Request<sparse::SearchRequest>,
    ) -> Result<Response<sparse::SearchResponse>, Status> {
        Ok(Response::new(self.sparse.clone()))
    }

    async fn score(
        &self,
        request: Request<sparse::ScoreRequest>,
    ) -> Result<Response<sparse::ScoreResponse>, Status> {
        let scores = request
            .get_ref()
            .addresses
            .iter()
            .map(|address| score(*address))
            .collect();
        Ok(Response::new(sparse::ScoreResponse {
            scores,
            ..Default::default()
        }))
    }

    async fn fetch(
        &self,
        request: Request<sparse::FetchRequest>,
    ) -> Result<Response<sparse::FetchResponse>, Status> {
        let text = if request.get_ref().ids_only {
            String::new()
        } else {
            "word ".repeat(250)
        };
        let passage = |address: &u64| sparse::Passage {
            document_id: address.to_string(),
            text: text.clone(),
            ..Default::default()
        };
        let passages = request.get_ref().addresses.iter().map(passage).collect();
        Ok(Response::new(sparse::FetchResponse {
            passages,
            ..Default::default()
        }))
    }

    async fn describe(
        &self,
        _request: Request<common::DescribeRequest>,
    ) -> Result<Response<common::DescribeResponse>, Status> {
        Ok(Self::described())
    }
}

#[tonic::async_trait]
impl DenseRetrieverService for Canned {
    async fn search(
        &self,
        _request: Request<dense::SearchRequest>,
    ) -> Result<Response<dense::SearchResponse>, Status> {
        Ok(Response::new(self.dense.clone()))
    }

    async fn score(
        &self,
        request: Request<dense::ScoreRequest>,
    ) -> Result<Response<dense::ScoreResponse>, Status> {
        let scores = request
            .get_ref()
            .addresses
            .iter()
            .map(|address| score(*address))
            .collect();
        Ok(Response::new(dense::ScoreResponse {
            scores,
            ..Default::default()
        }))
    }

    async fn describe(
        &self,
        _request: Request<common::DescribeRequest>,
    ) -> Result<Response<common::DescribeResponse>, Status> {
        Ok(Self::described())
    }
}

/// Serves on a free port until the runtime ends.
async fn serve(builder: ServerBuilder) -> MeshChannel {
    let server = builder
        .build(search_proto::FILE_DESCRIPTOR_SET)
        .expect("the descriptors are valid");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener
        .local_addr()
        .expect("a bound listener has an address")
        .to_string();
    tokio::spawn(server.serve(listener, std::future::pending()));
    MeshChannel::tcp(&address).expect("a socket address is host and port")
}

async fn mesh() -> SearchServiceClient<MeshChannel> {
    let builder = || ServerBuilder::new(ServerLimits::default());
    let ready = Readiness::ready();
    let (mut encoder, mut sparse, mut dense) = (builder(), builder(), builder());
    encoder.add(EncoderServiceServer::new(Canned::new()), &ready);
    sparse.add(SparseRetrieverServiceServer::new(Canned::new()), &ready);
    dense.add(DenseRetrieverServiceServer::new(Canned::new()), &ready);
    let peers = Peers {
        encoder: vec![serve(encoder).await],
        sparse: vec![serve(sparse).await],
        dense: vec![serve(dense).await],
        cross_encoder: Vec::new(),
        colbert: Vec::new(),
    };
    let app = App::start(Config::default(), peers);
    let mut orchestrator = builder();
    app.add_to(&mut orchestrator);
    app.readiness().wait().await;
    SearchServiceClient::new(serve(orchestrator).await)
}

fn hybrid(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let client = runtime.block_on(mesh());
    let request = search::SearchRequest {
        collection: "scifact".to_owned(),
        query: "vitamin D and bone loss".to_owned(),
        ..Default::default()
    };
    criterion.bench_function("overhead/hybrid_1000_and_1000_over_tcp", |bencher| {
        bencher.iter(|| {
            let answer = runtime
                .block_on(client.clone().search(request.clone()))
                .expect("an answer");
            assert_eq!(answer.get_ref().hits.len(), 10);
            answer
        });
    });
}

criterion_group!(benches, hybrid);
criterion_main!(benches);
