//! `finemesh tune`: fits the weights of a pipeline on judged queries of a collection.
//!
//! Every query is asked once. The trails of its hits say what each stage said about them, from which the answer follows for any other
//! weights, see [`replay`]; so all weights are tried without asking again. How they are fitted, and why a few queries do not move them
//! far, is in [`evaluation::tuning`]. What is gained is measured on queries that nothing was fitted on.

mod config_file;
mod replay;
mod report;
mod weights;

use anyhow::{Context, Result, ensure};
use evaluation::beir::Query;
use evaluation::significance::{Difference, paired_bootstrap};
use evaluation::tuning::{CurvePoint, Fitted, Split, Tuning, split};
use indicatif::ProgressBar;
use search_proto::search::{SearchRequest, SearchResponse};

use self::replay::Replay;
use self::weights::{SeenWeights, Setting};
use super::judged::Judged;
use crate::backend::Backend;
use crate::cli::TuneArgs;
use crate::error::readable;
use crate::output::say;

/// Documents of an answer. The deepest page for which retrieval is as it is for a page of ten: deeper ones let the retrievers give more
/// than a pipeline's 1000 passages on, over which scores are scaled otherwise. What is behind is not seen.
const DOCUMENTS: u32 = 250;

/// What was asked, and what is known of the answers.
struct Asked {
    /// The pipeline that answered.
    pipeline: String,
    /// One for each judged query.
    replays: Vec<Replay>,
    seen: SeenWeights,
    /// Answers in which a stage did less than it was asked to.
    degraded: usize,
}

/// What came of it.
struct Outcome {
    pipeline: String,
    degraded: usize,
    settings: Vec<Setting>,
    split: Split,
    defaults: Vec<f64>,
    fitted: Fitted,
    held_out: HeldOut,
    curve: Vec<CurvePoint>,
}

/// nDCG@10 on the queries that nothing was fitted on.
struct HeldOut {
    default: Vec<f64>,
    tuned: Vec<f64>,
    gain: Difference,
}

/// Fits the weights, says what they gain, and writes them where asked to.
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
        config_file::write(file, &outcome.pipeline, &outcome.tuned())?;
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

async fn ask(backend: &mut Backend, args: &TuneArgs, judged: &Judged) -> Result<Asked> {
    let mut asked = Asked {
        pipeline: String::new(),
        replays: Vec::new(),
        seen: SeenWeights::default(),
        degraded: 0,
    };
    let bar = ProgressBar::new(judged.queries.len() as u64).with_message("trails");
    for (query, judgements) in judged.iter() {
        let answer = backend.search.search(request(args, query)).await;
        let answer = answer
            .map_err(readable)
            .with_context(|| format!("query {}", query.id))?;
        let answer = answer.into_inner();
        asked.add(&answer);
        asked.replays.push(Replay::new(answer, judgements.clone()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(asked)
}

fn request(args: &TuneArgs, query: &Query) -> SearchRequest {
    SearchRequest {
        collection: args.collection.clone(),
        query: query.text.clone(),
        k: Some(DOCUMENTS),
        pipeline: args.pipeline.clone(),
        explain: true,
        ..SearchRequest::default()
    }
}

impl Asked {
    fn add(&mut self, answer: &SearchResponse) {
        self.pipeline.clone_from(&answer.pipeline);
        self.degraded += usize::from(answer.degraded);
        for hit in &answer.hits {
            self.seen.add(&hit.trail);
        }
    }
}

fn fit(args: &TuneArgs, asked: Asked, split: Split) -> Result<Outcome> {
    let settings = asked.seen.settings();
    let settings = settings.with_context(|| format!("pipeline {}", asked.pipeline))?;
    let quality = |query: usize, values: &[f64]| {
        let values = asked.seen.values(&settings, values);
        asked.replays[query].ndcg(&values)
    };
    let tuning = Tuning {
        weights: settings
            .iter()
            .map(|setting| asked.seen.weight(*setting))
            .collect(),
        quality: &quality,
    };
    let fitted = tuning.fit(&split.fitting);
    let sizes: Vec<usize> = args
        .queries_curve
        .iter()
        .map(|size| *size as usize)
        .collect();
    Ok(Outcome {
        defaults: tuning.defaults(),
        held_out: held_out(&tuning, &fitted, &split, args.seed)?,
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
    let gain = paired_bootstrap(&tuned, &default, seed).context("no query is held out")?;
    Ok(HeldOut {
        default,
        tuned,
        gain,
    })
}

impl Outcome {
    /// Each setting's new value.
    fn tuned(&self) -> Vec<(Setting, f64)> {
        let values = self.fitted.tuned.iter().copied();
        self.settings.iter().copied().zip(values).collect()
    }
}
