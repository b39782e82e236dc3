//! Asks every query, and keeps what is seen of the answers.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use evaluation::beir::{Judgements, Query};
use evaluation::metrics::{mrr_at, ndcg_at, recall_at};
use indicatif::ProgressBar;
use search_core::{ErrorKind, micros};
use search_proto::search::{SearchRequest, SearchResponse};
use service_kit::status::kind_of;

use super::variants::Variant;
use crate::backend::Backend;
use crate::commands::judged::Judged;
use crate::error::readable;
use crate::values::Budget;

/// Hits per query: as deep as the deepest metric.
const DEPTH: u32 = 100;
/// Depth of nDCG and MRR.
const HEAD: usize = 10;

/// What was seen of one variant. Lists are parallel to the queries, but for those of answers that came in time.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) ndcg: Vec<f64>,
    pub(super) recall: Vec<f64>,
    pub(super) mrr: Vec<f64>,
    /// As the mesh says; of queries that were not answered in time, as the client saw.
    pub(super) wall_us: Vec<u64>,
    /// Of answers.
    pub(super) outside_us: Vec<u64>,
    /// Of answers, by stage.
    pub(super) stage_us: BTreeMap<String, Vec<u64>>,
    /// Answers that said so.
    pub(super) degraded: usize,
    /// Queries that were not answered within the budget.
    pub(super) too_late: usize,
}

/// Runs every judged query through a variant.
///
/// # Errors
/// When a query fails. That the budget was spent is no failure, but a query that finds nothing.
pub(super) async fn measure(
    backend: &mut Backend,
    collection: &str,
    (variant, budget): (&Variant, Budget),
    judged: &Judged,
) -> Result<Measured> {
    let mut measured = Measured::default();
    let bar = ProgressBar::new(judged.queries.len() as u64).with_message(variant.name.clone());
    for (query, judgements) in judged.iter() {
        let request = request(collection, variant, budget, query);
        let asked = Instant::now();
        match backend.search.search(request).await {
            Ok(answer) => measured.add(answer.get_ref(), judgements),
            Err(status) if budget != Budget::NONE && is_for_want_of_time(&status) => {
                measured.add_nothing(micros(asked.elapsed()));
            }
            Err(status) => {
                return Err(readable(status)).with_context(|| format!("query {}", query.id));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(measured)
}

/// A service refuses at once what it would be late with.
fn is_for_want_of_time(status: &tonic::Status) -> bool {
    let kinds = [ErrorKind::DeadlineExceeded, ErrorKind::ResourceExhausted];
    kinds.contains(&kind_of(status))
}

fn request(collection: &str, variant: &Variant, budget: Budget, query: &Query) -> SearchRequest {
    SearchRequest {
        collection: collection.to_owned(),
        query: query.text.clone(),
        k: Some(DEPTH),
        pipeline: variant.pipeline.clone(),
        fusion: variant.fusion,
        budget_ms: budget.ms(),
        ..SearchRequest::default()
    }
}

impl Measured {
    fn add(&mut self, response: &SearchResponse, judged: &Judgements) {
        let ranking: Vec<&str> = response.hits.iter().map(|hit| hit.id.as_str()).collect();
        self.ndcg.push(ndcg_at(HEAD, &ranking, judged));
        self.recall
            .push(recall_at(DEPTH as usize, &ranking, judged));
        self.mrr.push(mrr_at(HEAD, &ranking, judged));
        self.wall_us.push(response.wall_us);
        self.outside_us.push(outside_compute_us(response));
        self.degraded += usize::from(response.degraded);
        for report in &response.stages {
            self.stage_us
                .entry(report.stage.clone())
                .or_default()
                .push(report.wall_us);
        }
    }

    fn add_nothing(&mut self, wall_us: u64) {
        for metric in [&mut self.ndcg, &mut self.recall, &mut self.mrr] {
            metric.push(0.0);
        }
        self.wall_us.push(wall_us);
        self.too_late += 1;
    }
}

/// Wall time that neither the models nor the retrievers (which hold the documents) spent computing: transport, queues,
/// fusion. The sparse leg runs beside encoding and the dense leg, so the longer of the two counts.
fn outside_compute_us(response: &SearchResponse) -> u64 {
    let compute = |stage: &str| {
        let reports = response
            .stages
            .iter()
            .filter(|report| report.stage == stage);
        reports.map(|report| report.compute_us).sum::<u64>()
    };
    let retrieval = compute("sparse").max(compute("encode") + compute("dense"));
    let behind = ["complete", "rescore", "late_interaction", "rerank", "fetch"].map(compute);
    response
        .wall_us
        .saturating_sub(retrieval + behind.iter().sum::<u64>())
}

#[cfg(test)]
mod tests {
    use search_proto::search::Hit;

    use super::*;

    #[test]
    fn what_does_not_come_in_time_finds_nothing() {
        let mut measured = Measured::default();
        let response = SearchResponse {
            hits: vec![Hit {
                id: "a".to_owned(),
                ..Hit::default()
            }],
            ..SearchResponse::default()
        };
        measured.add(&response, &Judgements::from([("a".to_owned(), 1)]));
        measured.add_nothing(30_000);
        assert_eq!(measured.ndcg, [1.0, 0.0]);
        assert_eq!((measured.recall[1], measured.mrr[1]), (0.0, 0.0));
        assert_eq!(measured.wall_us, [0, 30_000]);
        assert_eq!((measured.too_late, measured.degraded), (1, 0));
    }
}
