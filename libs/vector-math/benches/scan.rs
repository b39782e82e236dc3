//! Scanning prefixes: 100,000 rows of 64 codes, the best 1000, beside the time that reading alone takes.
//!
//! `sum of the bytes` is the floor: it reads the same 6.4 MB of codes and 0.4 MB of norms and only adds them up.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vector_math::{Backend, CodedQuery, CodedRows, Kernels, TopRows, VectorCoder, codes_as_bytes};

const ROWS: usize = 100_000;
const WIDTH: usize = 384;
const PREFIX: usize = 64;
const DEPTH: usize = 1000;
const SEED: u64 = 20;

struct Segment {
    prefix: Vec<i8>,
    rest: Vec<i8>,
    scales: Vec<f32>,
    norms: Vec<f32>,
}

impl Segment {
    /// Uniform codes: every dimension matters alike, so that thresholds rise slowly. A hard case for choosing.
    fn uniform(random: &mut ChaCha8Rng) -> Self {
        let mut codes = |count: usize| {
            (0..count)
                .map(|_| random.random_range(-127..=127))
                .collect::<Vec<i8>>()
        };
        let (prefix, rest) = (codes(ROWS * PREFIX), codes(ROWS * (WIDTH - PREFIX)));
        let norm = |row: &[i8]| {
            row.iter()
                .map(|&code| f32::from(code).powi(2))
                .sum::<f32>()
                .sqrt()
        };
        let norms = prefix
            .chunks_exact(PREFIX)
            .map(|row| 1.0 / norm(row))
            .collect();
        Self {
            prefix,
            rest,
            scales: vec![7e-4; ROWS * 2],
            norms,
        }
    }

    fn rows(&self, kernels: Kernels) -> CodedRows<'_> {
        CodedRows::new(
            WIDTH,
            PREFIX,
            &self.prefix,
            &self.rest,
            &self.scales,
            &self.norms,
        )
        .expect("blocks of one row count")
        .with_kernels(kernels)
    }
}

fn query(random: &mut ChaCha8Rng) -> CodedQuery {
    let vector: Vec<f32> = (0..WIDTH).map(|_| random.random_range(-1.0..1.0)).collect();
    let coder = VectorCoder::new(None, WIDTH, WIDTH, PREFIX).expect("dimensions that fit");
    coder.query(&vector).expect("a finite vector")
}

fn sum_of_words(bytes: &[u8]) -> u64 {
    bytes
        .as_chunks()
        .0
        .iter()
        .fold(0, |sum, &word| sum ^ u64::from_le_bytes(word))
}

fn scans(criterion: &mut Criterion) {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let segment = Segment::uniform(&mut random);
    let query = query(&mut random);
    let words: Vec<u64> = (0..ROWS.div_ceil(64))
        .map(|_| random.random::<u64>() & random.random::<u64>())
        .collect();

    let mut group = criterion.benchmark_group("scan 100000x64, best 1000");
    group.throughput(Throughput::Bytes(
        (ROWS * (PREFIX + size_of::<f32>())) as u64,
    ));
    group.bench_function("floor: sum of the bytes", |bencher| {
        bencher.iter(|| sum_of_words(black_box(codes_as_bytes(&segment.prefix))));
    });
    for kernels in Backend::available().into_iter().filter_map(Kernels::of) {
        let scan = |allowed: Option<&[u64]>| {
            let mut top = TopRows::new(DEPTH);
            segment
                .rows(kernels)
                .scan_prefix(black_box(&query), 0..ROWS, allowed, &mut top);
            top.into_sorted()
        };
        let backend = kernels.backend();
        group.bench_function(format!("{backend:?}"), |bencher| {
            bencher.iter(|| scan(None))
        });
        group.bench_function(format!("{backend:?}, a quarter allowed"), |bencher| {
            bencher.iter(|| scan(Some(&words)));
        });
    }
    group.finish();
    full_width(criterion, &segment, &query, &mut random);
}

fn full_width(
    criterion: &mut Criterion,
    segment: &Segment,
    query: &CodedQuery,
    random: &mut ChaCha8Rng,
) {
    let gathered: Vec<usize> = (0..DEPTH).map(|_| random.random_range(0..ROWS)).collect();
    let mut group = criterion.benchmark_group("full width, 384 dimensions");
    for kernels in Backend::available().into_iter().filter_map(Kernels::of) {
        let rows = segment.rows(kernels);
        let backend = kernels.backend();
        group.bench_function(format!("{backend:?}, 1000 gathered rows"), |bencher| {
            bencher.iter(|| {
                gathered
                    .iter()
                    .filter_map(|&row| rows.score(black_box(query), row))
                    .sum::<f32>()
            });
        });
    }
    let rows = segment.rows(Kernels::detected());
    group.bench_function("detected, 100000 rows, best 1000", |bencher| {
        bencher.iter(|| {
            let mut top = TopRows::new(DEPTH);
            rows.scan_full(black_box(query), 0..ROWS, None, &mut top);
            top.into_sorted()
        });
    });
    group.finish();
}

criterion_group!(benches, scans);
criterion_main!(benches);
