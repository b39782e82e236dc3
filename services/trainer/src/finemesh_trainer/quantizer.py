"""The codes that serving makes of a vector, made here: libs/vector-math to the bit.

Truncate, renormalise, quantise, with the same roundings in the same order (quantize.rs and coder.rs). A collection's
rotation comes before and belongs to the collection: it is no part of a model. `tests/vectors/quantizer.json` of
libs/vector-math, written by this package's tests, holds both to one truth.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CODE = np.float32(127)
RESIDUAL_STEPS = np.float32(254)
"""How much finer a query's second code is than its first: a rounding error of half a step becomes 127."""

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]


@dataclass(frozen=True)
class CodedPassage:
    """A passage as it is stored: the prefix, then the rest, each block with one scale."""

    codes: Codes
    prefix_scale: np.float32
    rest_scale: np.float32
    prefix_inverse_norm: np.float32


@dataclass(frozen=True)
class CodedBlock:
    """A block of a query: `value ≈ (254 · code + residual) · scale`."""

    codes: Codes
    residuals: Codes
    scale: float


def normalize(vector: Floats) -> Floats:
    """A vector at norm 1: squares added in f64 in index order, components divided in f64 and rounded once.

    Raises:
        ValueError: for NaN, infinities and the zero vector.
    """
    if not np.isfinite(vector).all():
        raise ValueError(f"component {int(np.argmin(np.isfinite(vector)))} is not finite")
    normalized = normalize_or_zero(vector)
    if not normalized.any():
        raise ValueError("the zero vector has no direction")
    return normalized


def normalize_or_zero(vector: Floats) -> Floats:
    """As `normalize` for finite values; zeros stay zeros."""
    values = vector.astype(np.float64)
    # A running sum: NumPy's own sum adds pairwise, which rounds otherwise.
    squares = np.cumsum(values**2)[-1] if len(values) else 0.0
    return vector if squares == 0 else (values / np.sqrt(squares)).astype(np.float32)


def quantize(values: Floats) -> tuple[Codes, np.float32]:
    """Codes and their scale: `value ≈ code · scale`, with `scale = max |value| / 127`, halves to the even code."""
    scale, steps_per_unit = scale_of(values)
    return to_codes(values * steps_per_unit), scale


def scale_of(values: Floats) -> tuple[np.float32, np.float32]:
    """`(max |value| / 127, 127 / max |value|)`, or zeros where that is no number."""
    largest = np.abs(values).max(initial=np.float32(0))
    with np.errstate(divide="ignore", over="ignore"):
        steps_per_unit = MAX_CODE / largest
    return (largest / MAX_CODE, steps_per_unit) if np.isfinite(steps_per_unit) else (np.float32(0), np.float32(0))


def to_codes(steps: Floats) -> Codes:
    """Rounded, halves to the even neighbour."""
    return np.clip(np.rint(steps), -MAX_CODE, MAX_CODE).astype(np.int8)


def code_passage(vector: Floats, dimensions: int, prefix_dimensions: int) -> CodedPassage:
    """A passage's vector as an unrotated collection stores it; with its scales the decoded vector has norm 1."""
    values = stored_values(vector, dimensions)
    prefix, prefix_scale = quantize(values[:prefix_dimensions])
    rest, rest_scale = quantize(values[prefix_dimensions:])
    decoded_norm = joint_norm(float(prefix_scale) * code_norm(prefix), float(rest_scale) * code_norm(rest))
    return CodedPassage(
        codes=np.concatenate([prefix, rest]),
        prefix_scale=np.float32(divided(float(prefix_scale), decoded_norm)),
        rest_scale=np.float32(divided(float(rest_scale), decoded_norm)),
        prefix_inverse_norm=np.float32(divided(1.0, code_norm(prefix))),
    )


def code_query(vector: Floats, dimensions: int, prefix_dimensions: int) -> tuple[CodedBlock, CodedBlock]:
    """A query's prefix and rest, each value with a code and what the code rounds away."""
    values = stored_values(vector, dimensions)
    blocks = [quantize_finely(values[:prefix_dimensions]), quantize_finely(values[prefix_dimensions:])]
    decoded_norm = joint_norm(*(block.scale * fine_norm(block) for block in blocks))
    prefix, rest = (CodedBlock(b.codes, b.residuals, divided(b.scale, decoded_norm)) for b in blocks)
    return prefix, rest


def joint_norm(prefix: float, rest: float) -> float:
    """Norm of two blocks together. Not `hypot`, whose last bit is every math library's own."""
    return math.sqrt(prefix * prefix + rest * rest)


def quantize_finely(values: Floats) -> CodedBlock:
    """Codes, and second codes 254 times as fine."""
    scale, steps_per_unit = scale_of(values)
    steps = values * steps_per_unit
    codes = to_codes(steps)
    residuals = to_codes((steps - codes.astype(np.float32)) * RESIDUAL_STEPS)
    return CodedBlock(codes, residuals, float(scale) / float(RESIDUAL_STEPS))


def stored_values(vector: Floats, dimensions: int) -> Floats:
    """The stored dimensions at norm 1; zeros where the vector lies wholly in the others."""
    return normalize_or_zero(normalize(vector)[:dimensions])


def code_norm(codes: Codes) -> float:
    """The exact norm of codes, rounded once."""
    return math.sqrt(int((codes.astype(np.int64) ** 2).sum()))


def fine_norm(block: CodedBlock) -> float:
    """The exact norm of both codes together, in steps of the second."""
    fine = block.codes.astype(np.int64) * int(RESIDUAL_STEPS) + block.residuals
    return math.sqrt(int((fine**2).sum()))


def divided(dividend: float, divisor: float) -> float:
    """A quotient that is 0 where there is nothing to divide by."""
    return dividend / divisor if divisor else 0.0
