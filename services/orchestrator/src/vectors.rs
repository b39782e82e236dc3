//! The head of the ranking, scored by vectors, shard by shard.
//!
//! All passages of a document that were found are scored, and the best of them counts. How these scores and the earlier ones become one
//! is said in [`search_core::rerank`]. The best documents' passages are sent first, and of a document that first by which it is shown,
//! since a shard that is late gives the scores of the first ones.

use crate::clients::{ColbertClient, DenseClient, Encoded, QueryTokens, Scored, Target};
use crate::costs::first_within;
use crate::encode::{EncodingBeside, Outcome, QuerySource, tokens_of};
use crate::error::SearchError;
use crate::funnel::{Ranked, Run, StageWatch, within};
use crate::head::{merge_head, why_it_ended};
use crate::plan::{HeadPart, VectorStage};
use crate::ranking::{LaterScores, Ranking};
use crate::scores::ask_shards;
use search_core::{Address, Deadline, Grant, StageReason, StageStatus, micros};
use service_kit::now;
use std::collections::HashMap;
use tracing::Instrument;

/// The query of a stage that scores by vectors.
pub(crate) enum Query<'a> {
    /// The stage cannot run.
    None(StageReason),
    OfRetrieval,
    Apart(EncodingBeside<'a>),
}

/// What of the ranking is scored by vectors, and how.
#[derive(Clone, Copy, Debug)]
struct Window<'q> {
    vectors: Vectors<'q>,
    /// Documents.
    documents: usize,
    deadline: Option<Deadline>,
}

/// The query as the shards get it.
#[derive(Clone, Copy, Debug)]
enum Vectors<'q> {
    Sentence(&'q Encoded),
    Tokens(&'q QueryTokens),
}

impl<'q> Vectors<'q> {
    fn of(stage: VectorStage, encoded: &'q Encoded) -> Result<Self, StageReason> {
        match stage {
            VectorStage::Rescore => Ok(Self::Sentence(encoded)),
            VectorStage::LateInteraction => tokens_of(encoded).map(Self::Tokens),
        }
    }

    /// Most addresses of one call.
    const fn most_addresses(self) -> usize {
        match self {
            Self::Sentence(_) => DenseClient::MOST_SCORED,
            Self::Tokens(_) => ColbertClient::MOST_SCORED,
        }
    }
}

impl<'a> Run<'a> {
    pub(crate) fn query_for(self, stage: VectorStage) -> Query<'a> {
        match self.query_source(stage) {
            Err(reason) => Query::None(reason),
            Ok(QuerySource::Retrieval) => Query::OfRetrieval,
            Ok(QuerySource::Apart(encoding)) => Query::Apart(self.encode_beside(encoding)),
        }
    }

    /// Where the query of a stage comes from, or why the stage cannot run.
    pub(crate) fn query_source(self, stage: VectorStage) -> Result<QuerySource<'a>, StageReason> {
        match stage {
            VectorStage::Rescore => self.rescore_source(),
            VectorStage::LateInteraction => self.late_interaction_source(),
        }
    }

    /// Has the head scored by vectors.
    pub(crate) async fn score_head(
        self,
        part: HeadPart,
        stage: VectorStage,
        query: Query<'a>,
        grant: Grant,
        ranked: &mut Ranked,
    ) {
        let mut watch = self.begin(stage.name());
        let granted = watch.grant(grant);
        let deadline = granted.unwrap_or_else(|_| Some(Deadline::new(now())));
        let encoded = query.by(deadline, ranked).await;
        let vectors = match &encoded {
            Ok(encoded) => granted.and_then(|_| Vectors::of(stage, encoded)),
            Err(reason) => Err(*reason),
        };
        match vectors {
            Err(reason) => watch.lessen(StageStatus::Skipped, reason),
            Ok(vectors) => {
                let window = Window {
                    vectors,
                    documents: self.fitting(part, &ranked.ranking, deadline, &mut watch),
                    deadline,
                };
                self.score_window(part, window, &mut ranked.ranking, &mut watch)
                    .await;
            }
        }
        if stage == VectorStage::LateInteraction {
            ranked.matched_with = encoded.ok();
        }
        ranked.reports.push(watch.end());
    }

    /// How many documents of the window are expected to be scored in time.
    fn fitting(
        self,
        part: HeadPart,
        ranking: &Ranking,
        deadline: Option<Deadline>,
        watch: &mut StageWatch,
    ) -> usize {
        let window = ranking.len().min(part.window as usize);
        let most = self.mesh.costs.of(part.stage).fitting(deadline);
        let passages = ranking
            .passages_by_document(window)
            .map(|count| count as f64);
        let documents = first_within(passages, most, part.floor as usize);
        if documents < window {
            watch.lessen(StageStatus::Partial, StageReason::Deadline);
        }
        documents
    }

    async fn score_window(
        self,
        part: HeadPart,
        window: Window<'_>,
        ranking: &mut Ranking,
        watch: &mut StageWatch,
    ) {
        let documents = window.documents;
        watch.report.candidates_in = documents as u64;
        let stage = part.stage.name();
        let span = tracing::info_span!("score", stage, documents, scored = tracing::field::Empty);
        let score = async {
            within(window.deadline, self.settle_ties(ranking, documents)).await?;
            Ok::<_, SearchError>(self.ask_for_scores(part, window, ranking, watch).await)
        };
        match score.instrument(span.clone()).await {
            Ok(own) => {
                let said = LaterScores {
                    stage,
                    weight: part.weight,
                    own,
                    readings: HashMap::new(),
                };
                let scored = merge_head(documents, said, ranking, watch);
                span.record("scored", scored);
            }
            Err(error) => {
                tracing::warn!(stage, %error, "the head is not scored");
                watch.lessen(StageStatus::Failed, error.reason());
            }
        }
    }

    /// The scores of the passages of the head, parallel to the pool; none of those that nobody scored.
    async fn ask_for_scores(
        self,
        part: HeadPart,
        window: Window<'_>,
        ranking: &Ranking,
        watch: &mut StageWatch,
    ) -> Vec<Option<f32>> {
        let passages: Vec<_> = ranking.passages_of_head(window.documents).collect();
        let (cost, items) = (self.mesh.costs.of(part.stage), passages.len() as f64);
        watch.report.expected_us = micros(cost.expected(items));
        let began = now();
        let score = |shard, addresses: Vec<Address>| async move {
            let scored = self.score_shard(window, shard, &addresses);
            within(window.deadline, scored).await
        };
        let answers = ask_shards(passages, window.vectors.most_addresses(), score).await;
        let took = now().saturating_duration_since(began);
        let mut own = vec![None; ranking.passages()];
        for answer in answers {
            for (position, score) in answer.known(watch) {
                own[position] = Some(score);
            }
            if answer.is_cut_short() {
                watch.lessen(StageStatus::Partial, why_it_ended(window.deadline));
            }
        }
        if watch.all_answered() {
            cost.observe(own.iter().flatten().count() as f64, took);
        } else {
            // What failed at once says nothing of what the work costs; what was waited for in vain does.
            cost.observe_broken_off(items, took);
        }
        own
    }

    async fn score_shard(
        self,
        window: Window<'_>,
        shard: u32,
        addresses: &[Address],
    ) -> Result<Scored, SearchError> {
        let target = Target {
            deadline: window.deadline,
            ..self.target(shard)
        };
        let scored = match window.vectors {
            Vectors::Sentence(query) => {
                let holders = self.placement.dense.of_shard(shard);
                let dense = &self.mesh.dense;
                let score = |client: &'a DenseClient| client.score(target, query, addresses);
                dense.call(holders, score).await
            }
            Vectors::Tokens(query) => {
                let holders = self.placement.colbert.of_shard(shard);
                let colbert = &self.mesh.colbert;
                let score = |client: &'a ColbertClient| client.score(target, query, addresses);
                colbert.call(holders, score).await
            }
        };
        Ok(scored?)
    }
}

impl Query<'_> {
    /// What it is at the deadline. An encoding of its own is reported before the stage.
    async fn by(self, deadline: Option<Deadline>, ranked: &mut Ranked) -> Outcome {
        match self {
            Self::None(reason) => Err(reason),
            Self::OfRetrieval => ranked.encoded.clone().unwrap_or(Err(StageReason::Fault)),
            Self::Apart(encoding) => {
                let (report, outcome) = encoding.by(deadline).await;
                ranked.report_encoding(report);
                outcome
            }
        }
    }
}
