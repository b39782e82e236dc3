//! ONNX Runtime sessions, tokenizers, the token-bounded batcher, model bundles.
//!
//! A text goes `encode` (the contract) → `bundle_encoder` → `tokenizer` with its `token_rules` → `batcher` → `model` over
//! `runtime`.
//! A query and its passages go `pair` (the contract) → `cross_encoder` → `pair_tokenizer` with the marks of `exact_match` and
//! the `windows` over long passages → the batches of the service, or `length_batches` → `pair_model` over `runtime`; both models
//! run their `graph`.
//! A bundle comes from `pull` (the default one) or `make` (any exported model), is read by `bundle` and held to its word
//! by `golden` or `pair_golden`. `split` cuts long texts by the tokens of the encoder that will read them.

mod batcher;
mod bundle;
mod bundle_encoder;
mod cross_encoder;
mod encode;
mod exact_match;
mod golden;
mod graph;
mod length_batches;
mod make;
mod model;
mod pair;
mod pair_golden;
mod pair_model;
mod pair_tokenizer;
pub mod pull;
mod runtime;
mod split;
mod token_rules;
mod tokenizer;
mod windows;

pub use batcher::BatcherStats;
pub use bundle::{
    AnyBundle, Bundle, BundleError, BundleOf, BundleProblem, BundleTask, Description, Golden,
    GoldenEntry, GoldenTask, Outputs, PairBundle, PairDescription, PairGolden, PairGoldenEntry,
    PairInput, Pooling, Prompts, QueryMasks, ScoreOutput, Segments, SentenceOutput,
    TokenVectorRules,
};
pub use bundle_encoder::{BundleEncoder, EncoderOptions};
pub use cross_encoder::CrossEncoder;
pub use encode::{
    BoxFuture, EncodeError, EncodeJob, Encoded, EncoderInfo, Priority, Task, TextEncoder,
};
pub use golden::GoldenError;
pub use graph::LoadError;
pub use make::{Made, MakeError, MakeOptions, make_bundle};
pub use pair::{CrossEncoderInfo, Pair, PairLogits, ReadPairs, ScoreError, ScorePairs};
pub use runtime::{ExecutionProvider, OnnxRuntime, RuntimeError, leave_for_good};
pub use split::split_passages;
