//! `finemesh models`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use inference::pull::Installed;
use inference::{Bundle, BundleEncoder, EncoderOptions, MakeOptions, make_bundle};
use serde_json::{Value, json};

use crate::cli::ModelsCommand;
use crate::config::ModelsConfig;
use crate::models;
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
    Ok(())
}

/// What is configured or pulled; pulls nothing.
fn list(config: &ModelsConfig, as_json: bool) -> Result<()> {
    let pulled = inference::pull::installed(&config.cache_folder);
    let library = config
        .onnxruntime_library
        .clone()
        .or(pulled.clone().map(|pulled| pulled.ort_library));
    let folder = config
        .encoder_bundle
        .clone()
        .or(pulled.map(|pulled| pulled.encoder_bundle));
    let read = |folder: Option<PathBuf>| folder.map(|folder| Bundle::read(&folder)).transpose();
    let (bundle, rescorer) = (read(folder)?, read(config.rescorer_bundle.clone())?);
    if as_json {
        say(format_args!(
            "{}",
            json!({
                "onnxruntime_library": library,
                "encoder": bundle.as_ref().map(bundle_json),
                "rescorer": rescorer.as_ref().map(bundle_json),
            })
        ))?;
        return Ok(());
    }
    match library {
        Some(path) => say(format_args!("ONNX Runtime  {}", path.display()))?,
        None => say(format_args!(
            "ONNX Runtime  not installed: finemesh models pull"
        ))?,
    }
    match bundle {
        Some(bundle) => say(format_args!("encoder       {}", bundle_text(&bundle)))?,
        None => say(format_args!(
            "encoder       not installed: finemesh models pull"
        ))?,
    }
    if let Some(rescorer) = rescorer {
        say(format_args!("rescorer      {}", bundle_text(&rescorer)))?;
    }
    Ok(())
}

fn bundle_json(bundle: &Bundle) -> Value {
    let description = bundle.description();
    json!({
        "name": description.name,
        "folder": bundle.folder(),
        "fingerprint": bundle.fingerprint(),
        "dimensions": description.dimensions,
        "token_dimensions": description.token_dimensions,
        "matryoshka_dimensions": description.matryoshka_dimensions,
        "max_tokens": description.max_tokens,
        "source": description.source,
    })
}

fn bundle_text(bundle: &Bundle) -> String {
    let description = bundle.description();
    format!(
        "{}, {} dimensions, {} tokens\n              fingerprint {}\n              {}",
        description.name,
        description.dimensions,
        description.max_tokens,
        bundle.fingerprint(),
        bundle.folder().display()
    )
}

fn verify(config: &ModelsConfig, folder: Option<&Path>) -> Result<()> {
    let Installed {
        ort_library,
        encoder_bundle,
    } = models::resolve(config)?;
    match folder {
        Some(folder) => verify_bundle(&ort_library, folder),
        None => [encoder_bundle]
            .iter()
            .chain(&config.rescorer_bundle)
            .try_for_each(|folder| verify_bundle(&ort_library, folder)),
    }
}

fn verify_bundle(ort_library: &Path, folder: &Path) -> Result<()> {
    BundleEncoder::open(ort_library, folder, EncoderOptions::default())
        .with_context(|| format!("{} does not verify", folder.display()))?;
    let bundle = Bundle::read(folder)?;
    say(format_args!(
        "{}: {} golden texts verified",
        bundle.description().name,
        bundle.golden().entries.len()
    ))?;
    say(format_args!("fingerprint {}", bundle.fingerprint()))?;
    Ok(())
}

fn make(config: &ModelsConfig, source: &Path, out: &Path) -> Result<()> {
    let library = match &config.onnxruntime_library {
        Some(own) => own.clone(),
        None => models::pull(config)?.ort_library,
    };
    let options = MakeOptions {
        ort_library: library,
        name: None,
    };
    let made = make_bundle(source, out, &options)?;
    for note in &made.notes {
        eprintln!("{note}");
    }
    say(format_args!("{}", bundle_text(&made.bundle)))?;
    Ok(())
}
