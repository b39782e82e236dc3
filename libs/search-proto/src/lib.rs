//! The wire types, generated from proto/, and their conversions from and to the types of `search-core`.
//!
//! Generated types stay in the `grpc.rs` and `clients.rs` of the services; what arrives is checked in [`convert`], and an
//! error there names the field.

pub mod convert;

mod generated;

pub use generated::finemesh::colbert::v1 as colbert;
pub use generated::finemesh::common::v1 as common;
pub use generated::finemesh::dense::v1 as dense;
pub use generated::finemesh::encoder::v1 as encoder;
pub use generated::finemesh::index::v1 as index;
pub use generated::finemesh::rerank::v1 as rerank;
pub use generated::finemesh::search::v1 as search;
pub use generated::finemesh::sparse::v1 as sparse;

/// Descriptors of all contracts, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
