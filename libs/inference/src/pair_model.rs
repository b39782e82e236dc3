//! A cross-encoder's graph: pairs of a query and a passage in, one logit each out.

use ort::session::{HasSelectedOutputs, RunOptions};

use crate::bundle::PairBundle;
use crate::graph::{Input, LoadError, ModelError, OnnxGraph, tensor};
use crate::pair::PairLogits;
use crate::runtime::OnnxRuntime;
use crate::tokenizer::TokenIds;

/// A loaded cross-encoder. It computes on the thread that calls it and on no other.
pub(crate) struct PairModel {
    graph: OnnxGraph,
    output: String,
    score_only: RunOptions<HasSelectedOutputs>,
}

impl PairModel {
    /// Loads the graph of a bundle and checks that it has what the description says.
    pub(crate) fn load(runtime: &OnnxRuntime, bundle: &PairBundle) -> Result<Self, LoadError> {
        let description = bundle.description();
        let graph = OnnxGraph::load(runtime, bundle.folder(), description.pad_token_id)?;
        graph.require_inputs(&[Input::Ids, Input::Mask, Input::TypeIds])?;
        let output = description.outputs.score.clone();
        graph.check_output(&output, &[None])?;
        Ok(Self {
            score_only: graph.select(&[&output])?,
            graph,
            output,
        })
    }

    /// The logits of all rows, in their order, as the graph gives them: NaN too.
    pub(crate) fn score(&mut self, rows: &[&TokenIds]) -> Result<PairLogits, ModelError> {
        let outputs = self.graph.run(rows, &self.score_only)?;
        let value = &outputs.values[self.output.as_str()];
        Ok(PairLogits {
            logits: tensor(value, &self.output, &[rows.len()])?.to_vec(),
            model_time: outputs.model_time,
        })
    }
}
