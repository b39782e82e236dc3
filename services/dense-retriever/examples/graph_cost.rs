//! What a graph costs and finds beside a scan, on real vectors: where the constants in `search.rs` come from.
//!
//!     cargo run --release -p dense-retriever --example graph_cost -- CORPUS.f32 QUERIES.f32 WIDTH [ROWS]
//!
//! Both files are raw little-endian f32 rows. Times are of one thread, with caches that are warm.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use segment::dense::{DensePart, DenseWriter};
use segment::manifest::DenseSettings;
use segment::store::PartFiles;
use vector_math::{CodedQuery, Rotation, TopRows, VectorCoder};

const PREFIX: usize = 64;
const ROTATION_SAMPLE: usize = 20_000;
/// The shortest of several runs counts: the machine does other things too.
const REPEATS: usize = 7;
/// How many passages the graph is asked for.
const ASKED: [usize; 7] = [64, 128, 256, 512, 1000, 2000, 4000];

fn read(path: &str, width: usize, rows: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let values = bytes
        .as_chunks()
        .0
        .iter()
        .map(|&value| f32::from_le_bytes(value));
    let mut values: Vec<f32> = values.take(rows.saturating_mul(width)).collect();
    values.truncate(values.len() / width * width);
    Ok(values)
}

fn full_scan(part: &DensePart, query: &CodedQuery, count: usize) -> Vec<u32> {
    let mut top = TopRows::new(count);
    part.rows()
        .scan_full(query, 0..part.rows().len(), None, &mut top);
    top.into_sorted().into_iter().map(|(row, _)| row).collect()
}

fn prefix_scan(part: &DensePart, query: &CodedQuery, depth: usize) -> Vec<u32> {
    let mut top = TopRows::new(depth);
    part.rows()
        .scan_prefix(query, 0..part.rows().len(), None, &mut top);
    let chosen = top.into_sorted().into_iter().map(|(row, _)| row);
    let score = |row: &u32| {
        black_box(part.rows().score(query, *row as usize));
    };
    chosen.inspect(score).collect()
}

/// Time per query, and the share of the exact best 10, 100 and 1000 that was found.
fn measure(
    queries: &[CodedQuery],
    exact: &[Vec<u32>],
    find: impl Fn(&CodedQuery) -> Result<Vec<u32>, Box<dyn Error>>,
) -> Result<(Duration, [f64; 3]), Box<dyn Error>> {
    let mut found = Vec::new();
    let mut total = Duration::ZERO;
    for query in queries {
        let mut best = Duration::MAX;
        for _ in 0..REPEATS {
            let started = Instant::now();
            black_box(find(query)?);
            best = best.min(started.elapsed());
        }
        found.push(find(query)?);
        total += best;
    }
    let elapsed = total / queries.len() as u32;
    let mut shares = [0.0; 3];
    for (exact, mut found) in exact.iter().zip(found) {
        found.sort_unstable();
        for (share, count) in shares.iter_mut().zip([10, 100, 1000]) {
            let exact = &exact[..count.min(exact.len())];
            let hits = exact
                .iter()
                .filter(|row| found.binary_search(row).is_ok())
                .count();
            *share += hits as f64 / exact.len() as f64 / queries.len() as f64;
        }
    }
    Ok((elapsed, shares))
}

fn report(name: &str, (time, [ten, hundred, thousand]): (Duration, [f64; 3])) {
    println!(
        "{name:<28} {:>8.1} µs   {ten:.4}  {hundred:.4}  {thousand:.4}",
        time.as_secs_f64() * 1e6
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [corpus, queries, width, rest @ ..] = arguments.as_slice() else {
        return Err("arguments: CORPUS.f32 QUERIES.f32 WIDTH [ROWS]".into());
    };
    let width: usize = width.parse()?;
    let corpus = read(
        corpus,
        width,
        rest.first().map_or(Ok(usize::MAX), |rows| rows.parse())?,
    )?;
    let sample = &corpus[..corpus.len().min(ROTATION_SAMPLE * width)];
    let coder = VectorCoder::new(
        Some(Rotation::fit(sample, width, width, PREFIX, 7)?),
        width,
        width,
        PREFIX,
    )?;
    let settings = DenseSettings {
        dimensions: width as u32,
        prefix_dimensions: PREFIX as u32,
        prefix_depth: 1000,
        rotated: true,
        rotation_sample: ROTATION_SAMPLE as u32,
        graph_min_passages: 1,
    };
    let folder = tempfile::tempdir()?;
    let mut writer = DenseWriter::new(folder.path(), &settings)?;
    for vector in corpus.chunks_exact(width) {
        writer.push(&coder.prepare(vector)?)?;
    }
    let started = Instant::now();
    writer.finish()?;
    let rows = corpus.len() / width;
    println!("{rows} passages, graph built in {:.1?}", started.elapsed());
    let part = DensePart::open(
        &PartFiles::of_folder(folder.path())?,
        &settings,
        rows as u32,
    )?;
    let queries = read(queries, width, 200)?;
    let queries: Vec<CodedQuery> = queries
        .chunks_exact(width)
        .map(|query| coder.query(query))
        .collect::<Result<_, _>>()?;
    let exact: Vec<Vec<u32>> = queries
        .iter()
        .map(|query| full_scan(&part, query, 1000))
        .collect();
    println!("{:<28} {:>11}   top 10  top 100 top 1000", "", "a query");
    report(
        "full scan",
        measure(&queries, &exact, |query| Ok(full_scan(&part, query, 1000)))?,
    );
    for depth in [1000, 2000] {
        report(
            &format!("prefixes, depth {depth}"),
            measure(&queries, &exact, |query| {
                Ok(prefix_scan(&part, query, depth))
            })?,
        );
    }
    let graph = part.graph().ok_or("no graph was built")?;
    for asked in ASKED {
        let name = format!("graph, asked for {asked}");
        report(
            &name,
            measure(&queries, &exact, |query| {
                Ok(graph.search(query, asked, None)?)
            })?,
        );
    }
    Ok(())
}
