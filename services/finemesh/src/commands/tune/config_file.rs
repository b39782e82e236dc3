//! Weights and thresholds go into a configuration; its comments and everything else stay as they are.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use crate::config;

/// A value of a pipeline's configuration: section and key below the pipeline's, and the number.
pub(super) type Entry = ([&'static str; 2], f64);

/// The configuration as it is written.
///
/// # Errors
/// When it cannot be read, or is no TOML.
pub(super) fn read(file: &Path) -> Result<DocumentMut> {
    let text = fs::read_to_string(file);
    let text = text.with_context(|| format!("--write: {} cannot be read", file.display()))?;
    let document = text.parse::<DocumentMut>();
    document.with_context(|| format!("--write: {}", file.display()))
}

/// Writes a pipeline's values: the whole new file, or nothing.
///
/// # Errors
/// When the file is not as [`read`] needs it, cannot be replaced, or would have a pipeline that is refused.
pub(super) fn write(file: &Path, pipeline: &str, entries: &[Entry]) -> Result<()> {
    let mut document = read(file)?;
    set_all(document.as_table_mut(), pipeline, entries)
        .with_context(|| format!("--write: {}", file.display()))?;
    replace(file, pipeline, &document.to_string())
        .with_context(|| format!("--write: {}", file.display()))
}

/// A pipeline's values alone.
pub(super) fn section(pipeline: &str, entries: &[Entry]) -> String {
    let mut document = DocumentMut::new();
    // Nothing is in the way in an empty document.
    let _ = set_all(document.as_table_mut(), pipeline, entries);
    document.to_string()
}

fn set_all(root: &mut dyn TableLike, pipeline: &str, entries: &[Entry]) -> Result<()> {
    let orchestrator = child(root, "orchestrator", implicit_table)?;
    let pipelines = child(orchestrator, "pipelines", implicit_table)?;
    let pipeline = child(pipelines, pipeline, || Item::Table(Table::new()))?;
    for ([section, key], number) in entries {
        let section = child(pipeline, section, || value(InlineTable::new()))?;
        set(section, key, *number);
    }
    Ok(())
}

/// Without a header of its own, which would be empty.
fn implicit_table() -> Item {
    let mut table = Table::new();
    table.set_implicit(true);
    Item::Table(table)
}

fn child<'a>(
    parent: &'a mut dyn TableLike,
    key: &str,
    make: impl FnOnce() -> Item,
) -> Result<&'a mut dyn TableLike> {
    let item = parent.entry(key).or_insert_with(make);
    match item.as_table_like_mut() {
        Some(table) => Ok(table),
        None => bail!("{key} is no section"),
    }
}

/// A value that is there keeps the space and the comment around it.
fn set(table: &mut dyn TableLike, key: &str, number: f64) {
    let mut new = Value::from(number);
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => {
            table.insert(key, Item::Value(new));
        }
    }
}

/// Puts a new text into the file's place, if the pipeline in it can run.
fn replace(file: &Path, pipeline: &str, text: &str) -> Result<()> {
    let file = file.canonicalize()?;
    let folder = file.parent().context("a file is in a folder")?;
    let mut new = NamedTempFile::new_in(folder)?;
    new.write_all(text.as_bytes())?;
    new.as_file()
        .set_permissions(fs::metadata(&file)?.permissions())?;
    new.as_file().sync_all()?;
    refuse_mistakes(new.path(), pipeline)?;
    new.persist(&file)?;
    Ok(())
}

/// What else is wrong with a configuration, on this machine, is not these values' business.
fn refuse_mistakes(file: &Path, pipeline: &str) -> Result<()> {
    let section = format!("orchestrator.pipelines.{pipeline}.");
    let Err(mistakes) = config::load(Some(file)) else {
        return Ok(());
    };
    let mut mistakes = mistakes.problems().iter();
    match mistakes.find(|mistake| mistake.path.starts_with(&section)) {
        Some(mistake) => bail!("the pipeline is not complete here: {mistake}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: [Entry; 4] = [
        (["fusion", "alpha"], 0.55),
        (["rerank", "weight"], 0.4),
        (["routing", "sparse_margin"], 0.7),
        (["rerank", "gate_margin"], 1.5),
    ];

    fn written(text: &str, pipeline: &str) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("finemesh.toml");
        fs::write(&file, text).unwrap();
        let written = write(&file, pipeline, &ENTRIES);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        let now = fs::read_to_string(&file).unwrap();
        assert!(written.is_ok() || now == text);
        written.map(|()| now)
    }

    #[test]
    fn values_change_and_all_else_stays() {
        let text = "# mine\n[orchestrator.pipelines.full] # funnel\nstages = [\"sparse\", \"dense\"]\n\
                    fusion = { method = \"rrf\", alpha = 0.6 }   # ranks\n\
                    routing = { sparse_margin = 0.9 }\n\n\
                    [orchestrator.pipelines.full.rerank]\nwindow = 10\nweight = 0.3 # low\ngate_margin = 2.0\n";
        let expected = text
            .replace("alpha = 0.6", "alpha = 0.55")
            .replace("weight = 0.3", "weight = 0.4")
            .replace("sparse_margin = 0.9", "sparse_margin = 0.7")
            .replace("gate_margin = 2.0", "gate_margin = 1.5");
        assert_eq!(written(text, "full").unwrap(), expected);
    }

    #[test]
    fn a_section_that_is_not_there_is_made() {
        let text = "# nothing yet\n[server]\nmax_calls = 7\n";
        let expected = "\n[orchestrator.pipelines.full]\nfusion = { alpha = 0.55 }\n\
                        rerank = { weight = 0.4, gate_margin = 1.5 }\nrouting = { sparse_margin = 0.7 }\n";
        assert_eq!(written(text, "full").unwrap(), format!("{text}{expected}"));
        assert_eq!(section("full", &ENTRIES), expected.trim_start());
    }

    #[test]
    fn inline_sections_are_written_into() {
        let text = "[orchestrator]\npipelines = { full = { rerank = { window = 9 } } }\n";
        let now = written(text, "full")
            .unwrap()
            .parse::<DocumentMut>()
            .unwrap();
        let full = &now["orchestrator"]["pipelines"]["full"];
        assert_eq!(full["fusion"]["alpha"].as_float(), Some(0.55));
        assert_eq!(full["rerank"]["window"].as_integer(), Some(9));
    }

    #[test]
    fn what_is_no_configuration_is_left_alone() {
        for (text, pipeline, expected) in [
            ("[orchestrator", "full", "TOML"),
            ("orchestrator = 3\n", "full", "orchestrator is no section"),
            ("", "unheard_of", "orchestrator.pipelines.unheard_of.stages"),
        ] {
            let error = format!("{:#}", written(text, pipeline).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        let error = write(Path::new("/does/not/exist.toml"), "full", &ENTRIES).unwrap_err();
        assert!(format!("{error:#}").contains("cannot be read"), "{error:#}");
    }

    /// What is wrong elsewhere, as a bundle that another machine has, is another's business.
    #[test]
    fn mistakes_elsewhere_do_not_matter() {
        let text = "[models]\nencoder_bundle = \"/on/another/machine\"\n";
        assert!(written(text, "full").is_ok());
    }
}
