//! What the build script made, nested as the packages are, since generated code refers to its neighbours by these paths.
#![expect(
    missing_docs,
    reason = "generated; the contracts in proto/ are the documentation"
)]
#![expect(
    unreachable_pub,
    reason = "the innermost modules are exported under shorter names"
)]
#![expect(clippy::allow_attributes, reason = "generated")]

pub mod finemesh {
    pub mod colbert {
        pub mod v1 {
            tonic::include_proto!("finemesh.colbert.v1");
        }
    }
    pub mod common {
        pub mod v1 {
            tonic::include_proto!("finemesh.common.v1");
        }
    }
    pub mod dense {
        pub mod v1 {
            tonic::include_proto!("finemesh.dense.v1");
        }
    }
    pub mod encoder {
        pub mod v1 {
            tonic::include_proto!("finemesh.encoder.v1");
        }
    }
    pub mod index {
        pub mod v1 {
            tonic::include_proto!("finemesh.index.v1");
        }
    }
    pub mod rerank {
        pub mod v1 {
            tonic::include_proto!("finemesh.rerank.v1");
        }
    }
    pub mod search {
        pub mod v1 {
            tonic::include_proto!("finemesh.search.v1");
        }
    }
    pub mod sparse {
        pub mod v1 {
            tonic::include_proto!("finemesh.sparse.v1");
        }
    }
}
