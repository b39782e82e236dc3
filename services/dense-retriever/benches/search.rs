//! A search of one shard: 100,000 passages of 384 dimensions in four segments, by the service's own code on its own threads.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use dense_retriever::search::{Plan, Target, search};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use segment::dense::{DensePart, DenseWriter};
use segment::documents::{Document, Documents, DocumentsWriter};
use segment::manifest::DenseSettings;
use segment::store::PartFiles;
use vector_math::{CodedVector, VectorCoder};

const SEGMENTS: usize = 4;
const ROWS: usize = 25_000;
const DIMENSIONS: usize = 384;
const PREFIX: usize = 64;
const SEED: u64 = 4;

struct Stored {
    part: DensePart,
    documents: Documents,
    _folder: tempfile::TempDir,
}

/// Uniform codes: real enough for the time, and quick to make.
fn random_vector(random: &mut ChaCha8Rng) -> CodedVector {
    let codes: Vec<i8> = (0..DIMENSIONS)
        .map(|_| random.random_range(-127..=127))
        .collect();
    CodedVector {
        codes,
        prefix_scale: 7e-4,
        rest_scale: 7e-4,
        prefix_inverse_norm: 1.7e-3,
    }
}

fn stored(random: &mut ChaCha8Rng) -> Stored {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings = DenseSettings {
        dimensions: DIMENSIONS as u32,
        prefix_dimensions: PREFIX as u32,
        prefix_depth: 1000,
        rotated: false,
        rotation_sample: 0,
        graph_min_passages: u32::MAX,
    };
    let [dense, texts] = ["dense", "documents"].map(|part| folder.path().join(part));
    for part in [&dense, &texts] {
        std::fs::create_dir(part).expect("a new folder");
    }
    let mut vectors = DenseWriter::new(&dense, &settings).expect("new files");
    let mut documents = DocumentsWriter::new(&texts).expect("new files");
    for row in 0..ROWS {
        vectors
            .push(&random_vector(random))
            .expect("a vector of this width");
        let (id, title, metadata_json) = (format!("d{row:06}"), String::new(), "{}".to_owned());
        let document = Document {
            id,
            title,
            metadata_json,
            passages: vec!["text".to_owned()],
        };
        documents.push(&document).expect("a document");
    }
    vectors.finish().expect("complete files");
    documents.finish().expect("complete files");
    let files = |folder: &Path| PartFiles::of_folder(folder).expect("the files just written");
    Stored {
        part: DensePart::open(&files(&dense), &settings, ROWS as u32)
            .expect("the files just written"),
        documents: Documents::open(&files(&texts)).expect("the files just written"),
        _folder: folder,
    }
}

fn searches(criterion: &mut Criterion) {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let segments: Vec<Stored> = (0..SEGMENTS).map(|_| stored(&mut random)).collect();
    let target = |(number, stored): (u32, _)| {
        let Stored {
            part, documents, ..
        }: &Stored = stored;
        Target {
            number,
            part,
            documents,
            allowed: None,
        }
    };
    let targets: Vec<Target<'_>> = (0..).zip(&segments).map(target).collect();
    let vector: Vec<f32> = (0..DIMENSIONS)
        .map(|_| random.random_range(-1.0..1.0))
        .collect();
    let coder =
        VectorCoder::new(None, DIMENSIONS, DIMENSIONS, PREFIX).expect("dimensions that fit");
    let query = coder.query(&vector).expect("a finite vector");

    let mut group = criterion.benchmark_group("search 100000 passages in 4 segments");
    for (name, has_good_prefixes) in [("prefix 64, depth 1000", true), ("full width", false)] {
        let plan = Plan {
            limit: 1000,
            prefix_depth: 1000,
            has_good_prefixes,
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                search(black_box(&query), &targets, plan, || Ok(())).expect("finite scores")
            });
        });
    }
    group.bench_function("coding the query", |bencher| {
        bencher.iter(|| coder.query(black_box(&vector)).expect("a finite vector"));
    });
    group.finish();
}

criterion_group!(benches, searches);
criterion_main!(benches);
