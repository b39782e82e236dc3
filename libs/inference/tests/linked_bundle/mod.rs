//! Copies of a bundle in which something is changed.

use std::fs;
use std::path::Path;

/// A bundle folder of its own whose files are links, so that one of them can be replaced.
pub(crate) fn linked_copy(bundle: &Path, into: &Path) {
    fs::create_dir(into).unwrap();
    for entry in fs::read_dir(bundle).unwrap() {
        let entry = entry.unwrap();
        fs::hard_link(entry.path(), into.join(entry.file_name())).unwrap();
    }
}

/// Replaces a file of a linked copy.
pub(crate) fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let content = change(String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}
