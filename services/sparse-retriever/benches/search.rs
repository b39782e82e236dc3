//! A search of 100,000 short passages, beside tantivy's own collector on the same index.
//!
//! The corpus is synthetic and seeded: 20 to 60 words a passage, drawn from 50,000 by a Zipf distribution. Queries have three to
//! eight words drawn alike, but none of the hundred most frequent, as questions have them.

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use search_core::ParsedQuery;
use segment::documents::{Document, Documents, DocumentsWriter};
use segment::sparse::{Analyzer, BODY, SparseBuilder, SparseIndex, Statistics, StatisticsBuilder};
use segment::store::PartFiles;
use sparse_retriever::query::LexicalQuery;
use sparse_retriever::search::{Target, search};
use sparse_retriever::statistics::SnapshotStatistics;
use tantivy::Term;
use tantivy::collector::TopDocs;
use tantivy::query::BooleanQuery;
use tempfile::TempDir;

const PASSAGES: u32 = 100_000;
const VOCABULARY: f64 = 50_000.0;
const FREQUENT_WORDS: f64 = 100.0;
const QUERIES: usize = 64;

/// The n-th word is n times as rare as the first.
fn word(random: &mut ChaCha8Rng, first: f64) -> String {
    let rank = first * (VOCABULARY / first).powf(random.random::<f64>());
    format!("w{}", rank as u32)
}

fn words(random: &mut ChaCha8Rng, first: f64, count: usize) -> Vec<String> {
    (0..count).map(|_| word(random, first)).collect()
}

struct Corpus {
    index: SparseIndex,
    documents: Documents,
    statistics: Statistics,
    _folder: TempDir,
}

impl Corpus {
    fn build() -> Self {
        let folder = TempDir::new().unwrap();
        let [sparse, stored] = ["sparse", "documents"].map(|part| folder.path().join(part));
        std::fs::create_dir(&sparse).unwrap();
        std::fs::create_dir(&stored).unwrap();
        let mut builder = SparseBuilder::new(&sparse, "none").unwrap();
        let mut writer = DocumentsWriter::new(&stored).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for number in 0..PASSAGES {
            let length = random.random_range(20..60);
            let text = words(&mut random, 1.0, length).join(" ");
            builder.push("", &text).unwrap();
            writer.push(&document(number, text)).unwrap();
        }
        builder.finish().unwrap();
        writer.finish().unwrap();
        let index = SparseIndex::open(&PartFiles::of_folder(&sparse).unwrap()).unwrap();
        let file = folder.path().join("statistics.fst");
        StatisticsBuilder::new("none")
            .unwrap()
            .finish(None, &[&index], &file)
            .unwrap();
        Self {
            index,
            documents: Documents::open(&PartFiles::of_folder(&stored).unwrap()).unwrap(),
            statistics: Statistics::open(&file).unwrap(),
            _folder: folder,
        }
    }

    fn ours(&self, query: &str, limit: usize) -> usize {
        let parsed = ParsedQuery::parse(query).unwrap();
        let mut analyzer = Analyzer::for_language("none").unwrap();
        let query = LexicalQuery::analyze(&parsed, &mut analyzer).unwrap();
        let statistics = SnapshotStatistics(&self.statistics);
        let query = query.weigh(&statistics, self.index.searcher()).unwrap();
        let target = Target {
            number: 0,
            index: &self.index,
            documents: &self.documents,
            allowed: Box::new(|| None),
        };
        search(&query, &self.statistics, &[target], limit, || Ok(()))
            .unwrap()
            .len()
    }

    fn tantivys(&self, query: &str, limit: usize) -> usize {
        let terms = query
            .split(' ')
            .map(|word| Term::from_field_text(BODY, word))
            .collect();
        let query = BooleanQuery::new_multiterms_query(terms);
        let collector = TopDocs::with_limit(limit).order_by_score();
        self.index
            .searcher()
            .search(&query, &collector)
            .unwrap()
            .len()
    }
}

fn document(number: u32, text: String) -> Document {
    Document {
        id: format!("{number:06}"),
        title: String::new(),
        metadata_json: String::new(),
        passages: vec![text],
    }
}

fn benches(criterion: &mut Criterion) {
    let corpus = Corpus::build();
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let queries: Vec<_> = (0..QUERIES)
        .map(|place| words(&mut random, FREQUENT_WORDS, 3 + place % 6).join(" "))
        .collect();
    let mut group = criterion.benchmark_group("64 queries of 100,000 passages");
    for limit in [10, 1000] {
        group.bench_with_input(
            BenchmarkId::new("search", limit),
            &limit,
            |bencher, &limit| {
                bencher.iter(|| {
                    queries
                        .iter()
                        .map(|query| corpus.ours(query, limit))
                        .sum::<usize>()
                });
            },
        );
        group.bench_with_input(
            BenchmarkId::new("tantivy TopDocs", limit),
            &limit,
            |bencher, &limit| {
                bencher.iter(|| {
                    queries
                        .iter()
                        .map(|query| corpus.tantivys(query, limit))
                        .sum::<usize>()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
