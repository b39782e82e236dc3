//! What is made of files, and made anew when they change: certificates and keys are replaced while a process runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How often the files are read. Certificates are renewed days before they end, and Kubernetes takes a minute to bring new files.
const INTERVAL: Duration = Duration::from_secs(10);

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .path.display())]
pub struct FileError {
    path: PathBuf,
    message: String,
}

impl FileError {
    pub(crate) fn new(path: &Path, message: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            message: message.to_string(),
        }
    }
}

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

impl Content {
    pub(crate) fn error(&self, message: impl ToString) -> FileError {
        FileError::new(&self.path, message)
    }
}

/// The newest of what files make. Clones see the same.
#[derive(Debug)]
pub(crate) struct Reloaded<T> {
    now: watch::Receiver<Arc<T>>,
    _following: Arc<AbortOnDropHandle<()>>,
}

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self {
            now: self.now.clone(),
            _following: Arc::clone(&self._following),
        }
    }
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads the files, then again and again. Files that have changed and cannot be used are logged, and what was made before stays. Must
    /// be called inside the runtime.
    pub(crate) fn load(
        paths: Vec<PathBuf>,
        make: impl Fn(&[Content]) -> Result<T, FileError> + Send + 'static,
    ) -> Result<Self, FileError> {
        let mut contents = read(&paths)?;
        let (sender, now) = watch::channel(Arc::new(make(&contents)?));
        let following = tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                match changed(&paths, &mut contents, &make) {
                    Ok(Some(made)) => {
                        tracing::info!(?paths, "files have changed and are used");
                        sender.send_replace(Arc::new(made));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(%error, "what was there before is used further");
                    }
                }
            }
        });
        Ok(Self {
            now,
            _following: Arc::new(AbortOnDropHandle::new(following)),
        })
    }

    pub(crate) fn now(&self) -> Arc<T> {
        Arc::clone(&self.now.borrow())
    }
}

/// What the files make, if they have changed.
fn changed<T>(
    paths: &[PathBuf],
    contents: &mut Vec<Content>,
    make: impl Fn(&[Content]) -> Result<T, FileError>,
) -> Result<Option<T>, FileError> {
    let read = read(paths)?;
    if *contents == read {
        return Ok(None);
    }
    let made = make(&read)?;
    *contents = read;
    Ok(Some(made))
}

/// Some kilobytes, from a disk of the machine: no work for other threads.
fn read(paths: &[PathBuf]) -> Result<Vec<Content>, FileError> {
    let content = |path: &PathBuf| {
        let bytes = fs::read(path).map_err(|error| FileError::new(path, error))?;
        let path = path.clone();
        Ok(Content { path, bytes })
    };
    paths.iter().map(content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_that_cannot_be_used_leaves_what_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        let write = |text: &str| fs::write(&file, text).unwrap();
        write("1");
        let make = |contents: &[Content]| {
            let text = String::from_utf8_lossy(&contents[0].bytes);
            text.parse::<u32>()
                .map_err(|error| contents[0].error(error))
        };
        let reloaded = Reloaded::load(vec![file.clone()], make).unwrap();
        for (text, expected) in [("x", 1), ("2", 2), ("", 2), ("3", 3)] {
            write(text);
            tokio::time::sleep(INTERVAL * 2).await;
            assert_eq!(*reloaded.now(), expected, "{text}");
        }
        fs::remove_file(&file).unwrap();
        tokio::time::sleep(INTERVAL * 2).await;
        assert_eq!(*reloaded.now(), 3);
        assert!(Reloaded::load(vec![file], make).is_err());
    }
}
