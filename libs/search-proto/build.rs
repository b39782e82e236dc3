//! Compiles the contracts in proto/ without protoc, and keeps their descriptors for server reflection.

use prost::Message as _;
use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 8] = [
    "finemesh/common/v1/common.proto",
    "finemesh/encoder/v1/encoder.proto",
    "finemesh/sparse/v1/sparse.proto",
    "finemesh/dense/v1/dense.proto",
    "finemesh/colbert/v1/colbert.proto",
    "finemesh/search/v1/search.proto",
    "finemesh/index/v1/index.proto",
    "finemesh/rerank/v1/rerank.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
