//! `finemesh models`.

mod list;

use std::path::Path;

use anyhow::{Context, Result};
use inference::{
    AnyBundle, Bundle, BundleEncoder, BundleError, CrossEncoder, EncoderOptions, LoadError,
    MakeOptions, OnnxRuntime, PairBundle, make_bundle,
};
use list::{bundle_text, list};

use crate::cli::ModelsCommand;
use crate::config::ModelsConfig;
use crate::models::{self, Models};
use crate::output::say;

/// Runs one of the subcommands; all of them block.
pub(crate) fn run(config: &ModelsConfig, command: ModelsCommand) -> Result<()> {
    match command {
        ModelsCommand::Pull => pull(config),
        ModelsCommand::List { json } => list(config, json),
        ModelsCommand::Verify { bundle } => verify(config, bundle.as_deref()),
        ModelsCommand::Make { source, bundle } => make(config, &source, &bundle),
    }
}

fn pull(config: &ModelsConfig) -> Result<()> {
    let installed = models::pull(config)?;
    say(format_args!(
        "ONNX Runtime    {}",
        installed.ort_library.display()
    ))?;
    say(format_args!(
        "encoder bundle  {}",
        installed.encoder_bundle.display()
    ))?;
    say(format_args!(
        "cross-encoder   {}",
        installed.reranker_bundle.display()
    ))?;
    Ok(())
}

fn verify(config: &ModelsConfig, folder: Option<&Path>) -> Result<()> {
    let Models {
        runtime,
        encoder_bundle,
        reranker_bundle,
    } = models::resolve(config)?;
    if let Some(folder) = folder {
        return verify_bundle(&runtime, folder, AnyBundle::read(folder));
    }
    for folder in [encoder_bundle].iter().chain(&config.rescorer_bundle) {
        let encoder = Bundle::read(folder).map(AnyBundle::Encode);
        verify_bundle(&runtime, folder, encoder)?;
    }
    if let Some(folder) = &reranker_bundle {
        let reranker = PairBundle::read(folder).map(AnyBundle::Rerank);
        verify_bundle(&runtime, folder, reranker)?;
    }
    Ok(())
}

fn verify_bundle(
    runtime: &OnnxRuntime,
    folder: &Path,
    bundle: Result<AnyBundle, BundleError>,
) -> Result<()> {
    let failed = || format!("{} does not verify", folder.display());
    let bundle = bundle.with_context(failed)?;
    load(runtime, folder, &bundle).with_context(failed)?;
    let golden = match &bundle {
        AnyBundle::Encode(bundle) => format!("{} golden texts", bundle.golden().entries.len()),
        AnyBundle::Rerank(bundle) => format!("{} golden pairs", bundle.golden().entries.len()),
    };
    say(format_args!("{}: {golden} verified", bundle.name()))?;
    say(format_args!("fingerprint {}", bundle.fingerprint()))?;
    Ok(())
}

/// Loading a bundle checks what it promises.
fn load(runtime: &OnnxRuntime, folder: &Path, bundle: &AnyBundle) -> Result<(), LoadError> {
    match bundle {
        AnyBundle::Encode(_) => {
            BundleEncoder::open(runtime, folder, EncoderOptions::default()).map(drop)
        }
        AnyBundle::Rerank(_) => CrossEncoder::open(runtime, folder, 1).map(drop),
    }
}

fn make(config: &ModelsConfig, source: &Path, out: &Path) -> Result<()> {
    let options = MakeOptions {
        // Golden vectors are the processor's, whatever will compute.
        runtime: OnnxRuntime::on_cpu(models::library(config)?),
        name: None,
    };
    let made = make_bundle(source, out, &options)?;
    for note in &made.notes {
        eprintln!("{note}");
    }
    say(format_args!("{}", bundle_text(&made.bundle)))?;
    Ok(())
}
