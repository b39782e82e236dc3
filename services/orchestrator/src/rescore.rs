//! The head of the ranking, scored by the vectors of a second encoder.
//!
//! The second encoder reads the query while the retrievers search, so that the stage costs little more than one call to each shard that
//! holds passages of the head. What it shares with [`crate::late_interaction`] is in [`crate::vectors`].

use crate::encode::{Encoding, QuerySource};
use crate::funnel::Run;
use crate::plan::VectorStage;
use search_core::StageReason;

impl<'a> Run<'a> {
    pub(crate) fn rescore_source(self) -> Result<QuerySource<'a>, StageReason> {
        let index = &self.placement.dense.holding()?.fingerprints.rescore;
        if index.is_empty() {
            return Err(StageReason::NotIndexed);
        }
        Ok(QuerySource::Apart(Encoding {
            stage: VectorStage::Rescore.encode_name(),
            index,
            with_tokens: false,
        }))
    }
}
