//! `finemesh eval`: quality and latency of pipelines on judged queries.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets};
use evaluation::beir::{self, Qrels, Query};
use evaluation::latency::Percentiles;
use evaluation::metrics::{mrr_at, ndcg_at, recall_at};
use evaluation::significance::paired_bootstrap;
use indicatif::ProgressBar;
use search_proto::search::{Fusion, SearchRequest, SearchResponse};
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::cli::{EvalArgs, FusionArgs};
use crate::commands::search::fusion;
use crate::error::readable;
use crate::output::say;
use crate::render::milliseconds;

/// What is measured when nothing is named.
const DEFAULT_PIPELINES: [&str; 3] = ["sparse", "dense", "hybrid"];
/// What is measured when nothing but a fusion is named.
const FUSING_PIPELINE: &str = "hybrid";
/// Hits per query: as deep as the deepest metric.
const DEPTH: u32 = 100;
/// Seed of the bootstrap: the same run prints the same intervals.
const BOOTSTRAP_SEED: u64 = 1;
/// Depth of nDCG and MRR.
const HEAD: usize = 10;

/// One row of the result: a pipeline under one fusion.
struct Variant {
    name: String,
    pipeline: String,
    fusion: Option<Fusion>,
}

/// What was seen of one variant.
#[derive(Default)]
struct Measured {
    ndcg: Vec<f64>,
    recall: Vec<f64>,
    mrr: Vec<f64>,
    wall_us: Vec<u64>,
    outside_us: Vec<u64>,
    stage_us: BTreeMap<String, Vec<u64>>,
    degraded: usize,
}

/// Runs every judged query through every variant and prints the means and percentiles.
pub(crate) async fn eval(backend: &mut Backend, args: EvalArgs) -> Result<()> {
    let qrels = beir::read_qrels(&args.qrels)?;
    let queries = judged_queries(beir::read_queries(&args.queries)?, &qrels, args.limit);
    ensure!(
        !queries.is_empty(),
        "{}: no query of {} is judged there",
        args.qrels.display(),
        args.queries.display()
    );
    let mut results = Vec::new();
    for variant in variants(&args) {
        let measured = measure(backend, &args.collection, &variant, &queries, &qrels).await?;
        results.push((variant.name, measured));
    }
    if args.json {
        say(format_args!("{}", as_json(&args, &queries, &results)))?;
    } else {
        say(format_args!(
            "{}: {} queries\n{}",
            args.collection,
            queries.len(),
            as_table(&results)
        ))?;
    }
    Ok(())
}

/// The judged queries, or `limit` of them evenly spread over the file.
fn judged_queries(queries: Vec<Query>, qrels: &Qrels, limit: Option<usize>) -> Vec<Query> {
    let judged: Vec<Query> = queries
        .into_iter()
        .filter(|query| qrels.contains_key(&query.id))
        .collect();
    let wanted = limit.unwrap_or(judged.len()).min(judged.len());
    let total = judged.len();
    let mut taken = 0;
    let spread = judged.into_iter().enumerate().filter(|(index, _)| {
        let take = index * wanted / total.max(1) >= taken && taken < wanted;
        taken += usize::from(take);
        take
    });
    spread.map(|(_, query)| query).collect()
}

/// The pipelines that are measured.
pub(crate) fn pipelines(args: &EvalArgs) -> Vec<String> {
    match args.pipelines.as_slice() {
        [] if is_about_fusion(args) => vec![FUSING_PIPELINE.to_owned()],
        [] => DEFAULT_PIPELINES.map(str::to_owned).to_vec(),
        named => named.to_vec(),
    }
}

fn variants(args: &EvalArgs) -> Vec<Variant> {
    pipelines(args)
        .into_iter()
        .flat_map(|pipeline| pipeline_variants(args, pipeline))
        .collect()
}

/// Pipelines of one retriever have nothing to fuse.
fn is_about_fusion(args: &EvalArgs) -> bool {
    let FusionArgs {
        fusion,
        rank_constant,
    } = &args.fusion;
    !args.alpha.is_empty() || fusion.is_some() || rank_constant.is_some()
}

fn pipeline_variants(args: &EvalArgs, pipeline: String) -> Vec<Variant> {
    if args.alpha.is_empty() {
        return vec![Variant {
            name: pipeline.clone(),
            pipeline,
            fusion: fusion(&args.fusion, None),
        }];
    }
    let with_alpha = |alpha: &f64| Variant {
        name: format!("{pipeline} alpha={alpha}"),
        pipeline: pipeline.clone(),
        fusion: fusion(&args.fusion, Some(*alpha)),
    };
    args.alpha.iter().map(with_alpha).collect()
}

async fn measure(
    backend: &mut Backend,
    collection: &str,
    variant: &Variant,
    queries: &[Query],
    qrels: &Qrels,
) -> Result<Measured> {
    let mut measured = Measured::default();
    let bar = ProgressBar::new(queries.len() as u64).with_message(variant.name.clone());
    for query in queries {
        let request = request(collection, variant, query);
        let answer = backend.search.search(request).await.map_err(readable);
        let response = answer
            .with_context(|| format!("query {}", query.id))?
            .into_inner();
        measured.add(&response, &qrels[&query.id]);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(measured)
}

fn request(collection: &str, variant: &Variant, query: &Query) -> SearchRequest {
    SearchRequest {
        collection: collection.to_owned(),
        query: query.text.clone(),
        k: Some(DEPTH),
        pipeline: variant.pipeline.clone(),
        fusion: variant.fusion,
        ..SearchRequest::default()
    }
}

impl Measured {
    fn add(&mut self, response: &SearchResponse, judged: &evaluation::beir::Judgements) {
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

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn as_json(args: &EvalArgs, queries: &[Query], results: &[(String, Measured)]) -> Value {
    let pipeline = |(name, measured): &(String, Measured)| {
        let mut pipeline = measured_json(measured);
        if args.per_query {
            pipeline["per_query"] = per_query_json(queries, measured);
        }
        (name.clone(), pipeline)
    };
    let pipelines: serde_json::Map<_, _> = results.iter().map(pipeline).collect();
    json!({ "collection": args.collection, "queries": queries.len(), "pipelines": pipelines })
}

/// Each query's own metrics, by its id.
fn per_query_json(queries: &[Query], measured: &Measured) -> Value {
    let metrics = measured
        .ndcg
        .iter()
        .zip(&measured.recall)
        .zip(&measured.mrr);
    let entry = |(query, ((ndcg, recall), mrr)): (&Query, ((&f64, &f64), &f64))| {
        let metrics = json!({ "ndcg@10": ndcg, "recall@100": recall, "mrr@10": mrr });
        (query.id.clone(), metrics)
    };
    let entries: serde_json::Map<_, _> = queries.iter().zip(metrics).map(entry).collect();
    Value::Object(entries)
}

fn measured_json(measured: &Measured) -> Value {
    let stages: serde_json::Map<_, _> = measured
        .stage_us
        .iter()
        .map(|(stage, us)| (stage.clone(), percentiles_json(us)))
        .collect();
    json!({
        "ndcg@10": mean(&measured.ndcg),
        "recall@100": mean(&measured.recall),
        "mrr@10": mean(&measured.mrr),
        "degraded": measured.degraded,
        "latency_us": percentiles_json(&measured.wall_us),
        "outside_compute_us": percentiles_json(&measured.outside_us),
        "stages": stages,
    })
}

fn percentiles_json(us: &[u64]) -> Value {
    let percentiles = Percentiles::of(us);
    json!({ "p50": percentiles.p50, "p95": percentiles.p95, "p99": percentiles.p99 })
}

fn as_table(results: &[(String, Measured)]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "pipeline",
        "nDCG@10",
        "against the first",
        "Recall@100",
        "MRR@10",
        "p50",
        "p95",
        "p99",
        "outside compute p50",
        "degraded",
    ]);
    for (name, measured) in results {
        let wall = Percentiles::of(&measured.wall_us);
        table.add_row([
            name.clone(),
            format!("{:.4}", mean(&measured.ndcg)),
            difference(&measured.ndcg, &results[0].1.ndcg),
            format!("{:.4}", mean(&measured.recall)),
            format!("{:.4}", mean(&measured.mrr)),
            milliseconds(wall.p50),
            milliseconds(wall.p95),
            milliseconds(wall.p99),
            milliseconds(Percentiles::of(&measured.outside_us).p50),
            measured.degraded.to_string(),
        ]);
    }
    format!("{table}\n\n{}", stage_table(results))
}

/// Mean difference of nDCG@10 over the same queries, with its 95 % interval; nothing for the row itself.
fn difference(ndcg: &[f64], first: &[f64]) -> String {
    if std::ptr::eq(ndcg, first) {
        return String::new();
    }
    let difference = paired_bootstrap(ndcg, first, BOOTSTRAP_SEED);
    difference.map_or_else(String::new, |d| {
        format!("{:+.4} [{:+.4}, {:+.4}]", d.mean, d.low, d.high)
    })
}

fn stage_table(results: &[(String, Measured)]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["pipeline", "stage", "p50", "p95", "p99"]);
    for (name, measured) in results {
        for (stage, us) in &measured.stage_us {
            let wall = Percentiles::of(us);
            let times = [wall.p50, wall.p95, wall.p99].map(milliseconds);
            table.add_row([name.clone(), stage.clone()].into_iter().chain(times));
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_takes_judged_queries_evenly_spread() {
        let query = |id: usize| Query {
            id: id.to_string(),
            text: String::new(),
        };
        let qrels: Qrels = (0..100)
            .map(|id| (id.to_string(), Default::default()))
            .collect();
        let taken = |limit| judged_queries((0..200).map(query).collect(), &qrels, limit);
        assert_eq!(taken(None).len(), 100);
        assert_eq!(taken(Some(7)).len(), 7);
        assert_eq!(taken(Some(1000)).len(), 100);
        assert!(taken(Some(2))[1].id.parse::<usize>().unwrap() >= 50);
    }
}
