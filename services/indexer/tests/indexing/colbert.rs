//! Runs that build the colbert part.

use std::sync::atomic::Ordering;

use crate::runs::{lines, model};
use crate::support::*;
use indexer::{Event, IndexSettings, Phase};
use search_core::ErrorKind;
use segment::SegmentError;
use segment::manifest::Stage;

/// Wider than what is stored of tokens without a head.
const STATES: usize = 128;

fn with_stages(stages: &[Stage]) -> IndexSettings {
    let mut wishes = settings();
    wishes.stages = stages.to_vec();
    wishes
}

fn all_stages() -> IndexSettings {
    with_stages(&[Stage::Sparse, Stage::Dense, Stage::Colbert])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_forward_pass_gives_sentence_and_token_vectors() {
    let place = Place::new();
    let encoder = WordEncoder::with_tokens(DIMENSIONS, 24);
    let indexer = place.indexer_with(encoder, |_| {});
    let (summary, events) = index(&indexer, all_stages(), &lines(0..30, "a")).await;
    let summary = summary.unwrap();
    assert!(summary.part_bytes["colbert"] > summary.passages * 24);
    let encoded = events.iter().filter_map(|event| match event {
        Event::Progress(progress) if progress.phase == Phase::Encode => Some(progress.done),
        _ => None,
    });
    assert_eq!(encoded.max(), Some(summary.passages));
    assert_eq!(contents(&place).await, model(0..30, "a"));
    let manifest = place.manifest().await;
    assert_eq!(manifest.colbert_fingerprint(), "words-tokens");
    let files = manifest.segments.iter().flat_map(|it| &it.parts["colbert"]);
    let positions = files
        .clone()
        .filter(|it| it.path.ends_with("/positions.u16"));
    assert_eq!(positions.count(), manifest.segments.len());
    let stored: u64 = files.map(|file| file.bytes).sum();
    assert_eq!(summary.part_bytes["colbert"], stored);
    // A trained head's vectors are stored as they are.
    assert_eq!(manifest.token_rotation, None);
    assert_eq!(manifest.settings.colbert.unwrap().dimensions, 24);
    place.assert_no_temporary_files();
}

#[tokio::test(flavor = "multi_thread")]
async fn later_segments_use_the_rotation_of_the_first_run() {
    let place = Place::new();
    let indexer = |place: &Place| {
        place.indexer_with(WordEncoder::with_tokens(STATES, STATES), |raw| {
            raw.max_segment_passages = 20;
        })
    };
    let wishes = with_stages(&[Stage::Sparse, Stage::Colbert]);
    index_ok(&indexer(&place), wishes, &lines(0..30, "a")).await;
    let first = place.manifest().await;
    let rotation = first.token_rotation.clone().unwrap();
    assert!(rotation.path.ends_with("/token_rotation.bin"));
    assert_eq!(first.settings.colbert.as_ref().unwrap().dimensions, 96);
    assert!(first.segments.len() > 1);
    assert_eq!(contents(&place).await, model(0..30, "a"));
    // What comes and goes later does so in all parts.
    let summary = index_ok(&indexer(&place), settings(), &lines(20..32, "a")).await;
    assert_eq!(summary.replaced, 10);
    let gone = vec!["d3".to_owned()];
    indexer(&place).delete(&name(), gone).await.unwrap();
    let mut expected = model(0..32, "a");
    expected.remove("d3");
    assert_eq!(contents(&place).await, expected);
    let last = place.manifest().await;
    assert_eq!((last.number, last.token_rotation), (3, Some(rotation)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_documents_get_the_same_codes() {
    let mut built = Vec::new();
    for _ in 0..2 {
        let place = Place::new();
        let indexer = place.indexer_with(WordEncoder::with_tokens(STATES, STATES), |_| {});
        let wishes = with_stages(&[Stage::Sparse, Stage::Colbert]);
        index_ok(&indexer, wishes, &lines(0..200, "a")).await;
        let manifest = place.manifest().await;
        let files = manifest.segments[0].parts["colbert"].iter();
        let checksums: Vec<String> = files.map(|file| file.checksum.clone()).collect();
        built.push((checksums, manifest.token_rotation.unwrap().checksum));
    }
    assert_eq!(built[0], built[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pooling_makes_the_part_smaller() {
    let mut bytes = Vec::new();
    for pooling in [1, 2, 3] {
        let place = Place::new();
        let encoder = WordEncoder::with_tokens(DIMENSIONS, 24);
        let indexer = place.indexer_with(encoder, |raw| {
            raw.colbert_pooling = pooling;
            raw.passage_tokens = 64;
        });
        let summary = index_ok(&indexer, all_stages(), &lines(0..60, "a")).await;
        bytes.push(summary.part_bytes["colbert"]);
        assert_eq!(contents(&place).await.len(), 60);
        let manifest = place.manifest().await;
        assert_eq!(manifest.settings.colbert.unwrap().pooling, pooling);
    }
    assert!(bytes[1] * 10 < bytes[0] * 7, "{bytes:?}");
    assert!(bytes[2] < bytes[1], "{bytes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_stage_no_token_vectors_are_asked_for() {
    let place = Place::new();
    let encoder = WordEncoder::with_tokens(DIMENSIONS, DIMENSIONS);
    let indexer = place.indexer_with(encoder, |_| {});
    let summary = index_ok(&indexer, settings(), &lines(0..10, "a")).await;
    assert!(!summary.part_bytes.contains_key("colbert"));
    let manifest = place.manifest().await;
    assert_eq!(manifest.settings.colbert, None);
    assert!(!manifest.has_part("colbert"));
    // The collection keeps to what it was built with.
    let error = index(&indexer, all_stages(), &lines(0..10, "a")).await.0;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(
        error.to_string().contains("sparse,dense,colbert"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_without_token_vectors_is_refused_before_anything_is_encoded() {
    let place = Place::new();
    let (encoder, indexer) = place.indexer_and_encoder();
    let error = index(&indexer, all_stages(), &lines(0..3, "a")).await.0;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.fields()[0].path, "settings.stages");
    assert_eq!(encoder.texts.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_with_a_token_that_is_none_is_left_out_by_line() {
    for (dimensions, token_dimensions) in [(DIMENSIONS, 24), (STATES, STATES)] {
        let place = Place::new();
        let encoder = WordEncoder::with_tokens(dimensions, token_dimensions);
        let indexer = place.indexer_with(encoder, |_| {});
        let mut wishes = with_stages(&[Stage::Sparse, Stage::Colbert]);
        let mut input = lines(0..4, "a");
        input.insert(1, line("x", "", &format!("{DIRECTIONLESS_TOKEN} text")));
        let error = index(&indexer, wishes.clone(), &input).await.0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(
            error.to_string().contains("test.jsonl:2: text: "),
            "{error}"
        );
        wishes.skip_invalid = true;
        let summary = index_ok(&indexer, wishes, &input).await;
        assert_eq!((summary.documents, summary.invalid), (4, 1));
        assert_eq!(contents(&place).await, model(0..4, "a"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_is_refused_by_name_and_the_others_are_not() {
    let place = Place::new();
    let encoder = WordEncoder::with_tokens(DIMENSIONS, 24);
    let indexer = place.indexer_with(encoder, |raw| raw.max_segment_passages = 20);
    index_ok(&indexer, all_stages(), &lines(0..30, "a")).await;
    let manifest = place.manifest().await;
    let damaged = &manifest.segments[0].parts["colbert"][0];
    let path = place.root.path().join("collections/c").join(&damaged.path);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    match colbert_part(&place, &manifest, &manifest.segments[0]).await {
        Err(SegmentError::Damaged { file, .. }) => assert_eq!(file, damaged.path),
        other => panic!("{other:?}"),
    }
    for entry in &manifest.segments[1..] {
        colbert_part(&place, &manifest, entry).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_race_to_create_a_collection_agree_on_its_token_rotation() {
    let place = Place::new();
    let runs = (0..3).map(|writer| {
        let indexer = place.indexer_with(WordEncoder::with_tokens(STATES, STATES), |_| {});
        let wishes = with_stages(&[Stage::Sparse, Stage::Colbert]);
        let documents = lines(writer * 10..writer * 10 + 10, "a");
        async move { index_ok(&indexer, wishes, &documents).await }
    });
    futures::future::join_all(runs).await;
    // Whoever came late has coded its token vectors again, in the rotation of the first: each token finds itself.
    assert_eq!(contents(&place).await, model(0..30, "a"));
    assert_eq!(place.number().await, 3);
}
