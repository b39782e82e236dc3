//! The service on the wire, over an in-process channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use indexer::{App, CommitHook, Encoders};
use inference::TextEncoder;
use search_core::ErrorKind;
use search_proto::index::index_event::Event;
use search_proto::index::index_request::Part;
use search_proto::index::index_service_client::IndexServiceClient;
use search_proto::index::{
    DeleteRequest, EndOfLines, IndexEvent, IndexRequest, IndexSettings, Lines, SetStagesRequest,
};
use service_kit::status::{fields_of, kind_of};
use service_kit::{MeshChannel, Server, ServerBuilder, ServerLimits, in_process};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::support::*;

struct Served {
    place: Place,
    client: IndexServiceClient<MeshChannel>,
    server: Server,
    commits: Arc<AtomicUsize>,
}

fn serve(encoder: Arc<WordEncoder>) -> Served {
    let place = Place::new();
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&commits);
    let hook: CommitHook = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(()))
    });
    let config = place.config(|raw| raw.max_concurrent_runs = 1);
    let encoders = Encoders::from(encoder as Arc<dyn TextEncoder>);
    let app = App::start(config, place.store.clone(), encoders, Some(hook));
    let mut builder = ServerBuilder::new(ServerLimits::default());
    app.add_to(&mut builder);
    let server = builder.build(search_proto::FILE_DESCRIPTOR_SET).unwrap();
    let (listener, channel) = in_process("indexer");
    tokio::spawn(
        server
            .clone()
            .serve_in_process(listener, std::future::pending()),
    );
    Served {
        place,
        client: IndexServiceClient::new(channel),
        server,
        commits,
    }
}

fn wishes() -> IndexRequest {
    let settings = IndexSettings {
        collection: "c".into(),
        ..IndexSettings::default()
    };
    IndexRequest {
        part: Some(Part::Settings(settings)),
    }
}

fn message(first_line: u64, lines: &[String]) -> IndexRequest {
    let lines = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    IndexRequest {
        part: Some(Part::Lines(Lines {
            file: "f".into(),
            first_line,
            lines,
        })),
    }
}

fn some_lines(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| line(&format!("d{n}"), "", &format!("text {n}")))
        .collect()
}

fn end_of_lines() -> IndexRequest {
    IndexRequest {
        part: Some(Part::EndOfLines(EndOfLines {})),
    }
}

/// Sends the messages and the end.
async fn index(served: &mut Served, mut requests: Vec<IndexRequest>) -> Result<Vec<Event>, Status> {
    requests.push(end_of_lines());
    let answer = served.client.index(futures::stream::iter(requests)).await?;
    let events: Result<Vec<IndexEvent>, Status> = answer.into_inner().collect().await;
    Ok(events?
        .into_iter()
        .map(|event| event.event.unwrap())
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_in_any_number_of_messages_become_one_commit() {
    let mut served = serve(Arc::new(WordEncoder::new()));
    let lines = some_lines(10);
    let requests = vec![wishes(), message(1, &lines[..4]), message(5, &lines[4..])];
    let events = index(&mut served, requests).await.unwrap();
    let Some(Event::Summary(summary)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (summary.snapshot.as_ref().unwrap().number, summary.documents),
        (1, 10)
    );
    let phases: Vec<&str> = summary
        .times
        .iter()
        .map(|time| time.phase.as_str())
        .collect();
    assert_eq!(
        phases,
        ["read", "encode", "build", "commit", "encode_model"]
    );
    assert_eq!(served.commits.load(Ordering::SeqCst), 1);
    assert_eq!(contents(&served.place).await.len(), 10);

    let document_ids = vec!["d1".to_owned(), "x".to_owned()];
    let request = DeleteRequest {
        collection: "c".into(),
        document_ids,
    };
    let response = served.client.delete(request).await.unwrap().into_inner();
    assert_eq!(
        (response.deleted, response.unknown),
        (1, vec!["x".to_owned()])
    );
    assert_eq!(response.snapshot.unwrap().number, 2);
    assert_eq!(served.commits.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_wrong_name_their_field() {
    let mut served = serve(Arc::new(WordEncoder::new()));
    let settings = |change: fn(&mut IndexSettings)| {
        let mut settings = IndexSettings {
            collection: "c".into(),
            ..IndexSettings::default()
        };
        change(&mut settings);
        vec![IndexRequest {
            part: Some(Part::Settings(settings)),
        }]
    };
    let cases: Vec<(Vec<IndexRequest>, &str)> = vec![
        (vec![], "settings"),
        (vec![message(1, &some_lines(1))], "settings"),
        (vec![wishes(), wishes()], "settings"),
        (vec![wishes(), IndexRequest { part: None }], "part"),
        (
            vec![wishes(), message(0, &some_lines(1))],
            "lines.first_line",
        ),
        (
            vec![wishes(), message(u64::MAX, &some_lines(1))],
            "lines.first_line",
        ),
        (
            vec![wishes(), message(1, &vec![String::new(); 5000])],
            "lines.lines",
        ),
        (
            settings(|s| s.collection = "A b".into()),
            "settings.collection",
        ),
        (settings(|s| s.shards = Some(1025)), "settings.shards"),
        (
            settings(|s| s.stages = vec!["sparse".into(), "splade".into()]),
            "settings.stages[1]",
        ),
        (
            settings(|s| s.stages = vec!["sparse".into(), "colbert".into()]),
            "settings.stages",
        ),
        (
            settings(|s| s.stages = vec!["sparse".into(), "rescore".into()]),
            "settings.stages",
        ),
        (
            settings(|s| s.stages = ["sparse", "dense", "rescore"].map(Into::into).into()),
            "settings.stages",
        ),
        (
            settings(|s| s.passage_tokens = Some(8193)),
            "settings.passage_tokens",
        ),
        (
            settings(|s| s.overlap_tokens = Some(8)),
            "settings.overlap_tokens",
        ),
        (
            settings(|s| s.language = "elvish".into()),
            "settings.language",
        ),
    ];
    for (requests, field) in cases {
        let status = index(&mut served, requests).await.unwrap_err();
        assert_eq!(kind_of(&status), ErrorKind::InvalidArgument, "{status}");
        assert_eq!(fields_of(&status)[0].path, field, "{status}");
    }
    for (collection, ids, field) in [
        ("", 1, "collection"),
        ("c", 0, "document_ids"),
        ("c", 100_001, "document_ids"),
    ] {
        let document_ids = vec!["a".to_owned(); ids];
        let request = DeleteRequest {
            collection: collection.into(),
            document_ids,
        };
        let status = served.client.delete(request).await.unwrap_err();
        assert_eq!(kind_of(&status), ErrorKind::InvalidArgument, "{status}");
        assert_eq!(fields_of(&status)[0].path, field, "{status}");
    }
    assert_eq!(served.place.number().await, 0);
}

async fn set_stages(
    served: &mut Served,
    collection: &str,
    stages: &[&str],
) -> Result<Vec<Event>, Status> {
    let request = SetStagesRequest {
        collection: collection.to_owned(),
        stages: stages.iter().map(|stage| (*stage).to_owned()).collect(),
    };
    let answer = served.client.set_stages(request).await?;
    let events: Result<Vec<IndexEvent>, Status> = answer.into_inner().collect().await;
    Ok(events?
        .into_iter()
        .map(|event| event.event.unwrap())
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_change_without_lines() {
    let mut served = serve(Arc::new(WordEncoder::with_tokens(DIMENSIONS, 24)));
    let requests = vec![wishes(), message(1, &some_lines(10))];
    index(&mut served, requests).await.unwrap();
    let all = ["sparse", "dense", "colbert"];
    let events = set_stages(&mut served, "c", &all).await.unwrap();
    let phases: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::Progress(progress) => Some(progress.phase.as_str()),
            _ => None,
        })
        .collect();
    for phase in ["read", "encode", "build"] {
        assert!(phases.contains(&phase), "{phases:?}");
    }
    let Some(Event::Summary(summary)) = events.last() else {
        panic!("{events:?}")
    };
    let snapshot = summary.snapshot.as_ref().unwrap();
    assert_eq!((snapshot.collection.as_str(), snapshot.number), ("c", 2));
    assert_eq!((summary.documents, summary.passages), (10, 10));
    let parts: Vec<&str> = summary
        .bytes
        .iter()
        .map(|part| part.part.as_str())
        .collect();
    assert_eq!(parts, ["colbert"]);
    assert_eq!(served.commits.load(Ordering::SeqCst), 2);

    let events = set_stages(&mut served, "c", &all).await.unwrap();
    let Some(Event::Summary(summary)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(summary.snapshot, None);
    assert!(summary.left_out_stages.is_empty());
    assert_eq!(served.commits.load(Ordering::SeqCst), 2);

    let events = set_stages(&mut served, "c", &["sparse"]).await.unwrap();
    let Some(Event::Summary(summary)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(summary.left_out_stages, ["dense", "colbert"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_that_cannot_be_had_name_their_field() {
    let mut served = serve(Arc::new(WordEncoder::new()));
    let requests = vec![wishes(), message(1, &some_lines(3))];
    index(&mut served, requests).await.unwrap();
    let invalid = ErrorKind::InvalidArgument;
    for (collection, stages, kind, field) in [
        ("A b", &["sparse"][..], invalid, "collection"),
        ("absent", &["sparse"], ErrorKind::NotFound, "collection"),
        ("c", &["sparse", "splade"], invalid, "stages[1]"),
        ("c", &[], invalid, "stages"),
        ("c", &["dense"], invalid, "stages"),
        ("c", &["sparse", "rescore"], invalid, "stages"),
        ("c", &["sparse", "dense", "rescore"], invalid, "stages"),
        ("c", &["sparse", "colbert"], invalid, "stages"),
    ] {
        let status = set_stages(&mut served, collection, stages).await;
        let status = status.unwrap_err();
        assert_eq!(kind_of(&status), kind, "{status}");
        assert_eq!(fields_of(&status)[0].path, field, "{status}");
    }
    assert_eq!(served.place.number().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_merely_ends_commits_nothing() {
    let mut served = serve(Arc::new(WordEncoder::new()));
    let requests = futures::stream::iter([wishes(), message(1, &some_lines(5))]);
    let events = served.client.index(requests).await.unwrap().into_inner();
    let events: Result<Vec<IndexEvent>, Status> = events.collect().await;
    assert_eq!(fields_of(&events.unwrap_err())[0].path, "end_of_lines");
    assert_eq!(served.place.number().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_lines_are_told_and_then_the_run_fails() {
    let mut served = serve(Arc::new(WordEncoder::new()));
    let requests = futures::stream::iter([wishes(), message(7, &["{".to_owned()]), end_of_lines()]);
    let mut events = served.client.index(requests).await.unwrap().into_inner();
    let mut lines = Vec::new();
    let status = loop {
        match events.message().await {
            Ok(Some(IndexEvent {
                event: Some(Event::Invalid(line)),
            })) => lines.push((line.file, line.line)),
            Ok(Some(_)) => {}
            Ok(None) => panic!("it has to fail"),
            Err(status) => break status,
        }
    };
    assert_eq!(lines, [("f".to_owned(), 7)]);
    assert_eq!(kind_of(&status), ErrorKind::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("1 invalid line, nothing was written"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_its_run_and_makes_room() {
    let encoder = Arc::new(WordEncoder::hanging_after(0));
    let mut served = serve(Arc::clone(&encoder));
    let mut client = served.client.clone();
    let requests = futures::stream::iter([wishes(), message(1, &some_lines(5)), end_of_lines()]);
    let events = client.index(requests).await.unwrap().into_inner();
    encoder.hanging.notified().await;
    let refused = index(&mut served, vec![wishes()]).await.unwrap_err();
    assert_eq!(kind_of(&refused), ErrorKind::ResourceExhausted);
    drop(events);
    while index(&mut served, vec![wishes()]).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(served.place.number().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_with_its_stream_open_commits_nothing() {
    let mut served = serve(Arc::new(WordEncoder::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(
        served
            .server
            .clone()
            .serve(listener, std::future::pending()),
    );
    let dying = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let input = runtime.block_on(start_index(&address));
        // Sockets close without a farewell, as they do when a process is killed.
        runtime.shutdown_background();
        drop(input);
    });
    dying.await.unwrap();
    while index(&mut served, vec![wishes()]).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(served.place.number().await, 0);
}

/// Sends lines and waits for the first event; the input is still open.
async fn start_index(address: &str) -> mpsc::Sender<IndexRequest> {
    let mut client = IndexServiceClient::new(MeshChannel::tcp(address).unwrap());
    let (sender, receiver) = mpsc::channel(4);
    sender.send(wishes()).await.unwrap();
    sender.send(message(1, &some_lines(5))).await.unwrap();
    let mut events = client
        .index(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    events.message().await.unwrap().unwrap();
    sender
}
