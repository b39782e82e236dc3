//! Runs the built binary as a user would.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A `finemesh` with a data folder of its own.
pub(crate) struct Finemesh {
    data: tempfile::TempDir,
}

impl Finemesh {
    pub(crate) fn new() -> Self {
        Self {
            data: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.data.path()
    }

    /// Writes a file into the data folder's neighbourhood and returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::write(&path, content).expect("a file can be written");
        path
    }

    /// Runs a command on the data folder.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_finemesh"))
            .arg("--data")
            .arg(self.folder().join("data"))
            .args(arguments)
            .output()
            .expect("the binary runs")
    }

    /// Runs a command that must succeed and returns its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}\n{}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command that must succeed and parses what it prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(arguments)).expect("the output is JSON")
    }

    /// Runs a command that must fail and returns its exit code and standard error.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(
            !output.status.success(),
            "{arguments:?} succeeded:\n{}",
            text(&output.stdout)
        );
        (
            output.status.code().expect("the process was not killed"),
            text(&output.stderr),
        )
    }
}

/// A service as a process of its own, ended with this.
pub(crate) struct Served {
    process: Child,
    /// `http://host:port`, or `https://…`.
    pub(crate) address: String,
}

impl Served {
    pub(crate) fn start(finemesh: &Finemesh, target: &str, settings: &[(&str, &str)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_finemesh"))
            .arg("--data")
            .arg(finemesh.folder().join("data"))
            .args(["serve", "--target", target])
            .env("FINEMESH__SERVER__ADDRESS", "127.0.0.1:0")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let address = line
            .trim()
            .rsplit_once(' ')
            .expect("it says where it serves")
            .1
            .to_owned();
        Self { process, address }
    }

    /// As peers are named: a list of one.
    pub(crate) fn as_peers(&self) -> String {
        let (_, authority) = self.address.split_once("://").expect("a scheme");
        format!("[\"{authority}\"]")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a test that needs the models can run. Says what is missing; where `CI` is set it must not be.
pub(crate) fn models_are_here() -> bool {
    let pulled = Command::new(env!("CARGO_BIN_EXE_finemesh"))
        .args(["models", "pull"])
        .output()
        .expect("the binary runs");
    if pulled.status.success() {
        return true;
    }
    let reason = text(&pulled.stderr);
    assert!(
        std::env::var_os("CI").is_none(),
        "the models could not be pulled: {reason}"
    );
    eprintln!("skipped: the models could not be pulled: {reason}");
    false
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
