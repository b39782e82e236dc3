//! One ONNX Runtime session over a bundle's graph: token ids in, the graph's outputs as they are.

use std::path::{Path, PathBuf};
use std::sync::RwLockReadGuard;
use std::time::{Duration, Instant};

use ort::session::builder::GraphOptimizationLevel;
use ort::session::{
    HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue, SessionOutputs,
};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef, ValueType};

use crate::bundle::{BundleError, MODEL_FILE};
use crate::runtime::{self, OnnxRuntime, RuntimeError};
use crate::tokenizer::TokenIds;

/// Why a batch failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    #[error("ONNX Runtime failed")]
    Runtime(#[from] ort::Error),
    #[error("output {output} has the shape {shape:?}, must have {expected:?}")]
    Shape {
        output: String,
        shape: Vec<i64>,
        expected: Vec<usize>,
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
        file: PathBuf,
        /// Why not.
        #[source]
        cause: ort::Error,
    },
    /// What comes out is not what the bundle promises.
    #[error(transparent)]
    Golden(#[from] crate::golden::GoldenError),
}

/// A graph's inputs that are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
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

    fn name(self) -> &'static str {
        match self {
            Self::Ids => "input_ids",
            Self::Mask => "attention_mask",
            Self::TypeIds => "token_type_ids",
        }
    }
}

/// A loaded graph. It computes on the thread that calls it and on no other.
pub(crate) struct OnnxGraph {
    file: PathBuf,
    session: Session,
    /// In the order in which they are passed.
    inputs: Vec<Input>,
    pad_token_id: i64,
    ids: Vec<i64>,
    mask: Vec<i64>,
    type_ids: Vec<i64>,
}

/// What a graph gave for a batch.
pub(crate) struct BatchOutputs<'a> {
    pub(crate) values: SessionOutputs<'a>,
    /// Tokens of a row, padding included.
    pub(crate) tokens: usize,
    /// Time inside the runtime.
    pub(crate) model_time: Duration,
    /// After the values, which are the runtime's.
    _inside: RwLockReadGuard<'static, ()>,
}

impl OnnxGraph {
    /// Loads the graph in a bundle's folder and checks that its inputs are understood.
    pub(crate) fn load(
        runtime: &OnnxRuntime,
        folder: &Path,
        pad_token_id: u32,
    ) -> Result<Self, LoadError> {
        let file = folder.join(MODEL_FILE);
        let session = open_session(runtime, &file)?;
        Ok(Self {
            inputs: understood_inputs(&file, &session)?,
            file,
            session,
            pad_token_id: pad_token_id.into(),
            ids: Vec::new(),
            mask: Vec::new(),
            type_ids: Vec::new(),
        })
    }

    /// Refuses a graph that does not take one of these.
    pub(crate) fn require_inputs(&self, needed: &[Input]) -> Result<(), BundleError> {
        match needed.iter().find(|input| !self.inputs.contains(input)) {
            Some(missing) => Err(BundleError::one(
                &self.file,
                "inputs",
                format!("{} is missing", missing.name()),
            )),
            None => Ok(()),
        }
    }

    /// Refuses an output that is not there, is not f32, or whose shape does not fit `dimensions`: where one is None, any
    /// fits, and where the graph leaves one open too.
    pub(crate) fn check_output(
        &self,
        name: &str,
        dimensions: &[Option<usize>],
    ) -> Result<(), BundleError> {
        let wrong = |message| BundleError::one(&self.file, &format!("outputs.{name}"), message);
        let outputs = self.session.outputs();
        let Some(outlet) = outputs.iter().find(|outlet| outlet.name() == name) else {
            let known: Vec<&str> = outputs.iter().map(Outlet::name).collect();
            return Err(wrong(format!(
                "is missing; the graph gives {}",
                known.join(", ")
            )));
        };
        if has_shape(outlet, dimensions) {
            return Ok(());
        }
        Err(wrong(format!(
            "is {}; bundle.json needs f32 of the shape {}",
            outlet.dtype(),
            shown(dimensions)
        )))
    }

    /// To run the graph for some of its outputs.
    pub(crate) fn select(
        &self,
        names: &[&str],
    ) -> Result<RunOptions<HasSelectedOutputs>, LoadError> {
        let _inside = runtime::enter();
        let selector = names
            .iter()
            .fold(OutputSelector::no_default(), |selector, name| {
                selector.with(*name)
            });
        let options = RunOptions::new().map_err(|cause| LoadError::Graph {
            file: self.file.clone(),
            cause,
        })?;
        Ok(options.with_outputs(selector))
    }

    /// Runs the graph on all rows at once.
    pub(crate) fn run<'a>(
        &'a mut self,
        rows: &[&TokenIds],
        outputs: &'a RunOptions<HasSelectedOutputs>,
    ) -> Result<BatchOutputs<'a>, ModelError> {
        // Before whatever is the runtime's, so that it is given back after it.
        let inside = runtime::enter();
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
        let started = Instant::now();
        let values = self.session.run_with_options(values.as_slice(), outputs)?;
        Ok(BatchOutputs {
            values,
            tokens,
            model_time: started.elapsed(),
            _inside: inside,
        })
    }

    /// Lays the rows out as [rows, tokens], short ones padded.
    fn fill(&mut self, rows: &[&TokenIds], tokens: usize) {
        let cells = rows.len() * tokens;
        refill(&mut self.ids, cells, self.pad_token_id);
        refill(&mut self.mask, cells, 0);
        refill(&mut self.type_ids, cells, 0);
        for (index, row) in rows.iter().enumerate() {
            let first = index * tokens;
            self.mask[first..first + row.attended().len()].fill(1);
            copy_ids(&mut self.ids[first..], &row.ids);
            copy_ids(&mut self.type_ids[first..], &row.type_ids);
        }
    }
}

/// The names and shapes of a graph's outputs as it declares them; −1 where a dimension is open.
pub(crate) fn output_shapes(
    runtime: &OnnxRuntime,
    file: &Path,
) -> Result<Vec<(String, Vec<i64>)>, LoadError> {
    let session = open_session(runtime, file)?;
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
fn open_session(onnx_runtime: &OnnxRuntime, file: &Path) -> Result<Session, LoadError> {
    let failed = |cause: ort::Error| LoadError::Graph {
        file: file.to_owned(),
        cause,
    };
    let _inside = runtime::enter();
    onnx_runtime
        .session_builder()?
        .with_optimization_level(GraphOptimizationLevel::Level3)
        .map_err(ort::Error::from)
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
    Ok(inputs)
}

fn shape_of(outlet: &Outlet) -> Option<Vec<i64>> {
    match outlet.dtype() {
        ValueType::Tensor { shape, .. } => Some(shape.to_vec()),
        _ => None,
    }
}

fn has_shape(outlet: &Outlet, dimensions: &[Option<usize>]) -> bool {
    let shape = shape_of(outlet).unwrap_or_default();
    let fits = |(&declared, &needed): (&i64, &Option<usize>)| {
        declared == -1 || needed.is_none_or(|needed| usize::try_from(declared) == Ok(needed))
    };
    outlet.dtype().tensor_type() == Some(TensorElementType::Float32)
        && shape.len() == dimensions.len()
        && shape.iter().zip(dimensions).all(fits)
}

fn shown(dimensions: &[Option<usize>]) -> String {
    let shown = dimensions
        .iter()
        .map(|dimension| dimension.map_or("any".into(), |width| width.to_string()));
    format!("[{}]", shown.collect::<Vec<_>>().join(", "))
}

/// The numbers of an output; its shape must be the expected one.
pub(crate) fn tensor<'v>(
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
    if fits {
        Ok(data)
    } else {
        Err(ModelError::Shape {
            output: name.to_owned(),
            shape: shape.to_vec(),
            expected: expected.to_vec(),
        })
    }
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
