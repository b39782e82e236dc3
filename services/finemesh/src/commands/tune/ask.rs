//! Asks the judged queries: each for the answer of all stages, and where those are more than the sparse one, for that of the sparse stage
//! alone. One is asked at a time, so that what they take is not each other's waiting.

use anyhow::{Context, Result};
use evaluation::beir::{Judgements, Query};
use evaluation::metrics::ndcg_at;
use indicatif::ProgressBar;
use search_core::ParsedQuery;
use search_core::routing::{lexical_share, margin_by_first};
use search_proto::search::{
    Routing, SearchRequest, SearchResponse, StageReason, StageReport, StageStatus,
};

use super::replay::{HEAD, Replay};
use super::weights::{LATER, SeenWeights};
use crate::backend::Backend;
use crate::cli::TuneArgs;
use crate::commands::judged::Judged;
use crate::error::readable;

/// Documents of an answer. The deepest page for which retrieval is as it is for a page of ten: deeper ones let the retrievers give more
/// than a pipeline's 1000 passages on, over which scores are scaled otherwise. What is behind is not seen.
const DOCUMENTS: u32 = 250;
/// The stages that retrieve.
const RETRIEVERS: [&str; 2] = ["sparse", "dense"];
/// What is behind the ranking: it depends on how much of it is asked for.
const BEHIND_THE_RANKING: [&str; 2] = ["fetch", "explain"];

/// What was asked, and what is known of the answers.
#[derive(Default)]
pub(super) struct Asked {
    /// The pipeline that answered.
    pub(super) pipeline: String,
    /// The judged queries.
    pub(super) queries: Vec<AskedQuery>,
    pub(super) seen: SeenWeights,
    /// Answers in which a stage did less than it was asked to.
    pub(super) degraded: usize,
}

/// What is known of one query.
pub(super) struct AskedQuery {
    pub(super) replay: Replay,
    /// Milliseconds that each later stage took.
    pub(super) later_ms: [f64; LATER.len()],
    /// None: it is all that there is, or some stage did not do all that it was asked to, so that the answers cannot be compared.
    pub(super) sparse_alone: Option<SparseAlone>,
}

/// The answer of the sparse stage alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct SparseAlone {
    pub(super) ndcg: f64,
    /// What of the query asks for words, 0 to 1.
    pub(super) lexical_share: f64,
    /// How much the first score is above the second, by the first. None where nothing is found.
    pub(super) margin: Option<f64>,
    /// Milliseconds by which the ranking is ready earlier. This leaves aside what fetching and explaining the hits takes, of which
    /// many more are asked for here than in a usual answer. The query is new to the mesh when all stages answer it: it is encoded.
    /// Where its margin routes it, the encoder and the dense stage begin all the same, and a mesh without idle cores saves less.
    pub(super) saved_ms: f64,
}

/// Asks them all.
///
/// # Errors
/// When a query fails.
pub(super) async fn ask(backend: &mut Backend, args: &TuneArgs, judged: &Judged) -> Result<Asked> {
    let mut asked = Asked::default();
    let bar = ProgressBar::new(judged.queries.len() as u64).with_message("trails");
    for (query, judgements) in judged.iter() {
        let answered = asked.ask(backend, args, query, judgements).await;
        answered.with_context(|| format!("query {}", query.id))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(asked)
}

impl Asked {
    async fn ask(
        &mut self,
        backend: &mut Backend,
        args: &TuneArgs,
        query: &Query,
        judged: &Judgements,
    ) -> Result<()> {
        let whole = answer(backend, all_stages(args, query)).await?;
        self.add(&whole);
        let mut sparse_alone = None;
        if has_more_than_sparse(&whole) {
            let alone = answer(backend, sparse_only(args, query)).await?;
            self.degraded += usize::from(alone.degraded);
            let are_whole = did_all(&whole) && did_all(&alone);
            let parsed = ParsedQuery::parse(&query.text)?;
            sparse_alone = are_whole.then(|| SparseAlone {
                ndcg: ndcg(&alone, judged),
                lexical_share: lexical_share(&parsed),
                margin: margin(&alone),
                saved_ms: ranking_ms(&whole) - ranking_ms(&alone),
            });
        }
        self.queries.push(AskedQuery {
            later_ms: LATER.map(|stage| stage_ms(&whole, stage)),
            replay: Replay::new(whole, judged.clone()),
            sparse_alone,
        });
        Ok(())
    }

    fn add(&mut self, answer: &SearchResponse) {
        self.pipeline.clone_from(&answer.pipeline);
        self.degraded += usize::from(answer.degraded);
        for hit in &answer.hits {
            self.seen.add(&hit.trail);
        }
    }
}

async fn answer(backend: &mut Backend, request: SearchRequest) -> Result<SearchResponse> {
    let answer = backend.search.search(request).await.map_err(readable)?;
    Ok(answer.into_inner())
}

fn all_stages(args: &TuneArgs, query: &Query) -> SearchRequest {
    SearchRequest {
        collection: args.collection.clone(),
        query: query.text.clone(),
        k: Some(DOCUMENTS),
        pipeline: args.pipeline.clone(),
        explain: true,
        routing: Routing::AllStages.into(),
        ..SearchRequest::default()
    }
}

fn sparse_only(args: &TuneArgs, query: &Query) -> SearchRequest {
    SearchRequest {
        k: Some(HEAD as u32),
        explain: false,
        routing: Routing::SparseOnly.into(),
        ..all_stages(args, query)
    }
}

/// The reports of the stages that score.
fn scoring(answer: &SearchResponse) -> impl Iterator<Item = &StageReport> {
    let scores = |report: &&StageReport| {
        let stage = report.stage.as_str();
        RETRIEVERS.contains(&stage) || LATER.contains(&stage)
    };
    answer.stages.iter().filter(scores)
}

fn has_more_than_sparse(answer: &SearchResponse) -> bool {
    let mut stages = scoring(answer);
    stages.any(|report| report.stage == "sparse") && scoring(answer).count() > 1
}

/// Whether the stages that score did all that they were asked to. To be left out for the sparse stage's answer is no fault.
fn did_all(answer: &SearchResponse) -> bool {
    scoring(answer).all(|report| match report.status() {
        StageStatus::Complete => true,
        StageStatus::Skipped => report.reason() == StageReason::Routed,
        StageStatus::Unspecified | StageStatus::Partial | StageStatus::Failed => false,
    })
}

fn ndcg(answer: &SearchResponse, judged: &Judgements) -> f64 {
    let ids: Vec<&str> = answer.hits.iter().map(|hit| hit.id.as_str()).collect();
    ndcg_at(HEAD, &ids, judged)
}

/// As the orchestrator has it, of the scores of documents.
fn margin(answer: &SearchResponse) -> Option<f64> {
    let mut scores = answer.hits.iter().map(|hit| hit.score);
    margin_by_first(scores.next()?, scores.next())
}

/// From the request's arrival to the end of the last stage that the ranking is made of.
fn ranking_ms(answer: &SearchResponse) -> f64 {
    let reports = answer.stages.iter().filter(|report| {
        report.status() != StageStatus::Skipped
            && !BEHIND_THE_RANKING.contains(&report.stage.as_str())
    });
    let ends_us = reports.map(|report| report.start_us + report.wall_us);
    ends_us.max().unwrap_or(0) as f64 / 1000.0
}

fn stage_ms(answer: &SearchResponse, stage: &str) -> f64 {
    let mut reports = answer.stages.iter();
    let report = reports.find(|report| report.stage == stage);
    report.map_or(0.0, |report| report.wall_us as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use search_proto::search::Hit;

    use super::*;

    fn report(stage: &str, status: StageStatus, (start_us, wall_us): (u64, u64)) -> StageReport {
        StageReport {
            stage: stage.to_owned(),
            status: status.into(),
            start_us,
            wall_us,
            ..StageReport::default()
        }
    }

    fn answer(stages: Vec<StageReport>) -> SearchResponse {
        SearchResponse {
            stages,
            ..SearchResponse::default()
        }
    }

    #[test]
    fn a_ranking_is_ready_when_its_last_stage_has_ended() {
        let complete = StageStatus::Complete;
        let whole = answer(vec![
            report("encode", complete, (10, 3_000)),
            report("sparse", complete, (10, 1_000)),
            report("dense", complete, (3_010, 900)),
            report("rerank", complete, (4_000, 20_000)),
            report("fetch", complete, (24_000, 5_000)),
            report("explain", complete, (29_000, 1_000)),
        ]);
        assert_eq!(ranking_ms(&whole), 24.0);
        assert_eq!(stage_ms(&whole, "rerank"), 20.0);
        assert_eq!(stage_ms(&whole, "rescore"), 0.0);
        let alone = answer(vec![
            report("sparse", complete, (10, 1_000)),
            report("rerank", StageStatus::Skipped, (9_000, 0)),
        ]);
        assert_eq!(ranking_ms(&alone), 1.01);
    }

    #[test]
    fn what_is_left_out_by_routing_is_no_fault() {
        let complete = report("sparse", StageStatus::Complete, (0, 1));
        let mut dense = report("dense", StageStatus::Skipped, (0, 0));
        let both = |dense: &StageReport| answer(vec![complete.clone(), dense.clone()]);
        assert!(has_more_than_sparse(&both(&dense)) && !did_all(&both(&dense)));
        dense.reason = StageReason::Routed.into();
        assert!(did_all(&both(&dense)));
        dense.status = StageStatus::Failed.into();
        assert!(!did_all(&both(&dense)));
        assert!(!has_more_than_sparse(&answer(vec![complete])));
    }

    #[test]
    fn a_margin_is_that_of_the_first_two_documents() {
        let of = |scores: &[f64]| {
            let hit = |score: &f64| Hit {
                score: *score,
                ..Hit::default()
            };
            margin(&SearchResponse {
                hits: scores.iter().map(hit).collect(),
                ..SearchResponse::default()
            })
        };
        assert_eq!(of(&[4.0, 3.0, 1.0]), Some(0.25));
        assert_eq!(of(&[4.0]), Some(1.0));
        assert_eq!(of(&[]), None);
    }
}
