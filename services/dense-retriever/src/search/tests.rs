//! What is chosen, whichever way, against scoring everything.

use std::path::Path;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use segment::dense::DenseWriter;
use segment::documents::{Document, DocumentsWriter};
use segment::manifest::DenseSettings;
use segment::store::PartFiles;
use service_kit::compute::ComputeError;
use tempfile::TempDir;
use vector_math::VectorCoder;

use super::*;

const DIMENSIONS: usize = 24;
const PREFIX: usize = 16;

fn coder() -> VectorCoder {
    VectorCoder::new(None, DIMENSIONS, DIMENSIONS, PREFIX).unwrap()
}

fn vector(random: &mut ChaCha8Rng) -> Vec<f32> {
    // Few distinct values, so that scores tie across segments.
    (0..DIMENSIONS)
        .map(|at| {
            if at < 6 {
                f32::from(random.random_range(-1_i8..=1))
            } else {
                0.25
            }
        })
        .collect()
}

struct Stored {
    part: DensePart,
    documents: Documents,
    _folder: TempDir,
}

/// Documents `d0`, `d1`, … spread over segments by their number.
fn segments(count: usize, documents: usize, graph_min_passages: u32) -> Vec<Stored> {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let vectors: Vec<_> = (0..documents).map(|_| vector(&mut random)).collect();
    (0..count)
        .map(|segment| {
            let here = (segment..documents)
                .step_by(count)
                .map(|number| (format!("d{number:06}"), &vectors[number]));
            stored(&here.collect::<Vec<_>>(), graph_min_passages)
        })
        .collect()
}

fn stored(documents: &[(String, &Vec<f32>)], graph_min_passages: u32) -> Stored {
    let folder = tempfile::tempdir().unwrap();
    let [dense, texts] = ["dense", "documents"].map(|part| folder.path().join(part));
    [&dense, &texts]
        .into_iter()
        .for_each(|part| std::fs::create_dir(part).unwrap());
    let settings = settings(graph_min_passages);
    let mut vectors = DenseWriter::new(&dense, &settings).unwrap();
    let mut writer = DocumentsWriter::new(&texts).unwrap();
    for (id, vector) in documents {
        vectors.push(&coder().prepare(vector).unwrap()).unwrap();
        let (title, metadata_json) = (String::new(), "{}".to_owned());
        writer
            .push(&Document {
                id: id.clone(),
                title,
                metadata_json,
                passages: vec!["text".to_owned()],
            })
            .unwrap();
    }
    vectors.finish().unwrap();
    writer.finish().unwrap();
    let files = |folder: &Path| PartFiles::of_folder(folder).unwrap();
    Stored {
        part: DensePart::open(&files(&dense), &settings, documents.len() as u32).unwrap(),
        documents: Documents::open(&files(&texts)).unwrap(),
        _folder: folder,
    }
}

fn settings(graph_min_passages: u32) -> DenseSettings {
    DenseSettings {
        dimensions: DIMENSIONS as u32,
        prefix_dimensions: PREFIX as u32,
        prefix_depth: 100,
        rotated: false,
        rotation_sample: 0,
        graph_min_passages,
    }
}

fn targets(segments: &[Stored], allowed: impl Fn(u32) -> Option<Arc<Bitmap>>) -> Vec<Target<'_>> {
    let target = |(number, stored): (u32, &'_ Stored)| (number, stored.part.rows().len() as u32);
    (0..)
        .zip(segments)
        .map(|(number, stored)| Target {
            number,
            part: &stored.part,
            documents: &stored.documents,
            allowed: allowed(target((number, stored)).1),
        })
        .collect()
}

fn named(targets: &[Target<'_>], candidates: &[Candidate]) -> Vec<(u32, String)> {
    let id = |candidate: &Candidate| {
        let documents = targets[candidate.address.segment() as usize].documents;
        documents
            .document_id_of(candidate.address.ordinal())
            .unwrap()
            .to_owned()
    };
    candidates
        .iter()
        .map(|candidate| (candidate.score.get().to_bits(), id(candidate)))
        .collect()
}

/// Everything that is allowed, scored and sorted.
fn oracle(query: &CodedQuery, targets: &[Target<'_>], limit: usize) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    for target in targets {
        for row in 0..target.part.rows().len() as u32 {
            if target
                .allowed
                .as_ref()
                .is_none_or(|allowed| allowed.contains(row))
            {
                let score = target.part.rows().score(query, row as usize).unwrap() + 0.0;
                all.push((
                    score,
                    target.documents.document_id_of(row).unwrap().to_owned(),
                ));
            }
        }
    }
    all.sort_by(|left, right| {
        right
            .0
            .total_cmp(&left.0)
            .then_with(|| left.1.cmp(&right.1))
    });
    all.truncate(limit);
    all.into_iter()
        .map(|(score, id)| (score.to_bits(), id))
        .collect()
}

fn query(seed: u64) -> CodedQuery {
    coder()
        .query(&vector(&mut ChaCha8Rng::seed_from_u64(seed)))
        .unwrap()
}

const EXACT: Plan = Plan {
    limit: 40,
    prefix_depth: 100_000,
    has_good_prefixes: true,
};

#[test]
fn segments_change_neither_scores_nor_order() {
    let mut answers = Vec::new();
    for count in [1, 3, 10] {
        let segments = segments(count, 500, u32::MAX);
        let targets = targets(&segments, |_| None);
        let found = search(&query(1), &targets, EXACT, || Ok(())).unwrap();
        answers.push(named(&targets, &found));
        assert_eq!(answers[0], oracle(&query(1), &targets, 40));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

#[test]
fn a_prefix_scan_passes_on_enough_and_no_more() {
    let segments = segments(3, 3000, u32::MAX);
    let targets = targets(&segments, |_| None);
    let plan = Plan {
        limit: 10,
        prefix_depth: 200,
        has_good_prefixes: true,
    };
    let found = named(
        &targets,
        &search(&query(2), &targets, plan, || Ok(())).unwrap(),
    );
    // The dimensions behind the prefix are equal in all vectors: prefixes rank as the whole does.
    assert_eq!(found, oracle(&query(2), &targets, 10));
    let deep = Plan { limit: 200, ..plan };
    assert_eq!(
        search(&query(2), &targets, deep, || Ok(())).unwrap().len(),
        200
    );
}

#[test]
fn the_graph_finds_what_the_scan_finds() {
    let segments = segments(1, 2000, 1);
    let even = |passages: u32| {
        let mut even = Bitmap::new(passages);
        (0..passages).step_by(2).for_each(|row| even.set(row));
        Some(Arc::new(even))
    };
    for targets in [targets(&segments, |_| None), targets(&segments, even)] {
        let searched: Vec<_> = targets.iter().map(Searched::new).collect();
        let plan = Plan { limit: 20, ..EXACT };
        let mut hits = search_graphs(&query(3), &searched, plan, &|| Ok(())).unwrap();
        hits.sort_unstable_by(best_first);
        let found: Vec<u32> = hits
            .iter()
            .take(20)
            .map(|hit| (hit.score + 0.0).to_bits())
            .collect();
        let exact: Vec<u32> = oracle(&query(3), &targets, 20)
            .into_iter()
            .map(|(score, _)| score)
            .collect();
        assert_eq!(found, exact);
    }
}

#[test]
fn a_graph_is_used_where_it_costs_less() {
    let segments = segments(1, 300, 1);
    let targets = targets(&segments, |_| None);
    let mut searched = Searched::new(&targets[0]);
    let plan = Plan {
        limit: 100,
        prefix_depth: 1000,
        has_good_prefixes: true,
    };
    assert!(
        searched.graph_to_use(plan).is_none(),
        "300 rows are scanned sooner"
    );
    assert!(
        cost::graph_ns(256) < 262_144 * cost::PREFIX_ROW_NS,
        "a hundred of a full segment"
    );
    assert!(
        cost::graph_ns(2000) > 1_000_000 * cost::PREFIX_ROW_NS,
        "a thousand of a million"
    );
    searched.allowed_passages = 0;
    assert!(searched.graph_to_use(plan).is_none());
}

#[test]
fn it_stops_when_it_is_told_to() {
    let segments = segments(2, 100, u32::MAX);
    let targets = targets(&segments, |_| None);
    let late = search(&query(1), &targets, EXACT, || {
        Err(Error::Compute(ComputeError::DeadlineExceeded))
    });
    assert!(matches!(
        late,
        Err(Error::Compute(ComputeError::DeadlineExceeded))
    ));
}

#[test]
fn little_work_stays_on_the_calling_thread() {
    let on_this_thread = || {
        assert_eq!(rayon::current_thread_index(), None);
        Ok(())
    };
    for graph_min_passages in [u32::MAX, 1] {
        let segments = segments(5, 500, graph_min_passages);
        let targets = targets(&segments, |_| None);
        for plan in [
            EXACT,
            Plan {
                limit: 10,
                prefix_depth: 100,
                has_good_prefixes: true,
            },
        ] {
            search(&query(1), &targets, plan, on_this_thread).unwrap();
        }
    }
}

#[test]
fn nothing_to_search_gives_nothing() {
    assert!(search(&query(1), &[], EXACT, || Ok(())).unwrap().is_empty());
    let segments = segments(2, 100, u32::MAX);
    let targets = targets(&segments, |passages| Some(Arc::new(Bitmap::new(passages))));
    assert!(
        search(&query(1), &targets, EXACT, || Ok(()))
            .unwrap()
            .is_empty()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_filter_is_exact(seed: u64, share in 0.0_f64..1.0, limit in 1_usize..60, has_good_prefixes: bool) {
        let segments = segments(3, 600, u32::MAX);
        let random = std::cell::RefCell::new(ChaCha8Rng::seed_from_u64(seed));
        let targets = targets(&segments, |passages| {
            let mut allowed = Bitmap::new(passages);
            (0..passages).filter(|_| random.borrow_mut().random_bool(share)).for_each(|row| allowed.set(row));
            Some(Arc::new(allowed))
        });
        let plan = Plan { limit, prefix_depth: limit.max(100), has_good_prefixes };
        let found = named(&targets, &search(&query(seed), &targets, plan, || Ok(())).unwrap());
        let expected = oracle(&query(seed), &targets, limit);
        let scores = |hits: &[(u32, String)]| hits.iter().map(|(score, _)| *score).collect::<Vec<_>>();
        prop_assert_eq!(scores(&found), scores(&expected));
    }
}
