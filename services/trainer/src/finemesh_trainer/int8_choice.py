"""Which matrices of an int8 cross-encoder may be fast: measured, on the heads of training queries.

The order of the scores within a head has to stay: Spearman with f32 of `LEAST_SPEARMAN` or more in every head. How much
a matrix alone disturbs the scores in a precision is measured for each of them. Disturbances of different matrices are
independent and their squares add up, so a path is known from the fastest graph to the exact one, on which each step
takes the matrix that gives most for its time to its next precision. The first graph on the path that keeps the gate is
found by bisection.

Of a three-layer cross-encoder and 120 heads, the gate left 9 of 26 parts of the products in blocks and the others in
f32: the worst of many heads is a hard judge, and speed is what it costs. `benches/int8.py` says how much.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from tqdm import tqdm

from finemesh_trainer.errors import TrainerError
from finemesh_trainer.export_content import GraphKind, add_cross_encoder, rerank_graph
from finemesh_trainer.heads.head import Head
from finemesh_trainer.heads.measure import spearman
from finemesh_trainer.models.adapters import merged_state
from finemesh_trainer.models.cross_encoder import CrossEncoder, padded
from finemesh_trainer.models.exact_match import PairIds, PairTokenizer
from finemesh_trainer.models.int8 import Int8Graph, Precision

LEAST_SPEARMAN = 0.99
TIMES = {Precision.PER_TOKEN: 0.33, Precision.BLOCKS: 0.66, Precision.EXACT: 1.0}
"""Of a product, f32 = 1: matrices of 384 by 384 to 384 by 1536 and 1024 tokens on one AVX2 core."""
PROBED_HEADS = 12
"""Heads with which single matrices are measured: their mean disturbance needs fewer than the worst head does."""
PAIRS_PER_RUN = 16
SMALLEST_VARIANCE = float(np.finfo(np.float32).tiny)

Precisions = Mapping[str, Precision]
Scores = list[np.ndarray]
"""Of each head's passages, in their order."""
Build = Callable[[Precisions], onnx.ModelProto]
"""The graph with these precisions."""


@dataclass(frozen=True)
class Choice:
    """The precisions, and the Spearman correlation with f32 in each head."""

    precisions: dict[str, Precision]
    spearman: list[float]

    def described(self) -> str:
        """As the model card has it."""
        rows = [f"| {name} | {precision} |" for name, precision in self.precisions.items()]
        table = "\n".join(["| matrix | precision |", "|---|---|", *rows])
        mean, least = np.mean(self.spearman), min(self.spearman)
        measured = (
            f"Spearman with f32 in {len(self.spearman)} heads of training queries: mean {mean:.4f}, worst {least:.4f}."
        )
        return f"## Int8\n\n{table}\n\nOther products are f32. {measured}"


class HeadScorer:
    """The heads of a cross-encoder as batches of like length, ready for any graph."""

    def __init__(self, model: CrossEncoder | PairTokenizer, heads: Sequence[Head]) -> None:
        self.sizes = [len(head.documents) for head in heads]
        pairs = [pair for head in heads for pair in model.encode(head.query, head.passages)]
        by_length = sorted(range(len(pairs)), key=lambda index: len(pairs[index].ids))
        self.chunks = [by_length[i : i + PAIRS_PER_RUN] for i in range(0, len(pairs), PAIRS_PER_RUN)]
        self.inputs = [inputs_of([pairs[index] for index in chunk]) for chunk in self.chunks]

    def score(self, session: onnxruntime.InferenceSession) -> Scores:
        """The graph's logits by head."""
        logits = np.empty(sum(self.sizes), dtype=np.float32)
        for chunk, inputs in zip(self.chunks, self.inputs, strict=True):
            (logits[chunk],) = session.run(["score"], inputs)
        return np.split(logits, np.cumsum(self.sizes)[:-1])


def inputs_of(pairs: Sequence[PairIds]) -> dict[str, np.ndarray]:
    """A padded batch as a graph takes it."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return dict(zip(names, (tensor.numpy() for tensor in padded(pairs, torch.device("cpu"))), strict=True))


def open_session(graph: onnx.ModelProto | str) -> onnxruntime.InferenceSession:
    """A graph, or a graph's file, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = graph if isinstance(graph, str) else graph.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def choose(model: CrossEncoder, heads: Sequence[Head]) -> Choice:
    """The fastest precisions of a model's matrices that keep the gate in every head.

    Raises:
        TrainerError: when there is nothing to order: no head has two documents.
    """
    heads = [head for head in heads if len(head.documents) > 1]
    if not heads:
        raise TrainerError("no head has two documents: nothing can be measured with them")
    sizes = quantised_sizes(model)

    def build(precisions: Precisions) -> onnx.ModelProto:
        return rerank_graph(model, GraphKind(int8=True, keep_adapters=False, precisions=precisions))

    probed = heads[:: -(-len(heads) // PROBED_HEADS)]
    path = path_to_exact(disturbances(HeadScorer(model, probed), build, list(sizes)), sizes)
    scorer = HeadScorer(model, heads)
    exact = scorer.score(open_session(build(path[-1])))

    def measured(step: int) -> Choice:
        return Choice(path[step], correlations(scorer.score(open_session(build(path[step]))), exact))

    return first_that_keeps_the_gate(len(path), measured)


def quantised_sizes(model: CrossEncoder) -> dict[str, int]:
    """The matrices that may be int8, each with its count of weights."""
    graph = Int8Graph(merged_state(model))
    add_cross_encoder(graph, model)
    return {name: graph.weights[f"{name}.weight"].numel() for name in graph.quantised}


def first_that_keeps_the_gate(steps: int, measured: Callable[[int], Choice]) -> Choice:
    """By bisection: what comes later on the path is taken to be more exact. The last step, f32, always keeps it."""
    first, last = 0, steps - 1
    best = None
    while first < last:
        middle = (first + last) // 2
        choice = measured(middle)
        if min(choice.spearman) >= LEAST_SPEARMAN:
            last, best = middle, choice
        else:
            first = middle + 1
    return best or measured(last)


def correlations(scores: Scores, exact: Scores) -> list[float]:
    """Spearman's, of each head."""
    return [spearman(one, other) for one, other in zip(scores, exact, strict=True)]


Disturbances = dict[str, dict[Precision, float]]
"""By matrix and precision: the mean squared change of the scores within a head, in units of the head's variance."""


def disturbances(scorer: HeadScorer, build: Build, names: Sequence[str]) -> Disturbances:
    """What each matrix alone does."""
    in_f32 = dict.fromkeys(names, Precision.EXACT)
    exact = scorer.score(open_session(build(in_f32)))
    found: Disturbances = {name: {Precision.EXACT: 0.0} for name in names}
    for name in tqdm(names, unit="matrix", desc="int8"):
        for precision in (Precision.PER_TOKEN, Precision.BLOCKS):
            precisions = in_f32 | {name: precision}
            found[name][precision] = disturbance(scorer.score(open_session(build(precisions))), exact)
    return found


def disturbance(scores: Scores, exact: Scores) -> float:
    """The mean over the heads; what moves all scores of a head alike is none."""
    pairs = zip(scores, exact, strict=True)
    return float(np.mean([np.var(one - other) / max(np.var(other), SMALLEST_VARIANCE) for one, other in pairs]))


def path_to_exact(found: Disturbances, sizes: Mapping[str, int]) -> list[dict[str, Precision]]:
    """From all matrices as fast as may be to all in f32, one matrix more exact with each step."""
    path = [dict.fromkeys(found, Precision.PER_TOKEN)]
    while steps := list(steps_from(path[-1], found, sizes)):
        _, name, precision = max(steps)
        path.append(path[-1] | {name: precision})
    return path


def steps_from(
    current: Precisions, found: Disturbances, sizes: Mapping[str, int]
) -> Iterator[tuple[float, str, Precision]]:
    """Every matrix in each of its slower precisions, with what it gives for the time that it takes."""
    for name, precision in current.items():
        for slower in Precision:
            if TIMES[slower] > TIMES[precision]:
                time = (TIMES[slower] - TIMES[precision]) * sizes[name]
                yield (found[name][precision] - found[name][slower]) / time, name, slower
