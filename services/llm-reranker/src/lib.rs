//! Ranks passages by asking a language model: the contract `finemesh.rerank.v1` over any OpenAI-compatible chat endpoint.
//!
//! The way of a call: `grpc` checks it, [`app`] has its passages made harmless and put to the model by one of two methods:
//! `listwise` (windows that slide from the last passages to the first; `windows` says which) or `pointwise` (one yes or no for each
//! passage). `prompt` writes what the model reads, `endpoint` gets an answer (from the `cache`, within the `budget`, trying again where
//! that makes sense, through `exchange`), and `ranking` and `yes_no` read it strictly and mend it.
//!
//! Passages are text from anywhere. Whatever one says, it can at worst change the order: nothing that it brings along can look
//! like an identifier or like a token of the chat's own, and an answer is read for identifiers only.
//!
//! Slow and dear: meant for judging and teaching, off by default.

mod api_key;
pub mod app;
mod budget;
mod cache;
mod completion;
pub mod config;
mod endpoint;
pub mod error;
mod exchange;
mod grpc;
mod listwise;
mod pointwise;
mod prompt;
mod ranking;
mod usage;
mod windows;
mod yes_no;

pub use app::App;
pub use config::{Config, Method, RawConfig};
pub use error::Error;
