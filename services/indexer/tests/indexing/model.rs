//! Random sequences of upserts, deletions and changes of the stages against an ordinary map.

use crate::support::*;
use proptest::prelude::*;
use segment::manifest::Stage;

/// One change of a collection.
#[derive(Debug, Clone)]
enum Step {
    /// Documents by number, each with so many words.
    Upsert(Vec<(u8, u8)>),
    Delete(Vec<u8>),
    /// Beside sparse.
    Stages(Vec<Stage>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec((0_u8..24, 1_u8..40), 1..12).prop_map(Step::Upsert),
        1 => prop::collection::vec(0_u8..30, 1..12).prop_map(Step::Delete),
        2 => prop::sample::subsequence(vec![Stage::Dense, Stage::Colbert], 0..=2).prop_map(Step::Stages),
    ]
}

fn text(number: u8, words: u8, step: usize) -> String {
    let words: Vec<String> = (0..words)
        .map(|word| format!("w{}", (word ^ number) % 17))
        .collect();
    format!("step{step} {}", words.join(" "))
}

async fn apply(
    place: &Place,
    indexer: &indexer::Indexer,
    model: &mut Model,
    step: &Step,
    number: usize,
) {
    match step {
        Step::Upsert(documents) => {
            let mut changed = Model::new();
            for (document, words) in documents {
                changed.insert(
                    format!("d{document}"),
                    (
                        format!("t{}", document % 3),
                        text(*document, *words, number),
                    ),
                );
            }
            let replaced = changed.keys().filter(|id| model.contains_key(*id)).count() as u64;
            let lines: Vec<String> = changed
                .iter()
                .rev()
                .map(|(id, (title, text))| line(id, title, text))
                .collect();
            let summary = index_ok(indexer, settings(), &lines).await;
            assert_eq!(
                (summary.documents, summary.replaced),
                (changed.len() as u64, replaced)
            );
            model.extend(changed);
        }
        Step::Delete(documents) => {
            let ids: Vec<String> = documents
                .iter()
                .map(|document| format!("d{document}"))
                .collect();
            let before = place.number().await;
            if before == 0 {
                indexer.delete(&name(), ids).await.unwrap_err();
                return;
            }
            let held = model.len();
            model.retain(|id, _| !ids.contains(id));
            let deletion = indexer.delete(&name(), ids).await.unwrap();
            assert_eq!(deletion.deleted as usize, held - model.len());
            assert_eq!(
                place.number().await,
                before + u64::from(deletion.deleted > 0)
            );
        }
        Step::Stages(beside_sparse) => {
            let wishes = [&[Stage::Sparse], &beside_sparse[..]].concat();
            let before = place.manifest().await;
            let summary = set_stages_ok(indexer, &wishes).await;
            let after = place.manifest().await;
            assert_eq!(after.settings.stages, wishes);
            let is_changed = before.settings.stages != wishes;
            assert_eq!(after.number, before.number + u64::from(is_changed));
            assert_eq!(summary.snapshot.is_some(), is_changed);
        }
    }
}

async fn check(steps: Vec<Step>, shards: u32, segment_passages: u32) {
    let place = Place::new();
    let indexer = place.indexer_with(WordEncoder::with_tokens(DIMENSIONS, 24), |raw| {
        raw.max_segment_passages = segment_passages
    });
    let mut first = settings();
    first.shards = Some(shards);
    index_ok(&indexer, first, &[line("d0", "first", "first")]).await;
    let mut model = Model::from([("d0".to_owned(), ("first".to_owned(), "first".to_owned()))]);
    for (number, step) in steps.iter().enumerate() {
        apply(&place, &indexer, &mut model, step, number).await;
        assert_eq!(contents(&place).await, model);
    }
    if !model.is_empty() {
        assert_eq!(statistics(&place).await, recounted(&model).await);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_collection_is_a_map(
        steps in prop::collection::vec(step(), 1..8),
        shards in 1_u32..4,
        segment_passages in 1_u32..40,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(check(steps, shards, segment_passages));
    }
}
