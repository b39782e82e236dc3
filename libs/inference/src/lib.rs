//! ONNX Runtime sessions, tokenizers, the token-bounded batcher, model bundles.
//!
//! A text goes `encode` (the contract) → `bundle_encoder` → `tokenizer` → `batcher` → `model` over `runtime`.
//! A bundle comes from `pull` (the default one) or `make` (any exported model), is read by `bundle` and held to its word
//! by `golden`. `split` cuts long texts by the tokens of the encoder that will read them.

mod batcher;
mod bundle;
mod bundle_encoder;
mod encode;
mod golden;
mod make;
mod model;
pub mod pull;
mod runtime;
mod split;
mod tokenizer;

pub use batcher::BatcherStats;
pub use bundle::{
    Bundle, BundleError, BundleProblem, BundleTask, Description, Golden, GoldenEntry, GoldenTask,
    Outputs, Pooling, Prompts, SentenceOutput,
};
pub use bundle_encoder::{BundleEncoder, EncoderOptions};
pub use encode::{
    BoxFuture, EncodeError, EncodeJob, Encoded, EncoderInfo, Priority, Task, TextEncoder,
};
pub use golden::GoldenError;
pub use make::{Made, MakeError, MakeOptions, make_bundle};
pub use model::LoadError;
pub use runtime::RuntimeError;
pub use split::split_passages;
