//! MaxSim: 32 query tokens × 1000 passages × 120 tokens × 96 dimensions on one core.
//!
//! Beside criterion's times stands for each backend what part of the core's int8 peak is reached. Kernel and peak are
//! measured in turns of a hundred passages, a quarter of a millisecond, so that few turns of a busy machine are
//! interrupted, and the medians are compared.

mod peak;

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vector_math::{Backend, Kernels, TokenLayout, TokenQuery, TokenRows};

const DIMENSIONS: usize = 96;
const QUERY_TOKENS: usize = 32;
const PASSAGES: usize = 1000;
const PASSAGE_TOKENS: usize = 120;
/// Passages of a turn: as many as a query's best hundred.
const TURN_PASSAGES: usize = 100;
/// Multiplications, each with an addition, of a turn.
const TURN_MULTIPLICATIONS: usize = QUERY_TOKENS * TURN_PASSAGES * PASSAGE_TOKENS * DIMENSIONS;
/// How often the turns go through all passages.
const ROUNDS: usize = 50;
const SEED: u64 = 20;

struct Segment {
    layout: TokenLayout,
    blocks: Vec<u8>,
    passages: Vec<Range<u32>>,
}

impl Segment {
    fn random(random: &mut ChaCha8Rng) -> Self {
        let layout = TokenLayout::new(DIMENSIONS).expect("possible dimensions");
        let mut blocks = Vec::new();
        let mut passages = Vec::new();
        let mut end = 0;
        for _ in 0..PASSAGES {
            let start = end;
            end += layout
                .pack_passage(&tokens(PASSAGE_TOKENS, random), &mut blocks)
                .expect("finite vectors") as u32;
            passages.push(start..end);
        }
        Self {
            layout,
            blocks,
            passages,
        }
    }

    fn scores(&self, kernels: Kernels, query: &TokenQuery, passages: &[Range<u32>]) -> Vec<f32> {
        TokenRows::new(self.layout, &self.blocks)
            .expect("whole blocks")
            .with_kernels(kernels)
            .score_while(black_box(query), passages, |_| true)
            .expect("passages of this segment")
    }
}

fn tokens(count: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
    (0..count * DIMENSIONS)
        .map(|_| random.random_range(-1.0..1.0))
        .collect()
}

fn max_sim(criterion: &mut Criterion) {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let segment = Segment::random(&mut random);
    let query = TokenQuery::new(segment.layout, &tokens(QUERY_TOKENS, &mut random))
        .expect("finite vectors");
    let gathered: Vec<Range<u32>> = (0..TURN_PASSAGES)
        .map(|_| segment.passages[random.random_range(0..PASSAGES)].clone())
        .collect();
    let mut group = criterion.benchmark_group("max_sim 32 x 1000 x 120 x 96");
    for kernels in Backend::available().into_iter().filter_map(Kernels::of) {
        let backend = kernels.backend();
        group.throughput(Throughput::Elements(PASSAGES as u64));
        group.bench_function(format!("{backend:?}"), |bencher| {
            bencher.iter(|| segment.scores(kernels, &query, &segment.passages));
        });
        group.throughput(Throughput::Elements(TURN_PASSAGES as u64));
        group.bench_function(format!("{backend:?}, 100 gathered passages"), |bencher| {
            bencher.iter(|| segment.scores(kernels, &query, &gathered));
        });
        print_share_of_peak(kernels, &segment, &query);
    }
    group.finish();
}

fn print_share_of_peak(kernels: Kernels, segment: &Segment, query: &TokenQuery) {
    let backend = kernels.backend();
    let (mut kernel, mut peak) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for passages in segment.passages.chunks(TURN_PASSAGES) {
            kernel.push(timed(|| segment.scores(kernels, query, passages)).as_secs_f64());
            peak.extend(peak::seconds(backend));
        }
    }
    let kernel = median(kernel);
    let rate = |seconds: f64| TURN_MULTIPLICATIONS as f64 / seconds / 1e9;
    print!(
        "{backend:?}: {:.2} ms per 1000 passages, {:.0} G multiplications/s",
        kernel * 1e3 * (PASSAGES / TURN_PASSAGES) as f64,
        rate(kernel),
    );
    if peak.is_empty() {
        println!("; no peak is measured");
    } else {
        let peak = median(peak);
        let share = peak / kernel * 100.0;
        println!(
            ", {share:.0} % of the core's int8 peak of {:.0} G",
            rate(peak)
        );
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

criterion_group!(benches, max_sim);
criterion_main!(benches);
