"""`export`: a run's weights as a model bundle, checked against what PyTorch computes before it gets its name.

A bundle is a folder: `bundle.json`, `model.onnx`, `tokenizer.json` and `golden.json`, and here the model card as
`README.md`. libs/inference reads it; its fingerprint covers every file.

Task `encode` is described there. Task `rerank`: a query and a passage give one score. All keys are required, others are
refused:

    bundle.json
      format, name, task = "rerank", max_tokens, pad_token_id, lowercase, tolerance, source    as for `encode`
      pair.max_query_tokens    tokens of the query that are kept; the passage gets max_tokens - 3 - those of the query
      pair.segments            "exact_match_v1": segment ids 0 to 3 by the rule in models/exact_match.py
                               "plain": 0 for `[CLS] query [SEP]`, 1 for `passage [SEP]`
      outputs.score            name of the graph's output: f32 [batch]; a logit without bounds, higher is better
    golden.json
      origin, entries: {query, passage, token_ids, segment_ids, score}

The graph takes `input_ids`, `attention_mask` and `token_type_ids`, int64 [batch, tokens]; padding is 0 in the last two.
`tolerance` is the largest difference of a score from PyTorch's in f32: fixed for f32 graphs; for int8 twice what was
measured over the golden inputs when the bundle was made.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from finemesh_trainer.base_apart import refer_to_base
from finemesh_trainer.card import CARD_FILE
from finemesh_trainer.errors import ConfigError, TrainerError
from finemesh_trainer.export_content import Content, GraphKind, Rows
from finemesh_trainer.files import new_folder
from finemesh_trainer.heads.head import Head, read_heads
from finemesh_trainer.int8_choice import Choice, Precisions, choose, open_session, quantised_sizes
from finemesh_trainer.models.base import TOKENIZER_FILE, WEIGHTS_FILE
from finemesh_trainer.models.int8 import Precision
from finemesh_trainer.rerank_task import load_cross_encoder
from finemesh_trainer.runs import is_cross_encoder, load_content

INT8_MARGIN = 2.0
"""Other processors' int8 kernels round differently again."""
GOLDEN_ORIGIN = "PyTorch, f32, on the CPU, by the model that was trained"


@dataclass(frozen=True)
class Exported:
    """How far a bundle's graph is from PyTorch."""

    tolerance: float
    difference: float


def export(
    folder: Path, output: Path, *, int8: Precision | None, base_apart: bool, heads: Sequence[Path] = ()
) -> Exported:
    """Makes the bundle `output` of the weights in a run's folder. Nothing is left behind when it fails.

    With `int8`, all matrices have that precision, unless there are `heads`: then a cross-encoder orders the heads in
    these files as f32 does, Spearman .99 in each, with as many of its matrices in int8 as that allows.

    Raises:
        ConfigError: when there is no run, or something at the bundle's place.
        TrainerError: when the graph does not compute what PyTorch does.
    """
    with new_folder(output) as staging:
        choice = choose_precisions(folder, read_heads(heads), int8=int8) if heads else None
        precisions = choice.precisions if choice else uniform_precisions(folder, int8)
        content = load_content(folder, GraphKind(int8 is not None, base_apart and int8 is None, precisions))
        write_graph(content, staging, base_apart=base_apart)
        exported = check_graph(content, staging, int8=int8 is not None)
        write_json(staging / "bundle.json", content.description | {"tolerance": exported.tolerance})
        write_json(staging / "golden.json", {"origin": GOLDEN_ORIGIN, "entries": content.golden})
        shutil.copyfile(content.base / TOKENIZER_FILE, staging / TOKENIZER_FILE)
        write_bundle_card(folder / CARD_FILE, staging / CARD_FILE, choice)
    return exported


def uniform_precisions(folder: Path, int8: Precision | None) -> Precisions:
    """The same for every matrix; none where it is the one that int8 graphs have anyway.

    Raises:
        ConfigError: for blocks in anything but a cross-encoder.
    """
    if int8 in (None, Precision.PER_TOKEN):
        return {}
    if not is_cross_encoder(folder):
        raise ConfigError([f"--int8: {int8} is for cross-encoders"])
    return dict.fromkeys(quantised_sizes(load_cross_encoder(folder)), int8)


def choose_precisions(folder: Path, heads: Sequence[Head], *, int8: Precision | None) -> Choice:
    """What the heads allow.

    Raises:
        ConfigError: for anything but an int8 cross-encoder.
    """
    if int8 is None or not is_cross_encoder(folder):
        raise ConfigError(["--heads: are for int8 cross-encoders"])
    return choose(load_cross_encoder(folder), heads)


def write_bundle_card(card: Path, path: Path, choice: Choice | None) -> None:
    """The run's model card, and how its matrices were quantised."""
    sections = [card.read_text("utf-8"), *([choice.described() + "\n"] if choice else [])]
    path.write_text("\n".join(sections), encoding="utf-8")


def write_graph(content: Content, staging: Path, *, base_apart: bool) -> None:
    """Writes model.onnx, and the base's weights beside it where it refers to them."""
    if base_apart:
        refer_to_base(content.graph, content.base / WEIGHTS_FILE)
        shutil.copyfile(content.base / WEIGHTS_FILE, staging / WEIGHTS_FILE)
    onnx.save(content.graph, staging / "model.onnx")


def check_graph(content: Content, staging: Path, *, int8: bool) -> Exported:
    """Runs the golden inputs through ONNX Runtime.

    Raises:
        TrainerError: when the outputs are further from PyTorch's than is tolerated.
    """
    difference = largest_difference(staging / "model.onnx", content.rows)
    limit = content.int8_limit / INT8_MARGIN if int8 else content.tolerance
    if not difference <= limit:
        raise TrainerError(f"the graph differs from PyTorch by {difference:g}; {limit:g} is let through")
    tolerance = rounded_up(difference * INT8_MARGIN) if int8 else content.tolerance
    return Exported(max(tolerance, content.tolerance), difference)


def largest_difference(graph: Path, rows: Sequence[Rows]) -> float:
    """Over all outputs of all golden inputs; padding is not looked at."""
    session = open_session(str(graph))
    differences = [0.0]
    for batch in rows:
        outputs = session.run(list(batch.expected), batch.inputs)
        for got, expected in zip(outputs, batch.expected.values(), strict=True):
            differences.append(float(np.nanmax(np.abs(got - expected))))
            if not np.isfinite(got).all():
                return math.inf
    return max(differences)


def rounded_up(value: float) -> float:
    """The next number of two digits."""
    digit = math.floor(math.log10(value)) - 1
    return round(math.ceil(value / 10.0**digit) * 10.0**digit, -digit)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as people read it."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
