//! What was fitted and what it gains, as text and as JSON.

use comfy_table::{Table, presets};
use evaluation::thresholds::Effect;
use serde_json::{Value, json};

use super::thresholds::FittedThreshold;
use super::weights::Setting;
use super::{Outcome, config_file};
use crate::cli::TuneArgs;
use crate::commands::eval::mean;

/// The documented JSON of `tune --json`.
pub(super) fn as_json(args: &TuneArgs, outcome: &Outcome) -> Value {
    let gain = outcome.held_out.gain;
    json!({
        "collection": args.collection,
        "pipeline": outcome.pipeline,
        "seed": args.seed,
        "fitting_queries": outcome.split.fitting.len(),
        "held_out_queries": outcome.split.held_out.len(),
        "degraded": outcome.degraded,
        "weights": weights_json(outcome),
        "held_out": {
            "default_ndcg@10": mean(&outcome.held_out.default),
            "tuned_ndcg@10": mean(&outcome.held_out.tuned),
            "gain": gain.mean,
            "gain_low": gain.low,
            "gain_high": gain.high,
        },
        "regret_tolerance": args.regret,
        "thresholds": thresholds_json(outcome),
        "curve": curve_json(outcome),
    })
}

fn weights_json(outcome: &Outcome) -> Vec<Value> {
    let weights = rows(outcome).map(|row| {
        json!({
            "setting": row.setting.path().join("."),
            "default": row.default,
            "best": row.best,
            "tuned": row.tuned,
        })
    });
    weights.collect()
}

fn thresholds_json(outcome: &Outcome) -> Vec<Value> {
    let thresholds = outcome.thresholds.iter().map(|fitted| {
        let Effect {
            share,
            regret,
            saved_ms,
        } = fitted.held_out;
        json!({
            "setting": fitted.threshold.path().join("."),
            "value": fitted.value,
            "left_out_share": share,
            "regret": regret.mean,
            "regret_low": regret.low,
            "regret_high": regret.high,
            "saved_ms": saved_ms,
        })
    });
    thresholds.collect()
}

fn curve_json(outcome: &Outcome) -> Vec<Value> {
    let points = outcome.curve.iter().map(|point| {
        json!({
            "queries": point.queries,
            "gain": point.gain,
            "gain_low": point.low,
            "gain_high": point.high,
        })
    });
    points.collect()
}

/// One weight through the fit.
struct WeightRow {
    setting: Setting,
    default: f64,
    best: f64,
    tuned: f64,
}

fn rows(outcome: &Outcome) -> impl Iterator<Item = WeightRow> {
    let fitted = outcome.fitted.best.iter().zip(&outcome.fitted.tuned);
    let settings = outcome.settings.iter().zip(&outcome.defaults).zip(fitted);
    settings.map(|((setting, default), (best, tuned))| WeightRow {
        setting: *setting,
        default: *default,
        best: *best,
        tuned: *tuned,
    })
}

/// Tables, and what to put into the configuration.
pub(super) fn as_text(args: &TuneArgs, outcome: &Outcome) -> String {
    let parts = [
        head(args, outcome),
        weight_table(outcome).to_string(),
        gain(outcome),
        curve(outcome),
        thresholds(args, outcome),
        what_to_write(args, outcome),
    ];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("\n\n")
}

fn head(args: &TuneArgs, outcome: &Outcome) -> String {
    let degraded = match outcome.degraded {
        0 => String::new(),
        count => format!(
            "\n{count} answers are degraded: what a stage did not do there, it did not do for the fit"
        ),
    };
    format!(
        "{}: pipeline {}, fitted on {} queries, {} held out{degraded}",
        args.collection,
        outcome.pipeline,
        outcome.split.fitting.len(),
        outcome.split.held_out.len()
    )
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

fn weight_table(outcome: &Outcome) -> Table {
    let mut table = table(&["weight", "now", "best of the fit", "tuned"]);
    for row in rows(outcome) {
        let values = [row.default, row.best, row.tuned].map(|value| value.to_string());
        let name = row.setting.path().join(".");
        table.add_row([name].into_iter().chain(values));
    }
    table
}

fn gain(outcome: &Outcome) -> String {
    let gain = outcome.held_out.gain;
    let verdict = if gain.low > 0.0 || gain.high < 0.0 {
        ""
    } else {
        ", which may be chance"
    };
    format!(
        "nDCG@10 held out: {:.4} now, {:.4} tuned: {:+.4} [{:+.4}, {:+.4}]{verdict}",
        mean(&outcome.held_out.default),
        mean(&outcome.held_out.tuned),
        gain.mean,
        gain.low,
        gain.high
    )
}

fn curve(outcome: &Outcome) -> String {
    if outcome.curve.is_empty() {
        return String::new();
    }
    let mut table = table(&["fitting queries", "gain held out", "nine draws in ten"]);
    for point in &outcome.curve {
        table.add_row([
            point.queries.to_string(),
            format!("{:+.4}", point.gain),
            format!("[{:+.4}, {:+.4}]", point.low, point.high),
        ]);
    }
    table.to_string()
}

fn thresholds(args: &TuneArgs, outcome: &Outcome) -> String {
    let mut table = table(&[
        "threshold",
        "fitted",
        "left out",
        "nDCG@10 lost",
        "ms saved a query",
    ]);
    for fitted in &outcome.thresholds {
        table.add_row(threshold_row(fitted));
    }
    format!(
        "{table}\nheld out, each beside those above it; one with which all may cost more than {} is off",
        args.regret
    )
}

fn threshold_row(fitted: &FittedThreshold) -> Vec<String> {
    let name = fitted.threshold.path().join(".");
    let Some(value) = fitted.value else {
        return vec![name, "off".to_owned()];
    };
    let Effect {
        share,
        regret,
        saved_ms,
    } = fitted.held_out;
    vec![
        name,
        value.to_string(),
        format!("{:.1} %", 100.0 * share),
        format!(
            "{:+.4} [{:+.4}, {:+.4}]",
            regret.mean, regret.low, regret.high
        ),
        format!("{saved_ms:.2}"),
    ]
}

fn what_to_write(args: &TuneArgs, outcome: &Outcome) -> String {
    if args.write.is_some() {
        return String::new();
    }
    let section = config_file::section(&outcome.pipeline, &outcome.entries());
    format!(
        "For the configuration (--write CONFIG.toml puts it there):\n\n{}",
        section.trim_end()
    )
}
