//! Stages that come and go: built of stored documents, beside parts that stay as they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::runs::{lines, model};
use crate::support::*;
use indexer::{Event, IndexError, IndexSettings, Indexer, Phase, Progress};
use search_core::ErrorKind;
use search_core::ShardSelection;
use segment::SegmentError;
use segment::catalog::{Catalog, PartLoader, SegmentFiles, SnapshotFiles};
use segment::checksum::FileEntry;
use segment::manifest::{Manifest, SegmentEntry, Stage};
use tokio::sync::mpsc;

use Stage::{Colbert, Dense, Rescore, Sparse};

/// Wider than what is stored of tokens without a head.
const STATES: usize = 128;

fn with_stages(stages: &[Stage]) -> IndexSettings {
    let mut wishes = settings();
    wishes.stages = stages.to_vec();
    wishes
}

/// In the order of their ids, so that both ways of building see the passages in one order.
fn sorted_lines(count: u32) -> Vec<String> {
    let mut lines = lines(0..count, "a");
    lines.sort();
    lines
}

/// Name and checksum of each file of each part, segment by segment. The files of the postings have random names.
fn contents_of_parts(manifest: &Manifest) -> Vec<BTreeMap<String, Vec<(String, String)>>> {
    let of_file = |file: &FileEntry| (file.name().to_owned(), file.checksum.clone());
    let of_part = |(part, files): (&String, &Vec<FileEntry>)| {
        (part.clone(), files.iter().map(of_file).collect())
    };
    let of_segment = |entry: &SegmentEntry| {
        let parts = entry.parts.iter();
        let parts = parts.filter(|(part, _)| *part != Sparse.as_str());
        parts.map(of_part).collect()
    };
    manifest.segments.iter().map(of_segment).collect()
}

fn checksum(file: &Option<FileEntry>) -> Option<&str> {
    file.as_ref().map(|file| file.checksum.as_str())
}

/// The files of these parts are the very same.
fn assert_untouched(before: &Manifest, after: &Manifest, parts: &[&str]) {
    for (before, after) in before.segments.iter().zip(&after.segments) {
        for part in parts {
            assert_eq!(before.parts.get(*part), after.parts.get(*part), "{part}");
        }
    }
    assert_eq!(before.statistics, after.statistics);
}

fn damage(place: &Place, file: &FileEntry) {
    let path = place.root.path().join("collections/c").join(&file.path);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

/// Runs a change of stages up to the end of a phase, then something else, then lets it go on. What it tells behind that it can't
/// send before somebody listens again.
async fn interrupted_at<T>(
    indexer: &Indexer,
    wishes: &[Stage],
    phase: Phase,
    meanwhile: impl Future<Output = T>,
) -> (Result<indexer::Summary, IndexError>, T) {
    let (sender, mut receiver) = mpsc::channel(1);
    let listen = async move {
        wait_for(&mut receiver, phase).await;
        let outcome = meanwhile.await;
        while receiver.recv().await.is_some() {}
        outcome
    };
    tokio::join!(indexer.set_stages(stages(wishes), sender), listen)
}

async fn wait_for(receiver: &mut mpsc::Receiver<Event>, awaited: Phase) {
    while let Some(event) = receiver.recv().await {
        if let Event::Progress(Progress { phase, done, total }) = event
            && (phase, done) == (awaited, total)
            && total > 0
        {
            return;
        }
    }
    panic!("{awaited:?} never ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_that_are_added_are_those_that_are_built_at_once() {
    for (dimensions, token_dimensions) in [(DIMENSIONS, 24), (STATES, STATES)] {
        let encoder = || WordEncoder::with_tokens(dimensions, token_dimensions);
        let indexer =
            |place: &Place| place.indexer_with(encoder(), |raw| raw.max_segment_passages = 20);
        let at_once = Place::new();
        let all = with_stages(&[Sparse, Dense, Colbert]);
        let built = index_ok(&indexer(&at_once), all, &sorted_lines(40)).await;
        let later = Place::new();
        index_ok(&indexer(&later), with_stages(&[Sparse]), &sorted_lines(40)).await;
        let before = later.manifest().await;
        let (summary, events) =
            set_stages(&indexer(&later), &[Colbert, Sparse, Dense, Colbert]).await;
        let summary = summary.unwrap();

        let (expected, found) = (at_once.manifest().await, later.manifest().await);
        assert!(found.segments.len() > 1);
        assert_eq!(contents_of_parts(&found), contents_of_parts(&expected));
        assert_eq!(found.settings, expected.settings);
        assert_eq!(checksum(&found.rotation), checksum(&expected.rotation));
        let rotations = [&found.token_rotation, &expected.token_rotation].map(checksum);
        assert_eq!(rotations[0], rotations[1]);
        assert_eq!(rotations[0].is_some(), token_dimensions == STATES);
        assert_untouched(&before, &found, &["documents", "attributes", "sparse"]);
        assert_eq!(contents(&later).await, model(0..40, "a"));

        assert_eq!((summary.snapshot, summary.documents), (Some(2), 40));
        assert_eq!(summary.passages, built.passages);
        let parts: Vec<&str> = summary.part_bytes.keys().map(String::as_str).collect();
        assert_eq!(parts, ["colbert", "dense"]);
        for (part, bytes) in summary.part_bytes {
            assert_eq!(built.part_bytes[&part], bytes);
        }
        let phases: Vec<Phase> = summary.times.iter().map(|(phase, _)| *phase).collect();
        assert_eq!(
            phases,
            [Phase::Read, Phase::Encode, Phase::Build, Phase::Commit]
        );
        for (phase, expected) in [
            (Phase::Read, 40),
            (Phase::Encode, built.passages),
            (Phase::Build, built.passages),
        ] {
            let last = events.iter().rev().find_map(|event| match event {
                Event::Progress(progress) if progress.phase == phase => Some(*progress),
                _ => None,
            });
            let (done, total) = (expected, expected);
            assert_eq!(last, Some(Progress { phase, done, total }));
        }
        later.assert_no_temporary_files();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_not_encoded_and_keeps_its_place() {
    let place = Place::new();
    let (encoder, indexer) = place.indexer_and_its(WordEncoder::with_tokens(DIMENSIONS, 24));
    let mut first = with_stages(&[Sparse]);
    first.shards = Some(3);
    index_ok(&indexer, first, &lines(0..30, "a")).await;
    index_ok(&indexer, settings(), &lines(20..40, "b")).await;
    let gone = ["d3", "d25", "d39"].map(str::to_owned).to_vec();
    indexer.delete(&name(), gone).await.unwrap();
    let mut expected = model(0..20, "a");
    expected.extend(model(20..40, "b"));
    expected.retain(|id, _| !["d3", "d25", "d39"].contains(&id.as_str()));

    let summary = set_stages_ok(&indexer, &[Sparse, Dense, Colbert]).await;
    assert_eq!(summary.documents, 37);
    let manifest = place.manifest().await;
    assert_eq!(summary.passages, manifest.live_passages());
    assert_eq!(
        encoder.texts.load(Ordering::SeqCst) as u64,
        summary.passages
    );
    assert_eq!(contents(&place).await, expected);
    for entry in &manifest.segments {
        let (part, deletes) = (
            colbert_part(&place, &manifest, entry).await.unwrap(),
            deletes(&place, entry).await,
        );
        for ordinal in 0..entry.passages {
            let is_empty = part.passage(ordinal).unwrap().is_empty();
            assert_eq!(is_empty, deletes.contains(ordinal));
        }
    }
    // What comes later has all parts, and what was replaced is gone from all.
    index_ok(&indexer, settings(), &lines(30..50, "c")).await;
    expected.extend(model(30..50, "c"));
    assert_eq!(contents(&place).await, expected);
    assert_eq!(statistics(&place).await, recounted(&expected).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_are_left_out_without_an_encoder_and_built_anew_by_another() {
    let place = Place::new();
    let all = with_stages(&[Sparse, Dense, Colbert]);
    let indexer = |fingerprint: &str, pooling| {
        let encoder = WordEncoder::with_tokens(DIMENSIONS, 24).named(fingerprint);
        place.indexer_with(encoder, |raw| raw.colbert_pooling = pooling)
    };
    index_ok(&indexer("one", 1), all.clone(), &lines(0..20, "a")).await;
    let first = place.manifest().await;

    // An encoder that never answers.
    let hanging = place.indexer_with(WordEncoder::hanging_after(0), |_| {});
    let summary = set_stages_ok(&hanging, &[Sparse, Dense]).await;
    assert_eq!((summary.snapshot, summary.documents), (Some(2), 0));
    assert_eq!(summary.left_out_stages, [Colbert]);
    assert!(summary.part_bytes.is_empty());
    let second = place.manifest().await;
    assert_eq!(second.settings.colbert, None);
    assert_eq!(second.rotation, first.rotation);
    let kept = ["documents", "attributes", "sparse", "dense"];
    assert_untouched(&first, &second, &kept);
    assert_eq!(contents(&place).await, model(0..20, "a"));

    // Token vectors of another bundle don't go with the sentence vectors that are there.
    let error = set_stages(&indexer("two", 1), &[Sparse, Dense, Colbert]).await;
    let error = error.0.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(
        matches!(&error, IndexError::EncoderDiffers { stored, current, .. } if stored == "one" && current == "two"),
        "{error}"
    );
    // With other pooling the sentence vectors stay, and both go for another bundle.
    set_stages_ok(&indexer("one", 2), &[Sparse, Dense, Colbert]).await;
    let third = place.manifest().await;
    assert_untouched(&second, &third, &kept);
    assert_eq!(third.settings.colbert.unwrap().pooling, 2);
    set_stages_ok(&hanging, &[Sparse]).await;
    let bare = place.manifest().await;
    assert_eq!((&bare.rotation, bare.encoder_fingerprint()), (&None, ""));
    index_ok(&hanging, settings(), &lines(20..25, "a")).await;
    set_stages_ok(&indexer("two", 1), &[Sparse, Dense, Colbert]).await;
    let last = place.manifest().await;
    assert_eq!(
        (last.encoder_fingerprint(), last.colbert_fingerprint()),
        ("two", "two")
    );
    assert_eq!(contents(&place).await, model(0..25, "a"));
    // The older snapshots are what they were.
    assert_eq!(place.store.manifest(&name(), 1).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_for_rescoring_are_added_by_their_encoder_alone() {
    let place = Place::new();
    index_ok(&place.indexer(), settings(), &lines(0..20, "a")).await;
    let error = set_stages(&place.indexer(), &[Sparse, Dense, Rescore]).await;
    let error = error.0.unwrap_err();
    assert_eq!(error.fields()[0].path, "stages");
    assert!(error.to_string().contains("second bundle"), "{error}");
    let own = place.rescoring_indexer(Some(WordEncoder::with_fingerprint("words-1")));
    let error = set_stages(&own, &[Sparse, Dense, Rescore]).await.0;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the encoder's own"), "{error}");
    let indexer = place.rescoring_indexer(Some(WordEncoder::rescorer()));
    let before = place.manifest().await;
    let summary = set_stages_ok(&indexer, &[Sparse, Dense, Rescore]).await;
    let parts: Vec<&String> = summary.part_bytes.keys().collect();
    assert_eq!(parts, ["rescore"]);
    let after = place.manifest().await;
    assert_untouched(&before, &after, &["documents", "sparse", "dense"]);
    assert_eq!(after.rescore_fingerprint(), "words-wide");
    index_ok(&indexer, settings(), &lines(10..30, "b")).await;
    let mut expected = model(0..10, "a");
    expected.extend(model(10..30, "b"));
    assert_eq!(contents(&place).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stages_that_a_collection_has_change_nothing() {
    let place = Place::new();
    let (encoder, indexer) = place.indexer_and_its(WordEncoder::with_tokens(DIMENSIONS, 24));
    index_ok(&indexer, with_stages(&[Sparse, Colbert]), &lines(0..5, "a")).await;
    let (files, texts) = (
        files_below(place.root.path()),
        encoder.texts.load(Ordering::SeqCst),
    );
    // Not even where this indexer would make them otherwise.
    let other = place.indexer_with(WordEncoder::new(), |raw| raw.colbert_pooling = 3);
    for indexer in [&indexer, &other] {
        let summary = set_stages_ok(indexer, &[Colbert, Sparse]).await;
        assert_eq!((summary.snapshot, summary.documents), (None, 0));
    }
    assert_eq!(files_below(place.root.path()), files);
    assert_eq!(encoder.texts.load(Ordering::SeqCst), texts);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_collection_takes_stages_for_what_comes() {
    let place = Place::new();
    let indexer = place.indexer_with(WordEncoder::with_tokens(STATES, STATES), |_| {});
    index_ok(&indexer, with_stages(&[Sparse]), &lines(0..3, "a")).await;
    let all = (0..3).map(|n| format!("d{n}")).collect();
    indexer.delete(&name(), all).await.unwrap();
    let summary = set_stages_ok(&indexer, &[Sparse, Dense, Colbert]).await;
    assert_eq!((summary.snapshot, summary.documents), (Some(3), 0));
    index_ok(&indexer, settings(), &lines(0..10, "b")).await;
    let manifest = place.manifest().await;
    assert!(manifest.rotation.is_some() && manifest.token_rotation.is_some());
    assert_eq!(contents(&place).await, model(0..10, "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wishes_that_cannot_be_had_are_refused_by_field() {
    let place = Place::new();
    let encoder = |tokens| WordEncoder::with_tokens(DIMENSIONS, tokens);
    let indexer = place.indexer_with(encoder(24), |_| {});
    let error = set_stages(&indexer, &[Sparse, Colbert]).await.0;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.fields()[0].path, "collection");

    let mut wishes = with_stages(&[Sparse]);
    wishes.passage_tokens = Some(512);
    index_ok(&indexer, wishes, &lines(0..3, "a")).await;
    for (indexer, wishes, expected) in [
        (&indexer, &[][..], "must include sparse"),
        (&indexer, &[Dense, Colbert], "must include sparse"),
        (&indexer, &[Sparse, Rescore], "must include dense"),
        (&indexer, &[Sparse, Colbert], "passages of 512 tokens"),
        (&indexer, &[Sparse, Dense], "passages of 512 tokens"),
    ] {
        let error = set_stages(indexer, wishes).await.0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert_eq!(error.fields()[0].path, "stages", "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let place = Place::new();
    let indexer = place.indexer_with(encoder(0), |_| {});
    index_ok(&indexer, with_stages(&[Sparse]), &lines(0..3, "a")).await;
    let error = set_stages(&indexer, &[Sparse, Colbert]).await.0;
    let error = error.unwrap_err();
    assert_eq!(error.fields()[0].path, "stages");
    assert!(error.to_string().contains("token vectors"), "{error}");
    assert_eq!(place.number().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_a_stage_cannot_be_built_of_is_named_and_may_be_deleted() {
    for word in [UNENCODABLE, WITHOUT_DIRECTION, DIRECTIONLESS_TOKEN] {
        let place = Place::new();
        let indexer = place.indexer_with(WordEncoder::with_tokens(DIMENSIONS, 24), |_| {});
        let mut input = lines(0..4, "a");
        input.push(line("x", "", &format!("some {word} text")));
        index_ok(&indexer, with_stages(&[Sparse]), &input).await;
        let files = files_below(place.root.path());
        let all = [Sparse, Dense, Colbert];
        let error = set_stages(&indexer, &all).await.0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let document = "segment 0: document x: text: ";
        assert!(error.to_string().starts_with(document), "{error}");
        assert_eq!(files_below(place.root.path()), files);
        indexer.delete(&name(), vec!["x".to_owned()]).await.unwrap();
        set_stages_ok(&indexer, &all).await;
        assert_eq!(contents(&place).await, model(0..4, "a"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_named_and_keeps_no_stage_from_going() {
    let place = Place::new();
    let encoder = || WordEncoder::with_tokens(DIMENSIONS, 24);
    let indexer = place.indexer_with(encoder(), |raw| raw.max_segment_passages = 20);
    index_ok(
        &indexer,
        with_stages(&[Sparse, Colbert]),
        &lines(0..30, "a"),
    )
    .await;
    let manifest = place.manifest().await;
    let damaged = manifest.segments.iter().find(|entry| entry.number == 1);
    let damaged = damaged.unwrap().parts["documents"].last().unwrap();
    damage(&place, damaged);
    let error = set_stages(&indexer, &[Sparse, Dense, Colbert]).await.0;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    let file = format!("segment 1: {}: ", damaged.path);
    assert!(error.to_string().starts_with(&file), "{error}");
    assert_eq!(place.number().await, 1);
    set_stages_ok(&indexer, &[Sparse]).await;
    assert_eq!(place.manifest().await.colbert_fingerprint(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_is_built_anew() {
    let place = Place::new();
    let indexer = place.indexer_with(WordEncoder::with_tokens(DIMENSIONS, 24), |_| {});
    index_ok(&indexer, with_stages(&[Sparse, Colbert]), &lines(0..9, "a")).await;
    damage(
        &place,
        &place.manifest().await.segments[0].parts["colbert"][0],
    );
    set_stages_ok(&indexer, &[Sparse]).await;
    set_stages_ok(&indexer, &[Sparse, Colbert]).await;
    assert_eq!(contents(&place).await, model(0..9, "a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_ends_in_the_middle_changes_nothing() {
    let place = Place::new();
    index_ok(
        &place.indexer(),
        with_stages(&[Sparse]),
        &lines(0..200, "a"),
    )
    .await;
    let files = files_below(place.root.path());
    let (encoder, indexer) = place.indexer_and_its(WordEncoder::hanging_after(20));
    tokio::select! {
        _ = set_stages(&indexer, &[Sparse, Dense]) => panic!("it never ends"),
        () = encoder.hanging.notified() => {}
    }
    assert_eq!(files_below(place.root.path()), files);
    // A listener that goes away is missed before the commit at the latest.
    let (sender, mut receiver) = mpsc::channel(1);
    let indexer = place.indexer_with(WordEncoder::new(), |_| {});
    let listen = async move { wait_for(&mut receiver, Phase::Encode).await };
    let (outcome, ()) = tokio::join!(indexer.set_stages(stages(&[Sparse, Dense]), sender), listen);
    assert!(matches!(outcome, Err(IndexError::Abandoned)), "{outcome:?}");
    assert_eq!(place.number().await, 1);
    assert_eq!(contents(&place).await, model(0..200, "a"));
    set_stages_ok(&place.indexer(), &[Sparse, Dense]).await;
    assert_eq!(contents(&place).await, model(0..200, "a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_commit_meanwhile_is_built_too_and_nothing_twice() {
    for (dimensions, token_dimensions) in [(DIMENSIONS, 24), (STATES, STATES)] {
        let place = Place::new();
        let (encoder, indexer) =
            place.indexer_and_its(WordEncoder::with_tokens(dimensions, token_dimensions));
        let first = index_ok(&indexer, with_stages(&[Sparse]), &lines(0..30, "a")).await;
        let wishes = [Sparse, Dense, Colbert];
        let meanwhile = async {
            let second = index_ok(&indexer, settings(), &lines(20..40, "b")).await;
            indexer
                .delete(&name(), vec!["d3".to_owned()])
                .await
                .unwrap();
            second
        };
        let (summary, second) = interrupted_at(&indexer, &wishes, Phase::Encode, meanwhile).await;
        assert_eq!(summary.unwrap().snapshot, Some(4));
        let mut expected = model(0..20, "a");
        expected.extend(model(20..40, "b"));
        expected.remove("d3");
        assert_eq!(contents(&place).await, expected);
        assert_eq!(statistics(&place).await, recounted(&expected).await);
        // The rotation takes a sample: of so few passages all of them.
        let times = 1 + u64::from(token_dimensions == STATES);
        let encoded = encoder.texts.load(Ordering::SeqCst) as u64;
        assert_eq!(encoded, times * first.passages + second.passages);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_meets_other_stages_builds_them() {
    let place = Place::new();
    let indexer = place.indexer_with(WordEncoder::with_tokens(STATES, STATES), |_| {});
    index_ok(&indexer, with_stages(&[Sparse]), &lines(0..20, "a")).await;
    for (wishes, numbers) in [(&[Sparse, Dense, Colbert][..], 20..40), (&[Sparse], 40..60)] {
        let (sender, mut receiver) = mpsc::channel(1);
        let input = lines(numbers, "a");
        let batches = futures::stream::iter([Ok::<_, IndexError>(batch(&input))]);
        let listen = async {
            wait_for(&mut receiver, Phase::Read).await;
            set_stages_ok(&indexer, wishes).await;
            while receiver.recv().await.is_some() {}
        };
        let (summary, ()) = tokio::join!(indexer.index(settings(), batches, sender), listen);
        summary.unwrap();
        assert_eq!(place.manifest().await.settings.stages, wishes);
    }
    assert_eq!(contents(&place).await, model(0..60, "a"));
    assert_eq!(place.number().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_that_race_the_last_one_holds() {
    let place = Place::new();
    let indexer = || place.indexer_with(WordEncoder::with_tokens(STATES, STATES), |_| {});
    index_ok(&indexer(), with_stages(&[Sparse]), &lines(0..20, "a")).await;
    let wishes = [
        &[Sparse, Dense][..],
        &[Sparse, Colbert],
        &[Sparse, Dense, Colbert],
    ];
    let runs = wishes.map(|wishes| {
        let indexer = indexer();
        async move { set_stages_ok(&indexer, wishes).await.snapshot }
    });
    let snapshots = futures::future::join_all(runs).await;
    let mut numbers: Vec<u64> = snapshots.iter().flatten().copied().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3, 4]);
    let last = snapshots.iter().position(|it| *it == Some(4)).unwrap();
    assert_eq!(place.manifest().await.settings.stages, wishes[last]);
    assert_eq!(contents(&place).await, model(0..20, "a"));
}

/// Counts the segments that it opens.
struct Counted {
    part: Stage,
    segments: Arc<AtomicUsize>,
}

impl PartLoader for Counted {
    type Segment = ();
    type Snapshot = ();

    fn part(&self) -> &'static str {
        self.part.as_str()
    }

    fn snapshot_file<'a>(&self, manifest: &'a Manifest) -> Option<&'a FileEntry> {
        manifest.statistics.as_ref()
    }

    fn load_segment(&self, _: &SegmentFiles) -> Result<(), SegmentError> {
        self.segments.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn load_snapshot(&self, _: &SnapshotFiles) -> Result<(), SegmentError> {
        Ok(())
    }
}

fn catalog(place: &Place, part: Stage) -> (Catalog<Counted>, Arc<AtomicUsize>) {
    let segments = Arc::new(AtomicUsize::new(0));
    let loader = Counted {
        part,
        segments: Arc::clone(&segments),
    };
    let catalog = Catalog::new(place.store.clone(), loader, ShardSelection::All);
    (catalog, segments)
}

fn held(catalog: &Catalog<Counted>) -> Vec<u64> {
    let held = catalog.held();
    held.iter().map(|snapshot| snapshot.number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_snapshot_is_served_until_the_new_one_is_loaded_and_shares_its_segments() {
    let place = Place::new();
    let encoder = WordEncoder::with_tokens(DIMENSIONS, 24);
    let indexer = place.indexer_with(encoder, |raw| raw.max_segment_passages = 20);
    index_ok(&indexer, with_stages(&[Sparse]), &lines(0..30, "a")).await;
    let segments = place.manifest().await.segments.len();
    assert!(segments > 1);
    let (sparse, opened) = catalog(&place, Sparse);
    let (colbert, scored) = catalog(&place, Colbert);
    tokio::join!(sparse.refresh(), colbert.refresh());
    assert_eq!((held(&sparse), held(&colbert)), (vec![1], vec![]));

    set_stages_ok(&indexer, &[Sparse, Colbert]).await;
    let old = sparse.get(&name(), 1).unwrap();
    assert_eq!((held(&sparse), old.refused.len()), (vec![1], 0));
    tokio::join!(sparse.refresh(), colbert.refresh());
    assert_eq!((held(&sparse), held(&colbert)), (vec![2, 1], vec![2]));
    let counts = [&opened, &scored].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(counts, [segments, segments]);

    set_stages_ok(&indexer, &[Sparse]).await;
    tokio::join!(sparse.refresh(), colbert.refresh());
    assert_eq!((held(&sparse), held(&colbert)), (vec![3, 2], vec![2]));
    assert_eq!(opened.load(Ordering::SeqCst), segments);
}
