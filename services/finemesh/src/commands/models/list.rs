//! `finemesh models list`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use inference::{AnyBundle, Bundle, BundleError, PairBundle};
use serde_json::{Value, json};

use crate::config::ModelsConfig;
use crate::output::say;

/// What is configured or pulled; pulls nothing.
pub(super) fn list(config: &ModelsConfig, as_json: bool) -> Result<()> {
    let all_own = config.onnxruntime_library.is_some() && config.encoder_bundle.is_some();
    let pulled = inference::pull::installed(&config.cache_folder).filter(|_| !all_own);
    let library = config
        .onnxruntime_library
        .clone()
        .or(pulled.clone().map(|pulled| pulled.ort_library));
    let folder = config
        .encoder_bundle
        .clone()
        .or(pulled.clone().map(|pulled| pulled.encoder_bundle));
    let reranker = config
        .reranker_bundle
        .clone()
        .or(pulled.map(|pulled| pulled.reranker_bundle));
    let read = |folder: Option<PathBuf>| folder.map(|folder| Bundle::read(&folder)).transpose();
    let (bundle, rescorer) = (read(folder)?, read(config.rescorer_bundle.clone())?);
    let reranker = reranker.as_deref().map(PairBundle::read);
    let reranker = reranker.transpose()?;
    let encoders = bundle.iter().chain(&rescorer).map(Bundle::folder);
    let rerankers = reranker.iter().map(PairBundle::folder);
    let in_use: Vec<&Path> = encoders.chain(rerankers).collect();
    let others = other_bundles(&config.cache_folder, &in_use)?;
    if as_json {
        say(format_args!(
            "{}",
            json!({
                "onnxruntime_library": library,
                "encoder": bundle.as_ref().map(bundle_json),
                "rescorer": rescorer.as_ref().map(bundle_json),
                "reranker": reranker.as_ref().map(pair_bundle_json),
                "others": others.iter().map(other_json).collect::<Vec<_>>(),
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
    if let Some(reranker) = reranker {
        say(format_args!(
            "reranker      {}",
            pair_bundle_text(&reranker)
        ))?;
    }
    for other in &others {
        say(format_args!("{}", other_text(other)))?;
    }
    Ok(())
}

/// A folder in the models folder that is in no use, with what it holds or why it cannot be used.
type Other = (PathBuf, Result<AnyBundle, BundleError>);

/// By name; what is being written, in hidden folders, is passed over.
fn other_bundles(models_folder: &Path, in_use: &[&Path]) -> Result<Vec<Other>> {
    if !models_folder.is_dir() {
        return Ok(Vec::new());
    }
    let paths = fs::read_dir(models_folder)?.map(|entry| Ok(entry?.path()));
    let mut folders: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    folders.retain(|folder| {
        let is_hidden = folder
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        !is_hidden && folder.join("bundle.json").is_file() && !in_use.contains(&folder.as_path())
    });
    folders.sort();
    let read = |folder: PathBuf| {
        let bundle = AnyBundle::read(&folder);
        (folder, bundle)
    };
    Ok(folders.into_iter().map(read).collect())
}

fn other_json((folder, bundle): &Other) -> Value {
    match bundle {
        Ok(AnyBundle::Encode(bundle)) => with_task("encode", bundle_json(bundle)),
        Ok(AnyBundle::Rerank(bundle)) => with_task("rerank", pair_bundle_json(bundle)),
        Err(error) => json!({ "folder": folder, "error": error.to_string() }),
    }
}

fn with_task(task: &str, mut bundle: Value) -> Value {
    bundle["task"] = task.into();
    bundle
}

fn other_text((folder, bundle): &Other) -> String {
    match bundle {
        Ok(AnyBundle::Encode(bundle)) => format!("encode        {}", bundle_text(bundle)),
        Ok(AnyBundle::Rerank(bundle)) => format!("rerank        {}", pair_bundle_text(bundle)),
        Err(error) => format!(
            "unusable      {}\n              {}",
            folder.display(),
            error.to_string().replace('\n', "\n              ")
        ),
    }
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

pub(super) fn bundle_text(bundle: &Bundle) -> String {
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

fn pair_bundle_json(bundle: &PairBundle) -> Value {
    let description = bundle.description();
    json!({
        "name": description.name,
        "folder": bundle.folder(),
        "fingerprint": bundle.fingerprint(),
        "max_tokens": description.max_tokens,
        "max_query_tokens": description.pair.max_query_tokens,
        "source": description.source,
    })
}

fn pair_bundle_text(bundle: &PairBundle) -> String {
    let description = bundle.description();
    format!(
        "{}, {} tokens, {} of them for the query\n              fingerprint {}\n              {}",
        description.name,
        description.max_tokens,
        description.pair.max_query_tokens,
        bundle.fingerprint(),
        bundle.folder().display()
    )
}
