//! The wire side: requests are checked and translated, everything else is the indexer's.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use search_core::micros;
use search_core::{CollectionName, FieldError};
use search_proto::common::Snapshot;
use search_proto::index as wire;
use search_proto::index::index_event::Event as WireEvent;
use search_proto::index::index_request::Part;
use search_proto::index::index_service_server::{IndexService, IndexServiceServer};
use segment::manifest::Stage;
use service_kit::{MAX_MESSAGE_BYTES, ServerBuilder};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::app::App;
use crate::error::IndexError;
use crate::progress::{Event, Summary};
use crate::settings::{IndexSettings, StageSettings};
use crate::source::{LineBatch, MAX_BATCH_LINES};

/// Events on their way to the client; a run waits for a client that does not read them.
const EVENTS_IN_FLIGHT: usize = 64;
/// A file name is for messages only.
const MAX_FILE_NAME_BYTES: usize = 4096;
const MAX_DELETED_IDS: usize = 100_000;

impl App {
    /// Adds the gRPC service to a server.
    pub fn add_to(self: &Arc<Self>, server: &mut ServerBuilder) {
        let app = Arc::clone(self);
        let service = IndexServiceServer::new(Service { app })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        server.add(service, self.readiness());
    }
}

/// The generated server's handlers.
struct Service {
    app: Arc<App>,
}

#[tonic::async_trait]
impl IndexService for Service {
    type IndexStream = ReceiverStream<Answer>;
    type SetStagesStream = ReceiverStream<Answer>;

    async fn index(
        &self,
        request: Request<Streaming<wire::IndexRequest>>,
    ) -> Result<Response<Self::IndexStream>, Status> {
        let app = Arc::clone(&self.app);
        let requests = request.into_inner();
        Ok(serve(|answers| run_index(app, requests, answers)))
    }

    async fn set_stages(
        &self,
        request: Request<wire::SetStagesRequest>,
    ) -> Result<Response<Self::SetStagesStream>, Status> {
        let wishes = stage_settings_from_wire(request.into_inner())?;
        let app = Arc::clone(&self.app);
        Ok(serve(|answers| run_set_stages(app, wishes, answers)))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        let wire::DeleteRequest {
            collection,
            document_ids,
        } = request.into_inner();
        let name = collection_name("collection", &collection)?;
        if !(1..=MAX_DELETED_IDS).contains(&document_ids.len()) {
            let message = format!("has {} ids, not 1 to {MAX_DELETED_IDS}", document_ids.len());
            return Err(IndexError::invalid("document_ids", message).into());
        }
        let deletion = self.app.delete(&name, document_ids).await?;
        Ok(Response::new(wire::DeleteResponse {
            snapshot: deletion
                .snapshot
                .map(|number| Snapshot { collection, number }),
            deleted: deletion.deleted,
            unknown: deletion.unknown,
        }))
    }
}

type Answer = Result<wire::IndexEvent, Status>;
type Answers = mpsc::Sender<Answer>;

/// Runs, and sends events and the outcome, as long as the client listens.
fn serve<R>(run: impl FnOnce(Answers) -> R) -> Response<ReceiverStream<Answer>>
where
    R: Future<Output = Result<wire::IndexEvent, IndexError>> + Send + 'static,
{
    let (answers, receiver) = mpsc::channel(EVENTS_IN_FLIGHT);
    let run = run(answers.clone());
    let until_nobody_listens = async move {
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = answers.closed() => return,
        };
        // A client that has gone meanwhile wants no outcome.
        let _ = answers.send(outcome.map_err(Status::from)).await;
    };
    // Ends with the run: when the client goes away, so does the receiver.
    tokio::spawn(tracing::Instrument::in_current_span(until_nobody_listens));
    Response::new(ReceiverStream::new(receiver))
}

async fn run_index(
    app: Arc<App>,
    mut requests: Streaming<wire::IndexRequest>,
    answers: Answers,
) -> Result<wire::IndexEvent, IndexError> {
    let settings = first_message(&mut requests).await?;
    let collection = settings.collection.clone();
    let (events, received) = mpsc::channel(EVENTS_IN_FLIGHT);
    let lines = Box::pin(lines_of(&mut requests));
    let run = app.index(settings, lines, events);
    let (summary, ()) = tokio::join!(run, forward(received, &answers));
    Ok(summary_event(summary?, &collection))
}

async fn run_set_stages(
    app: Arc<App>,
    wishes: StageSettings,
    answers: Answers,
) -> Result<wire::IndexEvent, IndexError> {
    let collection = wishes.collection.clone();
    let (events, received) = mpsc::channel(EVENTS_IN_FLIGHT);
    let run = app.set_stages(wishes, events);
    let (summary, ()) = tokio::join!(run, forward(received, &answers));
    Ok(summary_event(summary?, &collection))
}

async fn forward(mut received: mpsc::Receiver<Event>, answers: &Answers) {
    while let Some(told) = received.recv().await {
        if answers.send(Ok(event(event_to_wire(told)))).await.is_err() {
            return;
        }
    }
}

async fn first_message(
    requests: &mut Streaming<wire::IndexRequest>,
) -> Result<IndexSettings, IndexError> {
    match requests.message().await {
        Ok(Some(wire::IndexRequest {
            part: Some(Part::Settings(settings)),
        })) => settings_from_wire(settings),
        Ok(_) => Err(IndexError::invalid("settings", "must be the first message")),
        Err(status) => Err(IndexError::Stream(Box::new(status))),
    }
}

/// The lines until the message that ends them. A stream that breaks off or merely ends is an error: only a client that
/// says that it has sent all wants a commit.
fn lines_of(
    requests: &mut Streaming<wire::IndexRequest>,
) -> impl Stream<Item = Result<LineBatch, IndexError>> + Send + '_ {
    futures::stream::unfold(Some(requests), async |open| {
        let requests = open?;
        match next_lines(requests).await {
            Ok(lines) => Some((Ok(lines?), Some(requests))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

async fn next_lines(
    requests: &mut Streaming<wire::IndexRequest>,
) -> Result<Option<LineBatch>, IndexError> {
    let broken = |status| IndexError::Stream(Box::new(status));
    let unended = || IndexError::invalid("end_of_lines", "is missing: nothing was written");
    let request = requests.message().await.map_err(broken)?;
    match request.ok_or_else(unended)?.part {
        Some(Part::Lines(lines)) => lines_from_wire(lines).map(Some),
        Some(Part::EndOfLines(_)) => Ok(None),
        Some(Part::Settings(_)) => Err(IndexError::invalid(
            "settings",
            "must be the first message only",
        )),
        None => Err(IndexError::invalid(
            "part",
            "must be settings, lines or end_of_lines",
        )),
    }
}

fn lines_from_wire(
    wire::Lines {
        file,
        first_line,
        lines,
    }: wire::Lines,
) -> Result<LineBatch, IndexError> {
    let mut mistakes = Vec::new();
    if file.len() > MAX_FILE_NAME_BYTES {
        let message = format!(
            "has {} bytes, at most {MAX_FILE_NAME_BYTES} are allowed",
            file.len()
        );
        mistakes.push(FieldError::new("lines.file", message));
    }
    if first_line == 0 || first_line.checked_add(lines.len() as u64).is_none() {
        mistakes.push(FieldError::new(
            "lines.first_line",
            "must be a line number from 1",
        ));
    }
    if lines.len() > MAX_BATCH_LINES {
        let message = format!(
            "has {} lines, at most {MAX_BATCH_LINES} are allowed",
            lines.len()
        );
        mistakes.push(FieldError::new("lines.lines", message));
    }
    if mistakes.is_empty() {
        Ok(LineBatch {
            file: file.into(),
            first_line,
            lines,
        })
    } else {
        Err(IndexError::InvalidArgument(mistakes))
    }
}

fn settings_from_wire(settings: wire::IndexSettings) -> Result<IndexSettings, IndexError> {
    let (stages, mut mistakes) = stages_from_wire("settings.stages", &settings.stages);
    match collection_name("settings.collection", &settings.collection) {
        Ok(collection) if mistakes.is_empty() => Ok(IndexSettings {
            collection,
            shards: settings.shards,
            stages,
            passage_tokens: settings.passage_tokens,
            overlap_tokens: settings.overlap_tokens,
            language: (!settings.language.is_empty()).then_some(settings.language),
            skip_invalid: settings.skip_invalid,
        }),
        name => {
            mistakes.extend(name.err().map(|error| error.fields()).unwrap_or_default());
            Err(IndexError::InvalidArgument(mistakes))
        }
    }
}

fn stage_settings_from_wire(request: wire::SetStagesRequest) -> Result<StageSettings, IndexError> {
    let (stages, mut mistakes) = stages_from_wire("stages", &request.stages);
    match collection_name("collection", &request.collection) {
        Ok(collection) if mistakes.is_empty() => Ok(StageSettings { collection, stages }),
        name => {
            mistakes.extend(name.err().map(|error| error.fields()).unwrap_or_default());
            Err(IndexError::InvalidArgument(mistakes))
        }
    }
}

/// The stages, and what is wrong with the names of others.
fn stages_from_wire(path: &str, names: &[String]) -> (Vec<Stage>, Vec<FieldError>) {
    let (mut stages, mut mistakes) = (Vec::new(), Vec::new());
    for (index, name) in names.iter().enumerate() {
        match Stage::named(name) {
            Some(stage) => stages.push(stage),
            None => {
                let known = Stage::ALL.map(Stage::as_str).join(", ");
                let message = format!("{name:?} is unknown; known are {known}");
                mistakes.push(FieldError::new(format!("{path}[{index}]"), message));
            }
        }
    }
    (stages, mistakes)
}

fn collection_name(path: &str, name: &str) -> Result<CollectionName, IndexError> {
    CollectionName::try_from(name).map_err(|error| IndexError::invalid(path, error.to_string()))
}

fn event(event: WireEvent) -> wire::IndexEvent {
    wire::IndexEvent { event: Some(event) }
}

fn summary_event(summary: Summary, collection: &CollectionName) -> wire::IndexEvent {
    event(WireEvent::Summary(summary_to_wire(summary, collection)))
}

fn event_to_wire(event: Event) -> WireEvent {
    match event {
        Event::Progress(progress) => WireEvent::Progress(wire::IndexProgress {
            phase: progress.phase.as_str().to_owned(),
            done: progress.done,
            total: progress.total,
        }),
        Event::Invalid(line) => WireEvent::Invalid(wire::InvalidLine {
            file: line.file.to_string(),
            line: line.line,
            reason: line.reason,
        }),
    }
}

fn summary_to_wire(summary: Summary, collection: &CollectionName) -> wire::IndexSummary {
    let phase_time = |phase: &str, time: Duration| wire::PhaseTime {
        phase: phase.to_owned(),
        wall_us: micros(time),
    };
    let mut times: Vec<wire::PhaseTime> = summary
        .times
        .iter()
        .map(|(phase, time)| phase_time(phase.as_str(), *time))
        .collect();
    if !summary.encode_model.is_zero() {
        times.push(phase_time(ENCODE_MODEL, summary.encode_model));
    }
    wire::IndexSummary {
        snapshot: summary.snapshot.map(|number| Snapshot {
            collection: collection.to_string(),
            number,
        }),
        documents: summary.documents,
        passages: summary.passages,
        replaced: summary.replaced,
        invalid: summary.invalid,
        bytes: summary
            .part_bytes
            .into_iter()
            .map(|(part, bytes)| wire::PartBytes { part, bytes })
            .collect(),
        times,
        left_out_stages: summary
            .left_out_stages
            .into_iter()
            .map(|stage| stage.as_str().to_owned())
            .collect(),
    }
}

/// Not a phase of its own: the part of "encode" in which the compute threads were inside ONNX Runtime.
const ENCODE_MODEL: &str = "encode_model";

impl From<IndexError> for Status {
    fn from(error: IndexError) -> Self {
        if let IndexError::Stream(status) = error {
            return *status;
        }
        service_kit::status::status(error.kind(), &Chain(&error), error.fields())
    }
}

/// An error and its causes in one line.
struct Chain<'a>(&'a IndexError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
