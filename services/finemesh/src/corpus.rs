//! An example corpus that every machine which built finemesh has: READMEs and module docs of crates.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{CargoOpt, MetadataCommand, Package};
use serde_json::json;

/// Shorter texts say nothing that a search could find.
const MIN_TEXT_BYTES: usize = 200;

/// Writes one JSON line per README and per documented module of every direct dependency of the workspace.
/// Returns the number of lines.
pub(crate) fn write_cargo_corpus(
    manifest_path: Option<&Path>,
    out: &mut dyn Write,
) -> Result<usize> {
    let mut lines = 0;
    for package in dependency_packages(manifest_path)? {
        for document in package_documents(&package)? {
            serde_json::to_writer(&mut *out, &document)?;
            out.write_all(b"\n")?;
            lines += 1;
        }
    }
    out.flush()?;
    Ok(lines)
}

/// The direct dependencies of the workspace's members, by name.
fn dependency_packages(manifest_path: Option<&Path>) -> Result<Vec<Package>> {
    let mut command = MetadataCommand::new();
    command
        .features(CargoOpt::AllFeatures)
        .other_options(["--locked".to_owned()]);
    if let Some(path) = manifest_path {
        command.manifest_path(path);
    }
    let metadata = command.exec().context(
        "`cargo metadata` failed: run this in a Cargo workspace, or name one with --manifest-path",
    )?;
    let wanted: std::collections::HashSet<String> = metadata
        .workspace_packages()
        .iter()
        .flat_map(|package| {
            package
                .dependencies
                .iter()
                .map(|dependency| dependency.name.clone())
        })
        .collect();
    let mut packages: Vec<Package> = metadata
        .packages
        .into_iter()
        .filter(|package| package.source.is_some() && wanted.contains(package.name.as_str()))
        .collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(packages)
}

fn package_documents(package: &Package) -> Result<Vec<serde_json::Value>> {
    let root = package
        .manifest_path
        .parent()
        .context("a manifest has a folder")?
        .as_std_path();
    let mut documents = Vec::new();
    if let Some(text) = readme_text(package, root) {
        documents.push(document(
            package,
            "README",
            "readme",
            format!("{} README", package.name),
            text,
        ));
    }
    let mut sources = Vec::new();
    collect_sources(&root.join("src"), &mut sources)?;
    for source in sources {
        let relative = source
            .strip_prefix(root)
            .unwrap_or(&source)
            .to_string_lossy()
            .replace('\\', "/");
        // A file that is not UTF-8 has no docs for us.
        let text = std::fs::read_to_string(&source)
            .map(|code| module_docs(&code))
            .unwrap_or_default();
        if text.len() >= MIN_TEXT_BYTES {
            documents.push(document(
                package,
                &relative,
                "module",
                module_path(&package.name, &relative),
                text,
            ));
        }
    }
    Ok(documents)
}

fn document(
    package: &Package,
    place: &str,
    kind: &str,
    title: String,
    text: String,
) -> serde_json::Value {
    json!({
        "_id": format!("{}-{}/{place}", package.name, package.version),
        "title": title,
        "text": text,
        "metadata": {
            "crate": package.name,
            "version": package.version.to_string(),
            "kind": kind,
            "license": package.license,
        },
    })
}

fn readme_text(package: &Package, root: &Path) -> Option<String> {
    let path = root.join(package.readme.as_ref()?.as_std_path());
    let text = without_decoration(&std::fs::read_to_string(path).ok()?);
    (text.len() >= MIN_TEXT_BYTES).then_some(text)
}

/// All `.rs` files below a folder, in order; an absent folder has none.
fn collect_sources(folder: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect_sources(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

/// The `//!` lines of a source file, as text.
fn module_docs(code: &str) -> String {
    let docs: Vec<&str> = code
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    without_decoration(&docs.join("\n"))
}

/// Markdown without badges, link definitions, HTML lines and code fences' markers.
fn without_decoration(markdown: &str) -> String {
    let is_decoration = |line: &str| {
        line.starts_with("[![")
            || line.starts_with("![")
            || line.starts_with('<')
            || line.starts_with("```")
            || (line.starts_with('[') && line.contains("]: "))
    };
    let kept: Vec<&str> = markdown
        .lines()
        .filter(|line| !is_decoration(line.trim_start()))
        .collect();
    kept.join("\n").trim().to_owned()
}

/// `src/transport/channel/mod.rs` of tonic → `tonic::transport::channel`.
fn module_path(package: &str, relative: &str) -> String {
    let inner = relative.trim_start_matches("src/").trim_end_matches(".rs");
    let parts = inner
        .split('/')
        .filter(|part| !matches!(*part, "lib" | "mod" | "main"));
    std::iter::once(package.replace('-', "_").as_str())
        .chain(parts)
        .collect::<Vec<_>>()
        .join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_paths_read_like_rust() {
        assert_eq!(module_path("tonic", "src/lib.rs"), "tonic");
        assert_eq!(
            module_path("tonic", "src/transport/mod.rs"),
            "tonic::transport"
        );
        assert_eq!(
            module_path("hyper-util", "src/rt/tokio.rs"),
            "hyper_util::rt::tokio"
        );
    }

    #[test]
    fn docs_lose_their_decoration_and_keep_their_words() {
        let code = "//! [![badge](x)](y)\n//! Sets a deadline.\n//! ```\n//! let x = 1;\n//! ```\n//! [link]: http://x\nfn main() {}\n";
        assert_eq!(module_docs(code), "Sets a deadline.\nlet x = 1;");
    }
}
