//! What was measured, as tables and as JSON.

use comfy_table::{Table, presets};
use evaluation::beir::Query;
use evaluation::latency::Percentiles;
use evaluation::significance::paired_bootstrap;
use serde_json::{Value, json};

use super::Row;
use super::measure::Measured;
use crate::cli::EvalArgs;
use crate::render::milliseconds;

/// Seed of the bootstrap: the same run prints the same intervals.
const BOOTSTRAP_SEED: u64 = 1;

impl Row {
    /// Unlike that of any other row.
    fn name(&self, has_budgets: bool) -> String {
        match (has_budgets, self.budget.ms()) {
            (false, _) => self.variant.clone(),
            (true, None) => format!("{} budget=none", self.variant),
            (true, Some(ms)) => format!("{} budget={ms}", self.variant),
        }
    }
}

/// The documented JSON of `eval --json`.
pub(super) fn as_json(args: &EvalArgs, queries: &[Query], rows: &[Row]) -> Value {
    let has_budgets = !args.budgets.is_empty();
    let pipeline = |row: &Row| {
        let mut pipeline = measured_json(&row.measured);
        if has_budgets {
            pipeline["pipeline"] = json!(row.variant);
            pipeline["budget_ms"] = json!(row.budget.ms());
            pipeline["too_late"] = json!(row.measured.too_late);
        }
        if args.per_query {
            pipeline["per_query"] = per_query_json(queries, &row.measured);
        }
        (row.name(has_budgets), pipeline)
    };
    let pipelines: serde_json::Map<_, _> = rows.iter().map(pipeline).collect();
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

/// A table of quality and latency; and one of the stages, or of the budgets alone where there are any.
pub(super) fn as_tables(args: &EvalArgs, rows: &[Row]) -> String {
    if args.budgets.is_empty() {
        format!("{}\n\n{}", pipeline_table(rows), stage_table(rows))
    } else {
        format!(
            "{}\n\ntoo late: not answered within the budget; counts as nDCG 0",
            budget_table(rows)
        )
    }
}

fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

fn pipeline_table(rows: &[Row]) -> Table {
    let mut table = table([
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
    for Row {
        variant, measured, ..
    } in rows
    {
        let wall = Percentiles::of(&measured.wall_us);
        table.add_row([
            variant.clone(),
            format!("{:.4}", mean(&measured.ndcg)),
            difference(&measured.ndcg, &rows[0].measured.ndcg),
            format!("{:.4}", mean(&measured.recall)),
            format!("{:.4}", mean(&measured.mrr)),
            milliseconds(wall.p50),
            milliseconds(wall.p95),
            milliseconds(wall.p99),
            milliseconds(Percentiles::of(&measured.outside_us).p50),
            measured.degraded.to_string(),
        ]);
    }
    table
}

fn budget_table(rows: &[Row]) -> Table {
    let mut table = table([
        "pipeline", "budget", "nDCG@10", "degraded", "too late", "p50", "p99",
    ]);
    for row in rows {
        let measured = &row.measured;
        let wall = Percentiles::of(&measured.wall_us);
        let share = |count: usize| {
            let percent = 100.0 * count as f64 / measured.ndcg.len().max(1) as f64;
            format!("{percent:.1} %")
        };
        table.add_row([
            row.variant.clone(),
            row.budget.to_string(),
            format!("{:.4}", mean(&measured.ndcg)),
            share(measured.degraded),
            share(measured.too_late),
            milliseconds(wall.p50),
            milliseconds(wall.p99),
        ]);
    }
    table
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

fn stage_table(rows: &[Row]) -> Table {
    let mut table = table(["pipeline", "stage", "p50", "p95", "p99"]);
    for row in rows {
        for (stage, us) in &row.measured.stage_us {
            let wall = Percentiles::of(us);
            let times = [wall.p50, wall.p95, wall.p99].map(milliseconds);
            table.add_row(
                [row.variant.clone(), stage.clone()]
                    .into_iter()
                    .chain(times),
            );
        }
    }
    table
}

pub(in crate::commands) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
