"""BERT as an ONNX graph, written node by node in the forms that ONNX Runtime fuses.

Written here rather than traced: the inputs are open in both dimensions, `Gelu` and `LayerNormalization` are one node
each, attention has the shape that ONNX Runtime fuses, and an adapter can stay `W + scale · B·A`, which folds at load.
The libs/inference graph of MiniLM has the same forms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from transformers import BertConfig

OPSET = 20
"""The first with Gelu as one node, which ONNX Runtime fuses with its bias."""
IR_VERSION = 9
MASKED = -1e4
"""Is added to the attention of padding: far below any logit, and still exact in f32."""


@dataclass
class Graph:
    """Nodes and initializers as they are added. Weights are looked up by PyTorch's names."""

    weights: Mapping[str, Tensor]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: Any) -> str:
        """An initializer; the name stands for it."""
        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str) -> str:
        """A weight as an initializer."""
        return self.constant(name, self.weights[name].numpy())

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node with one output, which has its name."""
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def matrix(self, prefix: str, output: str) -> str:
        """The matrix of a linear layer, [inputs, outputs], with its adapter's difference where it has one."""
        matrix = self.weight(f"{prefix}.weight")
        if f"{prefix}.up" in self.weights:
            scale = self.constant("adapter_scale", self.weights[f"{prefix}.scale"].numpy())
            low_rank = [self.weight(f"{prefix}.up"), self.weight(f"{prefix}.down")]
            difference = self.node(
                "Mul", [self.node("MatMul", low_rank, f"{output}.low_rank"), scale], f"{output}.diff"
            )
            matrix = self.node("Add", [matrix, difference], f"{output}.adapted")
        return self.node("Transpose", [matrix], f"{output}.transposed", perm=[1, 0])

    def linear(self, inputs: str, prefix: str, output: str, *, exact: bool = False) -> str:
        """A linear layer over the last axis; `exact` where a quantised graph has to compute in f32 too."""
        product = self.node("MatMul", [inputs, self.matrix(prefix, output)], f"{output}.product")
        return self.node("Add", [product, self.weight(f"{prefix}.bias")], output)

    def layer_norm(self, inputs: str, prefix: str, epsilon: float, output: str) -> str:
        """Layer normalisation over the last axis."""
        weights = [self.weight(f"{prefix}.weight"), self.weight(f"{prefix}.bias")]
        return self.node("LayerNormalization", [inputs, *weights], output, axis=-1, epsilon=epsilon)

    def unit_length(self, inputs: str, output: str) -> str:
        """Vectors along the last axis at norm 1."""
        norm = self.node("ReduceL2", [inputs, self.constant("last_axis", np.array([-1]))], f"{output}.norm", keepdims=1)
        floor = self.node("Max", [norm, self.constant("tiny", np.float32(1e-12))], f"{output}.norm_floor")
        return self.node("Div", [inputs, floor], output)

    def mean_of_tokens(self, states: str, output: str) -> str:
        """The mean [batch, width] of the real tokens' states [batch, tokens, width]."""
        axis = self.constant("token_axis", np.array([1]))
        weights = self.node("Unsqueeze", ["mask_f32", self.constant("last_axis", np.array([-1]))], f"{output}.weights")
        masked = self.node("Mul", [states, weights], f"{output}.masked")
        total = self.node("ReduceSum", [masked, axis], f"{output}.sum", keepdims=0)
        count = self.node("ReduceSum", [weights, axis], f"{output}.count", keepdims=0)
        return self.node("Div", [total, count], output)

    def model(self, name: str, inputs: Sequence[str], outputs: Mapping[str, Sequence[str | int]]) -> onnx.ModelProto:
        """The finished model: int64 inputs [batch, tokens], f32 outputs of the given shapes."""
        ins = [helper.make_tensor_value_info(i, TensorProto.INT64, ["batch", "tokens"]) for i in inputs]
        outs = [helper.make_tensor_value_info(o, TensorProto.FLOAT, shape) for o, shape in outputs.items()]
        body = helper.make_graph(self.nodes, name, ins, outs, list(self.initializers.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="finemesh-trainer")


def add_bert(graph: Graph, config: BertConfig, prefix: str, *, with_segments: bool, first_only: bool) -> str:
    """Adds a BERT whose weights are named `prefix…`; gives the last states [batch, tokens, width].

    Without `with_segments` every token is of segment 0, and the graph needs no `token_type_ids`. With `first_only` the
    last layer is computed for the first token alone: [batch, 1, width].
    """
    width, heads = config.hidden_size, config.num_attention_heads
    graph.constant("split_heads", np.array([0, 0, heads, width // heads]))
    graph.constant("merge_heads", np.array([0, 0, width]))
    graph.constant("sqrt_head_width", np.float32(np.sqrt(width // heads)))
    states = add_embeddings(graph, config, f"{prefix}embeddings", with_segments)
    add_attention_bias(graph)
    last = config.num_hidden_layers - 1
    for index in range(config.num_hidden_layers):
        asking = add_first_token(graph, states) if first_only and index == last else states
        states = add_layer(graph, config, f"{prefix}encoder.layer.{index}", f"layer{index}", asking, states)
    return states


def add_first_token(graph: Graph, states: str) -> str:
    """The first token's states, [batch, 1, width]."""
    bounds = {"slice_start": [0], "slice_end": [1], "slice_axis": [1]}
    return graph.node("Slice", [states, *(graph.constant(n, np.array(v)) for n, v in bounds.items())], "first_states")


def add_embeddings(graph: Graph, config: BertConfig, prefix: str, with_segments: bool) -> str:
    """Word, position and segment embeddings, summed and normalised."""
    zero, one = graph.constant("zero", np.int64(0)), graph.constant("one", np.int64(1))
    shape = graph.node("Shape", ["input_ids"], "input_shape")
    length = graph.node("Gather", [shape, one], "length", axis=0)
    positions = graph.node("Range", [zero, length, one], "positions")
    words = graph.node("Gather", [graph.weight(f"{prefix}.word_embeddings.weight"), "input_ids"], "words")
    places = graph.node("Gather", [graph.weight(f"{prefix}.position_embeddings.weight"), positions], "places")
    segment_ids = "token_type_ids" if with_segments else zero
    segments = graph.node("Gather", [graph.weight(f"{prefix}.token_type_embeddings.weight"), segment_ids], "segments")
    total = graph.node("Add", [graph.node("Add", [words, places], "words_places"), segments], "embedded")
    return graph.layer_norm(total, f"{prefix}.LayerNorm", config.layer_norm_eps, "embedded_normed")


def add_attention_bias(graph: Graph) -> None:
    """`attention_bias` [batch, 1, 1, tokens]: 0 where a token is real."""
    mask = graph.node("Cast", ["attention_mask"], "mask_f32", to=TensorProto.FLOAT)
    unsqueezed = graph.node("Unsqueeze", [mask, graph.constant("mask_axes", np.array([1, 2]))], "mask_4d")
    inverse = graph.node("Sub", [graph.constant("one_f32", np.float32(1)), unsqueezed], "mask_inverse")
    graph.node("Mul", [inverse, graph.constant("masked", np.float32(MASKED))], "attention_bias")


def add_layer(graph: Graph, config: BertConfig, prefix: str, name: str, asking: str, states: str) -> str:
    """One layer for the tokens in `asking`: attention to all, then the feed-forward part, each added and normalised.

    Where those are not all tokens, they are one: its products cost nothing and are left exact.
    """
    exact = asking != states
    flat = add_attention(graph, f"{prefix}.attention.self", name, asking, states)
    attended = graph.linear(flat, f"{prefix}.attention.output.dense", f"{name}.attended", exact=exact)
    residual = graph.node("Add", [attended, asking], f"{name}.residual")
    states = graph.layer_norm(residual, f"{prefix}.attention.output.LayerNorm", config.layer_norm_eps, f"{name}.normed")
    inner = graph.linear(states, f"{prefix}.intermediate.dense", f"{name}.inner", exact=exact)
    inner = graph.node("Gelu", [inner], f"{name}.gelu")
    outer = graph.linear(inner, f"{prefix}.output.dense", f"{name}.outer", exact=exact)
    residual = graph.node("Add", [outer, states], f"{name}.residual2")
    return graph.layer_norm(residual, f"{prefix}.output.LayerNorm", config.layer_norm_eps, f"{name}.output")


def add_attention(graph: Graph, prefix: str, name: str, asking: str, states: str) -> str:
    """Multi-head attention of `asking` to `states`, [batch, asking, width], before its output matrix."""
    query = add_heads(graph, f"{prefix}.query", f"{name}.query", asking, [0, 2, 1, 3], exact=asking != states)
    key = add_heads(graph, f"{prefix}.key", f"{name}.key", states, [0, 2, 3, 1])
    value = add_heads(graph, f"{prefix}.value", f"{name}.value", states, [0, 2, 1, 3])
    scores = graph.node("MatMul", [query, key], f"{name}.scores")
    scaled = graph.node("Div", [scores, "sqrt_head_width"], f"{name}.scaled")
    biased = graph.node("Add", [scaled, "attention_bias"], f"{name}.biased")
    weights = graph.node("Softmax", [biased], f"{name}.weights", axis=-1)
    context = graph.node("MatMul", [weights, value], f"{name}.context")
    merged = graph.node("Transpose", [context], f"{name}.merged", perm=[0, 2, 1, 3])
    return graph.node("Reshape", [merged, "merge_heads"], f"{name}.flat")


def add_heads(graph: Graph, prefix: str, name: str, states: str, permutation: list[int], *, exact: bool = False) -> str:
    """A projection of the states, cut into heads."""
    projected = graph.linear(states, prefix, f"{name}.linear", exact=exact)
    split = graph.node("Reshape", [projected, "split_heads"], f"{name}.split")
    return graph.node("Transpose", [split], name, perm=permutation)
