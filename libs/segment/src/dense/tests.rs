//! What was written is what is mapped; what is damaged is refused; the graph finds what the scan finds.

use std::path::Path;

use proptest::prelude::*;
use vector_math::{CodedQuery, CodedVector, TopRows, VectorCoder};

use super::{DensePart, DenseWriter, GRAPH, PREFIX, PREFIX_NORMS, REST, SCALES};
use crate::manifest::DenseSettings;
use crate::{SegmentError, store::PartFiles};

const DIMENSIONS: usize = 48;

fn settings(graph_min_passages: u32) -> DenseSettings {
    DenseSettings {
        dimensions: DIMENSIONS as u32,
        prefix_dimensions: 16,
        prefix_depth: 100,
        rotated: false,
        rotation_sample: 0,
        graph_min_passages,
    }
}

fn coder() -> VectorCoder {
    VectorCoder::new(None, DIMENSIONS, DIMENSIONS, 16).unwrap()
}

/// Vectors in clusters, the same for the same row. (SplitMix64, so that this crate needs no generator.)
fn vector(row: u64) -> Vec<f32> {
    let noise = |seed: u64| {
        let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let component = |at: u64| noise(row % 10 * 1000 + at) + 0.5 * noise((row + 7) << 20 | at);
    (0..DIMENSIONS as u64).map(component).collect()
}

fn write(folder: &Path, rows: u32, settings: &DenseSettings) {
    let (mut writer, coder) = (DenseWriter::new(folder, settings).unwrap(), coder());
    for row in 0..rows {
        writer
            .push(&coder.prepare(&vector(row.into())).unwrap())
            .unwrap();
    }
    writer.finish().unwrap();
}

fn open(folder: &Path, settings: &DenseSettings, rows: u32) -> Result<DensePart, SegmentError> {
    DensePart::open(&PartFiles::of_folder(folder)?, settings, rows)
}

fn query(row: u64) -> CodedQuery {
    coder().query(&vector(row)).unwrap()
}

#[test]
fn what_was_written_is_scored() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 130, &settings(u32::MAX));
    let part = open(folder.path(), &settings(u32::MAX), 130).unwrap();
    assert!(part.graph().is_none());
    assert_eq!(part.rows().len(), 130);
    for row in [0, 64, 129] {
        let own = part.rows().score(&query(row), row as usize).unwrap();
        assert!((own - 1.0).abs() < 1e-3, "{own}");
    }
}

#[test]
fn vectors_that_are_only_scored_keep_their_cosines_in_one_block() {
    let folder = tempfile::tempdir().unwrap();
    let settings = DenseSettings::scored_only(DIMENSIONS as u32);
    let coder = VectorCoder::new(None, DIMENSIONS, DIMENSIONS, DIMENSIONS).unwrap();
    let mut writer = DenseWriter::new(folder.path(), &settings).unwrap();
    for row in 0..70 {
        writer.push(&coder.prepare(&vector(row)).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let part = open(folder.path(), &settings, 70).unwrap();
    assert!(part.graph().is_none());
    let exact = |left: &[f32], right: &[f32]| {
        let dot = |left: &[f32], right: &[f32]| -> f32 {
            left.iter()
                .zip(right)
                .map(|(left, right)| left * right)
                .sum()
        };
        dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
    };
    let query = coder.query(&vector(7)).unwrap();
    for row in 0..70 {
        let score = part.rows().score(&query, row).unwrap();
        let wanted = exact(&vector(7), &vector(row as u64));
        assert!(
            (score - wanted).abs() < 0.01,
            "{row}: {score}, not {wanted}"
        );
    }
    assert_eq!(part.rows().score(&query, 70), None);
}

#[test]
fn a_segment_without_passages_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 0, &settings(0));
    let part = open(folder.path(), &settings(0), 0).unwrap();
    assert!(part.rows().is_empty() && part.graph().is_none());
}

#[test]
fn a_vector_of_another_width_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = DenseWriter::new(folder.path(), &settings(0)).unwrap();
    let narrow = VectorCoder::new(None, DIMENSIONS, 20, 16)
        .unwrap()
        .prepare(&vector(0))
        .unwrap();
    assert!(matches!(
        writer.push(&narrow),
        Err(SegmentError::Invalid { .. })
    ));
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 30, &settings(1));
    let refused = |settings: &DenseSettings, rows| match open(folder.path(), settings, rows) {
        Err(SegmentError::Damaged { file, .. }) => file,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&settings(1), 29), PREFIX);
    assert_eq!(
        refused(
            &DenseSettings {
                prefix_dimensions: 8,
                ..settings(1)
            },
            30
        ),
        PREFIX
    );
    assert_eq!(
        refused(
            &DenseSettings {
                dimensions: 40,
                ..settings(1)
            },
            30
        ),
        REST
    );
    for name in [PREFIX, REST, SCALES, PREFIX_NORMS, GRAPH] {
        let path = folder.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 4, 40, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(refused(&settings(1), 30), name, "{name} cut to {length}");
        }
        std::fs::remove_file(&path).unwrap();
        if name != GRAPH {
            assert_eq!(refused(&settings(1), 30), name);
        }
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(open(folder.path(), &settings(1), 30).is_ok());
}

#[test]
fn scales_that_are_no_scales_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 5, &settings(u32::MAX));
    for name in [SCALES, PREFIX_NORMS] {
        let path = folder.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for wrong in [f32::NAN, f32::INFINITY, -0.5, 2.0] {
            let mut damaged = whole.clone();
            damaged[64..68].copy_from_slice(&wrong.to_le_bytes());
            std::fs::write(&path, &damaged).unwrap();
            assert!(matches!(
                open(folder.path(), &settings(u32::MAX), 5),
                Err(SegmentError::Damaged { .. })
            ));
        }
        std::fs::write(&path, &whole).unwrap();
    }
}

fn exact(part: &DensePart, query: &CodedQuery, count: usize) -> Vec<u32> {
    let mut top = TopRows::new(count);
    part.rows()
        .scan_full(query, 0..part.rows().len(), None, &mut top);
    top.into_sorted().into_iter().map(|(row, _)| row).collect()
}

#[test]
fn the_graph_finds_what_the_scan_finds() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 2000, &settings(2000));
    let part = open(folder.path(), &settings(2000), 2000).unwrap();
    let graph = part.graph().expect("large enough for a graph");
    let mut found = 0;
    for row in 0..20 {
        let neighbours = graph.search(&query(row), 100, None).unwrap();
        assert_eq!(neighbours.len(), 100);
        found += exact(&part, &query(row), 10)
            .iter()
            .filter(|row| neighbours.contains(row))
            .count();
    }
    assert!(found >= 196, "{found} of 200");
}

#[test]
fn passages_without_a_vector_are_not_in_the_graph() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(1);
    let mut writer = DenseWriter::new(folder.path(), &settings).unwrap();
    // More of them in front than threads take at a time, and some between the others.
    let has_vector = |row: u32| row >= 1500 && !row.is_multiple_of(3);
    for row in 0..3000 {
        let coded = match has_vector(row) {
            true => coder().prepare(&vector(row.into())).unwrap(),
            false => CodedVector::none(DIMENSIONS),
        };
        writer.push(&coded).unwrap();
    }
    writer.finish().unwrap();
    let part = open(folder.path(), &settings, 3000).unwrap();
    assert_eq!(part.rows().score(&query(3), 7), Some(0.0));
    let graph = part.graph().expect("a graph was asked for");
    let mut found = 0;
    for row in 0..20 {
        let neighbours = graph.search(&query(row), 100, None).unwrap();
        assert!(neighbours.iter().all(|row| has_vector(*row)));
        let exact = exact(&part, &query(row), 10);
        found += exact.iter().filter(|row| neighbours.contains(row)).count();
    }
    assert!(found >= 196, "{found} of 200");
}

#[test]
fn the_graph_obeys_a_filter() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1000, &settings(1));
    let part = open(folder.path(), &settings(1), 1000).unwrap();
    let graph = part.graph().expect("a graph was asked for");
    let found = graph
        .search(&query(3), 50, Some(&|row| row % 2 == 0))
        .unwrap();
    assert!(!found.is_empty() && found.iter().all(|row| row % 2 == 0));
    // Threads build it at once, so that a few nodes may end up without a way to them: the price of a graph, not of a scan.
    let reached = graph.search(&query(3), 5000, None).unwrap().len();
    assert!((990..=1000).contains(&reached), "{reached}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_flipped_byte_never_panics(file in 0_usize..4, at in 0_usize..400, flip in 1_u8..=255) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 20, &settings(u32::MAX));
        let path = folder.path().join([PREFIX, REST, SCALES, PREFIX_NORMS][file]);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(part) = open(folder.path(), &settings(u32::MAX), 20) {
            let mut top = TopRows::new(5);
            part.rows().scan_full(&query(1), 0..20, None, &mut top);
            part.rows().scan_prefix(&query(1), 0..20, None, &mut top);
            prop_assert!(top.into_sorted().iter().all(|(_, score)| score.is_finite()));
        }
    }
}
