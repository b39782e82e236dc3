"""Writes minilm_l6.onnx: the all-MiniLM-L6-v2 encoder as a graph without weights.

Every initializer is external data at an offset into the published `model.safetensors`, so the graph is a
few kilobytes and the weights are used as they were published. Outputs, both of unit length:

  sentence_embedding  [batch, 384]          mean of the token states under the mask
  token_embeddings    [batch, tokens, 384]  for late interaction

Run with the `onnx` and `numpy` packages:  python minilm_l6.py PATH/model.safetensors minilm_l6.onnx
"""

import json
import struct
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, HEADS, HEAD_DIM, WIDTH = 6, 12, 32, 384
LAYER_NORM_EPSILON = 1e-12
OPSET = 20  # the first with Gelu as one node, which ONNX Runtime fuses with its bias


class Graph:
    def __init__(self, safetensors_path):
        with open(safetensors_path, "rb") as file:
            header_bytes = struct.unpack("<Q", file.read(8))[0]
            self.header = json.loads(file.read(header_bytes))
        self.data_start = 8 + header_bytes
        self.nodes, self.initializers = [], []

    def weight(self, name):
        """An initializer that points into the safetensors file."""
        entry = self.header[name]
        begin, end = entry["data_offsets"]
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=entry["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "model.safetensors"), ("offset", self.data_start + begin), ("length", end - begin)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name

    def constant(self, name, value):
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def linear(self, x, prefix, output):
        transposed = self.node("Transpose", [self.weight(f"{prefix}.weight")], f"{output}.weight", perm=[1, 0])
        product = self.node("MatMul", [x, transposed], f"{output}.product")
        return self.node("Add", [product, self.weight(f"{prefix}.bias")], output)

    def layer_norm(self, x, prefix, output):
        inputs = [x, self.weight(f"{prefix}.weight"), self.weight(f"{prefix}.bias")]
        return self.node("LayerNormalization", inputs, output, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def heads(self, x, prefix, output, perm):
        split = self.node("Reshape", [self.linear(x, prefix, f"{output}.linear"), "split_heads"], f"{output}.split")
        return self.node("Transpose", [split], output, perm=perm)


def embeddings(graph):
    graph.constant("zero", np.int64(0))
    graph.constant("one", np.int64(1))
    shape = graph.node("Shape", ["input_ids"], "input_shape")
    length = graph.node("Gather", [shape, "one"], "length", axis=0)
    positions = graph.node("Range", ["zero", length, "one"], "positions")
    words = graph.node("Gather", [graph.weight("embeddings.word_embeddings.weight"), "input_ids"], "words")
    places = graph.node("Gather", [graph.weight("embeddings.position_embeddings.weight"), positions], "places")
    segment = graph.node("Gather", [graph.weight("embeddings.token_type_embeddings.weight"), "zero"], "segment")
    total = graph.node("Add", [graph.node("Add", [words, places], "words_places"), segment], "embedded")
    return graph.layer_norm(total, "embeddings.LayerNorm", "embedded_normed")


def attention_bias(graph):
    """0 where a token is real, -1e4 where it is padding: [batch, 1, 1, tokens]."""
    graph.constant("mask_axes", np.array([1, 2], dtype=np.int64))
    graph.constant("one_f32", np.float32(1))
    graph.constant("masked", np.float32(-1e4))
    mask = graph.node("Cast", ["attention_mask"], "mask_f32", to=TensorProto.FLOAT)
    unsqueezed = graph.node("Unsqueeze", [mask, "mask_axes"], "mask_4d")
    return graph.node("Mul", [graph.node("Sub", ["one_f32", unsqueezed], "mask_inverse"), "masked"], "attention_bias")


def layer(graph, x, bias, index):
    source, name = f"encoder.layer.{index}", f"layer{index}"
    query = graph.heads(x, f"{source}.attention.self.query", f"{name}.query", [0, 2, 1, 3])
    key = graph.heads(x, f"{source}.attention.self.key", f"{name}.key", [0, 2, 3, 1])
    value = graph.heads(x, f"{source}.attention.self.value", f"{name}.value", [0, 2, 1, 3])
    scaled = graph.node("Div", [graph.node("MatMul", [query, key], f"{name}.scores"), "sqrt_head_dim"], f"{name}.scaled")
    weights = graph.node("Softmax", [graph.node("Add", [scaled, bias], f"{name}.biased")], f"{name}.weights", axis=-1)
    context = graph.node("MatMul", [weights, value], f"{name}.context")
    merged = graph.node("Transpose", [context], f"{name}.merged", perm=[0, 2, 1, 3])
    flat = graph.node("Reshape", [merged, "merge_heads"], f"{name}.flat")
    attended = graph.linear(flat, f"{source}.attention.output.dense", f"{name}.attended")
    x = graph.layer_norm(graph.node("Add", [attended, x], f"{name}.residual"), f"{source}.attention.output.LayerNorm", f"{name}.normed")
    inner = graph.node("Gelu", [graph.linear(x, f"{source}.intermediate.dense", f"{name}.inner")], f"{name}.gelu")
    outer = graph.linear(inner, f"{source}.output.dense", f"{name}.outer")
    return graph.layer_norm(graph.node("Add", [outer, x], f"{name}.residual2"), f"{source}.output.LayerNorm", f"{name}.output")


def unit_length(graph, x, output):
    norm = graph.node("ReduceL2", [x, "last_axis"], f"{output}.norm", keepdims=1)
    return graph.node("Div", [x, graph.node("Max", [norm, "tiny"], f"{output}.norm_floor")], output)


def pooled(graph, states):
    graph.constant("token_axis", np.array([1], dtype=np.int64))
    weights = graph.node("Unsqueeze", ["mask_f32", "last_axis"], "pool_weights")
    total = graph.node("ReduceSum", [graph.node("Mul", [states, weights], "pool_masked"), "token_axis"], "pool_sum", keepdims=0)
    count = graph.node("ReduceSum", [weights, "token_axis"], "pool_count", keepdims=0)
    return graph.node("Div", [total, count], "pool_mean")


def build(safetensors_path):
    graph = Graph(safetensors_path)
    graph.constant("split_heads", np.array([0, 0, HEADS, HEAD_DIM], dtype=np.int64))
    graph.constant("merge_heads", np.array([0, 0, WIDTH], dtype=np.int64))
    graph.constant("sqrt_head_dim", np.float32(np.sqrt(HEAD_DIM)))
    graph.constant("last_axis", np.array([-1], dtype=np.int64))
    graph.constant("tiny", np.float32(1e-12))
    x, bias = embeddings(graph), attention_bias(graph)
    for index in range(LAYERS):
        x = layer(graph, x, bias, index)
    unit_length(graph, pooled(graph, x), "sentence_embedding")
    unit_length(graph, x, "token_embeddings")
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "tokens"]) for n in ("input_ids", "attention_mask")]
    outputs = [
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH]),
        helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, ["batch", "tokens", WIDTH]),
    ]
    body = helper.make_graph(graph.nodes, "minilm_l6", inputs, outputs, graph.initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


if __name__ == "__main__":
    onnx.save_model(build(sys.argv[1]), sys.argv[2])
