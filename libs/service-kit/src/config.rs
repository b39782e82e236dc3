//! Configuration: defaults, then a TOML file, then the environment, and all mistakes at once.
//!
//! A raw struct has a default for every field and is read here; the service then checks it and adds what it finds to the
//! same [`Problems`]. `FINEMESH__DENSE__PREFIX_DEPTH=500` sets `prefix_depth` in the section `dense`.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;

use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Variables that start so are configuration; two underscores part a section from its key.
pub const ENV_PREFIX: &str = "FINEMESH__";
/// Exit code for a configuration that cannot be used (`EX_USAGE` of sysexits).
pub const EXIT_CONFIG: u8 = 64;
/// More mistakes than this in one file are no mistakes but another file.
const MAX_PROBLEMS: usize = 256;

/// Reads the configuration. What cannot be used keeps its default and is in the problems, so that the caller can go on
/// checking; only [`Problems::into_result`] decides.
///
/// Give the raw structs `#[serde(default, deny_unknown_fields)]`.
#[must_use]
pub fn load<Raw>(file: Option<&Path>) -> (Raw, Problems)
where
    Raw: Default + Serialize + DeserializeOwned,
{
    let mut problems = Problems::default();
    let mut layers = Vec::new();
    if let Some(path) = file {
        layers.extend(file_layer(path, &mut problems));
    }
    layers.extend(environment_layers(std::env::vars_os(), &mut problems));
    let raw = extract(layers, &mut problems);
    (raw, problems)
}

/// Mistakes found so far, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    problems: Vec<Problem>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in `dense.prefix_depth`; empty for the configuration as a whole.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl Problems {
    /// Adds a mistake.
    pub fn add(&mut self, path: impl Into<String>, message: impl fmt::Display) {
        self.problems.push(Problem {
            path: path.into(),
            message: message.to_string(),
        });
    }

    /// Adds a mistake unless `holds`.
    pub fn require<M: fmt::Display>(
        &mut self,
        holds: bool,
        path: impl Into<String>,
        message: impl FnOnce() -> M,
    ) {
        if !holds {
            self.add(path, message());
        }
    }

    /// Adds what is wrong with the value, or hands it on.
    pub fn check<T, E: fmt::Display>(
        &mut self,
        path: impl Into<String>,
        value: Result<T, E>,
    ) -> Option<T> {
        value.map_err(|error| self.add(path, error)).ok()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// The value when there is no problem, or all of them.
    ///
    /// # Errors
    /// [`ConfigError`] when there is one.
    pub fn into_result<T>(self, value: T) -> Result<T, ConfigError> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(ConfigError { problems: self })
        }
    }
}

/// A configuration that cannot be used; it says everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Problems,
}

impl ConfigError {
    /// What is wrong.
    #[must_use]
    pub fn problems(&self) -> &Problems {
        &self.problems
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.problems.len();
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        write!(formatter, "the configuration has {count} {noun}:")?;
        for problem in self.problems.iter() {
            write!(formatter, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            formatter.write_str(&self.message)
        } else {
            write!(formatter, "{}: {}", self.path, self.message)
        }
    }
}

/// Values from one place.
#[derive(Debug, Clone)]
struct Layer {
    /// The place, for messages.
    name: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

impl Layer {
    /// Takes the value at this path away. Inside an array nothing can be left out alone, so the array goes.
    fn remove(&mut self, path: &[String]) -> bool {
        remove(&mut self.values, path)
    }
}

fn remove(values: &mut Dict, path: &[String]) -> bool {
    let Some((key, rest)) = path.split_first() else {
        return false;
    };
    match values.get_mut(key) {
        Some(Value::Dict(_, inner)) if !rest.is_empty() => remove(inner, rest),
        Some(_) => values.remove(key).is_some(),
        None => false,
    }
}

fn file_layer(path: &Path, problems: &mut Problems) -> Option<Layer> {
    let name = path.display().to_string();
    let unreadable = |error| format!("cannot be read: {error}");
    let text = problems.check(&name, fs::read_to_string(path).map_err(unreadable))?;
    text_layer(&name, &text, problems)
}

fn text_layer(name: &str, text: &str, problems: &mut Problems) -> Option<Layer> {
    let values = problems.check(name, toml::from_str::<Dict>(text))?;
    Some(Layer {
        name: name.to_owned(),
        values,
    })
}

/// One layer per variable, so that a message can name it.
fn environment_layers(
    variables: impl Iterator<Item = (OsString, OsString)>,
    problems: &mut Problems,
) -> Vec<Layer> {
    let mut ours: Vec<(String, OsString)> = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(ENV_PREFIX))
        .collect();
    ours.sort();
    ours.into_iter()
        .filter_map(|(name, value)| variable_layer(name, value, problems))
        .collect()
}

fn variable_layer(name: String, value: OsString, problems: &mut Problems) -> Option<Layer> {
    let not_text = |_| "is not UTF-8";
    let text = problems.check(&name, value.into_string().map_err(not_text))?;
    let keys: Vec<String> = name[ENV_PREFIX.len()..]
        .split("__")
        .map(str::to_lowercase)
        .collect();
    if keys.iter().any(String::is_empty) {
        problems.add(name, "has an empty part between its underscores");
        return None;
    }
    let value = text.parse::<Value>().unwrap_or_else(|never| match never {});
    let nested = figment::util::nest(&keys.join("."), value);
    Some(Layer {
        name,
        values: nested.into_dict()?,
    })
}

/// Reads the layers, takes away what cannot be read, and reads again, until what is left can be.
fn extract<Raw>(mut layers: Vec<Layer>, problems: &mut Problems) -> Raw
where
    Raw: Default + Serialize + DeserializeOwned,
{
    for _ in 0..MAX_PROBLEMS {
        let merged = merge(&Raw::default(), &layers);
        match merged.extract::<Raw>() {
            Ok(raw) => {
                report_ignored::<Raw>(&merged, problems);
                return raw;
            }
            Err(error) => {
                report(&error, problems);
                let removed = layers.iter_mut().map(|layer| layer.remove(&error.path));
                if removed.filter(|removed| *removed).count() == 0 {
                    break;
                }
            }
        }
    }
    Raw::default()
}

fn merge<Raw: Serialize>(defaults: &Raw, layers: &[Layer]) -> Figment {
    let defaults = Figment::from(Serialized::defaults(defaults));
    layers.iter().cloned().fold(defaults, Figment::merge)
}

fn report(error: &figment::Error, problems: &mut Problems) {
    let place = error
        .metadata
        .as_ref()
        .map(|metadata| format!(" ({})", metadata.name));
    let message = format!("{}{}", error.kind, place.unwrap_or_default());
    problems.add(error.path.join("."), message);
}

/// A section whose struct forgot to refuse unknown keys is still held to it.
fn report_ignored<Raw: DeserializeOwned>(merged: &Figment, problems: &mut Problems) {
    let Ok(values) = merged.extract::<Dict>() else {
        return;
    };
    let mut ignored = Vec::new();
    let read = serde_ignored::deserialize::<_, _, Raw>(&Value::from(values), |path| {
        ignored.push(path.to_string());
    });
    if read.is_ok() {
        for path in ignored {
            problems.add(path.replace(".?", ""), "unknown field");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Raw {
        address: String,
        dense: Dense,
        pipelines: BTreeMap<String, Pipeline>,
        forgetful: Forgetful,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Dense {
        prefix_depth: u32,
        threads: Option<u32>,
    }

    impl Default for Dense {
        fn default() -> Self {
            Self {
                prefix_depth: 1000,
                threads: None,
            }
        }
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Pipeline {
        alpha: f64,
    }

    /// Does not refuse unknown keys by itself.
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Forgetful {
        size: u8,
    }

    fn read(file: &str, environment: &[(&str, &str)]) -> (Raw, Vec<String>) {
        let mut problems = Problems::default();
        let mut layers: Vec<Layer> = text_layer("mesh.toml", file, &mut problems)
            .into_iter()
            .collect();
        let variables = environment
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        layers.extend(environment_layers(variables, &mut problems));
        let raw = extract(layers, &mut problems);
        (raw, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let (raw, problems) = read(
            "address = 'a:1'\n[dense]\nthreads = 2\n[pipelines.quick]\nalpha = 0.5",
            &[
                ("FINEMESH__DENSE__THREADS", "4"),
                ("FINEMESH__PIPELINES__SLOW__ALPHA", "0.25"),
                ("FINEMESH_OTHER", "x"),
                ("HOME", "/"),
            ],
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(raw.address, "a:1");
        assert_eq!(
            raw.dense,
            Dense {
                prefix_depth: 1000,
                threads: Some(4)
            }
        );
        assert_eq!(raw.pipelines["quick"].alpha, 0.5);
        assert_eq!(raw.pipelines["slow"].alpha, 0.25);
    }

    #[test]
    fn every_mistake_is_reported_at_once_and_the_rest_is_read() {
        let (raw, problems) = read(
            "adress = 'a:1'\naddress = 'b:2'\n[dense]\nprefix_depth = 'many'\nthread = 2\n[pipelines.quick]\nalfa = 1\n\
             [forgetful]\nsize = 300\ncolour = 'red'",
            &[
                ("FINEMESH__DENSE__THRAEDS", "4"),
                ("FINEMESH__DENSE__THREADS", "four"),
                ("FINEMESH__DENSE____X", "4"),
            ],
        );
        assert_eq!(raw.address, "b:2");
        assert_eq!(raw.dense, Dense::default());
        let expected = [
            "FINEMESH__DENSE____X: has an empty part",
            "adress: unknown field",
            "dense.prefix_depth: invalid type: found string \"many\", expected u32 (mesh.toml)",
            "dense.thraeds: unknown field: found `thraeds`",
            "(FINEMESH__DENSE__THRAEDS)",
            "dense.threads: invalid type: found string \"four\", expected u32 (FINEMESH__DENSE__THREADS)",
            "dense.thread: unknown field",
            "pipelines.quick.alfa: unknown field",
            "forgetful.size: invalid value",
            "forgetful.colour: unknown field",
        ];
        for part in expected {
            assert!(
                problems.iter().any(|problem| problem.contains(part)),
                "{part} is missing in {problems:#?}"
            );
        }
        assert_eq!(problems.len(), 9, "{problems:#?}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_reported_with_its_line() {
        let (raw, problems) = read("address = 'a:1'\nnot toml", &[]);
        assert_eq!(raw, Raw::default());
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("mesh.toml: "), "{}", problems[0]);
        assert!(problems[0].contains("line 2"), "{}", problems[0]);
    }

    #[test]
    fn a_missing_file_is_reported_by_name() {
        let (_, problems) = load::<Raw>(Some(Path::new("/nowhere/mesh.toml")));
        let error = problems.into_result(()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/nowhere/mesh.toml: cannot be read")
        );
    }

    #[test]
    fn a_section_that_is_a_number_is_reported() {
        let (raw, problems) = read("dense = 3", &[("FINEMESH__DENSE__THREADS", "4")]);
        assert_eq!(raw.dense.threads, Some(4));
        assert_eq!(problems, Vec::<String>::new());
        let (raw, problems) = read("dense = 3", &[]);
        assert_eq!(raw, Raw::default());
        assert_eq!(problems.len(), 1, "{problems:#?}");
    }

    #[test]
    fn the_error_lists_everything() {
        let mut problems = Problems::default();
        problems.require(true, "k", || "unused");
        problems.require(false, "k", || "must be 1 to 1000");
        assert_eq!(problems.check("address", "x".parse::<u8>()), None);
        let error = problems.into_result(()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the configuration has 2 mistakes:\n  k: must be 1 to 1000\n  address: invalid digit found in string"
        );
    }
}
