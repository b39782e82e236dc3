"""Graphs that carry only what is new: tensors that the base's `model.safetensors` has are referred to, not repeated.

A graph with adapters is then a few megabytes, and becomes a whole bundle when the base's file is laid beside it.
"""

import hashlib
import json
import struct
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

SMALLEST_REFERRED_BYTES = 4096
"""Below it a reference is hardly shorter than the tensor."""

Span = tuple[int, int]
"""Offset and length in the file."""


def refer_to_base(model: onnx.ModelProto, weights_file: Path) -> None:
    """Replaces, in place, every large initializer whose bytes are in the file by a reference to them."""
    spans = spans_by_content(weights_file)
    for tensor in model.graph.initializer:
        content = numpy_helper.to_array(tensor).tobytes()
        span = spans.get(hashlib.sha256(content).digest()) if len(content) >= SMALLEST_REFERRED_BYTES else None
        if span:
            make_external(tensor, weights_file.name, span)


def spans_by_content(weights_file: Path) -> dict[bytes, Span]:
    """Where each tensor of a safetensors file lies, by the SHA-256 of its bytes."""
    content = weights_file.read_bytes()
    (header_bytes,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + header_bytes])
    start = 8 + header_bytes
    spans = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in entry["data_offsets"])
            spans[hashlib.sha256(content[begin:end]).digest()] = (begin, end - begin)
    return spans


def make_external(tensor: TensorProto, location: str, span: Span) -> None:
    """Turns an initializer into a reference."""
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", span[0]), ("length", span[1])):
        tensor.external_data.add(key=key, value=str(value))
