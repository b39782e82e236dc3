//! Whole runs of the indexer against what a collection should then hold.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::support::*;
use indexer::{Encoders, Event, IndexError, Phase};
use inference::TextEncoder;
use search_core::ErrorKind;
use segment::manifest::Stage;
use tokio::sync::mpsc;

pub(crate) fn lines(numbers: std::ops::Range<u32>, version: &str) -> Vec<String> {
    numbers
        .map(|n| line(&format!("d{n}"), &format!("title {n}"), &text(n, version)))
        .collect()
}

/// Up to forty words, so that some documents have several passages.
fn text(n: u32, version: &str) -> String {
    let words: Vec<String> = (0..=n * 7 % 40)
        .map(|word| format!("word{} {version}{n}", word % 11))
        .collect();
    words.join(" ")
}

pub(crate) fn model(numbers: std::ops::Range<u32>, version: &str) -> Model {
    numbers
        .map(|n| (format!("d{n}"), (format!("title {n}"), text(n, version))))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_run_creates_the_collection() {
    let place = Place::new();
    let (summary, events) = index(&place.indexer(), settings(), &lines(0..30, "a")).await;
    let summary = summary.unwrap();
    assert_eq!(
        (
            summary.snapshot,
            summary.documents,
            summary.replaced,
            summary.invalid
        ),
        (Some(1), 30, 0, 0)
    );
    assert!(summary.passages > 30);
    let parts: Vec<&str> = summary.part_bytes.keys().map(String::as_str).collect();
    assert_eq!(parts, ["attributes", "dense", "documents", "sparse"]);
    assert!(summary.part_bytes.values().all(|bytes| *bytes > 0));
    let phases: Vec<Phase> = summary.times.iter().map(|(phase, _)| *phase).collect();
    assert_eq!(
        phases,
        [Phase::Read, Phase::Encode, Phase::Build, Phase::Commit]
    );
    assert!(summary.encode_model > Duration::ZERO);
    assert!(summary.onnx_runtime_share().unwrap() > 0.0);
    assert_eq!(contents(&place).await, model(0..30, "a"));
    let manifest = place.manifest().await;
    assert!(manifest.rotation.is_some());
    assert_eq!(manifest.live_passages(), summary.passages);
    assert_eq!(manifest.attributes.iter().count(), 1);
    for phase in [Phase::Read, Phase::Encode, Phase::Build] {
        let last = events.iter().rev().find_map(|event| match event {
            Event::Progress(progress) if progress.phase == phase => Some(*progress),
            _ => None,
        });
        let last = last.unwrap();
        assert_eq!(last.done, last.total, "{phase:?}");
        assert!(last.done > 0, "{phase:?}");
    }
    place.assert_no_temporary_files();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_ids_again_are_an_upsert() {
    let place = Place::new();
    let indexer = place.indexer();
    index_ok(&indexer, settings(), &lines(0..20, "a")).await;
    let summary = index_ok(&indexer, settings(), &lines(15..25, "b")).await;
    assert_eq!(
        (summary.snapshot, summary.documents, summary.replaced),
        (Some(2), 10, 5)
    );
    let mut expected = model(0..15, "a");
    expected.extend(model(15..25, "b"));
    assert_eq!(contents(&place).await, expected);
    assert_eq!(statistics(&place).await, recounted(&expected).await);
    // The rotation stays what it was.
    let first = place.store.manifest(&name(), 1).await.unwrap();
    assert_eq!(place.manifest().await.rotation, first.rotation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_without_living_documents_leaves_the_manifest() {
    let place = Place::new();
    let indexer = place.indexer();
    index_ok(&indexer, settings(), &lines(0..10, "a")).await;
    index_ok(&indexer, settings(), &lines(0..10, "b")).await;
    let manifest = place.manifest().await;
    assert_eq!(manifest.segments.len(), 1);
    assert_eq!((manifest.segments[0].number, manifest.next_segment), (1, 2));
    assert_eq!(contents(&place).await, model(0..10, "b"));
    assert_eq!(
        statistics(&place).await,
        recounted(&model(0..10, "b")).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_documents_and_names_unknown_ids() {
    let place = Place::new();
    let indexer = place.indexer();
    index_ok(&indexer, settings(), &lines(0..10, "a")).await;
    let ids = ["d3", "nope", "d5", "d3"].map(str::to_owned).to_vec();
    let deletion = indexer.delete(&name(), ids).await.unwrap();
    assert_eq!(
        (deletion.snapshot, deletion.deleted, deletion.unknown),
        (Some(2), 2, vec!["nope".to_owned()])
    );
    let mut expected = model(0..10, "a");
    expected.retain(|id, _| id != "d3" && id != "d5");
    assert_eq!(contents(&place).await, expected);
    assert_eq!(statistics(&place).await, recounted(&expected).await);

    let again = indexer
        .delete(&name(), vec!["d3".to_owned()])
        .await
        .unwrap();
    assert_eq!((again.snapshot, again.deleted), (None, 0));
    assert_eq!(
        place.number().await,
        2,
        "nothing changed, so nothing was committed"
    );

    let all = (0..10).map(|n| format!("d{n}")).collect();
    assert_eq!(indexer.delete(&name(), all).await.unwrap().deleted, 8);
    assert!(contents(&place).await.is_empty());
    index_ok(&indexer, settings(), &lines(2..4, "c")).await;
    assert_eq!(contents(&place).await, model(2..4, "c"));
    assert_eq!(statistics(&place).await, recounted(&model(2..4, "c")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_from_an_unknown_collection_is_not_found() {
    let error = Place::new()
        .indexer()
        .delete(&name(), vec!["a".to_owned()])
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::NotFound, "collection c does not exist")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_lines_refuse_the_run_before_anything_is_encoded() {
    let place = Place::new();
    let mut input = lines(0..5, "a");
    input.insert(2, "{\"_id\": \"x\"}".to_owned());
    input.push(line("d1", "", "again"));
    let encoder = WordEncoder::hanging_after(0);
    let (outcome, events) = index(&place.indexer_with(encoder, |_| {}), settings(), &input).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let message =
        "2 invalid lines, nothing was written; the first is test.jsonl:3: text: is missing";
    assert_eq!(error.to_string(), message);
    let told: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            Event::Invalid(line) => Some(line.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        [
            "test.jsonl:3: text: is missing",
            "test.jsonl:7: _id: \"d1\" was in test.jsonl:2 already"
        ]
    );
    assert!(files_below(place.root.path()).is_empty());
    place.assert_no_temporary_files();
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_invalid_leaves_them_out_and_counts_them() {
    let place = Place::new();
    let mut input = lines(0..5, "a");
    input.insert(0, "nonsense".to_owned());
    input.push(line("d1", "", "again"));
    let mut wishes = settings();
    wishes.skip_invalid = true;
    let summary = index_ok(&place.indexer(), wishes, &input).await;
    assert_eq!((summary.documents, summary.invalid), (5, 2));
    assert_eq!(contents(&place).await, model(0..5, "a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_type_that_differs_from_the_collection_is_refused() {
    let place = Place::new();
    let indexer = place.indexer();
    index_ok(&indexer, settings(), &lines(0..3, "a")).await;
    let other = r#"{"_id": "x", "text": "y", "metadata": {"words": "many"}}"#.to_owned();
    let message = index(&indexer, settings(), &[other])
        .await
        .0
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("metadata.words")
            && message.contains("integer")
            && message.contains("keyword"),
        "{message}"
    );
    assert_eq!(place.number().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_index_commits_nothing() {
    let place = Place::new();
    let summary = index_ok(&place.indexer(), settings(), &[String::new()]).await;
    assert_eq!((summary.snapshot, summary.documents), (None, 0));
    assert_eq!(place.number().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_and_other_encoders_are_refused_with_both_values() {
    let place = Place::new();
    let mut wishes = settings();
    wishes.shards = Some(2);
    index_ok(&place.indexer(), wishes, &lines(0..3, "a")).await;
    let mut wishes = settings();
    wishes.shards = Some(3);
    let error = index(&place.indexer(), wishes, &lines(3..6, "a"))
        .await
        .0
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(
        error.to_string(),
        "shards: collection c was built with 2, but 3 was asked for"
    );
    let other = place.indexer_with(WordEncoder::with_fingerprint("words-2"), |_| {});
    let error = index(&other, settings(), &lines(3..6, "a"))
        .await
        .0
        .unwrap_err();
    assert!(
        matches!(&error, IndexError::EncoderDiffers { stored, current, .. } if stored == "words-1" && current == "words-2")
    );
    assert_eq!(place.number().await, 1);
}

/// What is searched, and what rescores.
fn rescored() -> indexer::IndexSettings {
    let mut wishes = settings();
    wishes.stages = vec![Stage::Sparse, Stage::Dense, Stage::Rescore];
    wishes
}

#[tokio::test(flavor = "multi_thread")]
async fn one_run_makes_the_vectors_of_both_encoders() {
    let place = Place::new();
    let indexer = place.rescoring_indexer(Some(WordEncoder::rescorer()));
    let (summary, events) = index(&indexer, rescored(), &lines(0..30, "a")).await;
    let summary = summary.unwrap();
    assert!(summary.part_bytes["rescore"] > 0);
    let encoded = events.iter().filter_map(|event| match event {
        Event::Progress(progress) if progress.phase == Phase::Encode => Some(progress.done),
        _ => None,
    });
    assert_eq!(encoded.max(), Some(2 * summary.passages));
    assert_eq!(contents(&place).await, model(0..30, "a"));
    // What comes and goes later does so in all parts.
    let summary = index_ok(&indexer, settings(), &lines(20..40, "b")).await;
    assert_eq!(summary.replaced, 10);
    indexer
        .delete(&name(), vec!["d3".to_owned()])
        .await
        .unwrap();
    let mut expected = model(0..20, "a");
    expected.extend(model(20..40, "b"));
    expected.remove("d3");
    assert_eq!(contents(&place).await, expected);
    let manifest = place.manifest().await;
    assert_eq!(manifest.rescore_fingerprint(), "words-wide");
    place.assert_no_temporary_files();
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_for_rescoring_need_their_encoder() {
    let place = Place::new();
    let indexer = place.rescoring_indexer(Some(WordEncoder::rescorer()));
    index_ok(&indexer, rescored(), &lines(0..3, "a")).await;
    let others = [None, Some(WordEncoder::with_fingerprint("words-3"))];
    for (other, current_one) in others.into_iter().zip(["none", "words-3"]) {
        let indexer = place.rescoring_indexer(other);
        let error = index(&indexer, settings(), &lines(3..6, "a"))
            .await
            .0
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(
            matches!(&error, IndexError::EncoderDiffers { role: "rescorer", stored, current, .. }
                if stored == "words-wide" && current == current_one),
            "{error}"
        );
    }
    assert_eq!(place.number().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_and_small_segments_hold_the_same_documents_and_statistics() {
    let expected = model(0..60, "a");
    let reference = recounted(&expected).await;
    for (shards, segment_passages) in [(1, 1_000), (1, 7), (4, 1_000), (3, 5)] {
        let place = Place::new();
        let indexer = place.indexer_with(WordEncoder::new(), |raw| {
            raw.max_segment_passages = segment_passages
        });
        let mut wishes = settings();
        wishes.shards = Some(shards);
        index_ok(&indexer, wishes, &lines(0..60, "a")).await;
        assert_eq!(contents(&place).await, expected);
        assert_eq!(statistics(&place).await, reference);
        let manifest = place.manifest().await;
        let longest = |entry: &&segment::manifest::SegmentEntry| entry.documents > 1;
        assert!(
            manifest
                .segments
                .iter()
                .filter(longest)
                .all(|entry| entry.passages <= segment_passages)
        );
        assert_eq!(
            manifest.segments.len() > shards as usize,
            segment_passages < 60
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sparse_alone_needs_no_encoder() {
    let place = Place::new();
    let mut wishes = settings();
    wishes.stages = vec![Stage::Sparse];
    let summary = index_ok(
        &place.indexer_with(WordEncoder::hanging_after(0), |_| {}),
        wishes,
        &lines(0..20, "a"),
    )
    .await;
    assert!(!summary.part_bytes.contains_key("dense"));
    let manifest = place.manifest().await;
    assert_eq!((manifest.settings.encoder, manifest.rotation), (None, None));
    assert_eq!(contents(&place).await, model(0..20, "a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dense_alone_is_refused_because_sparse_serves_the_documents() {
    let place = Place::new();
    let mut wishes = settings();
    wishes.stages = vec![Stage::Dense];
    let outcome = index(&place.indexer(), wishes, &lines(0..5, "a")).await.0;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.fields()[0].path, "settings.stages");
    assert!(files_below(place.root.path()).is_empty());
}

/// With a document of each kind that the tokenizer or the encoder refuses.
fn lines_with_refused_documents() -> Vec<String> {
    let mut input = lines(0..4, "a");
    for (at, word) in [(1, UNSPLITTABLE), (3, UNENCODABLE), (5, WITHOUT_DIRECTION)] {
        input.insert(at, line(word, "", &format!("some {word} text")));
    }
    input
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_the_encoder_refuses_are_left_out_like_invalid_lines() {
    let place = Place::new();
    let mut wishes = settings();
    wishes.skip_invalid = true;
    let (summary, events) = index(&place.indexer(), wishes, &lines_with_refused_documents()).await;
    let summary = summary.unwrap();
    assert_eq!((summary.documents, summary.invalid), (4, 3));
    assert_eq!(contents(&place).await, model(0..4, "a"));
    let mut told: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Invalid(line) => Some(line.line),
            Event::Progress(_) => None,
        })
        .collect();
    told.sort_unstable();
    assert_eq!(told, [2, 4, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_the_encoder_refuses_ends_the_run_by_file_and_line() {
    for word in [UNSPLITTABLE, UNENCODABLE, WITHOUT_DIRECTION] {
        let place = Place::new();
        let input = [line("d", "", "fine"), line("e", "", &format!("not {word}"))];
        for skip_invalid in [false, true] {
            let mut wishes = settings();
            wishes.skip_invalid = skip_invalid;
            // Nothing is left of the second line alone.
            let lines = if skip_invalid {
                &input[1..]
            } else {
                &input[..]
            };
            let error = index(&place.indexer(), wishes, lines).await.0.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let line = format!("test.jsonl:{}: text: ", lines.len());
            assert!(error.to_string().contains(&line), "{error}");
        }
        assert_eq!(place.number().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_of_many_bytes_becomes_several_passages() {
    let place = Place::new();
    let text: String = (0..40_000).map(|n| n.to_string()).collect();
    let (encoder, indexer) = place.indexer_and_encoder();
    let summary = index_ok(&indexer, settings(), &[line("d", "", &text)]).await;
    let encoded = encoder.last_texts.lock().unwrap().clone();
    assert_eq!((summary.passages, encoded.concat()), (4, text));
    assert!(encoded.iter().all(|passage| passage.len() <= 48 << 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_title_that_is_longer_than_a_passage_leaves_half_of_it_to_the_text() {
    let place = Place::new();
    let words = |word: &str, count: usize| vec![word; count].join(" ");
    let (title, text) = (words("title", 300), words("text", 30));
    let (encoder, indexer) = place.indexer_and_encoder();
    index_ok(&indexer, settings(), &[line("d", &title, &text)]).await;
    // Passages of 16 tokens: 2 special ones, 6 of the title, 8 of the text.
    let encoded = encoder.last_texts.lock().unwrap().clone();
    assert!(encoded.len() >= 4);
    for passage in encoded {
        assert!(passage.starts_with(&words("title", 6)), "{passage}");
        let text_words = passage.matches("text").count();
        assert!((1..=8).contains(&text_words), "{passage}");
        assert_eq!(passage.split_whitespace().count(), 6 + text_words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_dropped_while_encoding_changes_nothing_and_can_be_repeated() {
    let place = Place::new();
    index_ok(&place.indexer(), settings(), &lines(0..5, "a")).await;
    let files = files_below(place.root.path());
    let encoder = Arc::new(WordEncoder::hanging_after(20));
    let encoders = Encoders::from(encoder.clone() as Arc<dyn TextEncoder>);
    let indexer = indexer::Indexer::new(place.config(|_| {}), place.store.clone(), encoders);
    let input = lines(0..200, "b");
    tokio::select! {
        _ = index(&indexer, settings(), &input) => panic!("it never ends"),
        () = encoder.hanging.notified() => {}
    }
    assert_eq!(files_below(place.root.path()), files);
    assert_eq!(contents(&place).await, model(0..5, "a"));
    index_ok(&place.indexer(), settings(), &input).await;
    assert_eq!(contents(&place).await, model(0..200, "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_listener_goes_away_while_building_changes_nothing() {
    let place = Place::new();
    index_ok(&place.indexer(), settings(), &lines(0..5, "a")).await;
    let input = lines(0..2000, "b");
    let (sender, mut receiver) = mpsc::channel(1);
    let batches = futures::stream::iter([Ok::<_, IndexError>(batch(&input))]);
    let listen = async move {
        while let Some(event) = receiver.recv().await {
            if matches!(event, Event::Progress(progress) if progress.phase == Phase::Build) {
                return;
            }
        }
    };
    let indexer = place.indexer();
    let (outcome, ()) = tokio::join!(indexer.index(settings(), batches, sender), listen);
    assert!(matches!(outcome, Err(IndexError::Abandoned)), "{outcome:?}");
    assert_eq!(place.number().await, 1);
    assert_eq!(contents(&place).await, model(0..5, "a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_writers_lose_no_document() {
    let place = Place::new();
    let runs = (0..6_u32).map(|writer| {
        // Everyone writes d0 to d4, and ten of its own.
        let mut input = lines(0..5, &format!("w{writer}x"));
        input.extend(lines(100 * writer + 100..100 * writer + 110, "a"));
        let indexer = place.indexer();
        async move { index_ok(&indexer, settings(), &input).await }
    });
    let summaries = futures::future::join_all(runs).await;
    let mut numbers: Vec<u64> = summaries
        .iter()
        .filter_map(|summary| summary.snapshot)
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    let last = (0..6)
        .find(|writer| summaries[*writer].snapshot == Some(6))
        .unwrap();
    let mut expected = model(0..5, &format!("w{last}x"));
    for writer in 0..6_u32 {
        expected.extend(model(100 * writer + 100..100 * writer + 110, "a"));
    }
    assert_eq!(contents(&place).await, expected);
    assert_eq!(statistics(&place).await, recounted(&expected).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_race_to_create_a_collection_agree_on_its_settings() {
    let place = Place::new();
    let runs = [Some(3), None, None]
        .into_iter()
        .zip(0_u32..)
        .map(|(shards, writer)| {
            let indexer = place.indexer_with(WordEncoder::new(), |raw| {
                raw.passage_tokens = 16 + 2 * writer
            });
            let mut wishes = settings();
            wishes.shards = shards;
            async move {
                index(&indexer, wishes, &lines(writer * 10..writer * 10 + 10, "a"))
                    .await
                    .0
            }
        });
    let outcomes = futures::future::join_all(runs).await;
    let mut expected = Model::new();
    for (writer, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(_) => expected.extend(model(writer * 10..writer * 10 + 10, "a")),
            Err(error) => assert!(
                matches!(
                    error,
                    IndexError::SettingDiffers {
                        field: "shards",
                        ..
                    }
                ),
                "{error}"
            ),
        }
    }
    assert!(expected.len() >= 20);
    assert_eq!(contents(&place).await, expected);
    assert_eq!(place.number().await, expected.len() as u64 / 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_run_removes_what_an_interrupted_one_left_long_ago() {
    let place = Place::new();
    let folder = place
        .root
        .path()
        .join("collections/c/segments/0-0123456789abcdef/documents");
    std::fs::create_dir_all(&folder).unwrap();
    let leave = |name: &str, age: Duration| {
        let path = folder.join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        path
    };
    let day = Duration::from_secs(24 * 60 * 60);
    let (old, young) = (leave("old.bin", 2 * day), leave("young.bin", day / 2));
    index_ok(&place.indexer(), settings(), &lines(0..5, "a")).await;
    assert!(!old.exists());
    assert!(young.exists(), "its run may still be going on");
    assert_eq!(contents(&place).await, model(0..5, "a"));
}
