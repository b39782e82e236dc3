//! Reads documents, encodes them, builds segments, commits snapshots.
//!
//! The rooms in the order of a run: [`source`] cuts files into lines, `read` makes them documents or refuses them, `passages`
//! cuts texts, `encode` makes vectors, `tokens` codes those of tokens, `rotation` fits the collection's axes, `build` writes segments, `commit` makes them the
//! next snapshot. Where a collection gets another stage, `stored` stands in front: it reads the documents of its segments.
//! [`Indexer`] takes these steps; [`App`] offers them over gRPC.

mod app;
mod build;
mod commit;
mod config;
mod documents;
mod encode;
mod error;
mod grpc;
mod passages;
mod prepare;
mod progress;
mod read;
mod rotation;
mod run;
mod settings;
pub mod source;
mod spool;
mod stored;
mod temporary;
mod tokens;

pub use app::{App, CommitHook};
pub use config::{Config, RawConfig};
pub use encode::Encoders;
pub use error::IndexError;
pub use progress::{Event, InvalidLine, Phase, Progress, Summary};
pub use run::{Deletion, Indexer};
pub use settings::{IndexSettings, StageSettings};

/// Unique, so that no two writers ever write to one key.
fn run_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}
