"""Graphs with int8 matrices: ONNX Runtime's dynamic quantisation, in the one form that is exact and fast on AVX2.

Weights are signed, one scale per output channel, seven bits (`reduce_range`): with eight, the products of u8 and i8
saturate on processors without VNNI. Unsigned weights do not saturate but are as slow as f32 nearly. The graph is saved
as ONNX Runtime optimises it first, so that transposes are folded and every matrix is seen.
"""

import tempfile
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic


def to_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every product with a constant matrix in int8. Embeddings stay f32."""
    with tempfile.TemporaryDirectory() as folder:
        whole, optimised, quantised = (Path(folder, f"{name}.onnx") for name in ("whole", "optimised", "quantised"))
        onnx.save(model, whole)
        save_optimised(whole, optimised)
        quantize_dynamic(
            optimised,
            quantised,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # ONNX's shape inference does not know the fused operators and would stop at them.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
        return onnx.load(quantised)


def save_optimised(source: Path, target: Path) -> None:
    """Writes the graph as ONNX Runtime would run it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
