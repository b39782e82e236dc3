//! What was measured, as tables and as JSON.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

use super::tally::{Rate, Tally, Times};
use crate::cli::{ArrivalsArg, BenchArgs};
use crate::render::milliseconds;

/// Told of latencies.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
/// Told of stages, and of how far the client was behind.
const FEW_QUANTILES: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];
/// A client that is behind by more than this measures itself as well.
const WORTH_TELLING_US: u64 = 5000;

/// The documented JSON of `bench --json`.
pub(super) fn as_json(args: &BenchArgs, rates: &[Rate]) -> Value {
    let rates: Vec<Value> = rates.iter().map(rate_json).collect();
    json!({
        "collection": args.collection,
        "pipeline": args.pipeline,
        "k": args.k,
        "budget_ms": args.budget_ms,
        "critical_share": args.critical_share,
        "arrivals": process_name(args.arrivals),
        "seed": args.seed,
        "duration_s": args.duration_s,
        "warmup_s": args.warmup_s,
        "rates": rates,
    })
}

fn process_name(process: ArrivalsArg) -> &'static str {
    match process {
        ArrivalsArg::Poisson => "poisson",
        ArrivalsArg::Constant => "constant",
    }
}

fn rate_json(rate: &Rate) -> Value {
    let classes = rate.by_class.iter();
    let classes: Map<_, _> = classes
        .map(|(class, tally)| (class.as_str().to_owned(), tally_json(rate, tally)))
        .collect();
    let mut object = tally_json(rate, &rate.all);
    object["offered_qps"] = json!(rate.per_second);
    object["by_criticality"] = Value::Object(classes);
    object
}

fn tally_json(rate: &Rate, tally: &Tally) -> Value {
    let stages: Map<_, _> = tally
        .stage_us
        .iter()
        .map(|(stage, times)| (stage.clone(), times_json(times, &FEW_QUANTILES)))
        .collect();
    json!({
        "arrivals": tally.arrivals,
        "answered": tally.answered,
        "achieved_qps": rate.achieved(tally),
        "goodput_qps": rate.goodput(tally),
        "late_share": rate.late_share(tally),
        "latency_us": times_json(&tally.latency_us, &QUANTILES),
        "degraded_share": tally.degraded_share(),
        "degraded_stages": tally.reasons,
        "errors": tally.errors,
        "stages": stages,
        "sent_late_us": times_json(&tally.behind_us, &FEW_QUANTILES),
    })
}

fn times_json(times: &Times, quantiles: &[(&str, f64)]) -> Value {
    let mut object: Map<String, Value> = quantiles
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), json!(times.quantile(*quantile))))
        .collect();
    object.insert("max".to_owned(), json!(times.max()));
    Value::Object(object)
}

/// A row for each rate; behind it the classes where there are several, the stages, and what went wrong.
pub(super) fn as_tables(args: &BenchArgs, rates: &[Rate]) -> String {
    let mut text = format!(
        "{}: {} s of each rate after {} s\n{}\n\n",
        args.collection,
        args.duration_s,
        args.warmup_s,
        rate_table(rates)
    );
    if rates.iter().any(|rate| rate.by_class.len() > 1) {
        let _ = writeln!(text, "{}\n", class_table(rates));
    }
    let _ = writeln!(text, "{}", stage_table(rates));
    for rate in rates {
        text.push_str(&troubles(rate));
    }
    text.trim_end().to_owned()
}

const COLUMNS: [&str; 10] = [
    "answered", "in time", "p50", "p90", "p99", "p99.9", "max", "late", "degraded", "errors",
];

fn rate_table(rates: &[Rate]) -> Table {
    let mut table = table(["offered qps"].into_iter().chain(COLUMNS));
    for rate in rates {
        let name = rate.per_second.to_string();
        table.add_row([name].into_iter().chain(cells(rate, &rate.all)));
    }
    table
}

fn class_table(rates: &[Rate]) -> Table {
    let mut table = table(["offered qps", "class"].into_iter().chain(COLUMNS));
    for rate in rates {
        for (class, tally) in &rate.by_class {
            let names = [rate.per_second.to_string(), class.as_str().to_owned()];
            table.add_row(names.into_iter().chain(cells(rate, tally)));
        }
    }
    table
}

fn table<'a>(header: impl Iterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

fn cells(rate: &Rate, tally: &Tally) -> Vec<String> {
    let per_second = |rate: f64| format!("{rate:.1}/s");
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let errors: u64 = tally.errors.values().sum();
    let latencies = QUANTILES.map(|(_, quantile)| time(tally.latency_us.quantile(quantile)));
    let first = [Some(rate.achieved(tally)), rate.goodput(tally)];
    let last = [
        rate.late_share(tally),
        tally.degraded_share(),
        tally.share(errors),
    ];
    let cells = first.into_iter().map(|cell| or_dash(cell.map(per_second)));
    cells
        .chain(latencies)
        .chain([time(tally.latency_us.max())])
        .chain(last.into_iter().map(|cell| or_dash(cell.map(percent))))
        .collect()
}

fn or_dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".to_owned())
}

fn time(us: Option<u64>) -> String {
    or_dash(us.map(milliseconds))
}

fn stage_table(rates: &[Rate]) -> Table {
    let names = FEW_QUANTILES.map(|(name, _)| name);
    let mut table = table(["offered qps", "stage"].into_iter().chain(names));
    for rate in rates {
        for (stage, times) in &rate.all.stage_us {
            let names = [rate.per_second.to_string(), stage.clone()];
            let quantiles = FEW_QUANTILES.map(|(_, quantile)| time(times.quantile(quantile)));
            table.add_row(names.into_iter().chain(quantiles));
        }
    }
    table
}

/// Which stages did less and why, which errors came, and whether the client itself was behind.
fn troubles(rate: &Rate) -> String {
    let mut text = String::new();
    let tally = &rate.all;
    for (stage, reasons) in &tally.reasons {
        for (reason, count) in reasons {
            let _ = writeln!(text, "{} qps: {stage} {reason}: {count}", rate.per_second);
        }
    }
    for (code, count) in &tally.errors {
        let _ = writeln!(text, "{} qps: {code}: {count}", rate.per_second);
    }
    let behind = tally.behind_us.quantile(0.99);
    if let Some(us) = behind.filter(|us| *us > WORTH_TELLING_US) {
        let behind = milliseconds(us);
        let _ = writeln!(
            text,
            "{} qps: one request in a hundred was sent {behind} late or more: this client's machine is busy",
            rate.per_second
        );
    }
    text
}
