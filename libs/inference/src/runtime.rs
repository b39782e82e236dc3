//! ONNX Runtime, loaded once per process.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;

/// The one runtime of this process: ONNX Runtime allows a single environment, and it must outlive every session.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

struct Loaded {
    library: PathBuf,
    environment: Environment,
}

/// Why ONNX Runtime is not there.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such file.
    #[error("{}: no such file; run `finemesh models pull`, or name an own libonnxruntime in the configuration", .0.display())]
    Missing(PathBuf),
    /// The file is no ONNX Runtime that can be used.
    #[error("{}: not a usable ONNX Runtime library", .path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: ort::LoadDynamicError,
    },
    /// It would not start.
    #[error("{}: ONNX Runtime did not start", .path.display())]
    Start {
        /// The library.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: ort::Error,
    },
    /// Another library is in use already.
    #[error("{} cannot be loaded: this process runs on {}", .asked.display(), .loaded.display())]
    AnotherLoaded {
        /// The library that was asked for.
        asked: PathBuf,
        /// The library in use.
        loaded: PathBuf,
    },
}

/// The environment over the library at `library`; loads it the first time.
pub(crate) fn environment(library: &Path) -> Result<Environment, RuntimeError> {
    let library = library
        .canonicalize()
        .map_err(|_| RuntimeError::Missing(library.to_owned()))?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*loaded {
        Some(it) if it.library == library => Ok(it.environment.clone()),
        Some(it) => Err(RuntimeError::AnotherLoaded {
            asked: library,
            loaded: it.library.clone(),
        }),
        None => {
            let environment = start(&library)?;
            *loaded = Some(Loaded {
                library,
                environment: environment.clone(),
            });
            Ok(environment)
        }
    }
}

fn start(library: &Path) -> Result<Environment, RuntimeError> {
    let path = || library.to_owned();
    let builder = ort::init_from(library).map_err(|cause| RuntimeError::Load {
        path: path(),
        cause,
    })?;
    // The user's searches are nobody else's business.
    let builder = builder.with_name("finemesh").with_telemetry(false);
    builder.build().map_err(|cause| RuntimeError::Start {
        path: path(),
        cause,
    })
}
