//! The folder of a run's temporary files. It goes with the run; what a killed run leaves goes with a later one.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

const PREFIX: &str = "finemesh-index-";
/// Locked as long as the run lives: the system unlocks it, whatever the end of the process.
const LOCK: &str = "lock";

/// A folder that is removed when it is dropped.
pub(crate) struct RunFolder {
    folder: TempDir,
    _lock: File,
}

impl RunFolder {
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders of runs that ended without removing them, if they are older than this. A failure is no reason not to
/// run.
pub(crate) fn remove_stale(parent: &Path, age: Duration) {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(folder = %parent.display(), %error, "cannot be searched for leftovers of interrupted runs");
            return;
        }
    };
    for entry in entries.flatten() {
        match remove_if_stale(&entry, age) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(folder = %entry.path().display(), "removed what an interrupted run left");
            }
            Err(error) => {
                tracing::warn!(folder = %entry.path().display(), %error, "leftovers of an interrupted run could not be removed");
            }
        }
    }
}

fn remove_if_stale(entry: &std::fs::DirEntry, age: Duration) -> io::Result<bool> {
    let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
    if !is_ours || !entry.file_type()?.is_dir() {
        return Ok(false);
    }
    let modified = entry.metadata()?.modified()?;
    let is_old = modified.elapsed().is_ok_and(|elapsed| elapsed > age);
    if !is_old || is_locked(&entry.path().join(LOCK))? {
        return Ok(false);
    }
    std::fs::remove_dir_all(entry.path()).map(|()| true)
}

/// A run may well take longer than leftovers are kept.
fn is_locked(lock: &Path) -> io::Result<bool> {
    match File::open(lock) {
        Ok(lock) => Ok(lock.try_lock().is_err()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn make_old(folder: &Path) {
        let old = SystemTime::now() - 2 * DAY;
        File::open(folder).unwrap().set_modified(old).unwrap();
    }

    #[test]
    fn only_old_folders_of_dead_runs_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = parent.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (dead, young, other) = (
            folder("finemesh-index-dead"),
            folder("finemesh-index-young"),
            folder("other"),
        );
        File::create(dead.join(LOCK)).unwrap();
        let alive = RunFolder::create(parent.path()).unwrap();
        [&dead, &other].into_iter().for_each(|path| make_old(path));
        make_old(alive.path());
        remove_stale(parent.path(), DAY);
        assert!(!dead.exists());
        assert!(young.exists() && other.exists() && alive.path().exists());
    }
}
