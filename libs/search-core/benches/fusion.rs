//! The pure part of a hybrid answer: the fusion of about 1900 candidates. Scores are a seeded uniform sequence.

use criterion::{Criterion, criterion_group, criterion_main};
use search_core::fusion::{Method, StageScores, fuse};
use std::hint::black_box;

/// Numbers in 0..1, always the same (a linear congruential generator; Knuth's MMIX constants).
fn uniform(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..count).map(|_| next()).collect()
}

fn fuse_1900(criterion: &mut Criterion) {
    let (dense, sparse) = (uniform(1900, 2), uniform(1900, 3));
    let stages = [
        StageScores {
            weight: 0.5,
            scores: &sparse,
        },
        StageScores {
            weight: 0.5,
            scores: &dense,
        },
    ];
    let methods = [
        ("min_max", Method::MinMax),
        ("rrf", Method::Rrf { rank_constant: 60 }),
    ];
    for (name, method) in methods {
        criterion.bench_function(&format!("fuse/{name}_1900_uniform"), |bencher| {
            bencher.iter(|| fuse(method, black_box(&stages)));
        });
    }
}

criterion_group!(benches, fuse_1900);
criterion_main!(benches);
