//! `finemesh index` and `finemesh delete`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use indexer::source::{LineBatch, SourceError, read_files};
use search_proto::index::index_event::Event;
use search_proto::index::index_request::Part;
use search_proto::index::{
    DeleteRequest, EndOfLines, IndexEvent, IndexRequest, IndexSettings, IndexSummary, InvalidLine,
    Lines, SetStagesRequest,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::backend::Backend;
use crate::cli::{DeleteArgs, IndexArgs};
use crate::error::readable;
use crate::output::say;
use crate::progress::IndexBars;

/// Messages in flight between the reader and the indexer.
const MESSAGES_IN_FLIGHT: usize = 4;
/// Invalid lines that are printed one by one; all are counted.
const INVALID_LINES_SHOWN: u64 = 20;

/// Indexes the files, or changes the stages, and prints the summary.
pub(crate) async fn index(backend: &mut Backend, args: IndexArgs) -> Result<()> {
    let has_files = !args.files.is_empty();
    let as_json = args.json;
    let summary = match has_files {
        true => run(backend, settings(&args), args.files).await?,
        false => set_stages(backend, args.collection, args.stages).await?,
    };
    let text = match (as_json, has_files) {
        (true, _) => summary_json(&summary).to_string(),
        (false, true) => summary_text(&summary),
        (false, false) => stages_text(&summary),
    };
    say(format_args!("{text}"))?;
    Ok(())
}

/// Shows the indexer's progress until it has committed.
async fn set_stages(
    backend: &mut Backend,
    collection: String,
    stages: Vec<String>,
) -> Result<IndexSummary> {
    let request = SetStagesRequest { collection, stages };
    let events = backend.index.set_stages(request).await.map_err(readable)?;
    follow(events.into_inner()).await
}

fn settings(args: &IndexArgs) -> IndexSettings {
    IndexSettings {
        collection: args.collection.clone(),
        shards: args.shards,
        stages: args.stages.clone(),
        passage_tokens: args.passage_tokens,
        overlap_tokens: args.overlap_tokens,
        language: args.language.clone(),
        skip_invalid: args.skip_invalid,
    }
}

/// Sends the files' lines to the indexer and shows its progress until it has committed.
pub(crate) async fn run(
    backend: &mut Backend,
    settings: IndexSettings,
    files: Vec<PathBuf>,
) -> Result<IndexSummary> {
    let (requests, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
    let (failed, failure) = oneshot::channel();
    tokio::spawn(send_files(settings, files, requests, failed));
    let converse = async {
        let events = backend
            .index
            .index(ReceiverStream::new(receiver))
            .await
            .map_err(readable)?;
        follow(events.into_inner()).await
    };
    // Told before the indexer's own word that the lines have not ended.
    tokio::select! {
        biased;
        Ok(error) = failure => Err(error.into()),
        outcome = converse => outcome,
    }
}

async fn send_files(
    settings: IndexSettings,
    files: Vec<PathBuf>,
    requests: mpsc::Sender<IndexRequest>,
    failed: oneshot::Sender<SourceError>,
) {
    let send = async |part| {
        requests
            .send(IndexRequest { part: Some(part) })
            .await
            .is_ok()
    };
    let mut batches = read_files(files);
    let mut is_open = send(Part::Settings(settings)).await;
    while is_open && let Some(batch) = batches.next().await {
        match batch {
            Ok(batch) => is_open = send(Part::Lines(lines(batch))).await,
            Err(error) => {
                // Without its end the run changes nothing. An error here says that it is over anyway.
                let _ = failed.send(error);
                return;
            }
        }
    }
    send(Part::EndOfLines(EndOfLines {})).await;
}

fn lines(batch: LineBatch) -> Lines {
    Lines {
        file: batch.file.to_string(),
        first_line: batch.first_line,
        lines: batch.lines.into_iter().collect(),
    }
}

async fn follow(mut events: Streaming<IndexEvent>) -> Result<IndexSummary> {
    let mut bars = IndexBars::new();
    let mut invalid_lines = 0;
    while let Some(event) = events.message().await.map_err(readable)? {
        match event.event {
            Some(Event::Progress(progress)) => bars.update(&progress),
            Some(Event::Invalid(line)) => {
                invalid_lines += 1;
                show_invalid(&bars, &line, invalid_lines);
            }
            Some(Event::Summary(summary)) => {
                bars.finish();
                return Ok(summary);
            }
            None => bail!("the indexer sent an event that this client does not know"),
        }
    }
    bail!("the indexer ended without a summary")
}

fn show_invalid(bars: &IndexBars, line: &InvalidLine, count: u64) {
    if count <= INVALID_LINES_SHOWN {
        bars.print(&format!("{}:{}: {}", line.file, line.line, line.reason));
    } else if count == INVALID_LINES_SHOWN + 1 {
        bars.print("… more invalid lines: counted, not shown");
    }
}

fn summary_json(summary: &IndexSummary) -> serde_json::Value {
    let bytes: serde_json::Map<_, _> = summary
        .bytes
        .iter()
        .map(|part| (part.part.clone(), part.bytes.into()))
        .collect();
    let times: serde_json::Map<_, _> = summary
        .times
        .iter()
        .map(|time| (time.phase.clone(), time.wall_us.into()))
        .collect();
    json!({
        "snapshot": summary.snapshot.as_ref().map(|snapshot| snapshot.number),
        "documents": summary.documents,
        "passages": summary.passages,
        "replaced": summary.replaced,
        "invalid": summary.invalid,
        "left_out_stages": summary.left_out_stages,
        "bytes": bytes,
        "wall_us": times,
    })
}

fn summary_text(summary: &IndexSummary) -> String {
    let mut text = match &summary.snapshot {
        Some(snapshot) => format!(
            "{}: snapshot {}, {} documents ({} replaced), {} passages",
            snapshot.collection,
            snapshot.number,
            summary.documents,
            summary.replaced,
            summary.passages
        ),
        None => "nothing to index: no snapshot was committed".to_owned(),
    };
    if summary.invalid > 0 {
        text.push_str(&format!(", {} invalid lines left out", summary.invalid));
    }
    text.push('\n');
    text.push_str(&cost_text(summary));
    text
}

fn stages_text(summary: &IndexSummary) -> String {
    match &summary.snapshot {
        None => "the collection has just these stages: nothing was changed; to have one built anew, leave it out first"
            .to_owned(),
        Some(snapshot) => {
            let (collection, number) = (&snapshot.collection, snapshot.number);
            let left_out = left_out_text(&summary.left_out_stages);
            if summary.bytes.is_empty() {
                return format!(
                    "{collection}: snapshot {number}, nothing had to be built{left_out}"
                );
            }
            format!(
                "{collection}: snapshot {number}, built of {} documents, {} passages{left_out}\n{}",
                summary.documents,
                summary.passages,
                cost_text(summary)
            )
        }
    }
}

fn left_out_text(stages: &[String]) -> String {
    match stages {
        [] => String::new(),
        stages => format!(", without {} from now on", stages.join(", ")),
    }
}

/// What was written, and how long it took.
fn cost_text(summary: &IndexSummary) -> String {
    let mut text = String::new();
    for part in &summary.bytes {
        let per_passage = part.bytes as f64 / summary.passages.max(1) as f64;
        text.push_str(&format!(
            "  {:<11} {:>10}  {per_passage:.0} bytes a passage\n",
            part.part,
            indicatif::HumanBytes(part.bytes)
        ));
    }
    let times: Vec<String> = summary
        .times
        .iter()
        .map(|time| format!("{} {:.1} s", time.phase, time.wall_us as f64 / 1e6))
        .collect();
    text.push_str(&format!("  {}\n", times.join(", ")));
    text
}

/// Removes documents and prints what happened.
pub(crate) async fn delete(backend: &mut Backend, args: DeleteArgs) -> Result<()> {
    let request = DeleteRequest {
        collection: args.collection.clone(),
        document_ids: args.ids,
    };
    let response = backend
        .index
        .delete(request)
        .await
        .map_err(readable)
        .context("nothing was deleted")?
        .into_inner();
    let snapshot = response.snapshot.as_ref().map(|snapshot| snapshot.number);
    if args.json {
        say(format_args!(
            "{}",
            json!({ "snapshot": snapshot, "deleted": response.deleted, "unknown": response.unknown })
        ))?;
        return Ok(());
    }
    match snapshot {
        Some(number) => say(format_args!(
            "{}: snapshot {number}, {} documents deleted",
            args.collection, response.deleted
        ))?,
        None => say(format_args!("{}: nothing deleted", args.collection))?,
    }
    for id in &response.unknown {
        say(format_args!("  unknown id: {id}"))?;
    }
    Ok(())
}
