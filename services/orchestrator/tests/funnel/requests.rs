//! What a bad request gets.

use crate::fakes::{Mesh, request, small};
use search_proto::search;
use service_kit::status::fields_of;
use tonic::Code;

fn field_paths(status: &tonic::Status) -> Vec<String> {
    fields_of(status)
        .into_iter()
        .map(|field| field.path)
        .collect()
}

#[tokio::test]
async fn bad_requests_name_the_field() {
    let mesh = Mesh::start(small()).await;
    let fusion = |fusion| search::SearchRequest {
        fusion: Some(fusion),
        ..request("")
    };
    let cases = [
        (
            "collection",
            search::SearchRequest {
                collection: "../up".to_owned(),
                ..request("")
            },
        ),
        (
            "query",
            search::SearchRequest {
                query: " \n".to_owned(),
                ..request("")
            },
        ),
        (
            "query",
            search::SearchRequest {
                query: "-only".to_owned(),
                ..request("")
            },
        ),
        (
            "k",
            search::SearchRequest {
                k: Some(0),
                ..request("")
            },
        ),
        (
            "k",
            search::SearchRequest {
                k: Some(1001),
                ..request("")
            },
        ),
        (
            "offset",
            search::SearchRequest {
                offset: 9001,
                ..request("")
            },
        ),
        (
            "budget_ms",
            search::SearchRequest {
                budget_ms: Some(0),
                ..request("")
            },
        ),
        (
            "budget_ms",
            search::SearchRequest {
                budget_ms: Some(600_001),
                ..request("")
            },
        ),
        (
            "routing",
            search::SearchRequest {
                routing: 99,
                ..request("")
            },
        ),
        (
            "filter",
            search::SearchRequest {
                filter: Some(Default::default()),
                ..request("")
            },
        ),
        (
            "fusion.alpha",
            fusion(search::Fusion {
                alpha: Some(f64::NAN),
                ..Default::default()
            }),
        ),
        (
            "fusion.alpha",
            fusion(search::Fusion {
                alpha: Some(1.01),
                ..Default::default()
            }),
        ),
        (
            "fusion.method",
            fusion(search::Fusion {
                method: 99,
                ..Default::default()
            }),
        ),
        (
            "fusion.rank_constant",
            fusion(search::Fusion {
                rank_constant: Some(0),
                method: 3,
                ..Default::default()
            }),
        ),
        (
            "fusion.rank_constant",
            fusion(search::Fusion {
                rank_constant: Some(60),
                ..Default::default()
            }),
        ),
        (
            "fusion",
            search::SearchRequest {
                fusion: Some(search::Fusion {
                    alpha: Some(0.5),
                    ..Default::default()
                }),
                ..request("sparse")
            },
        ),
    ];
    for (path, request) in cases {
        let status = mesh.ask(request).await.unwrap_err();
        assert_eq!(
            (status.code(), field_paths(&status)),
            (Code::InvalidArgument, vec![path.to_owned()]),
            "{status}"
        );
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let mesh = Mesh::start(small()).await;
    let status = mesh.ask(request("best")).await.unwrap_err();
    assert_eq!(
        (status.code(), field_paths(&status)),
        (Code::NotFound, vec!["pipeline".to_owned()])
    );
    assert!(
        status.message().contains("dense, full, hybrid, sparse"),
        "{status}"
    );
    let status = mesh
        .ask(search::SearchRequest {
            collection: "nope".to_owned(),
            ..request("")
        })
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), field_paths(&status)),
        (Code::NotFound, vec!["collection".to_owned()])
    );
}
