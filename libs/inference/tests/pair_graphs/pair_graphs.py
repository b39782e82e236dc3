"""Writes the graphs of tests/cross_encoder.rs: a pair model that can be computed by hand, and broken ones.

  score.onnx             score [batch] = sum over the real tokens of
                         SEGMENT_WEIGHTS[segment] + id / 1000 + position / 100;
                         NaN where the ids add up to more than LARGEST_ID_SUM; fails beyond POSITIONS tokens
  two_scores.onnx        score is [batch, 2]
  no_segments.onnx       takes no token_type_ids
  unknown_operator.onnx  has an operator that no runtime knows

Run with the `onnx` and `numpy` packages:  python pair_graphs.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEGMENT_WEIGHTS = (0.0, -0.5, 1.0, 2.0)
LARGEST_ID_SUM = 2000.0
POSITIONS = 40
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def constants():
    values = {
        "segment_weights": np.array(SEGMENT_WEIGHTS, np.float32),
        "position_weights": np.arange(POSITIONS, dtype=np.float32) / 100,
        "per_id": np.float32(1 / 1000),
        "largest_id_sum": np.float32(LARGEST_ID_SUM),
        "zero": np.int64(0),
        "one": np.int64(1),
        "token_axis": np.array([1]),
        "last_axis": np.array([-1]),
    }
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def scoring(segments):
    return [
        node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT),
        node("Cast", ["input_ids"], "ids", to=TensorProto.FLOAT),
        node("Shape", ["input_ids"], "shape"),
        node("Gather", ["shape", "one"], "length"),
        node("Range", ["zero", "length", "one"], "positions"),
        node("Gather", ["position_weights", "positions"], "of_position"),
        node("Gather", ["segment_weights", segments], "of_segment"),
        node("Mul", ["ids", "per_id"], "of_id"),
        node("Add", ["of_segment", "of_id"], "of_segment_and_id"),
        node("Add", ["of_segment_and_id", "of_position"], "of_token"),
        node("Mul", ["of_token", "mask"], "of_real_token"),
        node("ReduceSum", ["of_real_token", "token_axis"], "sum", keepdims=0),
        node("Mul", ["ids", "mask"], "real_ids"),
        node("ReduceSum", ["real_ids", "token_axis"], "id_sum", keepdims=0),
        node("Sub", ["largest_id_sum", "id_sum"], "room"),
        node("Sqrt", ["room"], "root_of_room"),
        node("Div", ["root_of_room", "root_of_room"], "one_or_nan"),
    ]


def save(path, nodes, inputs=INPUTS, shape=("batch",)):
    ins = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs]
    out = helper.make_tensor_value_info("score", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, path.stem, ins, [out], constants())
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def main(folder):
    score = node("Mul", ["sum", "one_or_nan"], "score")
    save(folder / "score.onnx", [*scoring("token_type_ids"), score])
    column = node("Unsqueeze", ["sum", "last_axis"], "column")
    twice = node("Concat", ["column", "column"], "score", axis=1)
    save(folder / "two_scores.onnx", [*scoring("token_type_ids"), column, twice], shape=("batch", 2))
    save(folder / "no_segments.onnx", [*scoring("attention_mask"), score], inputs=INPUTS[:2])
    unknown = node("Frobnicate", ["sum"], "score")
    save(folder / "unknown_operator.onnx", [*scoring("token_type_ids"), unknown])


main(Path(sys.argv[1]))
