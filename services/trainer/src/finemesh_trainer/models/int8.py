"""BERT's graph with int8 products, in three precisions from which a model picks for each of its matrices.

`per_token`, in ONNX's own operators, the fastest:

    codes = round(x / s) + z        per token: s = largest |x| / 90, z = 91          u8
    y     = (codes - z) · W8 · s · t + b       per output: t = largest |W| / 90       i32, then f32

Each token has its own scale, where ONNX Runtime's dynamic quantisation has one for a whole batch: a token with large
values, as BERT has them, does not coarsen the others, and a text's result does not depend on what it is batched with.
Behind Gelu, which is never below -.17, that is subtracted and all 181 steps are used upwards.

The ranges are such that two products never exceed 16 bits (181 · 90 · 2 < 32768): processors that add pairs in 16 bits
saturate beyond, others do not, and scores would differ between machines.

`blocks`, by ONNX Runtime's `MatMulNBits`: 64 neighbouring values of a token, and of an output's weights, share a scale,
and all 255 codes are used. A large value coarsens its block alone.

`exact`: f32.

Measured on a three-layer cross-encoder, 36 lists of 20 candidates of training queries, one AVX2 core of a busy machine:

| all matrices | Spearman with f32, mean | worst list | pairs per second, f32 = 1 |
|---|---|---|---|
| per_token | .9926 | .961 | 2.4 |
| blocks of 128 | .9976 | .9895 | 1.43 |
| blocks of 64 | .9980 | .9925 | 1.44 |
| blocks of 32 | .9982 | .9925 | 1.20 |

Most of what is left comes of the activations: with blocks of 128 for the weights alone, the worst list has .9970.
Sorting channels by their size, or dividing them by it and multiplying the weights, did not help.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import onnx
from onnx import TensorProto, helper

from finemesh_trainer.models.graph import Graph

STEPS = 181
"""Of activations: from one code to the last."""
HALF_STEPS = STEPS // 2
MAX_WEIGHT_CODE = 90
GELU_FLOOR = np.float32(-0.17)
SMALLEST = np.float32(1e-12)

BLOCK = 64
"""Values that share a scale in `blocks`."""
MAX_BLOCK_CODE, BLOCK_ZERO_CODE = 127, 128
INT8_PRODUCTS = 4
"""`MatMulNBits`: activations are quantised as well."""
RUNTIME_DOMAIN = "com.microsoft"


class Precision(StrEnum):
    """How a matrix is multiplied, the fastest first."""

    PER_TOKEN = "per_token"
    BLOCKS = "blocks"
    EXACT = "exact"


@dataclass
class Int8Graph(Graph):
    """A graph whose linear layers are int8, save those that must be exact."""

    precisions: Mapping[str, Precision] = field(default_factory=dict)
    """By the layers' prefixes; `per_token` for those that are not named."""
    quantised: list[str] = field(default_factory=list)
    """The prefixes of the layers that may be int8, in their order."""

    def linear(self, inputs: str, prefix: str, output: str, *, exact: bool = False) -> str:
        """A linear layer over the last axis."""
        if exact:
            return super().linear(inputs, prefix, output, exact=True)
        self.quantised.append(prefix)
        match self.precisions.get(prefix, Precision.PER_TOKEN):
            case Precision.EXACT:
                return super().linear(inputs, prefix, output, exact=True)
            case Precision.BLOCKS:
                return self.linear_in_blocks(inputs, prefix, output)
            case Precision.PER_TOKEN:
                return self.linear_per_token(inputs, prefix, output)

    def linear_in_blocks(self, inputs: str, prefix: str, output: str) -> str:
        """Scales for every 64 values of a token, and of an output's weights."""
        matrix = self.weights[f"{prefix}.weight"].numpy()
        (outputs, width), (codes, scales) = matrix.shape, blocks_of_matrix(matrix)
        operands = [inputs, self.constant(f"{prefix}.codes", codes), self.constant(f"{prefix}.scales", scales)]
        shape = {"K": width, "N": outputs, "bits": 8, "block_size": BLOCK, "accuracy_level": INT8_PRODUCTS}
        product = self.node("MatMulNBits", operands, f"{output}.product", domain=RUNTIME_DOMAIN, **shape)
        return self.node("Add", [product, self.weight(f"{prefix}.bias")], output)

    def linear_per_token(self, inputs: str, prefix: str, output: str) -> str:
        """One scale for every token, and for every output's weights."""
        behind_gelu = self.operator(inputs) == "Gelu"
        floor, zero_code = (GELU_FLOOR, 0) if behind_gelu else (np.float32(0), HALF_STEPS + 1)
        codes, scale = self.codes(inputs, floor, zero_code)
        weight_codes, weight_scales = quantized_matrix(self.weights[f"{prefix}.weight"].numpy())
        operands = [codes, self.constant(f"{prefix}.codes", weight_codes), self.zero(zero_code)]
        product = self.node(
            "Cast", [self.node("MatMulInteger", operands, f"{output}.steps")], f"{output}.product", to=F32
        )
        scaled = self.node("Mul", [product, scale], f"{output}.scaled")
        scaled = self.node("Mul", [scaled, self.constant(f"{prefix}.scales", weight_scales)], f"{output}.rescaled")
        raised_by = floor * weight_codes.sum(axis=0) * weight_scales
        bias = (self.weights[f"{prefix}.bias"].numpy() + raised_by).astype(np.float32)
        return self.node("Add", [scaled, self.constant(f"{prefix}.shifted_bias", bias)], output)

    def model(self, name: str, inputs: Sequence[str], outputs: Mapping[str, Sequence[str | int]]) -> onnx.ModelProto:
        """The finished model; it names the runtime's own operators where it has some."""
        model = super().model(name, inputs, outputs)
        if any(node.domain == RUNTIME_DOMAIN for node in self.nodes):
            model.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
        return model

    def codes(self, inputs: str, floor: np.float32, zero_code: int) -> tuple[str, str]:
        """A tensor's u8 codes and their scales per token; made once, however many products they go into."""
        codes, scale = f"{inputs}.codes", f"{inputs}.scale"
        if any(node.name == codes for node in self.nodes):
            return codes, scale
        values, sizes, steps = inputs, f"{inputs}.sizes", HALF_STEPS
        if floor:
            values = sizes = self.node("Sub", [inputs, self.constant("gelu_floor", floor)], f"{inputs}.raised")
            steps = STEPS
        else:
            self.node("Abs", [inputs], sizes)
        largest = self.node("ReduceMax", [sizes, self.constant("last_axis", np.array([-1]))], f"{inputs}.largest")
        floored = self.node("Max", [largest, self.constant("smallest", SMALLEST)], f"{inputs}.largest_or_tiny")
        self.node("Mul", [floored, self.constant(f"step_of_{steps}", np.float32(1 / steps))], scale)
        in_steps = self.node("Div", [values, scale], f"{inputs}.in_steps")
        self.node("QuantizeLinear", [in_steps, self.constant("one_f32", np.float32(1)), self.zero(zero_code)], codes)
        return codes, scale

    def zero(self, code: int) -> str:
        """The code that stands for zero."""
        return self.constant(f"zero_code_{code}", np.uint8(code))

    def operator(self, output: str) -> str:
        """What makes a tensor."""
        return next(node.op_type for node in self.nodes if node.name == output)


F32 = TensorProto.FLOAT


def quantized_matrix(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [inputs, outputs] and scales [outputs] of a matrix [outputs, inputs]."""
    scales = (np.abs(matrix).max(axis=1).clip(SMALLEST) / np.float32(MAX_WEIGHT_CODE)).astype(np.float32)
    codes = np.rint(matrix / scales[:, None]).clip(-MAX_WEIGHT_CODE, MAX_WEIGHT_CODE)
    return np.ascontiguousarray(codes.T.astype(np.int8)), scales


def blocks_of_matrix(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes u8 [outputs, blocks, 64] and scales [outputs, blocks] of a matrix [outputs, inputs].

    The last block is filled up with zeros.
    """
    outputs, inputs = matrix.shape
    filled = np.pad(matrix, ((0, 0), (0, -inputs % BLOCK))).reshape(outputs, -1, BLOCK)
    scales = (np.abs(filled).max(axis=2).clip(SMALLEST) / np.float32(MAX_BLOCK_CODE)).astype(np.float32)
    codes = np.rint(filled / scales[:, :, None]) + BLOCK_ZERO_CODE
    return codes.astype(np.uint8), scales
