//! From lines to hits through every service: pipelines, upserts, deletes, filters, phrases, score trails, pages, passages.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use search_proto::search::{
    Fusion, FusionMethod, SearchRequest, SearchResponse, StageReason, StageStatus,
};
use serde_json::Value;
use testkit::corpus::{ANIMAL_QUERIES, Document, animals, wordy};
use testkit::{Mesh, MeshOptions, filter, request};

const PIPELINES: [&str; 3] = ["sparse", "dense", "hybrid"];

fn with_pipeline(query: &str, pipeline: &str) -> SearchRequest {
    SearchRequest {
        pipeline: pipeline.to_owned(),
        k: Some(100),
        ..request(query)
    }
}

fn ids(answer: &SearchResponse) -> Vec<&str> {
    answer.hits.iter().map(|hit| hit.id.as_str()).collect()
}

#[tokio::test]
async fn every_pipeline_finds_what_was_indexed() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    for pipeline in PIPELINES {
        for judged in ANIMAL_QUERIES {
            let answer = mesh
                .ask(with_pipeline(judged.query, pipeline))
                .await
                .unwrap();
            assert_eq!(
                ids(&answer)[0],
                judged.relevant[0],
                "{pipeline}: {}",
                judged.query
            );
            assert_eq!(answer.pipeline, pipeline);
            assert!(!answer.degraded, "{answer:#?}");
            for stage in &answer.stages {
                assert_eq!(stage.status(), StageStatus::Complete, "{stage:#?}");
                assert_eq!(stage.reason(), StageReason::Unspecified, "{stage:#?}");
                assert_eq!(stage.shards_asked, stage.shards_answered, "{stage:#?}");
            }
        }
    }
}

#[tokio::test]
async fn reports_follow_the_funnel_and_count_candidates() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let answer = mesh.ask(with_pipeline("the cat", "hybrid")).await.unwrap();
    let stages: Vec<&str> = answer
        .stages
        .iter()
        .map(|stage| stage.stage.as_str())
        .collect();
    assert_eq!(
        stages,
        ["encode", "sparse", "dense", "complete", "fuse", "fetch"]
    );
    let dense = &answer.stages[2];
    assert_eq!((dense.candidates_in, dense.candidates_out), (8, 8));
    let wall_us = answer.wall_us;
    for stage in &answer.stages {
        assert!(
            stage.start_us + stage.wall_us <= wall_us,
            "{stage:?} outlives {wall_us}"
        );
        assert!(
            stage.queue_us + stage.compute_us <= wall_us,
            "{stage:?} outlives {wall_us}"
        );
    }
    let snapshot = answer.snapshot.unwrap();
    assert_eq!(
        (snapshot.collection.as_str(), snapshot.number),
        (testkit::COLLECTION, 1)
    );
}

#[tokio::test]
async fn a_hit_carries_what_was_stored() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let hit = mesh
        .search("cat on the mat")
        .await
        .unwrap()
        .hits
        .swap_remove(0);
    let cat = &animals()[0];
    assert_eq!(
        (hit.id, hit.title, hit.text),
        (cat.id.clone(), cat.title.clone(), cat.text.clone())
    );
    let metadata: Value = serde_json::from_str(&hit.metadata_json).unwrap();
    assert_eq!(metadata, Value::Object(cat.metadata.clone()));
    assert_eq!(hit.passage, 0);
}

#[tokio::test]
async fn an_upsert_replaces_and_a_delete_removes() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let summary = mesh
        .index(&[Document::new(
            "cat",
            "Cat",
            "It plays the violin beautifully.",
        )])
        .await
        .unwrap();
    assert_eq!((summary.documents, summary.replaced), (1, 1));
    assert_eq!(summary.snapshot.unwrap().number, 2);
    mesh.refresh().await;
    for pipeline in PIPELINES {
        let old = mesh
            .ask(with_pipeline("sleeps on the mat", pipeline))
            .await
            .unwrap();
        assert!(
            old.hits.iter().all(|hit| !hit.text.contains("mat near")),
            "{pipeline}: {old:#?}"
        );
        let new = mesh.ask(with_pipeline("violin", pipeline)).await.unwrap();
        assert_eq!(ids(&new)[0], "cat", "{pipeline}");
        assert_eq!(new.snapshot.unwrap().number, 2);
        assert_eq!(new.hits.iter().filter(|hit| hit.id == "cat").count(), 1);
    }

    let deleted = mesh.delete(&["cat", "unicorn", "owl"]).await.unwrap();
    assert_eq!(
        (deleted.deleted, deleted.unknown),
        (2, vec!["unicorn".to_owned()])
    );
    mesh.refresh().await;
    for pipeline in PIPELINES {
        let answer = mesh
            .ask(with_pipeline("the violin hunts mice at night", pipeline))
            .await
            .unwrap();
        assert!(
            !ids(&answer).contains(&"cat") && !ids(&answer).contains(&"owl"),
            "{pipeline}: {answer:#?}"
        );
        assert_eq!(answer.snapshot.unwrap().number, 3);
    }

    let nothing = mesh.delete(&["unicorn"]).await.unwrap();
    assert_eq!((nothing.deleted, nothing.snapshot), (0, None));
}

/// Scores after deletes and upserts are those of an index that never held what is gone.
#[tokio::test]
async fn history_leaves_no_trace_in_the_scores() {
    let fresh = Mesh::start(&wordy(60)).await.unwrap();
    let lived = Mesh::start(&wordy(90)).await.unwrap();
    lived
        .index(&[Document::new(
            "doc-00003",
            "old",
            "search search search deadline",
        )])
        .await
        .unwrap();
    lived.index(&wordy(60)[3..4]).await.unwrap();
    let gone: Vec<String> = (60..90).map(|number| format!("doc-{number:05}")).collect();
    lived
        .delete(&gone.iter().map(String::as_str).collect::<Vec<_>>())
        .await
        .unwrap();
    lived.refresh().await;
    for query in [
        "search index",
        "deadline bundle",
        "\"search index\"",
        "+recall -search",
    ] {
        let scores = |answer: SearchResponse| -> Vec<(String, f64)> {
            answer
                .hits
                .into_iter()
                .map(|hit| (hit.id, hit.score))
                .collect()
        };
        let expected = scores(fresh.ask(with_pipeline(query, "sparse")).await.unwrap());
        assert_eq!(
            scores(lived.ask(with_pipeline(query, "sparse")).await.unwrap()),
            expected,
            "{query}"
        );
        assert!(!expected.is_empty());
    }
}

fn integer(document: &Document, field: &str) -> i64 {
    document.metadata[field].as_i64().unwrap()
}

fn text<'a>(document: &'a Document, field: &str) -> &'a str {
    document.metadata[field].as_str().unwrap()
}

fn eats(document: &Document, food: &str) -> bool {
    document.metadata["food"]
        .as_array()
        .unwrap()
        .contains(&Value::from(food))
}

type Oracle = fn(&Document) -> bool;

#[tokio::test]
async fn filters_are_exact_in_every_pipeline() {
    let cases: &[(&str, Oracle)] = &[
        ("legs = 4", |animal| integer(animal, "legs") == 4),
        ("legs != 4", |animal| integer(animal, "legs") != 4),
        ("legs >= 2 and legs < 8", |animal| {
            (2..8).contains(&integer(animal, "legs"))
        }),
        ("tame = true", |animal| animal.metadata["tame"] == true),
        ("not tame = true", |animal| animal.metadata["tame"] == false),
        ("weight_kg > 4.5", |animal| {
            animal.metadata["weight_kg"].as_f64().unwrap() > 4.5
        }),
        ("weight_kg <= 4.5", |animal| {
            animal.metadata["weight_kg"].as_f64().unwrap() <= 4.5
        }),
        ("class = \"bird\"", |animal| text(animal, "class") == "bird"),
        ("class in (\"bird\", \"fish\")", |animal| {
            text(animal, "class") == "bird"
        }),
        ("food = \"mice\"", |animal| eats(animal, "mice")),
        ("food in (meat, hay)", |animal| {
            eats(animal, "meat") || eats(animal, "hay")
        }),
        ("seen >= \"2021-06-01\"", |animal| {
            text(animal, "seen") >= "2021-06-01"
        }),
        ("seen < \"2018-12-24\"", |animal| {
            text(animal, "seen") < "2018-12-24"
        }),
        ("seen = \"2022-03-03\"", |animal| {
            text(animal, "seen") == "2022-03-03"
        }),
        ("exists food", |_| true),
        ("class = \"bird\" or (legs = 4 and tame = true)", |animal| {
            text(animal, "class") == "bird"
                || (integer(animal, "legs") == 4 && animal.metadata["tame"] == true)
        }),
        ("legs = 3", |_| false),
    ];
    let options = MeshOptions {
        shards: 2,
        runs: 3,
        ..MeshOptions::default()
    };
    let mesh = Mesh::start_with(options, &animals()).await.unwrap();
    for (condition, holds) in cases {
        for pipeline in PIPELINES {
            // A word of every document, so that the sparse retriever has all of them to filter.
            let plain = with_pipeline("the a in", pipeline);
            let unfiltered = mesh.ask(plain.clone()).await.unwrap();
            let found: BTreeSet<&str> = ids(&unfiltered).into_iter().collect();
            let expected: BTreeSet<String> = animals()
                .into_iter()
                .filter(|animal| found.contains(animal.id.as_str()) && holds(animal))
                .map(|animal| animal.id)
                .collect();
            let filtered = mesh
                .ask(SearchRequest {
                    filter: Some(filter(condition)),
                    ..plain
                })
                .await
                .unwrap();
            let got: BTreeSet<String> = filtered.hits.into_iter().map(|hit| hit.id).collect();
            assert_eq!(got, expected, "{pipeline}: {condition}");
        }
    }
}

#[tokio::test]
async fn phrases_and_required_and_excluded_words_are_obeyed() {
    let mesh = Mesh::start(&animals()).await.unwrap();
    let cases: [(&str, &[&str]); 6] = [
        ("\"hunts mice\"", &["owl"]),
        ("\"mice hunts\"", &[]),
        ("mice hunt", &["owl", "wolf"]),
        ("+mice hunt", &["owl"]),
        ("hunt -mice", &["wolf"]),
        ("hunting", &["owl", "wolf"]),
    ];
    for (query, expected) in cases {
        let answer = mesh.ask(with_pipeline(query, "sparse")).await.unwrap();
        let found: BTreeSet<&str> = ids(&answer).into_iter().collect();
        assert_eq!(found, expected.iter().copied().collect(), "{query}");
    }
    let hybrid = mesh
        .ask(with_pipeline("hunt -mice", "hybrid"))
        .await
        .unwrap();
    assert!(
        !ids(&hybrid).contains(&"owl"),
        "an excluded passage came through the dense retriever: {hybrid:#?}"
    );
}

#[tokio::test]
async fn the_trail_sums_to_the_score_with_every_method() {
    let mesh = Mesh::start(&wordy(120)).await.unwrap();
    let methods = [
        FusionMethod::MinMax,
        FusionMethod::ZScore,
        FusionMethod::Rrf,
        FusionMethod::Dbsf,
    ];
    for method in methods {
        for alpha in [0.0, 0.3, 1.0] {
            let fusion = Fusion {
                method: method.into(),
                alpha: Some(alpha),
                rank_constant: None,
            };
            let asked = SearchRequest {
                fusion: Some(fusion),
                explain: true,
                ..with_pipeline("search index deadline", "hybrid")
            };
            let answer = mesh.ask(asked).await.unwrap();
            assert!(!answer.hits.is_empty());
            for hit in &answer.hits {
                let stages: Vec<&str> =
                    hit.trail.iter().map(|entry| entry.stage.as_str()).collect();
                assert_eq!(stages.len(), 2, "{hit:#?}");
                let sum = hit
                    .trail
                    .iter()
                    .fold(0.0, |sum, entry| sum + entry.contribution);
                assert_eq!(
                    sum.to_bits(),
                    hit.score.to_bits(),
                    "{method:?} {alpha}: {hit:#?}"
                );
                assert!(hit.trail.iter().all(|entry| entry.rank >= 1), "{hit:#?}");
            }
        }
    }
    let plain = mesh
        .ask(with_pipeline("search index deadline", "hybrid"))
        .await
        .unwrap();
    assert!(plain.hits.iter().all(|hit| hit.trail.is_empty()));
}

#[tokio::test]
async fn pages_are_slices_of_the_whole() {
    let options = MeshOptions {
        shards: 3,
        runs: 2,
        ..MeshOptions::default()
    };
    let mesh = Mesh::start_with(options, &wordy(150)).await.unwrap();
    for pipeline in PIPELINES {
        let whole = mesh
            .ask(with_pipeline("search index", pipeline))
            .await
            .unwrap()
            .hits;
        let mut paged = Vec::new();
        for offset in (0..100).step_by(7) {
            let page = SearchRequest {
                offset,
                k: Some(7),
                ..with_pipeline("search index", pipeline)
            };
            paged.extend(mesh.ask(page).await.unwrap().hits);
        }
        paged.truncate(whole.len());
        assert_eq!(paged, whole, "{pipeline}");
        let beyond = SearchRequest {
            offset: 9000,
            ..with_pipeline("search index", pipeline)
        };
        assert!(mesh.ask(beyond).await.unwrap().hits.is_empty());
    }
}

#[tokio::test]
async fn the_same_question_gets_the_same_bytes() {
    let mesh = Mesh::start(&wordy(80)).await.unwrap();
    for pipeline in PIPELINES {
        let asked = SearchRequest {
            explain: true,
            ..with_pipeline("recall fusion", pipeline)
        };
        let first = mesh.ask(asked.clone()).await.unwrap().hits;
        for _ in 0..5 {
            assert_eq!(mesh.ask(asked.clone()).await.unwrap().hits, first);
        }
    }
}

#[tokio::test]
async fn a_long_document_is_one_hit_with_its_best_passage() {
    let filler = |count: usize| "nothing of interest stands here at all ".repeat(count);
    let long = format!("{}the needle shines brightly {}", filler(30), filler(20));
    let short = Document::new("short", "", "a needle and a thread");
    let options = MeshOptions {
        indexer: indexer::RawConfig {
            passage_tokens: 32,
            overlap_tokens: 8,
            prefix_dimensions: 32,
            ..Default::default()
        },
        ..MeshOptions::default()
    };
    let documents = [Document::new("long", "A long story", long), short];
    let mesh = Mesh::start_with(options, &documents).await.unwrap();
    for pipeline in PIPELINES {
        let answer = mesh
            .ask(with_pipeline("the needle shines brightly", pipeline))
            .await
            .unwrap();
        assert_eq!(ids(&answer)[0], "long", "{pipeline}");
        assert_eq!(
            answer.hits.iter().filter(|hit| hit.id == "long").count(),
            1,
            "{pipeline}"
        );
        let hit = &answer.hits[0];
        assert!(hit.passage > 0, "{hit:#?}");
        assert!(hit.text.contains("needle shines"), "{hit:#?}");
        assert!(hit.text.split_whitespace().count() <= 32, "{hit:#?}");
    }
}

#[tokio::test]
async fn a_collection_of_one_stage_answers_its_pipeline_and_refuses_the_other() {
    let options = MeshOptions {
        stages: vec!["sparse".to_owned()],
        ..MeshOptions::default()
    };
    let mesh = Mesh::start_with(options, &animals()).await.unwrap();
    let answer = mesh
        .ask(with_pipeline("cat on the mat", "sparse"))
        .await
        .unwrap();
    assert_eq!(ids(&answer)[0], "cat");
    let refused = mesh
        .ask(with_pipeline("cat on the mat", "dense"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
}
