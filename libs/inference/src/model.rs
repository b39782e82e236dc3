//! One ONNX Runtime session over a bundle's graph: token ids in, vectors of unit length out.

use std::path::Path;
use std::time::{Duration, Instant};

use ort::session::builder::GraphOptimizationLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef, ValueType};

use crate::bundle::{Bundle, BundleError, MODEL_FILE, Outputs, Pooling};
use crate::runtime::{self, RuntimeError};
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
    /// One per row, each [tokens, token_dimensions] without padding; empty unless asked for.
    pub(crate) tokens: Vec<Vec<f32>>,
    /// Time inside the runtime.
    pub(crate) model_time: Duration,
}

/// Why a batch failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    #[error("ONNX Runtime failed")]
    Runtime(#[from] ort::Error),
    #[error("output {output} has the shape {shape:?} for {rows} texts of up to {tokens} tokens")]
    Shape {
        output: String,
        shape: Vec<i64>,
        rows: usize,
        tokens: usize,
    },
    #[error("output {output} has a vector that is zero or not finite")]
    NoDirection { output: String },
    #[error("the computation panicked")]
    Panicked,
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The runtime is missing.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The bundle is wrong in itself, or does not fit its graph.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The graph would not load.
    #[error("{}: ONNX Runtime cannot load it", .file.display())]
    Graph {
        /// The graph.
        file: std::path::PathBuf,
        /// Why not.
        #[source]
        cause: ort::Error,
    },
    /// What comes out is not what the bundle promises.
    #[error(transparent)]
    Golden(#[from] crate::golden::GoldenError),
}

/// A graph's inputs that are understood, in the order in which they are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Ids,
    Mask,
    TypeIds,
}

impl Input {
    fn named(name: &str) -> Option<Self> {
        match name {
            "input_ids" => Some(Self::Ids),
            "attention_mask" => Some(Self::Mask),
            "token_type_ids" => Some(Self::TypeIds),
            _ => None,
        }
    }
}

/// A loaded session. It computes on the thread that calls it and on no other.
pub(crate) struct OnnxModel {
    session: Session,
    inputs: Vec<Input>,
    outputs: Outputs,
    dimensions: usize,
    token_dimensions: usize,
    pad_token_id: i64,
    sentence_only: RunOptions<HasSelectedOutputs>,
    with_tokens: RunOptions<HasSelectedOutputs>,
    ids: Vec<i64>,
    mask: Vec<i64>,
    type_ids: Vec<i64>,
}

impl OnnxModel {
    /// Loads the graph of a bundle and checks that it has what the description says.
    pub(crate) fn load(library: &Path, bundle: &Bundle) -> Result<Self, LoadError> {
        let file = bundle.folder().join(MODEL_FILE);
        let session = open_session(library, &file)?;
        let description = bundle.description();
        let inputs = understood_inputs(&file, &session)?;
        check_outputs(&file, &session, bundle)?;
        let sentence = description.outputs.sentence.output.as_str();
        let tokens = description.outputs.tokens.as_deref();
        let options = |names: &[&str]| {
            select(names).map_err(|cause| LoadError::Graph {
                file: file.clone(),
                cause,
            })
        };
        Ok(Self {
            inputs,
            sentence_only: options(&[sentence])?,
            with_tokens: options(&distinct(sentence, tokens))?,
            outputs: description.outputs.clone(),
            dimensions: description.dimensions,
            token_dimensions: description.token_dimensions,
            pad_token_id: description.pad_token_id.into(),
            session,
            ids: Vec::new(),
            mask: Vec::new(),
            type_ids: Vec::new(),
        })
    }

    /// Lays the rows out as [rows, tokens], short ones padded.
    fn fill(&mut self, rows: &[&TokenIds], tokens: usize) {
        let cells = rows.len() * tokens;
        refill(&mut self.ids, cells, self.pad_token_id);
        refill(&mut self.mask, cells, 0);
        refill(&mut self.type_ids, cells, 0);
        for (index, row) in rows.iter().enumerate() {
            let real = index * tokens..index * tokens + row.ids.len();
            self.mask[real.clone()].fill(1);
            copy_ids(&mut self.ids[real.clone()], &row.ids);
            copy_ids(&mut self.type_ids[real], &row.type_ids);
        }
    }
}

/// The names and shapes of a graph's outputs as it declares them; −1 where a dimension is open.
pub(crate) fn output_shapes(
    library: &Path,
    file: &Path,
) -> Result<Vec<(String, Vec<i64>)>, LoadError> {
    let session = open_session(library, file)?;
    let name_and_shape = |outlet: &Outlet| {
        (
            outlet.name().to_owned(),
            shape_of(outlet).unwrap_or_default(),
        )
    };
    Ok(session.outputs().iter().map(name_and_shape).collect())
}

/// One intra-op thread: as many sessions as cores give the same throughput as one session over all cores, a batch
/// does not wait for the slowest of several threads, and nothing spins beside the other services of a process.
fn open_session(library: &Path, file: &Path) -> Result<Session, LoadError> {
    let environment = runtime::environment(library)?;
    let failed = |cause: ort::Error| LoadError::Graph {
        file: file.to_owned(),
        cause,
    };
    Session::builder(&environment)
        .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::Level3)?))
        .and_then(|builder| Ok(builder.with_intra_threads(1)?))
        .and_then(|mut builder| builder.commit_from_file(file))
        .map_err(failed)
}

fn understood_inputs(file: &Path, session: &Session) -> Result<Vec<Input>, BundleError> {
    let mut inputs = Vec::new();
    for outlet in session.inputs() {
        let wrong = |message: String| {
            Err(BundleError::one(
                file,
                &format!("inputs.{}", outlet.name()),
                message,
            ))
        };
        let Some(input) = Input::named(outlet.name()) else {
            return wrong(
                "is not understood; known are input_ids, attention_mask and token_type_ids".into(),
            );
        };
        if outlet.dtype().tensor_type() != Some(TensorElementType::Int64) {
            return wrong(format!("is {}, must be a tensor of int64", outlet.dtype()));
        }
        if shape_of(outlet).is_none_or(|shape| shape != [-1, -1]) {
            return wrong(format!(
                "is {}, must be [batch, tokens] with both open: export with dynamic axes",
                outlet.dtype()
            ));
        }
        inputs.push(input);
    }
    if !inputs.contains(&Input::Ids) {
        return Err(BundleError::one(file, "inputs", "input_ids is missing"));
    }
    Ok(inputs)
}

fn shape_of(outlet: &Outlet) -> Option<Vec<i64>> {
    match outlet.dtype() {
        ValueType::Tensor { shape, .. } => Some(shape.to_vec()),
        _ => None,
    }
}

fn check_outputs(file: &Path, session: &Session, bundle: &Bundle) -> Result<(), BundleError> {
    let description = bundle.description();
    let sentence = &description.outputs.sentence;
    let rank = if sentence.pooling == Pooling::None {
        2
    } else {
        3
    };
    check_output(
        file,
        session,
        &sentence.output,
        rank,
        description.dimensions,
    )?;
    match &description.outputs.tokens {
        Some(tokens) => check_output(file, session, tokens, 3, description.token_dimensions),
        None => Ok(()),
    }
}

fn check_output(
    file: &Path,
    session: &Session,
    name: &str,
    rank: usize,
    width: usize,
) -> Result<(), BundleError> {
    let field = format!("outputs.{name}");
    let Some(outlet) = session
        .outputs()
        .iter()
        .find(|outlet| outlet.name() == name)
    else {
        let known: Vec<&str> = session.outputs().iter().map(Outlet::name).collect();
        return Err(BundleError::one(
            file,
            &field,
            format!("is missing; the graph gives {}", known.join(", ")),
        ));
    };
    let is_f32 = outlet.dtype().tensor_type() == Some(TensorElementType::Float32);
    let shape = shape_of(outlet).unwrap_or_default();
    let width_fits = shape
        .last()
        .is_some_and(|&last| last == -1 || usize::try_from(last) == Ok(width));
    if is_f32 && shape.len() == rank && width_fits {
        return Ok(());
    }
    let message = format!(
        "is {}; bundle.json needs {rank} dimensions of f32, the last {width}",
        outlet.dtype()
    );
    Err(BundleError::one(file, &field, message))
}

fn select(names: &[&str]) -> ort::Result<RunOptions<HasSelectedOutputs>> {
    let selector = names
        .iter()
        .fold(OutputSelector::no_default(), |selector, name| {
            selector.with(*name)
        });
    Ok(RunOptions::new()?.with_outputs(selector))
}

fn distinct<'a>(sentence: &'a str, tokens: Option<&'a str>) -> Vec<&'a str> {
    std::iter::once(sentence)
        .chain(tokens.filter(|&name| name != sentence))
        .collect()
}

fn refill(cells: &mut Vec<i64>, count: usize, value: i64) {
    cells.clear();
    cells.resize(count, value);
}

fn copy_ids(cells: &mut [i64], ids: &[u32]) {
    for (cell, &id) in cells.iter_mut().zip(ids) {
        *cell = id.into();
    }
}

impl BatchModel for OnnxModel {
    fn run(
        &mut self,
        rows: &[&TokenIds],
        with_token_vectors: bool,
    ) -> Result<BatchVectors, ModelError> {
        let tokens = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        self.fill(rows, tokens);
        let shape = [rows.len(), tokens];
        let mut values: Vec<SessionInputValue<'_>> = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let cells = match input {
                Input::Ids => &self.ids,
                Input::Mask => &self.mask,
                Input::TypeIds => &self.type_ids,
            };
            values.push(TensorRef::from_array_view((shape, cells.as_slice()))?.into());
        }
        let options = if with_token_vectors {
            &self.with_tokens
        } else {
            &self.sentence_only
        };
        let started = Instant::now();
        let outputs = self.session.run_with_options(values.as_slice(), options)?;
        let model_time = started.elapsed();

        let states = States { rows, tokens };
        let sentence = &self.outputs.sentence;
        let sentences = states.sentences(
            &outputs[sentence.output.as_str()],
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
            Some(name) => states.token_vectors(&outputs[name], name, self.token_dimensions)?,
            None => Vec::new(),
        };
        Ok(BatchVectors {
            sentences,
            tokens,
            model_time,
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
            let data = self.data(value, name, &[self.rows.len(), width])?;
            return data
                .chunks_exact(width)
                .map(|row| unit(row.to_vec(), name))
                .collect();
        }
        let data = self.data(value, name, &[self.rows.len(), self.tokens, width])?;
        self.real(data, width)
            .map(|states| unit(pool(states, pooling, width), name))
            .collect()
    }

    fn token_vectors(
        &self,
        value: &DynValue,
        name: &str,
        width: usize,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let data = self.data(value, name, &[self.rows.len(), self.tokens, width])?;
        self.real(data, width)
            .map(|states| unit_rows(states.to_vec(), width, name))
            .collect()
    }

    /// Each row's states without its padding.
    fn real<'d>(&'d self, data: &'d [f32], width: usize) -> impl Iterator<Item = &'d [f32]> {
        let rows = data.chunks_exact(self.tokens * width);
        rows.zip(self.rows)
            .map(move |(states, row)| &states[..row.ids.len() * width])
    }

    fn data<'v>(
        &self,
        value: &'v DynValue,
        name: &str,
        expected: &[usize],
    ) -> Result<&'v [f32], ModelError> {
        let (shape, data) = value.try_extract_tensor::<f32>()?;
        let fits = shape.len() == expected.len()
            && shape
                .iter()
                .zip(expected)
                .all(|(&got, &wanted)| usize::try_from(got) == Ok(wanted));
        let (rows, tokens) = (self.rows.len(), self.tokens);
        if fits {
            Ok(data)
        } else {
            Err(ModelError::Shape {
                output: name.to_owned(),
                shape: shape.to_vec(),
                rows,
                tokens,
            })
        }
    }
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
