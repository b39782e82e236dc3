//! An encoder's graph: token ids in, vectors of unit length out.

use std::time::Duration;

use ort::session::{HasSelectedOutputs, RunOptions};
use ort::value::DynValue;

use crate::bundle::{Bundle, BundleError, Outputs, Pooling, TokenVectorRules};
use crate::graph::{Input, LoadError, ModelError, OnnxGraph, tensor};
use crate::runtime::OnnxRuntime;
use crate::tokenizer::TokenIds;

/// What a batch is run on: the ONNX model, or a stand-in in the batcher's tests.
pub(crate) trait BatchModel: Send + 'static {
    /// Vectors for all rows, in their order. Never called without rows.
    fn run(
        &mut self,
        rows: &[&TokenIds],
        with_token_vectors: bool,
    ) -> Result<BatchVectors, ModelError>;
}

/// The vectors of one batch.
#[derive(Debug)]
pub(crate) struct BatchVectors {
    /// One per row.
    pub(crate) sentences: Vec<Vec<f32>>,
    /// One per row, each [tokens that have vectors, token_dimensions]; empty unless asked for.
    pub(crate) tokens: Vec<Vec<f32>>,
    /// Time inside the runtime.
    pub(crate) model_time: Duration,
}

/// A loaded encoder. It computes on the thread that calls it and on no other.
pub(crate) struct OnnxModel {
    graph: OnnxGraph,
    outputs: Outputs,
    dimensions: usize,
    token_dimensions: usize,
    sentence_only: RunOptions<HasSelectedOutputs>,
    with_tokens: RunOptions<HasSelectedOutputs>,
}

impl OnnxModel {
    /// Loads the graph of a bundle and checks that it has what the description says.
    pub(crate) fn load(runtime: &OnnxRuntime, bundle: &Bundle) -> Result<Self, LoadError> {
        let description = bundle.description();
        let graph = OnnxGraph::load(runtime, bundle.folder(), description.pad_token_id)?;
        graph.require_inputs(needed_inputs(&description.token_vectors))?;
        check_outputs(&graph, bundle)?;
        let sentence = description.outputs.sentence.output.as_str();
        let tokens = description.outputs.tokens.as_deref();
        Ok(Self {
            sentence_only: graph.select(&[sentence])?,
            with_tokens: graph.select(&distinct(sentence, tokens))?,
            outputs: description.outputs.clone(),
            dimensions: description.dimensions,
            token_dimensions: description.token_dimensions,
            graph,
        })
    }
}

/// Masks that are not attended to need a graph that can be told so.
fn needed_inputs(rules: &TokenVectorRules) -> &'static [Input] {
    match &rules.query_masks {
        Some(masks) if !masks.attended => &[Input::Ids, Input::Mask],
        _ => &[Input::Ids],
    }
}

fn check_outputs(graph: &OnnxGraph, bundle: &Bundle) -> Result<(), BundleError> {
    let description = bundle.description();
    let (sentence, width) = (&description.outputs.sentence, Some(description.dimensions));
    match sentence.pooling {
        Pooling::None => graph.check_output(&sentence.output, &[None, width])?,
        _ => graph.check_output(&sentence.output, &[None, None, width])?,
    }
    match &description.outputs.tokens {
        Some(tokens) => {
            graph.check_output(tokens, &[None, None, Some(description.token_dimensions)])
        }
        None => Ok(()),
    }
}

fn distinct<'a>(sentence: &'a str, tokens: Option<&'a str>) -> Vec<&'a str> {
    std::iter::once(sentence)
        .chain(tokens.filter(|&name| name != sentence))
        .collect()
}

impl BatchModel for OnnxModel {
    fn run(
        &mut self,
        rows: &[&TokenIds],
        with_token_vectors: bool,
    ) -> Result<BatchVectors, ModelError> {
        let options = if with_token_vectors {
            &self.with_tokens
        } else {
            &self.sentence_only
        };
        let outputs = self.graph.run(rows, options)?;
        let states = States {
            rows,
            tokens: outputs.tokens,
        };
        let sentence = &self.outputs.sentence;
        let sentences = states.sentences(
            &outputs.values[sentence.output.as_str()],
            &sentence.output,
            sentence.pooling,
            self.dimensions,
        )?;
        let tokens = match self
            .outputs
            .tokens
            .as_deref()
            .filter(|_| with_token_vectors)
        {
            Some(name) => {
                states.token_vectors(&outputs.values[name], name, self.token_dimensions)?
            }
            None => Vec::new(),
        };
        Ok(BatchVectors {
            sentences,
            tokens,
            model_time: outputs.model_time,
        })
    }
}

/// The rows that an output belongs to.
struct States<'a> {
    rows: &'a [&'a TokenIds],
    tokens: usize,
}

impl States<'_> {
    fn sentences(
        &self,
        value: &DynValue,
        name: &str,
        pooling: Pooling,
        width: usize,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        if pooling == Pooling::None {
            let data = tensor(value, name, &[self.rows.len(), width])?;
            return data
                .chunks_exact(width)
                .map(|row| unit(row.to_vec(), name))
                .collect();
        }
        let data = tensor(value, name, &[self.rows.len(), self.tokens, width])?;
        let rows = data.chunks_exact(self.tokens * width).zip(self.rows);
        rows.map(|(states, row)| {
            let attended = &states[..row.attended().len() * width];
            unit(pool(attended, pooling, width), name)
        })
        .collect()
    }

    fn token_vectors(
        &self,
        value: &DynValue,
        name: &str,
        width: usize,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let data = tensor(value, name, &[self.rows.len(), self.tokens, width])?;
        let rows = data.chunks_exact(self.tokens * width).zip(self.rows);
        rows.map(|(states, row)| unit_rows(chosen(states, row, width), width, name))
            .collect()
    }
}

/// The states of the tokens that have vectors.
fn chosen(states: &[f32], row: &TokenIds, width: usize) -> Vec<f32> {
    let mut vectors = Vec::with_capacity(row.ids.len() * width);
    for place in row.with_vectors() {
        vectors.extend_from_slice(&states[place * width..(place + 1) * width]);
    }
    vectors
}

/// One vector from the states [tokens, width] of at least one token.
fn pool(states: &[f32], pooling: Pooling, width: usize) -> Vec<f32> {
    let mut rows = states.chunks_exact(width);
    match pooling {
        Pooling::None | Pooling::FirstToken => states[..width].to_vec(),
        Pooling::LastToken => states[states.len() - width..].to_vec(),
        // The mean's direction is the sum's, and the length is made 1 afterwards.
        Pooling::Mean => rows.fold(vec![0.0; width], |sum, row| combine(sum, row, |a, b| a + b)),
        Pooling::Max => {
            let first = rows.next().unwrap_or_default().to_vec();
            rows.fold(first, |most, row| combine(most, row, f32::max))
        }
    }
}

fn combine(mut into: Vec<f32>, row: &[f32], both: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    for (value, &other) in into.iter_mut().zip(row) {
        *value = both(*value, other);
    }
    into
}

fn unit(mut vector: Vec<f32>, output: &str) -> Result<Vec<f32>, ModelError> {
    make_unit(&mut vector, output)?;
    Ok(vector)
}

fn unit_rows(mut vectors: Vec<f32>, width: usize, output: &str) -> Result<Vec<f32>, ModelError> {
    vectors
        .chunks_exact_mut(width)
        .try_for_each(|vector| make_unit(vector, output))?;
    Ok(vectors)
}

fn make_unit(vector: &mut [f32], output: &str) -> Result<(), ModelError> {
    let norm = vector
        .iter()
        .map(|&value| f64::from(value).powi(2))
        .sum::<f64>()
        .sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return Err(ModelError::NoDirection {
            output: output.to_owned(),
        });
    }
    vector
        .iter_mut()
        .for_each(|value| *value = (f64::from(*value) / norm) as f32);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poolings_read_only_the_states_they_are_given() {
        let states = [1.0, 5.0, 3.0, -2.0, 2.0, 0.0];
        assert_eq!(pool(&states, Pooling::Mean, 2), [6.0, 3.0]);
        assert_eq!(pool(&states, Pooling::Max, 2), [3.0, 5.0]);
        assert_eq!(pool(&states, Pooling::FirstToken, 2), [1.0, 5.0]);
        assert_eq!(pool(&states, Pooling::LastToken, 2), [2.0, 0.0]);
    }

    #[test]
    fn a_vector_without_direction_is_refused() {
        for wrong in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            assert!(matches!(
                unit(wrong.to_vec(), "x"),
                Err(ModelError::NoDirection { .. })
            ));
        }
        assert_eq!(unit(vec![3.0, 4.0], "x").unwrap(), [0.6, 0.8]);
    }
}
