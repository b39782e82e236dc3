//! A scripted service that reranks: the logit of a passage is the `rescore` of the script's passage with that text.

use crate::fakes::{Fake, Script, TIMING, builder, serve};
use futures::StreamExt;
use futures::stream::BoxStream;
use search_proto::rerank;
use search_proto::rerank::reranker_service_server::{RerankerService, RerankerServiceServer};
use service_kit::{MeshChannel, Readiness, deadline_of, now};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

/// What follows the batches that are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    End,
    Silence,
    Fail(Code),
}

/// What the service does; tests change it while it runs.
#[derive(Debug)]
pub(crate) struct RerankScript {
    /// Passages of a batch.
    pub(crate) batch: usize,
    /// Time that each takes.
    pub(crate) batch_ms: u64,
    /// Batches that are sent, and what comes then.
    pub(crate) batches: usize,
    pub(crate) then: Then,
    /// Refuses calls.
    pub(crate) refusal: Option<Code>,
    /// Sent instead of the batches, where there are any.
    pub(crate) canned: Vec<rerank::RerankResponse>,
    /// What becomes of each batch before it is sent.
    pub(crate) spoil: fn(&mut rerank::RerankResponse),
    /// The calls, with the milliseconds that they were given.
    pub(crate) calls: Vec<(rerank::RerankRequest, Option<u128>)>,
}

impl Default for RerankScript {
    fn default() -> Self {
        Self {
            batch: 2,
            batch_ms: 0,
            batches: usize::MAX,
            then: Then::End,
            refusal: None,
            canned: Vec::new(),
            spoil: |_| {},
            calls: Vec::new(),
        }
    }
}

/// One replica.
#[derive(Clone, Debug)]
pub(crate) struct Reranker {
    pub(crate) script: Arc<Mutex<RerankScript>>,
    passages: Arc<Mutex<Script>>,
    /// How many calls have ended, by their last batch or by the caller's leave.
    ended: Arc<watch::Sender<usize>>,
}

/// Counts the call when it ends.
struct Call(Arc<watch::Sender<usize>>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|ended| *ended += 1);
    }
}

impl Reranker {
    pub(crate) fn new(fake: &Fake) -> Self {
        Self {
            script: Arc::default(),
            passages: Arc::clone(&fake.script),
            ended: Arc::new(watch::Sender::new(0)),
        }
    }

    pub(crate) fn serve(&self) -> MeshChannel {
        let mut builder = builder();
        let service = RerankerServiceServer::new(self.clone());
        builder.add(
            service.max_decoding_message_size(service_kit::MAX_MESSAGE_BYTES),
            &Readiness::ready(),
        );
        serve("cross-encoder", builder)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut RerankScript)) {
        change(&mut self.script.lock().unwrap());
    }

    /// The calls since this was asked last.
    pub(crate) fn calls(&self) -> Vec<(rerank::RerankRequest, Option<u128>)> {
        std::mem::take(&mut self.script.lock().unwrap().calls)
    }

    /// Waits until so many calls have ended.
    pub(crate) async fn ended(&self, calls: usize) {
        let mut ended = self.ended.subscribe();
        ended.wait_for(|ended| *ended >= calls).await.unwrap();
    }

    fn logit(&self, text: &str) -> f32 {
        let script = self.passages.lock().unwrap();
        let mut passages = script.passages.iter();
        let passage = passages.find(|passage| text == script.text(passage));
        passage.and_then(|passage| passage.rescore).unwrap_or(0.0)
    }

    fn batches(&self, passages: &[String]) -> Vec<rerank::RerankResponse> {
        let script = self.script.lock().unwrap();
        if !script.canned.is_empty() {
            return script.canned.clone();
        }
        let logits: Vec<f32> = passages.iter().map(|text| self.logit(text)).collect();
        let indexes: Vec<u32> = (0..).take(passages.len()).collect();
        let parts = indexes.chunks(script.batch);
        let batch = |(number, part): (u32, &[u32])| {
            let logits: Vec<f32> = part.iter().map(|index| logits[*index as usize]).collect();
            let mut batch = rerank::RerankResponse {
                indexes: part.to_vec(),
                scores: logits
                    .iter()
                    .map(|logit| 1.0 / (1.0 + (-logit).exp()))
                    .collect(),
                logits,
                tokens: part.iter().map(|index| 10 + index).collect(),
                batches: vec![number; part.len()],
                unscored: (passages.len() - part.len()) as u32,
                truncated_passages: 0,
                fingerprint: "beef".to_owned(),
                timing: TIMING,
                ..Default::default()
            };
            (script.spoil)(&mut batch);
            batch
        };
        (0..).zip(parts).map(batch).take(script.batches).collect()
    }
}

#[tonic::async_trait]
impl RerankerService for Reranker {
    type RerankStreamStream = BoxStream<'static, Result<rerank::RerankResponse, Status>>;

    async fn rerank(
        &self,
        _request: Request<rerank::RerankRequest>,
    ) -> Result<Response<rerank::RerankResponse>, Status> {
        Err(Status::unimplemented("streams only"))
    }

    async fn rerank_stream(
        &self,
        request: Request<rerank::RerankRequest>,
    ) -> Result<Response<Self::RerankStreamStream>, Status> {
        let left = deadline_of(&request)
            .map(|deadline| deadline.remaining(now()).unwrap_or_default().as_millis());
        let request = request.into_inner();
        let batches = self.batches(&request.passages);
        let mut script = self.script.lock().unwrap();
        script.calls.push((request, left));
        if let Some(code) = script.refusal {
            return Err(Status::new(code, "scripted"));
        }
        let time = Duration::from_millis(script.batch_ms);
        let call = Call(Arc::clone(&self.ended));
        let sent = futures::stream::iter(batches).then(move |batch| async move {
            tokio::time::sleep(time).await;
            Ok(batch)
        });
        let then = match script.then {
            Then::End => futures::stream::empty().boxed(),
            Then::Silence => futures::stream::pending().boxed(),
            Then::Fail(code) => futures::stream::iter([Err(Status::new(code, "scripted"))]).boxed(),
        };
        let ends_with_call = move |_: &_| {
            let _running = &call;
        };
        let stream = sent.chain(then).inspect(ends_with_call);
        Ok(Response::new(stream.boxed()))
    }

    async fn describe(
        &self,
        _request: Request<rerank::DescribeRequest>,
    ) -> Result<Response<rerank::DescribeResponse>, Status> {
        Ok(Response::new(rerank::DescribeResponse::default()))
    }
}
