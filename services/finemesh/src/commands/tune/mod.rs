//! `finemesh tune`: fits the weights of a pipeline, and the thresholds from which on it leaves stages out, on judged queries of a collection.
//!
//! Every query is asked once for all stages. The trails of its hits say what each stage said about them, from which the answer follows for
//! any other weights and without any later stage, see [`replay`]; so all of them are tried without asking again. The answer of the sparse
//! stage alone is asked for. How weights and thresholds are fitted, and why a few queries do not move them far, is in
//! [`evaluation::tuning`] and [`evaluation::thresholds`]. What is gained and lost is measured on queries that nothing was fitted on.

mod ask;
mod config_file;
mod replay;
mod report;
mod thresholds;
mod weights;

use anyhow::{Context, Result, ensure};
use evaluation::significance::{Difference, paired_bootstrap};
use evaluation::tuning::{CurvePoint, Fitted, Split, Tuning, split};

use self::ask::{Asked, ask};
use self::config_file::Entry;
use self::replay::NO_GATES;
use self::thresholds::{FittedThreshold, ThresholdFit};
use self::weights::Setting;
use super::judged::Judged;
use crate::backend::Backend;
use crate::cli::TuneArgs;
use crate::output::say;

const NOTHING_HELD_OUT: &str = "no query is held out";

/// What came of it.
struct Outcome {
    pipeline: String,
    degraded: usize,
    settings: Vec<Setting>,
    split: Split,
    defaults: Vec<f64>,
    fitted: Fitted,
    held_out: HeldOut,
    thresholds: Vec<FittedThreshold>,
    curve: Vec<CurvePoint>,
}

/// nDCG@10 on the queries that nothing was fitted on.
struct HeldOut {
    default: Vec<f64>,
    tuned: Vec<f64>,
    gain: Difference,
}

/// Fits weights and thresholds, says what they gain and cost, and writes them where asked to.
pub(crate) async fn tune(backend: &mut Backend, args: TuneArgs) -> Result<()> {
    let judged = Judged::read(&args.queries, &args.qrels, None)?;
    let split = split_of(&args, &judged)?;
    // Told before everything is asked.
    args.write.as_deref().map(config_file::read).transpose()?;
    let asked = ask(backend, &args, &judged).await?;
    let outcome = fit(&args, asked, split)?;
    if args.json {
        say(format_args!("{}", report::as_json(&args, &outcome)))?;
    } else {
        say(format_args!("{}", report::as_text(&args, &outcome)))?;
    }
    if let Some(file) = &args.write {
        config_file::write(file, &outcome.pipeline, &outcome.entries())?;
        eprintln!("written to {}", file.display());
    }
    Ok(())
}

fn split_of(args: &TuneArgs, judged: &Judged) -> Result<Split> {
    let queries = judged.queries.len();
    ensure!(
        queries >= 2,
        "{}: one judged query; there must be one to fit on and one to hold out",
        args.queries.display()
    );
    let split = split(queries, args.held_out, args.seed);
    let most = split.fitting.len();
    let too_many = args
        .queries_curve
        .iter()
        .find(|size| **size as usize > most);
    ensure!(
        too_many.is_none(),
        "--queries-curve: there are {most} queries to fit on, not {}",
        too_many.copied().unwrap_or_default()
    );
    Ok(split)
}

fn fit(args: &TuneArgs, asked: Asked, split: Split) -> Result<Outcome> {
    let settings = asked.seen.settings();
    let settings = settings.with_context(|| format!("pipeline {}", asked.pipeline))?;
    let quality = |query: usize, values: &[f64]| {
        let values = asked.seen.values(&settings, values);
        asked.queries[query].replay.ndcg(&values, &NO_GATES)
    };
    let tuning = Tuning {
        weights: settings
            .iter()
            .map(|setting| asked.seen.weight(*setting))
            .collect(),
        quality: &quality,
    };
    let fitted = tuning.fit(&split.fitting);
    let thresholds = ThresholdFit {
        asked: &asked,
        values: asked.seen.values(&settings, &fitted.tuned),
        split: &split,
        tolerance: args.regret,
        seed: args.seed,
    };
    let sizes: Vec<usize> = args
        .queries_curve
        .iter()
        .map(|size| *size as usize)
        .collect();
    Ok(Outcome {
        defaults: tuning.defaults(),
        held_out: held_out(&tuning, &fitted, &split, args.seed)?,
        thresholds: thresholds.fit(),
        curve: tuning.curve(&sizes, &split, args.seed),
        pipeline: asked.pipeline,
        degraded: asked.degraded,
        settings,
        split,
        fitted,
    })
}

fn held_out(tuning: &Tuning<'_>, fitted: &Fitted, split: &Split, seed: u64) -> Result<HeldOut> {
    let default = tuning.qualities(&split.held_out, &tuning.defaults());
    let tuned = tuning.qualities(&split.held_out, &fitted.tuned);
    let gain = paired_bootstrap(&tuned, &default, seed).context(NOTHING_HELD_OUT)?;
    Ok(HeldOut {
        default,
        tuned,
        gain,
    })
}

impl Outcome {
    /// What is to stand in the configuration: each weight, and the thresholds that are worth it.
    fn entries(&self) -> Vec<Entry> {
        let weights = self.settings.iter().zip(&self.fitted.tuned);
        let weights = weights.map(|(setting, value)| (setting.path(), *value));
        let thresholds = self.thresholds.iter();
        let thresholds =
            thresholds.filter_map(|fitted| Some((fitted.threshold.path(), fitted.value?)));
        weights.chain(thresholds).collect()
    }
}
