//! `finemesh demo`: fetch, index, ask, and say what to type next.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use console::style;
use search_proto::index::IndexSettings;
use search_proto::search::SearchRequest;

use crate::backend::Backend;
use crate::cli::DemoArgs;
use crate::corpus::write_cargo_corpus;
use crate::error::readable;
use crate::output::say;
use crate::render;

/// The demo's collection.
const COLLECTION: &str = "demo";
/// Hits that the demo shows per question.
const HITS: u32 = 3;
/// Questions about the documentation of the crates that finemesh is built from.
const QUESTIONS: [&str; 5] = [
    "set a deadline on a gRPC request",
    "how do I limit the number of requests in flight",
    "pause the clock in tests",
    "store objects in a local folder or in S3",
    "split text into tokens and stem them",
];

/// Indexes the example and answers the questions.
pub(crate) async fn demo(backend: &mut Backend, args: DemoArgs) -> Result<()> {
    let work = tempfile::tempdir().context("a temporary folder is needed")?;
    let corpus = match args.corpus {
        Some(corpus) => corpus,
        None => cargo_corpus(work.path())?,
    };
    let settings = IndexSettings {
        collection: COLLECTION.to_owned(),
        ..IndexSettings::default()
    };
    let summary = super::index::run(backend, settings, vec![corpus]).await?;
    eprintln!(
        "{} documents, {} passages\n",
        summary.documents, summary.passages
    );
    for question in questions(args.questions) {
        ask(backend, &question).await?;
    }
    print_next_steps(backend)
}

fn questions(given: Vec<String>) -> Vec<String> {
    if given.is_empty() {
        QUESTIONS.map(str::to_owned).to_vec()
    } else {
        given
    }
}

fn cargo_corpus(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("crates.jsonl");
    let documents = write_cargo_corpus(None, &mut BufWriter::new(File::create(&path)?))
        .context("no example corpus; give one with --corpus FILE.jsonl")?;
    eprintln!("{documents} READMEs and module docs of the crates that finemesh is built from");
    Ok(path)
}

async fn ask(backend: &mut Backend, question: &str) -> Result<()> {
    let request = SearchRequest {
        collection: COLLECTION.to_owned(),
        query: question.to_owned(),
        k: Some(HITS),
        ..SearchRequest::default()
    };
    let response = backend
        .search
        .search(request)
        .await
        .map_err(readable)?
        .into_inner();
    say(format_args!(
        "{} {}\n",
        style("?").cyan().bold(),
        style(question).bold()
    ))?;
    say(format_args!(
        "{}",
        render::answer(question, &response, false)
    ))?;
    Ok(())
}

fn print_next_steps(backend: &Backend) -> Result<()> {
    let search = backend.invocation("search");
    let index = backend.invocation("index");
    say(format_args!("next:"))?;
    say(format_args!(
        "  {search}--collection {COLLECTION} --explain \"cancel a task when its caller goes away\""
    ))?;
    say(format_args!(
        "  {search}--collection {COLLECTION} --filter 'crate = \"tokio\"' \"run blocking code\""
    ))?;
    say(format_args!(
        "  {search}--collection {COLLECTION} --pipeline sparse '+\"memory map\" -windows'"
    ))?;
    say(format_args!(
        "  {index}--collection mine FILE.jsonl      one object a line: _id, title, text, metadata"
    ))?;
    Ok(())
}
