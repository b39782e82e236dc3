//! ONNX Runtime sessions, tokenizers, the token-bounded batcher, model bundles.

mod encode;

pub use encode::{BoxFuture, EncodeError, EncodeJob, Encoded, EncoderInfo, Priority, Task, TextEncoder};
