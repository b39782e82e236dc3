//! finemesh: every service and the command line in one binary.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line is wrong, 64 the configuration is wrong.

mod backend;
mod cli;
mod commands;
mod config;
mod corpus;
mod error;
mod json;
mod mesh;
mod models;
mod needs;
mod output;
mod progress;
mod render;
mod snippet;
mod values;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use service_kit::{Telemetry, TelemetryConfig};

use crate::backend::Backend;
use crate::cli::{Cli, Command, CorpusCommand, GlobalArgs, Target};
use crate::config::Config;
use crate::needs::Needs;
use crate::output::say;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A batch takes some tens of milliseconds, a large one of the indexer a second.
const LAST_BATCH: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::reader_has_gone(&error) => ExitCode::SUCCESS,
        Err(error) => error::report(&error),
    }
}

fn run(cli: Cli) -> Result<()> {
    let config = match &cli.command {
        Command::CheckConfig { file } => return check_config(file),
        Command::Corpus(CorpusCommand::Cargo { manifest_path, out }) => {
            return corpus_cargo(manifest_path.as_deref(), out.as_deref());
        }
        _ => config::load(cli.global.config.as_deref())?.with_data(cli.global.data.as_deref()),
    };
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    let telemetry = runtime.block_on(async {
        Telemetry::start(
            service_name(&cli.command),
            &telemetry_of(&cli.command, &config),
        )
    })?;
    let outcome = runtime.block_on(dispatch(cli.command, &cli.global, &config));
    telemetry.shutdown();
    inference::leave_for_good(LAST_BATCH);
    // The process ends now. Dropping the runtime would wait for a thread that still reads standard input, and would
    // cancel looks at the store in the middle, which would then be logged as errors.
    std::mem::forget(runtime);
    outcome
}

async fn dispatch(command: Command, global: &GlobalArgs, config: &Config) -> Result<()> {
    if let (Some(address), Command::Up | Command::Serve(_)) = (&global.address, &command) {
        bail!(
            "--address {address} names a mesh that runs already; where to listen is server.address in the --config file"
        );
    }
    match command {
        Command::Up => commands::serve::serve(config, Target::All).await,
        Command::Serve(args) => commands::serve::serve(config, args.target).await,
        Command::Models(command) => commands::models::run(&config.models, command),
        Command::Health(args) => commands::health::health(global, config, args).await,
        Command::Demo(args) => {
            let needs = Needs::INDEXING.and(config.needs.together([""]));
            let mut backend = Backend::open(global, config, needs).await?;
            commands::demo::demo(&mut backend, args).await
        }
        Command::Index(args) => {
            let mut backend = Backend::open_indexer(global, config).await?;
            commands::index::index(&mut backend, args).await
        }
        Command::Delete(args) => {
            let mut backend = Backend::open_indexer(global, config).await?;
            commands::index::delete(&mut backend, args).await
        }
        Command::Search(args) => {
            let needs = config.needs.together([args.pipeline.as_str()]);
            let mut backend = Backend::open(global, config, needs).await?;
            commands::search::search(&mut backend, args).await
        }
        Command::Eval(args) => {
            let pipelines = commands::eval::pipelines(&args);
            let needs = config.needs.together(pipelines.iter().map(String::as_str));
            let mut backend = Backend::open(global, config, needs).await?;
            commands::eval::eval(&mut backend, args).await
        }
        Command::Tune(args) => {
            let needs = config.needs.together([args.pipeline.as_str()]);
            let mut backend = Backend::open(global, config, needs).await?;
            commands::tune::tune(&mut backend, args).await
        }
        Command::Bench(args) => {
            let needs = config.needs.together([args.pipeline.as_str()]);
            let backend = Backend::open(global, config, needs).await?;
            commands::bench::bench(&backend, args).await
        }
        Command::CheckConfig { .. } | Command::Corpus(_) => {
            unreachable!("answered without a runtime")
        }
    }
}

/// `service.name` in traces.
fn service_name(command: &Command) -> &'static str {
    match command {
        Command::Serve(args) => args.target.service_name(),
        Command::Up => Target::All.service_name(),
        _ => "finemesh-cli",
    }
}

/// A command that answers a person logs warnings only, unless the configuration says otherwise, and leaves the metrics' port to the
/// server of the same configuration. A probe leaves no trace.
fn telemetry_of(command: &Command, config: &Config) -> TelemetryConfig {
    let mut telemetry = config.telemetry.clone();
    if matches!(command, Command::Serve(_) | Command::Up) {
        return telemetry;
    }
    telemetry.prometheus_address = None;
    if matches!(command, Command::Health(_)) {
        telemetry.otlp_endpoint = None;
    }
    if telemetry.log == TelemetryConfig::default().log {
        "warn".clone_into(&mut telemetry.log);
    }
    telemetry
}

fn check_config(file: &Path) -> Result<()> {
    config::load(Some(file))?;
    say(format_args!("{}: no mistakes", file.display()))?;
    Ok(())
}

fn corpus_cargo(manifest_path: Option<&Path>, out: Option<&Path>) -> Result<()> {
    let mut sink: Box<dyn Write> = match out {
        Some(path) => Box::new(BufWriter::new(
            File::create(path).with_context(|| path.display().to_string())?,
        )),
        None => Box::new(BufWriter::new(std::io::stdout().lock())),
    };
    let documents = corpus::write_cargo_corpus(manifest_path, &mut sink)?;
    eprintln!("{documents} documents");
    Ok(())
}
