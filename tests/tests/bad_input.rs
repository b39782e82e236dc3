//! What bad input gets on the wire: the right status, and the path of the field.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use search_proto::common::{self, FieldRange, FieldValue, FieldValues, FilterList, filter, value};
use search_proto::index::{IndexRequest, IndexSettings, index_request};
use search_proto::search::{Fusion, SearchRequest};
use search_proto::{dense, encoder, sparse};
use service_kit::status::fields_of;
use testkit::corpus::animals;
use testkit::{COLLECTION, Mesh, request};
use tonic::{Code, Status};

/// What is wrong with a refusal that should have this code and complain about this field; empty: any.
fn unlike<T: std::fmt::Debug>(
    answer: &Result<T, Status>,
    code: Code,
    path: &str,
) -> Option<String> {
    let status = match answer {
        Ok(answer) => return Some(format!("{path}: was answered with {answer:?}")),
        Err(status) => status,
    };
    let fields = fields_of(status);
    let names_field = path.is_empty() || fields.iter().any(|field| field.path == path);
    let is_right = status.code() == code && names_field && !status.message().is_empty();
    (!is_right).then(|| {
        format!(
            "{path}: {:?} {fields:?} {}",
            status.code(),
            status.message()
        )
    })
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, path: &str) -> Status {
    assert_eq!(unlike(&answer, code, path), None);
    answer.unwrap_err()
}

fn condition(condition: filter::Condition) -> common::Filter {
    common::Filter {
        condition: Some(condition),
    }
}

fn typed(kind: value::Kind) -> Option<common::Value> {
    Some(common::Value { kind: Some(kind) })
}

fn equals(field: &str, value: Option<common::Value>) -> common::Filter {
    condition(filter::Condition::Equals(FieldValue {
        field: field.to_owned(),
        value,
    }))
}

fn nested(depth: usize) -> common::Filter {
    let innermost = equals("legs", typed(value::Kind::Integer(4)));
    (0..depth).fold(innermost, |inner, _| {
        condition(filter::Condition::Not(Box::new(inner)))
    })
}

#[tokio::test]
async fn search_requests_are_checked_field_by_field() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let good = || request("cat");
    let fusion = |fusion: Fusion| SearchRequest {
        fusion: Some(fusion),
        pipeline: "hybrid".to_owned(),
        ..good()
    };
    let cases = [
        (
            SearchRequest {
                query: String::new(),
                ..good()
            },
            Code::InvalidArgument,
            "query",
        ),
        (
            SearchRequest {
                query: " \t\n".to_owned(),
                ..good()
            },
            Code::InvalidArgument,
            "query",
        ),
        (
            SearchRequest {
                query: "x".repeat(8193),
                ..good()
            },
            Code::InvalidArgument,
            "query",
        ),
        (
            SearchRequest {
                query: "-cat".to_owned(),
                ..good()
            },
            Code::InvalidArgument,
            "query",
        ),
        (
            SearchRequest {
                k: Some(0),
                ..good()
            },
            Code::InvalidArgument,
            "k",
        ),
        (
            SearchRequest {
                k: Some(1001),
                ..good()
            },
            Code::InvalidArgument,
            "k",
        ),
        (
            SearchRequest {
                k: Some(u32::MAX),
                offset: u32::MAX,
                ..good()
            },
            Code::InvalidArgument,
            "k",
        ),
        (
            SearchRequest {
                offset: 9001,
                ..good()
            },
            Code::InvalidArgument,
            "offset",
        ),
        (
            SearchRequest {
                budget_ms: Some(600_001),
                ..good()
            },
            Code::InvalidArgument,
            "budget_ms",
        ),
        (
            SearchRequest {
                collection: String::new(),
                ..good()
            },
            Code::InvalidArgument,
            "collection",
        ),
        (
            SearchRequest {
                collection: "No/Such".to_owned(),
                ..good()
            },
            Code::InvalidArgument,
            "collection",
        ),
        (
            SearchRequest {
                collection: "absent".to_owned(),
                ..good()
            },
            Code::NotFound,
            "collection",
        ),
        (
            SearchRequest {
                pipeline: "absent".to_owned(),
                ..good()
            },
            Code::NotFound,
            "pipeline",
        ),
        (
            fusion(Fusion {
                method: 99,
                ..Fusion::default()
            }),
            Code::InvalidArgument,
            "fusion.method",
        ),
        (
            fusion(Fusion {
                method: -1,
                ..Fusion::default()
            }),
            Code::InvalidArgument,
            "fusion.method",
        ),
        (
            fusion(Fusion {
                alpha: Some(1.5),
                ..Fusion::default()
            }),
            Code::InvalidArgument,
            "fusion.alpha",
        ),
        (
            fusion(Fusion {
                alpha: Some(-0.1),
                ..Fusion::default()
            }),
            Code::InvalidArgument,
            "fusion.alpha",
        ),
        (
            fusion(Fusion {
                alpha: Some(f64::NAN),
                ..Fusion::default()
            }),
            Code::InvalidArgument,
            "fusion.alpha",
        ),
        (
            fusion(Fusion {
                rank_constant: Some(0),
                ..Fusion::default()
            }),
            Code::InvalidArgument,
            "fusion.rank_constant",
        ),
        (
            fusion(Fusion {
                rank_constant: Some(10_001),
                ..Fusion::default()
            }),
            Code::InvalidArgument,
            "fusion.rank_constant",
        ),
    ];
    let mut unlike_all = Vec::new();
    for (asked, code, path) in cases {
        unlike_all.extend(unlike(&mesh.ask(asked).await, code, path));
    }
    assert_eq!(unlike_all, Vec::<String>::new());
    assert_eq!(mesh.search("cat").await.unwrap().hits[0].id, "cat");
}

#[tokio::test]
async fn filters_are_checked_to_their_innermost_field() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let list = |filters| FilterList { filters };
    let many = |count| vec![equals("legs", typed(value::Kind::Integer(4))); count];
    let range = |lower, upper| {
        condition(filter::Condition::Range(FieldRange {
            field: "legs".to_owned(),
            lower,
            upper,
            ..FieldRange::default()
        }))
    };
    let one_of = |values| {
        condition(filter::Condition::OneOf(FieldValues {
            field: "legs".to_owned(),
            values,
        }))
    };
    let cases = [
        (common::Filter { condition: None }, "filter"),
        (
            condition(filter::Condition::AllOf(list(vec![]))),
            "filter.all_of.filters",
        ),
        (
            condition(filter::Condition::AnyOf(list(many(257)))),
            "filter.any_of.filters",
        ),
        (
            equals("", typed(value::Kind::Integer(4))),
            "filter.equals.field",
        ),
        (equals("legs", None), "filter.equals.value"),
        (
            equals("legs", Some(common::Value { kind: None })),
            "filter.equals.value",
        ),
        (
            equals("weight_kg", typed(value::Kind::Float(f64::NAN))),
            "filter.equals.value.float",
        ),
        (
            equals("weight_kg", typed(value::Kind::Float(f64::INFINITY))),
            "filter.equals.value.float",
        ),
        (one_of(vec![]), "filter.one_of.values"),
        (range(None, None), "filter.range"),
        (
            condition(filter::Condition::Exists(String::new())),
            "filter.exists",
        ),
        // Well formed, but not of this collection.
        (
            equals("colour", typed(value::Kind::Keyword("red".to_owned()))),
            "filter.equals.field",
        ),
        (
            equals("legs", typed(value::Kind::Keyword("four".to_owned()))),
            "filter.equals.value",
        ),
        (
            equals("seen", typed(value::Kind::Keyword("yesterday".to_owned()))),
            "filter.equals.value.keyword",
        ),
        (
            range(typed(value::Kind::Boolean(true)), None),
            "filter.range.lower",
        ),
        (
            condition(filter::Condition::AllOf(list(vec![
                equals("legs", typed(value::Kind::Integer(4))),
                range(typed(value::Kind::Float(f64::NAN)), None),
            ]))),
            "filter.all_of.filters[1].range.lower.float",
        ),
    ];
    let mut unlike_all = Vec::new();
    for (filter, path) in cases {
        for pipeline in ["sparse", "dense", "hybrid"] {
            let asked = SearchRequest {
                filter: Some(filter.clone()),
                pipeline: pipeline.to_owned(),
                ..request("cat")
            };
            unlike_all.extend(unlike(&mesh.ask(asked).await, Code::InvalidArgument, path));
        }
    }
    assert_eq!(unlike_all, Vec::<String>::new());
    let deep = SearchRequest {
        filter: Some(nested(17)),
        ..request("cat")
    };
    assert_refused(mesh.ask(deep).await, Code::InvalidArgument, "");
    let deep_enough = SearchRequest {
        filter: Some(nested(14)),
        ..request("cat")
    };
    mesh.ask(deep_enough).await.unwrap();
}

#[tokio::test]
async fn stages_check_what_the_orchestrator_would_never_send() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let snapshot = Some(common::Snapshot {
        collection: COLLECTION.to_owned(),
        number: 1,
    });
    let mut sparse = sparse::sparse_retriever_service_client::SparseRetrieverServiceClient::new(
        mesh.sparse[0].channel(),
    );
    let good = sparse::SearchRequest {
        snapshot: snapshot.clone(),
        query: "cat".to_owned(),
        limit: 10,
        ..Default::default()
    };
    assert_eq!(
        sparse
            .search(good.clone())
            .await
            .unwrap()
            .into_inner()
            .candidates
            .unwrap()
            .addresses
            .len(),
        1
    );
    let old = Some(common::Snapshot {
        number: 77,
        ..snapshot.clone().unwrap()
    });
    let zero = Some(common::Snapshot {
        number: 0,
        ..snapshot.clone().unwrap()
    });
    let cases = [
        (
            sparse::SearchRequest {
                snapshot: None,
                ..good.clone()
            },
            Code::InvalidArgument,
            "snapshot",
        ),
        (
            sparse::SearchRequest {
                snapshot: zero,
                ..good.clone()
            },
            Code::InvalidArgument,
            "snapshot.number",
        ),
        (
            sparse::SearchRequest {
                snapshot: old,
                ..good.clone()
            },
            Code::FailedPrecondition,
            "",
        ),
        (
            sparse::SearchRequest {
                query: String::new(),
                ..good.clone()
            },
            Code::InvalidArgument,
            "query",
        ),
        (
            sparse::SearchRequest {
                limit: 0,
                ..good.clone()
            },
            Code::InvalidArgument,
            "limit",
        ),
        (
            sparse::SearchRequest {
                limit: 10_001,
                ..good.clone()
            },
            Code::InvalidArgument,
            "limit",
        ),
    ];
    let mut unlike_all = Vec::new();
    for (asked, code, path) in cases {
        unlike_all.extend(unlike(&sparse.search(asked).await, code, path));
    }
    assert_eq!(unlike_all, Vec::<String>::new());
    let elsewhere = sparse::SearchRequest { shard: 9, ..good };
    assert!(sparse.search(elsewhere).await.is_err());

    let score = sparse::ScoreRequest {
        snapshot: snapshot.clone(),
        query: "cat".to_owned(),
        ..Default::default()
    };
    assert_refused(
        sparse.score(score.clone()).await,
        Code::InvalidArgument,
        "addresses",
    );
    let unknown = sparse::ScoreRequest {
        addresses: vec![u64::MAX, 1 << 32 | 5],
        ..score
    };
    assert!(
        sparse
            .score(unknown)
            .await
            .unwrap()
            .into_inner()
            .unknown
            .contains(&0)
    );
    let fetch = sparse::FetchRequest {
        snapshot,
        addresses: vec![0; 4097],
        ..Default::default()
    };
    assert_refused(
        sparse.fetch(fetch).await,
        Code::InvalidArgument,
        "addresses",
    );
}

#[tokio::test]
async fn vectors_are_checked_before_they_are_compared() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let mut dense = dense::dense_retriever_service_client::DenseRetrieverServiceClient::new(
        mesh.dense[0].channel(),
    );
    let good = dense::SearchRequest {
        snapshot: Some(common::Snapshot {
            collection: COLLECTION.to_owned(),
            number: 1,
        }),
        vector: vec![0.125; 64],
        encoder_fingerprint: "hash-64".to_owned(),
        limit: 10,
        ..Default::default()
    };
    assert_eq!(
        dense
            .search(good.clone())
            .await
            .unwrap()
            .into_inner()
            .candidates
            .unwrap()
            .addresses
            .len(),
        8
    );
    let mut not_a_number = vec![0.125; 64];
    not_a_number[63] = f32::NAN;
    let cases = [
        (
            dense::SearchRequest {
                vector: vec![],
                ..good.clone()
            },
            "vector",
        ),
        (
            dense::SearchRequest {
                vector: vec![0.5; 63],
                ..good.clone()
            },
            "vector",
        ),
        (
            dense::SearchRequest {
                vector: vec![0.0; 64],
                ..good.clone()
            },
            "vector",
        ),
        (
            dense::SearchRequest {
                vector: not_a_number,
                ..good.clone()
            },
            "vector[63]",
        ),
        (
            dense::SearchRequest {
                encoder_fingerprint: String::new(),
                ..good.clone()
            },
            "encoder_fingerprint",
        ),
        (
            dense::SearchRequest {
                limit: 0,
                ..good.clone()
            },
            "limit",
        ),
        (
            dense::SearchRequest {
                prefix_depth: 100_001,
                ..good.clone()
            },
            "prefix_depth",
        ),
    ];
    let mut unlike_all = Vec::new();
    for (asked, path) in cases {
        unlike_all.extend(unlike(
            &dense.search(asked).await,
            Code::InvalidArgument,
            path,
        ));
    }
    assert_eq!(unlike_all, Vec::<String>::new());
    let other_model = dense::SearchRequest {
        encoder_fingerprint: "hash-384".to_owned(),
        ..good
    };
    let refused = assert_refused(
        dense.search(other_model).await,
        Code::FailedPrecondition,
        "",
    );
    assert!(refused.message().contains("hash-64"), "{refused}");
    assert!(refused.message().contains("hash-384"), "{refused}");
}

#[tokio::test]
async fn texts_to_encode_are_checked_one_by_one() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let mut client =
        encoder::encoder_service_client::EncoderServiceClient::new(mesh.encoder.channel());
    let good = encoder::EncodeRequest {
        texts: vec!["a cat".to_owned()],
        task: encoder::Task::Query.into(),
        ..Default::default()
    };
    assert_eq!(
        client
            .encode(good.clone())
            .await
            .unwrap()
            .into_inner()
            .vectors
            .len(),
        64
    );
    let cases = [
        (
            encoder::EncodeRequest {
                texts: vec![],
                ..good.clone()
            },
            "texts",
        ),
        (
            encoder::EncodeRequest {
                texts: vec!["x".to_owned(); 1025],
                ..good.clone()
            },
            "texts",
        ),
        (
            encoder::EncodeRequest {
                texts: vec!["x".to_owned(), String::new()],
                ..good.clone()
            },
            "texts[1]",
        ),
        (
            encoder::EncodeRequest {
                texts: vec!["x".repeat(65_537)],
                ..good.clone()
            },
            "texts[0]",
        ),
        (
            encoder::EncodeRequest {
                task: 0,
                ..good.clone()
            },
            "task",
        ),
        (
            encoder::EncodeRequest {
                task: 99,
                ..good.clone()
            },
            "task",
        ),
    ];
    let mut unlike_all = Vec::new();
    for (asked, path) in cases {
        unlike_all.extend(unlike(
            &client.encode(asked).await,
            Code::InvalidArgument,
            path,
        ));
    }
    assert_eq!(unlike_all, Vec::<String>::new());
    let other = encoder::EncodeRequest {
        expected_fingerprint: "other".to_owned(),
        ..good
    };
    let refused = assert_refused(client.encode(other).await, Code::FailedPrecondition, "");
    assert!(
        refused.message().contains("other") && refused.message().contains("hash-64"),
        "{refused}"
    );
}

fn line(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[tokio::test]
async fn broken_lines_are_named_and_nothing_is_half_written() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let broken = vec![
        line(r#"{"_id": "new-1", "text": "a good line about zebras"}"#),
        line(r#"{"_id": "new-2", "text": "cut"#),
        line(r#"{"text": "no id"}"#),
        line(r#"{"_id": "new-1", "text": "the id again"}"#),
        line(r#"{"_id": "new-3", "text": "  "}"#),
        line(r#"{"_id": "new-4", "text": "wrong type", "metadata": {"legs": "four"}}"#),
        line(r#"[1, 2]"#),
        b"\xff\xfe".to_vec(),
        line(
            r#"{"_id": "new-5", "text": "another good line about zebras", "metadata": {"legs": 4}}"#,
        ),
    ];
    let refused_lines = [2, 3, 4, 5, 6, 7, 8];

    let refused = mesh.index_lines(mesh.settings(), broken.clone()).await;
    let status = assert_refused(refused, Code::InvalidArgument, "");
    assert!(status.message().contains("test.jsonl"), "{status}");
    mesh.refresh().await;
    let after = mesh.search("zebras").await.unwrap();
    assert_eq!(after.snapshot.unwrap().number, 1, "nothing was committed");

    let skip = IndexSettings {
        skip_invalid: true,
        ..mesh.settings()
    };
    let outcome = mesh.index_lines(skip, broken).await.unwrap();
    let named: Vec<u64> = outcome.invalid.iter().map(|invalid| invalid.line).collect();
    assert_eq!(named, refused_lines, "{:#?}", outcome.invalid);
    assert!(
        outcome
            .invalid
            .iter()
            .all(|invalid| invalid.file == "test.jsonl" && !invalid.reason.is_empty())
    );
    let summary = outcome.summary.unwrap();
    assert_eq!((summary.documents, summary.invalid), (2, 7));
    mesh.refresh().await;
    let after = mesh.search("zebras").await.unwrap();
    assert_eq!(after.snapshot.unwrap().number, 2);
    assert!(after.hits[0].id.starts_with("new-"));
}

#[tokio::test]
async fn index_settings_are_checked() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let fresh = || IndexSettings {
        collection: "fresh".to_owned(),
        ..IndexSettings::default()
    };
    let good_line = || vec![line(r#"{"_id": "a", "text": "a"}"#)];
    let cases = [
        (
            IndexSettings {
                collection: "Not Valid".to_owned(),
                ..fresh()
            },
            Code::InvalidArgument,
            "settings.collection",
        ),
        (
            IndexSettings {
                shards: Some(0),
                ..fresh()
            },
            Code::InvalidArgument,
            "settings.shards",
        ),
        (
            IndexSettings {
                shards: Some(1025),
                ..fresh()
            },
            Code::InvalidArgument,
            "settings.shards",
        ),
        (
            IndexSettings {
                stages: vec!["sparse".to_owned(), "psychic".to_owned()],
                ..fresh()
            },
            Code::InvalidArgument,
            "settings.stages[1]",
        ),
        (
            IndexSettings {
                passage_tokens: Some(15),
                ..fresh()
            },
            Code::InvalidArgument,
            "settings.passage_tokens",
        ),
        (
            IndexSettings {
                passage_tokens: Some(32),
                overlap_tokens: Some(16),
                ..fresh()
            },
            Code::InvalidArgument,
            "settings.overlap_tokens",
        ),
        (
            IndexSettings {
                language: "klingon".to_owned(),
                ..fresh()
            },
            Code::InvalidArgument,
            "settings.language",
        ),
        (
            IndexSettings {
                shards: Some(2),
                ..mesh.settings()
            },
            Code::FailedPrecondition,
            "",
        ),
    ];
    let mut unlike_all = Vec::new();
    for (settings, code, path) in cases {
        unlike_all.extend(unlike(
            &mesh.index_lines(settings, good_line()).await,
            code,
            path,
        ));
    }
    assert_eq!(unlike_all, Vec::<String>::new());

    let no_settings = IndexRequest {
        part: Some(index_request::Part::Lines(Default::default())),
    };
    for first in [no_settings, IndexRequest { part: None }] {
        let run = async {
            let events = mesh
                .index_client()
                .index(tokio_stream::iter([first]))
                .await?;
            events.into_inner().message().await
        };
        assert_refused(run.await, Code::InvalidArgument, "");
    }
}

#[tokio::test]
async fn deletes_are_checked() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    assert_refused(
        mesh.delete(&[]).await,
        Code::InvalidArgument,
        "document_ids",
    );
    let mut client = mesh.index_client();
    let absent = search_proto::index::DeleteRequest {
        collection: "absent".to_owned(),
        document_ids: vec!["cat".to_owned()],
    };
    assert_refused(client.delete(absent).await, Code::NotFound, "collection");
}
