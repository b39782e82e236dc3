//! ONNX Runtime, loaded once per process, and what it computes on.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::Duration;

use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider as _};
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use serde::{Deserialize, Serialize};

/// The one runtime of this process: ONNX Runtime allows a single environment, and it must outlive every session.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// Held shared by whoever is inside the runtime, and alone by the end of the process.
static INSIDE: RwLock<()> = RwLock::new(());

/// Waits for the batches that are being computed, and lets no other begin: what wants to be computed then waits for ever. What takes longer
/// than `patience`, as a model that is being loaded may, is not waited for.
///
/// For the end of a process, which tears the runtime's library down under a thread that is inside it.
pub fn leave_for_good(patience: Duration) {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let alone = INSIDE.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::forget(alone);
        // Who no longer waits needs no answer.
        let _ = sender.send(());
    });
    if receiver.recv_timeout(patience).is_err() {
        tracing::warn!("the process ends while a model is at work");
    }
}

/// To be held while the runtime works.
pub(crate) fn enter() -> RwLockReadGuard<'static, ()> {
    INSIDE.read().unwrap_or_else(PoisonError::into_inner)
}

struct Loaded {
    library: PathBuf,
    environment: Environment,
}

/// What an ONNX Runtime computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionProvider {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA graphics card, the first one that CUDA shows. What a graph has for which there is no kernel there is computed on the
    /// processor.
    Cuda,
}

/// An ONNX Runtime to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnnxRuntime {
    /// `libonnxruntime`; one for the whole process.
    pub library: PathBuf,
    /// What it computes on.
    pub provider: ExecutionProvider,
}

impl OnnxRuntime {
    /// This library, on the processor.
    pub fn on_cpu(library: impl Into<PathBuf>) -> Self {
        Self {
            library: library.into(),
            provider: ExecutionProvider::Cpu,
        }
    }

    /// To open a session on the provider. Loads the library the first time.
    pub(crate) fn session_builder(&self) -> Result<SessionBuilder, RuntimeError> {
        let environment = environment(&self.library)?;
        let builder = Session::builder(&environment).map_err(|cause| RuntimeError::Start {
            path: self.library.clone(),
            cause,
        })?;
        match self.provider {
            ExecutionProvider::Cpu => Ok(builder),
            ExecutionProvider::Cuda => self.on_cuda(builder),
        }
    }

    fn on_cuda(&self, mut builder: SessionBuilder) -> Result<SessionBuilder, RuntimeError> {
        let path = || self.library.clone();
        let failed = |cause| RuntimeError::Cuda {
            path: path(),
            cause,
        };
        if !ep::CUDA::is_available().map_err(failed)? {
            return Err(RuntimeError::WithoutCuda(path()));
        }
        ep::CUDA::default().register(&mut builder).map_err(failed)?;
        Ok(builder)
    }
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
    /// It computes on the processor only.
    #[error(
        "{}: this ONNX Runtime was built without CUDA; name one that was built with it (that of onnxruntime-gpu, say) \
         in models.onnxruntime_library, or set models.execution_provider to \"cpu\"",
        .0.display()
    )]
    WithoutCuda(PathBuf),
    /// It could compute on a graphics card, and cannot here.
    #[error("{}: CUDA cannot be used on this machine", .path.display())]
    Cuda {
        /// The library.
        path: PathBuf,
        /// Why not: no card, or a library of CUDA or cuDNN is missing.
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
fn environment(library: &Path) -> Result<Environment, RuntimeError> {
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
