//! The scripted scorers of token vectors: the score of a passage is its `max_sim`.

use crate::fakes::{Fake, TIMING, builder, serve};
use search_proto::colbert::colbert_scorer_service_server::{
    ColbertScorerService, ColbertScorerServiceServer,
};
use search_proto::{colbert, common};
use service_kit::{MeshChannel, Readiness, deadline_of, now};
use std::time::Duration;
use tonic::{Request, Response, Status};

pub(crate) fn scorer(fake: Fake) -> MeshChannel {
    let mut builder = builder();
    builder.add(ColbertScorerServiceServer::new(fake), &Readiness::ready());
    serve("colbert-scorer", builder)
}

impl Fake {
    /// The score of a passage of this shard.
    fn max_sim(&self, address: u64, shard: u32) -> Option<f32> {
        self.read(|script| {
            let passage = script.find(address).filter(|at| at.shard == shard);
            passage.and_then(|passage| passage.max_sim)
        })
    }
}

#[tonic::async_trait]
impl ColbertScorerService for Fake {
    async fn score(
        &self,
        request: Request<colbert::ScoreRequest>,
    ) -> Result<Response<colbert::ScoreResponse>, Status> {
        let message = request.get_ref().clone();
        let (shard, snapshot) = (message.shard, message.snapshot.as_ref());
        self.enter("colbert.score", &request, snapshot, shard)
            .await?;
        let deadline = deadline_of(&request);
        let script = self.read(|script| script.scorer.clone());
        let most = script.prefixes.get(&shard).copied().unwrap_or(usize::MAX);
        let mut response = colbert::ScoreResponse {
            timing: TIMING,
            ..Default::default()
        };
        for (position, address) in (0..).zip(&message.addresses).take(most) {
            let passage_time = Duration::from_millis(script.passage_ms);
            let next = now() + passage_time;
            if deadline.is_some_and(|deadline| deadline.instant() <= next) {
                break;
            }
            if !passage_time.is_zero() {
                tokio::time::sleep(passage_time).await;
            }
            let score = self.max_sim(*address, shard);
            response.scores.push(score.unwrap_or(0.0));
            response.unknown.extend(score.is_none().then_some(position));
        }
        (script.spoil_scores)(&mut response);
        self.script.lock().unwrap().scorer.scored.push(message);
        Ok(Response::new(response))
    }

    async fn score_texts(
        &self,
        _: Request<colbert::ScoreTextsRequest>,
    ) -> Result<Response<colbert::ScoreTextsResponse>, Status> {
        Err(Status::unimplemented("indexed passages only"))
    }

    /// The first token of the query matches the first word, the second the last of three.
    async fn r#match(
        &self,
        request: Request<colbert::MatchRequest>,
    ) -> Result<Response<colbert::MatchResponse>, Status> {
        let message = request.get_ref().clone();
        let (shard, snapshot) = (message.shard, message.snapshot.as_ref());
        self.enter("colbert.match", &request, snapshot, shard)
            .await?;
        let matches = |address: &u64| {
            let score = self.max_sim(*address, shard);
            score.map_or_else(Default::default, |score| colbert::PassageMatches {
                tokens: vec![0, 2],
                cosines: vec![0.25, score - 0.25],
            })
        };
        let mut response = colbert::MatchResponse {
            passages: message.addresses.iter().map(matches).collect(),
            timing: TIMING,
        };
        let spoil = self.read(|script| script.scorer.spoil_matches);
        spoil(&mut response);
        self.script.lock().unwrap().scorer.matched.push(message);
        Ok(Response::new(response))
    }

    async fn describe(
        &self,
        _: Request<common::DescribeRequest>,
    ) -> Result<Response<common::DescribeResponse>, Status> {
        if self.read(|script| script.hanging.contains(&"colbert.describe")) {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(self.read(|script| {
            let mut described = script.described(&script.colbert_held);
            for held in &mut described.snapshots {
                held.encoder_fingerprint = script.colbert_fingerprint.clone();
            }
            described
        })))
    }
}
