//! How much of the exact floating-point ranking the int8 funnel keeps, on real vectors.
//!
//!     cargo run --release -p dense-retriever --example prefix_recall -- CORPUS.f32 QUERIES.f32 WIDTH [ROWS [QRELS]]
//!
//! Both files are raw little-endian f32 rows. QRELS (query row, corpus row, grade; by white space) adds nDCG@10 as a share of the
//! floats' own. For each prefix a rotation is fitted on a sample of the corpus, as the indexer
//! does it; then every query runs prefix → depth → full width with the real coder and kernels, and what it finds is compared with the
//! exact top 10 and top 100 of the floats.

use std::error::Error;

use evaluation::beir::{Qrels, read_qrels};
use evaluation::metrics::ndcg_at;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use vector_math::{CodedRows, Rotation, TopRows, VectorCoder, normalize};

const PREFIXES: [usize; 4] = [32, 64, 96, 128];
const DEPTHS: [usize; 5] = [200, 500, 1000, 1500, 2000];
/// As the indexer's default.
const ROTATION_SAMPLE: usize = 20_000;
const SEED: u64 = 7;

/// Unit vectors, one behind the other.
struct Vectors {
    width: usize,
    values: Vec<f32>,
}

impl Vectors {
    fn read(path: &str, width: usize, rows: usize) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(path)?;
        let values = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&value| f32::from_le_bytes(value));
        let mut values: Vec<f32> = values.take(rows.saturating_mul(width)).collect();
        values.truncate(values.len() / width * width);
        values.chunks_exact_mut(width).try_for_each(normalize)?;
        Ok(Self { width, values })
    }

    fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.width)
    }

    fn sample(&self) -> Vec<f32> {
        let rows = self.rows().len();
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let mut chosen =
            rand::seq::index::sample(&mut random, rows, rows.min(ROTATION_SAMPLE)).into_vec();
        chosen.sort_unstable();
        chosen
            .iter()
            .flat_map(|&row| &self.values[row * self.width..][..self.width])
            .copied()
            .collect()
    }
}

/// The exact ranking of the floats, the best `count`.
fn exact(corpus: &Vectors, query: &[f32], count: usize) -> Vec<u32> {
    let mut top = TopRows::new(count);
    for (row, vector) in corpus.rows().enumerate() {
        top.push(
            row as u32,
            vector
                .iter()
                .zip(query)
                .map(|(left, right)| left * right)
                .sum(),
        );
    }
    top.into_sorted().into_iter().map(|(row, _)| row).collect()
}

#[derive(Default)]
struct Blocks {
    prefix: Vec<i8>,
    rest: Vec<i8>,
    scales: Vec<f32>,
    norms: Vec<f32>,
}

impl Blocks {
    fn code(coder: &VectorCoder, corpus: &Vectors) -> Result<Self, Box<dyn Error>> {
        let mut blocks = Self::default();
        for vector in corpus.rows() {
            let coded = coder.prepare(vector)?;
            let (prefix, rest) = coded.codes.split_at(coder.prefix_dimensions());
            blocks.prefix.extend_from_slice(prefix);
            blocks.rest.extend_from_slice(rest);
            blocks.scales.extend([coded.prefix_scale, coded.rest_scale]);
            blocks.norms.push(coded.prefix_inverse_norm);
        }
        Ok(blocks)
    }

    fn rows(&self, coder: &VectorCoder) -> Result<CodedRows<'_>, Box<dyn Error>> {
        let (dimensions, prefix) = (coder.dimensions(), coder.prefix_dimensions());
        Ok(CodedRows::new(
            dimensions,
            prefix,
            &self.prefix,
            &self.rest,
            &self.scales,
            &self.norms,
        )?)
    }
}

/// What the funnel finds for each query, best first. A depth of 0 scans everything at full width.
fn funnel(
    rows: &CodedRows<'_>,
    coder: &VectorCoder,
    queries: &[&[f32]],
    depth: usize,
) -> Vec<Vec<u32>> {
    let one = |query: &&[f32]| {
        let query = coder.query(query).expect("a unit vector of this width");
        let mut chosen = TopRows::new(if depth == 0 { 100 } else { depth });
        if depth == 0 {
            rows.scan_full(&query, 0..rows.len(), None, &mut chosen);
        } else {
            rows.scan_prefix(&query, 0..rows.len(), None, &mut chosen);
        }
        let mut best = TopRows::new(100);
        for row in in_order(chosen) {
            best.push(row, rows.score(&query, row as usize).unwrap_or_default());
        }
        best.into_sorted().into_iter().map(|(row, _)| row).collect()
    };
    queries.par_iter().map(one).collect()
}

/// The rows, ascending, as the retriever reads them.
fn in_order(chosen: TopRows) -> Vec<u32> {
    let mut rows: Vec<u32> = chosen
        .into_sorted()
        .into_iter()
        .map(|(row, _)| row)
        .collect();
    rows.sort_unstable();
    rows
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    values.sum::<f64>() / count as f64
}

fn mean_share(exact: &[Vec<u32>], found: &[Vec<u32>], count: usize) -> f64 {
    mean(
        exact
            .iter()
            .zip(found)
            .map(|(exact, found)| share(exact, found, count)),
    )
}

/// Mean nDCG@10 over the judged queries.
fn ndcg(rankings: &[Vec<u32>], qrels: &Qrels) -> f64 {
    mean(qrels.iter().map(|(query, judged)| {
        let ranking = query
            .parse()
            .ok()
            .and_then(|query: usize| rankings.get(query));
        let ids: Vec<String> = ranking.into_iter().flatten().map(u32::to_string).collect();
        ndcg_at(
            10,
            &ids.iter().map(String::as_str).collect::<Vec<_>>(),
            judged,
        )
    }))
}

fn share(exact: &[u32], found: &[u32], count: usize) -> f64 {
    let (exact, found) = (
        &exact[..count.min(exact.len())],
        &found[..count.min(found.len())],
    );
    exact.iter().filter(|row| found.contains(row)).count() as f64 / exact.len() as f64
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [corpus, queries, width, rest @ ..] = arguments.as_slice() else {
        return Err("arguments: CORPUS.f32 QUERIES.f32 WIDTH [ROWS [QRELS]]".into());
    };
    let width: usize = width.parse()?;
    let rows = rest.first().map_or(Ok(usize::MAX), |rows| rows.parse())?;
    let corpus = Vectors::read(corpus, width, rows)?;
    let queries = Vectors::read(queries, width, usize::MAX)?;
    println!(
        "{} passages, {} queries, {width} dimensions",
        corpus.rows().len(),
        queries.rows().len()
    );
    let every_query: Vec<&[f32]> = queries.rows().collect();
    let exact: Vec<Vec<u32>> = every_query
        .par_iter()
        .map(|query| exact(&corpus, query, 100))
        .collect();
    let sample = corpus.sample();
    let qrels = rest
        .get(1)
        .map(|file| read_qrels(file.as_ref()))
        .transpose()?;
    let exact_ndcg = qrels.as_ref().map_or(0.0, |qrels| ndcg(&exact, qrels));
    println!("nDCG@10 of the floats: {exact_ndcg:.4}");
    println!("prefix  depth  top 10  top 100  nDCG@10 kept");
    for prefix in PREFIXES.into_iter().filter(|&prefix| prefix <= width) {
        let rotation = Rotation::fit(&sample, width, width, prefix, SEED)?;
        let coder = VectorCoder::new(Some(rotation), width, width, prefix)?;
        let blocks = Blocks::code(&coder, &corpus)?;
        for depth in DEPTHS
            .into_iter()
            .filter(|&depth| depth < corpus.rows().len())
            .chain([0])
        {
            let found = funnel(&blocks.rows(&coder)?, &coder, &every_query, depth);
            let [ten, hundred] = [10, 100].map(|count| mean_share(&exact, &found, count));
            let kept = qrels
                .as_ref()
                .map_or(f64::NAN, |qrels| ndcg(&found, qrels) / exact_ndcg);
            let depth = if depth == 0 {
                "all".to_owned()
            } else {
                depth.to_string()
            };
            println!("{prefix:>6}  {depth:>5}   {ten:.4}   {hundred:.4}   {kept:.4}");
        }
    }
    Ok(())
}
