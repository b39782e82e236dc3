//! Peers that answer by script: what the orchestrator meets when a stage is slow, broken, overloaded or wrong.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use search_core::Deadline;
use search_proto::dense::dense_retriever_service_server::{
    DenseRetrieverService, DenseRetrieverServiceServer,
};
use search_proto::encoder::encoder_service_server::{EncoderService, EncoderServiceServer};
use search_proto::sparse::sparse_retriever_service_server::{
    SparseRetrieverService, SparseRetrieverServiceServer,
};
use search_proto::{common, dense, encoder, sparse};
use service_kit::{Readiness, ServerBuilder, ServerLimits, deadline_of};
use tonic::{Request, Response, Status};

use crate::hosting::Hosted;

/// What one call gets.
#[derive(Debug)]
pub enum Step<Answer> {
    /// This, at once.
    Now(Result<Answer, Status>),
    /// This, after a while.
    After(Duration, Result<Answer, Status>),
    /// Nothing, ever.
    Never,
}

/// The script of one method: steps for the next calls, an answer for all later ones, and what was asked.
pub struct Script<Question, Answer> {
    state: Arc<Mutex<State<Question, Answer>>>,
}

type Rule<Question, Answer> = Box<dyn Fn(&Question) -> Result<Answer, Status> + Send>;

struct State<Question, Answer> {
    steps: VecDeque<Step<Answer>>,
    always: Option<Rule<Question, Answer>>,
    asked: Vec<Asked<Question>>,
}

/// A call that arrived.
#[derive(Debug, Clone)]
pub struct Asked<Question> {
    /// The message.
    pub question: Question,
    /// Until when the caller waits.
    pub deadline: Option<Deadline>,
}

impl<Question: Clone + Send, Answer: Send> Script<Question, Answer> {
    /// Adds a step.
    pub fn then(&self, step: Step<Answer>) -> &Self {
        self.lock().steps.push_back(step);
        self
    }

    /// What calls get when there is no step left. Without it: UNIMPLEMENTED.
    pub fn always(
        &self,
        answer: impl Fn(&Question) -> Result<Answer, Status> + Send + 'static,
    ) -> &Self {
        self.lock().always = Some(Box::new(answer));
        self
    }

    /// The calls so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked<Question>> {
        self.lock().asked.clone()
    }

    async fn play(&self, request: Request<Question>) -> Result<Response<Answer>, Status> {
        let deadline = deadline_of(&request);
        let answer = match self.next(request.into_inner(), deadline) {
            Step::Now(answer) => answer,
            Step::After(delay, answer) => {
                tokio::time::sleep(delay).await;
                answer
            }
            Step::Never => std::future::pending().await,
        };
        answer.map(Response::new)
    }

    fn next(&self, question: Question, deadline: Option<Deadline>) -> Step<Answer> {
        let mut state = self.lock();
        let step = state.steps.pop_front().unwrap_or_else(|| {
            let unscripted = || Err(Status::unimplemented("the script has no step left"));
            Step::Now(
                state
                    .always
                    .as_ref()
                    .map_or_else(unscripted, |answer| answer(&question)),
            )
        });
        state.asked.push(Asked { question, deadline });
        step
    }

    fn lock(&self) -> MutexGuard<'_, State<Question, Answer>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Question, Answer> Default for Script<Question, Answer> {
    fn default() -> Self {
        let state = State {
            steps: VecDeque::new(),
            always: None,
            asked: Vec::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }
}

impl<Question, Answer> Clone for Script<Question, Answer> {
    fn clone(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
        }
    }
}

impl<Question, Answer> fmt::Debug for Script<Question, Answer> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Script")
    }
}

/// An encoder by script. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FakeEncoder {
    /// `Encode`.
    pub encode: Script<encoder::EncodeRequest, encoder::EncodeResponse>,
    /// `Describe`.
    pub describe: Script<encoder::DescribeRequest, encoder::DescribeResponse>,
}

/// A sparse retriever by script. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FakeSparse {
    /// `Search`.
    pub search: Script<sparse::SearchRequest, sparse::SearchResponse>,
    /// `Score`.
    pub score: Script<sparse::ScoreRequest, sparse::ScoreResponse>,
    /// `Fetch`.
    pub fetch: Script<sparse::FetchRequest, sparse::FetchResponse>,
    /// `Describe`.
    pub describe: Script<common::DescribeRequest, common::DescribeResponse>,
}

/// A dense retriever by script. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FakeDense {
    /// `Search`.
    pub search: Script<dense::SearchRequest, dense::SearchResponse>,
    /// `Score`.
    pub score: Script<dense::ScoreRequest, dense::ScoreResponse>,
    /// `Describe`.
    pub describe: Script<common::DescribeRequest, common::DescribeResponse>,
}

impl FakeEncoder {
    /// Serves it inside this process.
    #[must_use]
    pub fn host(&self, name: &str) -> Hosted {
        host(name, |server| {
            server.add(EncoderServiceServer::new(self.clone()), &Readiness::ready())
        })
    }
}

impl FakeSparse {
    /// Serves it inside this process.
    #[must_use]
    pub fn host(&self, name: &str) -> Hosted {
        host(name, |server| {
            server.add(
                SparseRetrieverServiceServer::new(self.clone()),
                &Readiness::ready(),
            )
        })
    }
}

impl FakeDense {
    /// Serves it inside this process.
    #[must_use]
    pub fn host(&self, name: &str) -> Hosted {
        host(name, |server| {
            server.add(
                DenseRetrieverServiceServer::new(self.clone()),
                &Readiness::ready(),
            )
        })
    }
}

fn host(name: &str, add: impl FnOnce(&mut ServerBuilder) -> &mut ServerBuilder) -> Hosted {
    let mut server = ServerBuilder::new(ServerLimits::default());
    add(&mut server);
    let server = server
        .build(search_proto::FILE_DESCRIPTOR_SET)
        .expect("the contracts' descriptors are valid");
    Hosted::start(name, server)
}

#[tonic::async_trait]
impl EncoderService for FakeEncoder {
    async fn encode(
        &self,
        request: Request<encoder::EncodeRequest>,
    ) -> Result<Response<encoder::EncodeResponse>, Status> {
        self.encode.play(request).await
    }

    async fn tokenize(
        &self,
        _: Request<encoder::TokenizeRequest>,
    ) -> Result<Response<encoder::TokenizeResponse>, Status> {
        Err(Status::unimplemented("tokenize"))
    }

    async fn describe(
        &self,
        request: Request<encoder::DescribeRequest>,
    ) -> Result<Response<encoder::DescribeResponse>, Status> {
        self.describe.play(request).await
    }
}

#[tonic::async_trait]
impl SparseRetrieverService for FakeSparse {
    async fn search(
        &self,
        request: Request<sparse::SearchRequest>,
    ) -> Result<Response<sparse::SearchResponse>, Status> {
        self.search.play(request).await
    }

    async fn score(
        &self,
        request: Request<sparse::ScoreRequest>,
    ) -> Result<Response<sparse::ScoreResponse>, Status> {
        self.score.play(request).await
    }

    async fn fetch(
        &self,
        request: Request<sparse::FetchRequest>,
    ) -> Result<Response<sparse::FetchResponse>, Status> {
        self.fetch.play(request).await
    }

    async fn describe(
        &self,
        request: Request<common::DescribeRequest>,
    ) -> Result<Response<common::DescribeResponse>, Status> {
        self.describe.play(request).await
    }
}

#[tonic::async_trait]
impl DenseRetrieverService for FakeDense {
    async fn search(
        &self,
        request: Request<dense::SearchRequest>,
    ) -> Result<Response<dense::SearchResponse>, Status> {
        self.search.play(request).await
    }

    async fn score(
        &self,
        request: Request<dense::ScoreRequest>,
    ) -> Result<Response<dense::ScoreResponse>, Status> {
        self.score.play(request).await
    }

    async fn describe(
        &self,
        request: Request<common::DescribeRequest>,
    ) -> Result<Response<common::DescribeResponse>, Status> {
        self.describe.play(request).await
    }
}
