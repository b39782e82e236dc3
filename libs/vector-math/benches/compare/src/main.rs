//! The Rust side of `compare.py`: scores the passages of a file again and again, as it is told to on standard input.
//!
//! Arguments: a folder with `query.f32` and `passages.f32`, tokens of the query, tokens of a passage, dimensions.
//! Each line of the input names a contestant; the answer is a line of seconds and scores.
#![expect(unsafe_code, reason = "gemm takes pointers and strides")]

use std::error::Error;
use std::io::{BufRead, Write};
use std::ops::Range;
use std::path::Path;
use std::time::Instant;
use std::{env, fs, io};

use vector_math::{Backend, Kernels, TokenLayout, TokenQuery, TokenRows};

type Failure = Box<dyn Error>;

/// Vectors of norm 1: those of the query, and those of all passages, which are equally long.
struct Vectors {
    query: Vec<f32>,
    passages: Vec<f32>,
    query_tokens: usize,
    passage_tokens: usize,
    dimensions: usize,
}

impl Vectors {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let folder = arguments.next().ok_or("a folder is needed")?;
        let mut number = || -> Result<usize, Failure> {
            Ok(arguments
                .next()
                .ok_or("three numbers are needed")?
                .parse()?)
        };
        Ok(Self {
            query: floats(&Path::new(&folder).join("query.f32"))?,
            passages: floats(&Path::new(&folder).join("passages.f32"))?,
            query_tokens: number()?,
            passage_tokens: number()?,
            dimensions: number()?,
        })
    }

    fn passages(&self) -> impl Iterator<Item = &[f32]> {
        self.passages
            .chunks_exact(self.passage_tokens * self.dimensions)
    }
}

fn floats(file: &Path) -> io::Result<Vec<f32>> {
    let bytes = fs::read(file)?;
    let values = bytes.as_chunks().0.iter();
    Ok(values.map(|value| f32::from_le_bytes(*value)).collect())
}

struct Coded {
    layout: TokenLayout,
    query: TokenQuery,
    blocks: Vec<u8>,
    passages: Vec<Range<u32>>,
}

impl Coded {
    fn of(vectors: &Vectors) -> Result<Self, Failure> {
        let layout = TokenLayout::new(vectors.dimensions)?;
        let (mut blocks, mut passages, mut end) = (Vec::new(), Vec::new(), 0);
        for passage in vectors.passages() {
            let start = end;
            end += layout.pack_passage(passage, &mut blocks)? as u32;
            passages.push(start..end);
        }
        Ok(Self {
            layout,
            query: TokenQuery::new(layout, &vectors.query)?,
            blocks,
            passages,
        })
    }

    fn scores(&self, kernels: Kernels) -> Result<Vec<f32>, Failure> {
        let rows = TokenRows::new(self.layout, &self.blocks)?.with_kernels(kernels);
        Ok(rows.score_while(&self.query, &self.passages, |_| true)?)
    }
}

/// One product per passage, which stays in the nearest cache, and the maxima of its columns.
fn gemm_scores(vectors: &Vectors, products: &mut [f32]) -> Vec<f32> {
    let scores = vectors.passages().map(|passage| {
        multiply(vectors, passage, products);
        let mut maxima = vec![f32::NEG_INFINITY; vectors.query_tokens];
        for column in products.chunks_exact(vectors.query_tokens) {
            for (maximum, product) in maxima.iter_mut().zip(column) {
                *maximum = maximum.max(*product);
            }
        }
        maxima.iter().sum()
    });
    scores.collect()
}

/// By token of the passage: its dot product with each token of the query.
fn multiply(vectors: &Vectors, passage: &[f32], products: &mut [f32]) {
    let (rows, columns) = (vectors.query_tokens, vectors.passage_tokens);
    let dimensions = vectors.dimensions;
    assert_eq!(products.len(), rows * columns);
    assert_eq!(vectors.query.len(), rows * dimensions);
    assert_eq!(passage.len(), columns * dimensions);
    let width = dimensions as isize;
    // SAFETY: the three matrices have the sizes that were just compared, and nothing of the result is read.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            dimensions,
            products.as_mut_ptr(),
            rows as isize,
            1,
            false,
            vectors.query.as_ptr(),
            1,
            width,
            passage.as_ptr(),
            width,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn kernels_named(name: &str) -> Option<Kernels> {
    let named = |backend: &Backend| format!("{backend:?}") == name;
    Backend::available()
        .into_iter()
        .find(named)
        .and_then(Kernels::of)
}

fn main() -> Result<(), Failure> {
    let vectors = Vectors::read(env::args().skip(1))?;
    let coded = Coded::of(&vectors)?;
    let mut products = vec![0.0; vectors.query_tokens * vectors.passage_tokens];
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let contestant = line?;
        let start = Instant::now();
        let scores = match kernels_named(&contestant) {
            Some(kernels) => coded.scores(kernels)?,
            None if contestant == "gemm" => gemm_scores(&vectors, &mut products),
            // A backend that this machine doesn't have.
            None => Vec::new(),
        };
        write!(output, "{}", start.elapsed().as_secs_f64())?;
        for score in scores {
            write!(output, " {score}")?;
        }
        writeln!(output)?;
        output.flush()?;
    }
    Ok(())
}
