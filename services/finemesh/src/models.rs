//! Finds the models that the configuration names, or pulls the default ones the first time.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};
use indexer::Encoders;
use indicatif::{ProgressBar, ProgressStyle};
use inference::pull::{self, Installed, PullOptions, PullProgress};
use inference::{BundleEncoder, CrossEncoder, EncoderOptions, OnnxRuntime, TextEncoder};

use crate::config::ModelsConfig;
use crate::needs::Needs;

/// Models that are ready to be used.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) encoders: Option<Encoders>,
    pub(crate) cross_encoder: Option<CrossEncoder>,
}

/// What is needed of the configured models, side by side; see [`encoders`] and [`cross_encoder`].
pub(crate) async fn load(
    config: &ModelsConfig,
    needs: Needs,
    cross_encoder_threads: usize,
) -> Result<Loaded> {
    let config = config.clone();
    let load = move || load_needed(&config, needs, cross_encoder_threads);
    tokio::task::spawn_blocking(load).await?
}

/// The configured encoders, loaded and checked against their golden vectors; pulled first if need be.
pub(crate) async fn encoders(config: &ModelsConfig) -> Result<Encoders> {
    let config = config.clone();
    let open = move || open_encoders(&resolve(&config)?, &config);
    tokio::task::spawn_blocking(open).await?
}

/// The configured cross-encoder or the pulled one, with a session for each compute thread. None where all other models are
/// the user's own and there is none of this kind.
pub(crate) async fn cross_encoder(
    config: &ModelsConfig,
    threads: usize,
) -> Result<Option<CrossEncoder>> {
    let config = config.clone();
    let open = move || open_cross_encoder(&resolve(&config)?, threads);
    tokio::task::spawn_blocking(open).await?
}

fn load_needed(
    config: &ModelsConfig,
    needs: Needs,
    cross_encoder_threads: usize,
) -> Result<Loaded> {
    if needs == Needs::NOTHING {
        return Ok(Loaded::default());
    }
    let models = resolve(config)?;
    let encoders = || needs.encoders.then(|| open_encoders(&models, config));
    let cross_encoder = || {
        let open = || open_cross_encoder(&models, cross_encoder_threads);
        needs.cross_encoder.then(open)
    };
    thread::scope(|scope| {
        let encoders = scope.spawn(encoders);
        let cross_encoder = cross_encoder().transpose()?.flatten();
        let encoders = encoders.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok(Loaded {
            encoders: encoders.transpose()?,
            cross_encoder,
        })
    })
}

fn open_encoders(models: &Models, config: &ModelsConfig) -> Result<Encoders> {
    let first = open(&models.runtime, &models.encoder_bundle)?;
    let rescorer = config.rescorer_bundle.as_ref();
    let rescorer = rescorer.map(|bundle| open(&models.runtime, bundle));
    let encoders = Encoders {
        first,
        rescorer: rescorer.transpose()?,
    };
    check_distinct(&encoders)?;
    Ok(encoders)
}

fn open_cross_encoder(models: &Models, threads: usize) -> Result<Option<CrossEncoder>> {
    let Some(bundle) = &models.reranker_bundle else {
        return Ok(None);
    };
    let opened = CrossEncoder::open(&models.runtime, bundle, threads);
    opened.map(Some).with_context(|| {
        let folder = bundle.display();
        format!("the cross-encoder bundle in {folder} cannot be used")
    })
}

fn open(runtime: &OnnxRuntime, bundle: &Path) -> Result<Arc<dyn TextEncoder>> {
    let opened = BundleEncoder::open(runtime, bundle, EncoderOptions::default());
    let opened = opened
        .with_context(|| format!("the encoder bundle in {} cannot be used", bundle.display()))?;
    Ok(Arc::new(opened))
}

/// What the encoder has said already needs no second opinion of the same bundle.
fn check_distinct(encoders: &Encoders) -> Result<()> {
    let first = &encoders.first.info().fingerprint;
    let is_same = |rescorer: &Arc<dyn TextEncoder>| rescorer.info().fingerprint == *first;
    ensure!(
        !encoders.rescorer.as_ref().is_some_and(is_same),
        "models.rescorer_bundle: is the encoder's own bundle, {first}"
    );
    Ok(())
}

/// The configured ONNX Runtime, or the pulled one.
pub(crate) fn library(config: &ModelsConfig) -> Result<PathBuf> {
    match &config.onnxruntime_library {
        Some(own) => Ok(own.clone()),
        None => Ok(pull(config)?.ort_library),
    }
}

/// The models that are used by default.
pub(crate) struct Models {
    pub(crate) runtime: OnnxRuntime,
    pub(crate) encoder_bundle: PathBuf,
    pub(crate) reranker_bundle: Option<PathBuf>,
}

/// What the configuration names; what it does not name is pulled. The cross-encoder alone is not: with an own runtime and an
/// own encoder nothing is fetched.
pub(crate) fn resolve(config: &ModelsConfig) -> Result<Models> {
    let ModelsConfig {
        onnxruntime_library,
        execution_provider: provider,
        encoder_bundle,
        reranker_bundle,
        ..
    } = config.clone();
    if let (Some(library), Some(encoder_bundle)) = (&onnxruntime_library, &encoder_bundle) {
        return Ok(Models {
            runtime: OnnxRuntime {
                library: library.clone(),
                provider,
            },
            encoder_bundle: encoder_bundle.clone(),
            reranker_bundle,
        });
    }
    let pulled = pull(config)?;
    Ok(Models {
        runtime: OnnxRuntime {
            library: onnxruntime_library.unwrap_or(pulled.ort_library),
            provider,
        },
        encoder_bundle: encoder_bundle.unwrap_or(pulled.encoder_bundle),
        reranker_bundle: reranker_bundle.or(Some(pulled.reranker_bundle)),
    })
}

/// The default models; at once where they are already there.
pub(crate) fn pull(config: &ModelsConfig) -> Result<Installed> {
    if let Some(installed) = pull::installed(&config.cache_folder) {
        return Ok(installed);
    }
    eprintln!(
        "fetching ONNX Runtime, all-MiniLM-L6-v2 and the cross-encoder over it into {}",
        config.cache_folder.display()
    );
    let options = PullOptions {
        cache_dir: config.cache_folder.clone(),
        python: config.python.clone(),
    };
    let bar = download_bar();
    let installed = pull::pull(&options, &mut |progress| show(&bar, progress));
    bar.finish_and_clear();
    Ok(installed?)
}

fn download_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg:<11} {bar:30} {bytes}/{total_bytes}  {eta} left");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, progress: PullProgress) {
    match progress {
        PullProgress::Downloading { bytes, total_bytes } => {
            bar.set_message("downloading");
            bar.set_length(total_bytes);
            bar.set_position(bytes);
        }
        PullProgress::Unpacking => bar.set_message("unpacking"),
    }
}
