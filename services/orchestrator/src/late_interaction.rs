//! The head of the ranking, scored by the vectors of its tokens: MaxSim, the sum over the query's tokens of the best match of each among
//! the passage's tokens (ColBERT: Khattab, Zaharia, SIGIR 2020).
//!
//! The query's token vectors come with the vector that the dense leg searches by, if one bundle made both of the collection's. What
//! the stage shares with [`crate::rescore`] is in [`crate::vectors`]; what matched what is told in [`crate::explain`].

use crate::encode::{Encoding, QuerySource};
use crate::funnel::Run;
use crate::plan::VectorStage;
use search_core::StageReason;

impl<'a> Run<'a> {
    pub(crate) fn late_interaction_source(self) -> Result<QuerySource<'a>, StageReason> {
        if !self.mesh.colbert.is_configured() {
            return Err(StageReason::NotConfigured);
        }
        let index = &self.placement.colbert.holding()?.fingerprints.encoder;
        if self.is_encoded_for_retrieval(index) {
            return Ok(QuerySource::Retrieval);
        }
        Ok(QuerySource::Apart(Encoding {
            stage: VectorStage::LateInteraction.encode_name(),
            index,
            with_tokens: true,
        }))
    }
}
