//! `finemesh search`.

use anyhow::{Context, Result};
use search_proto::common::Filter;
use search_proto::convert::filter_to_wire;
use search_proto::search::{Fusion, FusionMethod, Routing, SearchRequest};

use crate::backend::Backend;
use crate::cli::{FusionArgs, FusionMethodArg, RoutingArg, SearchArgs};
use crate::error::readable;
use crate::output::say;
use crate::{json, render};

/// Answers one query and prints the hits.
pub(crate) async fn search(backend: &mut Backend, args: SearchArgs) -> Result<()> {
    let request = SearchRequest {
        collection: args.collection,
        query: args.query.clone(),
        k: Some(args.k),
        offset: args.offset,
        pipeline: args.pipeline,
        filter: args.filter.as_deref().map(parse_filter).transpose()?,
        fusion: fusion(&args.fusion, args.alpha),
        explain: args.explain,
        budget_ms: args.budget_ms,
        require_full_coverage: args.require_full_coverage,
        routing: routing(args.routing).into(),
    };
    let response = backend
        .search
        .search(request)
        .await
        .map_err(readable)?
        .into_inner();
    if args.json {
        say(format_args!("{}", json::search_answer(&response)))?;
    } else {
        say(format_args!(
            "{}",
            render::answer(&args.query, &response, args.explain)
        ))?;
    }
    Ok(())
}

const fn routing(argument: RoutingArg) -> Routing {
    match argument {
        RoutingArg::Auto => Routing::Unspecified,
        RoutingArg::AllStages => Routing::AllStages,
        RoutingArg::SparseOnly => Routing::SparseOnly,
    }
}

fn parse_filter(condition: &str) -> Result<Filter> {
    let filter = search_core::filter_grammar::parse(condition).context("--filter")?;
    Ok(filter_to_wire(&filter))
}

/// The request's fusion; none when nothing was asked for.
pub(crate) fn fusion(args: &FusionArgs, alpha: Option<f64>) -> Option<Fusion> {
    if args.fusion.is_none() && args.rank_constant.is_none() && alpha.is_none() {
        return None;
    }
    let method = args.fusion.map_or(FusionMethod::Unspecified, method);
    Some(Fusion {
        method: method.into(),
        alpha,
        rank_constant: args.rank_constant,
    })
}

fn method(method: FusionMethodArg) -> FusionMethod {
    match method {
        FusionMethodArg::MinMax => FusionMethod::MinMax,
        FusionMethodArg::ZScore => FusionMethod::ZScore,
        FusionMethodArg::Rrf => FusionMethod::Rrf,
        FusionMethodArg::Dbsf => FusionMethod::Dbsf,
    }
}
