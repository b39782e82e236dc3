//! Holds the code to the directions of the design: who may depend on whom, and where each engine may be named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Crates that only some rooms may depend on: (crate, rooms).
const CONFINED: [(&str, &[&str]); 9] = [
    ("tantivy", &["segment", "sparse-retriever"]),
    ("usearch", &["segment"]),
    ("ort", &["inference"]),
    ("tokenizers", &["inference"]),
    ("nalgebra", &["vector-math"]),
    ("object_store", &["segment"]),
    ("figment", &["service-kit"]),
    ("opentelemetry-otlp", &["service-kit"]),
    ("clap", &["finemesh"]),
];

/// What a room must not depend on: (room, crates).
const FORBIDDEN: [(&str, &[&str]); 4] = [
    (
        "search-core",
        &["tokio", "tonic", "prost", "tantivy", "usearch", "ort"],
    ),
    ("vector-math", &["tokio", "tonic", "prost"]),
    ("service-kit", &["search-proto"]),
    ("inference", &["tonic", "search-proto", "service-kit"]),
];

/// The only crates that may compose services.
const COMPOSERS: [&str; 2] = ["finemesh", "testkit"];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .no_deps()
        .exec()
        .expect("cargo metadata answers in a workspace")
}

fn shipped_dependencies(package: &Package) -> BTreeSet<String> {
    let shipped = package
        .dependencies
        .iter()
        .filter(|d| d.kind != DependencyKind::Development);
    shipped.map(|dependency| dependency.name.clone()).collect()
}

fn folder(package: &Package) -> &Path {
    package
        .manifest_path
        .parent()
        .expect("a manifest has a folder")
        .as_std_path()
}

fn members_below(metadata: &Metadata, room: &str) -> BTreeSet<String> {
    let below = metadata.workspace_root.as_std_path().join(room);
    let members = metadata
        .workspace_packages()
        .into_iter()
        .filter(|p| folder(p).starts_with(&below));
    members.map(|package| package.name.to_string()).collect()
}

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a source folder can be listed") {
            let path = entry.expect("a folder entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file is UTF-8");
                found.push((path, text));
            }
        }
    }
    found
}

/// The code of a file without its comments and without its unit tests.
fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    shipped
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

fn assert_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn services_do_not_import_services() {
    let metadata = metadata();
    let services = members_below(&metadata, "services");
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        if COMPOSERS.contains(&package.name.as_str()) {
            continue;
        }
        for dependency in shipped_dependencies(package).intersection(&services) {
            violations.push(format!(
                "{} depends on the service {dependency}",
                package.name
            ));
        }
    }
    assert_none(violations);
}

#[test]
fn search_core_and_vector_math_use_nothing_of_this_workspace() {
    let metadata = metadata();
    let members: BTreeSet<String> = metadata
        .workspace_packages()
        .iter()
        .map(|p| p.name.to_string())
        .collect();
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        if ["search-core", "vector-math"].contains(&package.name.as_str()) {
            for dependency in shipped_dependencies(package).intersection(&members) {
                violations.push(format!("{} depends on {dependency}", package.name));
            }
        }
    }
    assert_none(violations);
}

#[test]
fn engines_stay_in_their_rooms() {
    let metadata = metadata();
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        let dependencies = shipped_dependencies(package);
        for (confined, rooms) in CONFINED {
            if dependencies.contains(confined) && !rooms.contains(&package.name.as_str()) {
                violations.push(format!(
                    "{} depends on {confined}, which belongs to {rooms:?}",
                    package.name
                ));
            }
        }
        for (room, forbidden) in FORBIDDEN {
            for dependency in forbidden.iter().filter(|_| package.name.as_str() == room) {
                if dependencies.contains(*dependency) {
                    violations.push(format!("{room} must not depend on {dependency}"));
                }
            }
        }
    }
    assert_none(violations);
}

#[test]
fn versions_stand_in_the_workspace_table_only() {
    let metadata = metadata();
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        let manifest =
            std::fs::read_to_string(&package.manifest_path).expect("a manifest is UTF-8");
        let own_version =
            |line: &&str| line.contains("version = \"") || line.contains("path = \"../");
        for line in manifest.lines().filter(own_version) {
            violations.push(format!("{}: {line}", package.name));
        }
    }
    assert_none(violations);
}

#[test]
fn generated_types_stay_at_the_edge_of_each_service() {
    let metadata = metadata();
    let edges = ["grpc.rs", "clients.rs"];
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        let is_service = folder(package).starts_with(metadata.workspace_root.join("services"));
        if !is_service || package.name.as_str() == "finemesh" {
            continue;
        }
        for (path, text) in sources(&folder(package).join("src")) {
            let is_edge = path
                .file_name()
                .is_some_and(|name| edges.iter().any(|edge| name == *edge))
                || path
                    .components()
                    .any(|part| part.as_os_str() == "grpc" || part.as_os_str() == "clients");
            if !is_edge && code_lines(&text).any(names_a_wire_type) {
                violations.push(format!("{} names a generated type", path.display()));
            }
        }
    }
    assert_none(violations);
}

/// The descriptor set for reflection is no wire type.
fn names_a_wire_type(line: &str) -> bool {
    line.contains("search_proto::") && !line.contains("FILE_DESCRIPTOR_SET")
}

#[test]
fn time_is_an_argument_of_search_core() {
    let metadata = metadata();
    let core = metadata
        .workspace_root
        .as_std_path()
        .join("libs/search-core/src");
    let clocks = sources(&core)
        .into_iter()
        .filter(|(_, text)| code_lines(text).any(|line| line.contains("Instant::now")));
    assert_none(
        clocks
            .map(|(path, _)| format!("{} reads the clock", path.display()))
            .collect(),
    );
}

#[test]
fn environment_variables_are_read_by_config_only() {
    let metadata = metadata();
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        let room = folder(package);
        if package.name.as_str() == "finemesh-tests" || package.name.as_str() == "testkit" {
            continue;
        }
        for (path, text) in sources(&room.join("src")) {
            let reads = code_lines(&text).any(|line| line.contains("env::var"));
            if reads && !path.ends_with("config.rs") {
                violations.push(format!("{} reads an environment variable", path.display()));
            }
        }
    }
    assert_none(violations);
}

#[test]
fn unsafe_code_lives_in_vector_math_and_the_mapping_of_files() {
    let metadata = metadata();
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        if package.name.as_str() == "vector-math" {
            continue;
        }
        for (path, text) in sources(&folder(package).join("src")) {
            let is_mapping = package.name.as_str() == "segment" && path.ends_with("mapped.rs");
            if !is_mapping
                && code_lines(&text)
                    .any(|line| line.contains("unsafe {") || line.contains("unsafe fn"))
            {
                violations.push(format!("{} has unsafe code", path.display()));
            }
        }
    }
    assert_none(violations);
}
