"""What the benches put to the service: texts of words that are one token each, drawn from a seed."""

import json
import random
from pathlib import Path

from service import Call

SEED = 20
PASSAGES = 20
QUERY_TOKENS = 6
LENGTH_DEVIATION = 0.15
MIXED = "mixed"
LENGTHS = {"64": (64,), "128": (128,), "256": (256,), MIXED: (64, 128, 256)}
"""Tokens of passages, give or take, by the name of the mixture."""


def make_calls(bundle: Path, lengths: tuple[int, ...], tokens: int) -> list[Call]:
    """Calls of 20 passages, of about so many tokens in all; at least one."""
    draw = random.Random(SEED)
    vocabulary = json.loads((bundle / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2)

    def text(count: int) -> str:
        return " ".join(draw.choice(words) for _ in range(count))

    def passage() -> str:
        return text(max(8, round(draw.gauss(1, LENGTH_DEVIATION) * draw.choice(lengths))))

    count = max(1, round(tokens / (PASSAGES * sum(lengths) / len(lengths))))
    return [Call(text(QUERY_TOKENS), [passage() for _ in range(PASSAGES)]) for _ in range(count)]


def installed_bundle(finemesh_list: dict) -> Path:
    """The cross-encoder that `finemesh models list --json` names."""
    reranker = finemesh_list["reranker"]
    if reranker is None:
        raise SystemExit("no cross-encoder is installed: finemesh models pull")
    return Path(reranker["folder"])
