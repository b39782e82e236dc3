//! For tests: an in-process mesh, scripted fake stages, small judged corpora.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let mesh = testkit::Mesh::start(&testkit::corpus::animals()).await?;
//! let answer = mesh.search("cat on a mat").await?;
//! assert_eq!(answer.hits[0].id, "cat");
//! # Ok(())
//! # }
//! ```

pub mod corpus;
pub mod fakes;
mod hash_encoder;
mod hosting;
mod judge;
mod mesh;

pub use hash_encoder::HashEncoder;
pub use hosting::Hosted;
pub use judge::Judge;
pub use mesh::{COLLECTION, IndexOutcome, Mesh, MeshOptions, end_of_lines, filter, request};
