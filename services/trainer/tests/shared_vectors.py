"""Writes the test vectors that Python and Rust share:  python tests/shared_vectors.py

Both sides test against the files; a change of either rule shows as a difference in them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny import make_tokenizer

from finemesh_trainer.models.exact_match import PairTokenizer
from finemesh_trainer.quantizer import code_passage, code_query, normalize, quantize

HERE = Path(__file__).parent
EXACT_MATCH_FILE = HERE / "vectors" / "exact_match.json"
QUANTIZER_FILE = HERE.parents[2] / "libs" / "vector-math" / "tests" / "vectors" / "quantizer.json"

PAIRS = (
    ("what is a shard", "A shard is one engine of the mesh."),
    ("sharding budgets", "Budgets, one budget; sharding is not a shard."),
    ("the query", "the the query? Query!"),
    ("how is it to be", "it is what it is"),
    ("Café 東京?", "the CAFE in 東 京, 東京"),
    ("zürich ☂ x1", "☂ zurich x 1 x1"),
    ("[MASK] model", "the [MASK] [SEP] model"),
    ("deadline deadline", "deadline"),
    ("it's - well-ranked", "it ' s - well ranked"),
    ("apple pear plum river stone cloud apple pear plum river stone cloud", "plum cloud cloud"),
    ("apple", "pear " * 40 + "apple"),
    ("apple fast", "plum " * 24 + "fastest"),
    ("mesh", "?"),
)
MAX_TOKENS, MAX_QUERY_TOKENS = 30, 8


def exact_match_vectors() -> dict[str, Any]:
    """Pairs with their ids; the tokenizer lies within, so that a reader needs no other file."""
    marked = PairTokenizer(make_tokenizer(), MAX_TOKENS, MAX_QUERY_TOKENS, mark_exact_matches=True)
    plain = PairTokenizer(make_tokenizer(), MAX_TOKENS, MAX_QUERY_TOKENS, mark_exact_matches=False)
    cases = []
    for query, passage in PAIRS:
        pair = marked.encode(query, [passage])[0]
        segments = plain.encode(query, [passage])[0].segments
        cases.append(
            {
                "query": query,
                "passage": passage,
                "token_ids": pair.ids,
                "exact_match_v1": pair.segments,
                "plain": segments,
            }
        )
    return {
        "max_tokens": MAX_TOKENS,
        "max_query_tokens": MAX_QUERY_TOKENS,
        "cases": cases,
        "tokenizer": json.loads(make_tokenizer().to_str()),
    }


def quantizer_vectors() -> dict[str, Any]:
    """f32 values, written so that they are read back to the bit, with their codes and scales."""
    return {
        "quantize": [quantize_case(values) for values in plain_values()],
        "code": [code_case(vector, *sizes) for vector, *sizes in vectors_and_sizes()],
    }


def plain_values() -> list[np.ndarray]:
    """Halves, signs, zeros, denormals, extremes, and values as models give them."""
    draw = np.random.default_rng(11)
    listed = [[127, 0.5, 1.5, -0.5, -2.5], [0, -0.0], [1e-45, 0], [3.4e38, -1e38, 1], [-1, 0.49999997, 0.5], [2**-126]]
    drawn = [draw.normal(size=size) for size in (1, 7, 64, 96)]
    return [np.array(values, dtype=np.float32) for values in [*listed, *drawn]]


def vectors_and_sizes() -> list[tuple[np.ndarray, int, int]]:
    """Vectors with the dimensions that are stored and those of the prefix."""
    draw = np.random.default_rng(12)
    nothing_stored = np.zeros(8, dtype=np.float32)
    nothing_stored[6] = 2.5
    drawn = [
        (draw.normal(size=width), stored, prefix) for width, stored, prefix in ((8, 8, 4), (96, 64, 16), (384, 384, 64))
    ]
    skewed = (draw.normal(size=32) * 10.0 ** draw.uniform(-6, 3, size=32), 32, 32)
    return [(v.astype(np.float32), stored, prefix) for v, stored, prefix in [(nothing_stored, 4, 2), *drawn, skewed]]


def quantize_case(values: np.ndarray) -> dict[str, Any]:
    """What `quantize` gives."""
    codes, scale = quantize(values)
    return {"values": values.tolist(), "codes": codes.tolist(), "scale": float(scale)}


def code_case(vector: np.ndarray, dimensions: int, prefix_dimensions: int) -> dict[str, Any]:
    """What is stored of a passage, and what a query is scanned with."""
    passage = code_passage(vector, dimensions, prefix_dimensions)
    prefix, rest = code_query(vector, dimensions, prefix_dimensions)
    return {
        "vector": vector.tolist(),
        "dimensions": dimensions,
        "prefix_dimensions": prefix_dimensions,
        "normalized": normalize(vector).tolist(),
        "codes": passage.codes.tolist(),
        "prefix_scale": float(passage.prefix_scale),
        "rest_scale": float(passage.rest_scale),
        "prefix_inverse_norm": float(passage.prefix_inverse_norm),
        "query_codes": [*prefix.codes.tolist(), *rest.codes.tolist()],
        "query_residuals": [*prefix.residuals.tolist(), *rest.residuals.tolist()],
        "query_prefix_scale": prefix.scale,
        "query_rest_scale": rest.scale,
    }


def as_text(vectors: dict[str, Any]) -> str:
    """One case a line."""
    parts = []
    for key, value in vectors.items():
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in value) if isinstance(value, list) else None
        written = f"[\n{lines}\n]" if lines else json.dumps(value, ensure_ascii=False)
        parts.append(f"{json.dumps(key)}: {written}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    for path, vectors in ((EXACT_MATCH_FILE, exact_match_vectors()), (QUANTIZER_FILE, quantizer_vectors())):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_text(vectors), encoding="utf-8")
