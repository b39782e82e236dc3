//! `finemesh bench`: an open load on a mesh, and what became of each request.
//!
//! Every arrival has its time beforehand, see [`evaluation::load`], and is sent then, however many wait. Latency is from that time to the
//! answer's end, as the client sees it. (In one process with an embedded mesh both share the machine.)

mod report;
mod run;
mod tally;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evaluation::beir::{self, Query};
use evaluation::load::{Arrival, Load, Process};
use indicatif::ProgressBar;
use search_proto::search::SearchRequest;
use search_proto::search::search_service_client::SearchServiceClient;
use service_kit::{MeshChannel, criticality};

use self::run::{MOST_WAITING, Seen, run};
use self::tally::{Rate, criticality_of};
use crate::backend::Backend;
use crate::cli::{ArrivalsArg, BenchArgs};
use crate::error::readable;
use crate::output::say;

/// The client waits so much longer than the budget, so that lateness is seen and not cut off.
const PATIENCE_AFTER_BUDGET: Duration = Duration::from_secs(1);
/// How long the client waits where there is no budget.
const PATIENCE: Duration = Duration::from_secs(60);

/// Offers one rate after the other and prints a row for each.
pub(crate) async fn bench(backend: &Backend, args: BenchArgs) -> Result<()> {
    let queries = beir::read_queries(&args.queries)?;
    ensure!(!queries.is_empty(), "{}: no query", args.queries.display());
    let asking = Asking {
        client: backend.search.clone(),
        args: &args,
        queries: &queries,
    };
    asking.try_out().await?;
    let mut rates = Vec::new();
    for per_second in &args.qps {
        rates.push(asking.offer(*per_second).await?);
    }
    if args.json {
        say(format_args!("{}", report::as_json(&args, &rates)))?;
    } else {
        say(format_args!("{}", report::as_tables(&args, &rates)))?;
    }
    Ok(())
}

/// Who asks what.
struct Asking<'a> {
    client: SearchServiceClient<MeshChannel>,
    args: &'a BenchArgs,
    queries: &'a [Query],
}

impl Asking<'_> {
    /// Asks one query, so that what is wrong with all of them is told at once.
    async fn try_out(&self) -> Result<()> {
        let unlimited = SearchRequest {
            budget_ms: None,
            ..self.message(0)
        };
        let answer = self.client.clone().search(unlimited).await;
        answer
            .map_err(readable)
            .with_context(|| format!("query {}", self.queries[0].id))?;
        Ok(())
    }

    async fn offer(&self, per_second: f64) -> Result<Rate> {
        let warmup = Duration::from_secs(self.args.warmup_s.into());
        let duration = Duration::from_secs(self.args.duration_s.into());
        let load = self.load(per_second, warmup + duration);
        let arrivals = load.arrivals();
        let mut rate = Rate::new(per_second, warmup..warmup + duration, self.args.budget_ms);
        let bar = ProgressBar::new(arrivals.len() as u64)
            .with_message(format!("{per_second} queries a second"));
        let ask = |arrival: &Arrival| {
            let (mut client, request) = (self.client.clone(), self.request(*arrival));
            let criticality = criticality_of(*arrival);
            async move {
                let answer = criticality::scope(criticality, client.search(request)).await;
                answer.map(tonic::Response::into_inner)
            }
        };
        let see = |seen: Seen| {
            bar.inc(1);
            rate.add(&seen);
        };
        let ended = run(&arrivals, MOST_WAITING, ask, see).await;
        bar.finish_and_clear();
        ended.with_context(|| format!("at {per_second} queries a second"))?;
        Ok(rate)
    }

    fn load(&self, per_second: f64, span: Duration) -> Load {
        Load {
            process: match self.args.arrivals {
                ArrivalsArg::Poisson => Process::Poisson,
                ArrivalsArg::Constant => Process::Constant,
            },
            per_second,
            span,
            queries: self.queries.len(),
            critical_share: self.args.critical_share,
            seed: self.args.seed,
        }
    }

    fn request(&self, arrival: Arrival) -> tonic::Request<SearchRequest> {
        let budget = self.args.budget_ms;
        let patience = budget.map_or(PATIENCE, |budget_ms| {
            Duration::from_millis(budget_ms.into()) + PATIENCE_AFTER_BUDGET
        });
        let mut request = tonic::Request::new(self.message(arrival.query));
        request.set_timeout(patience);
        request
    }

    fn message(&self, query: usize) -> SearchRequest {
        SearchRequest {
            collection: self.args.collection.clone(),
            query: self.queries[query].text.clone(),
            k: Some(self.args.k),
            pipeline: self.args.pipeline.clone(),
            budget_ms: self.args.budget_ms,
            ..SearchRequest::default()
        }
    }
}
