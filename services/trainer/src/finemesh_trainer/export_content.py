"""What goes into a bundle: the graph, its description, and the golden inputs with what PyTorch gives for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from finemesh_trainer.card import base_source
from finemesh_trainer.config import CrossEncoderRun, Run
from finemesh_trainer.encode_task import join
from finemesh_trainer.models.adapters import adapter_state, merged_state
from finemesh_trainer.models.cross_encoder import CrossEncoder, padded
from finemesh_trainer.models.encoder import Encoder, Vectors
from finemesh_trainer.models.exact_match import PairIds
from finemesh_trainer.models.graph import Graph, add_bert
from finemesh_trainer.models.int8 import Int8Graph, Precision

FORMAT = 1
SCORE_TOLERANCE = 1e-3
"""Of f32 logits, which are about ten apart: runtimes and processors round differently."""
INT8_SHARE_OF_RANGE = 0.25
"""A tolerance beyond this share of the golden scores' range would let a wrong model through."""
VECTOR_TOLERANCE = 1e-4
"""Of the components of f32 vectors of unit length."""
INT8_VECTOR_LIMIT = 0.1
"""The largest that libs/inference reads."""
SENTENCE_OUTPUT, TOKEN_OUTPUT = "sentence_embedding", "token_embeddings"
ROWS_PER_BATCH = 2
"""Golden inputs that are run together, so that padding is part of what is checked."""

GOLDEN_QUERY = "how is a deadline split over the stages of a search?"
GOLDEN_PAIRS = (
    (
        GOLDEN_QUERY,
        "Every request has one deadline. Each stage of the search gets a share of it; what a stage does not use rolls "
        "forward to the next.",
    ),
    (GOLDEN_QUERY, "The river bends twice below the old mill, and the path follows it on the northern bank."),
    ("naïve café owners in 東京", "Naïve café owners in 東京 don't shard their index; they read it."),
    ("what is a shard", "A shard is a part of an index that is small enough for one machine."),
    ("what is a shard", "Immutable segments are mapped after their checksums were compared. " * 40),
    ("unbelievability " * 60, "A query that is longer than the model reads is cut, and so is this word."),
)
"""Related and unrelated, with accents and other scripts, and longer than any limit on either side."""

GOLDEN_TEXTS = (
    ("query", "set a deadline"),
    ("query", "What's the naïve way to shard an index?"),
    ("passage", "Reciprocal rank fusion adds 1 / (60 + rank) over the lists; 東京 and unbelievability too."),
    ("passage", "The orchestrator asks every shard in parallel and fuses what it got before the deadline."),
    ("passage", "Immutable segments are mapped after their checksums were compared. " * 40),
)


@dataclass(frozen=True)
class GraphKind:
    """How a model becomes a graph."""

    int8: bool
    keep_adapters: bool
    """Adapters stay beside the matrices that they change, to be folded in when the graph is loaded."""
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    """Of an int8 graph's matrices, by their names; `per_token` for the others."""

    def start(self, model: nn.Module) -> Graph:
        """An empty graph over a model's weights."""
        weights = adapter_state(model) if self.keep_adapters else merged_state(model)
        return Int8Graph(weights, precisions=self.precisions) if self.int8 else Graph(weights)


@dataclass(frozen=True)
class Rows:
    """A padded batch of golden inputs, and the outputs that PyTorch gives; NaN where there is only padding."""

    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Content:
    """A bundle before it is written."""

    base: Path
    """The pretrained model's folder."""
    graph: onnx.ModelProto
    description: dict[str, Any]
    """bundle.json without its tolerance."""
    golden: list[dict[str, Any]]
    """The entries of golden.json."""
    rows: Sequence[Rows]
    """The same, as the graph takes and gives them."""
    tolerance: float
    """Of an f32 graph."""
    int8_limit: float
    """The largest tolerance that an int8 graph may need."""


def rerank_content(model: CrossEncoder, kind: GraphKind) -> Content:
    """The bundle of a cross-encoder."""
    run = model.run
    pairs = [model.encode(query, [passage])[0] for query, passage in GOLDEN_PAIRS]
    scores = [golden_score(model, pair) for pair in pairs]
    return Content(
        base=run.base.folder,
        graph=rerank_graph(model, kind),
        description=rerank_description(run),
        golden=[
            {"query": query, "passage": passage, "token_ids": pair.ids, "segment_ids": pair.segments, "score": score}
            for (query, passage), pair, score in zip(GOLDEN_PAIRS, pairs, scores, strict=True)
        ],
        rows=[rerank_rows(pairs[i : i + ROWS_PER_BATCH], scores[i : i + ROWS_PER_BATCH]) for i in batch_starts(pairs)],
        tolerance=SCORE_TOLERANCE,
        int8_limit=INT8_SHARE_OF_RANGE * (max(scores) - min(scores)),
    )


def encode_content(model: Encoder, kind: GraphKind) -> Content:
    """The bundle of an encoder."""
    read = {"query": model.queries, "passage": model.passages}
    texts = [read[task]([text])[0] for task, text in GOLDEN_TEXTS]
    inputs = [model.inputs([text]) for text in texts]
    with torch.no_grad():
        vectors = [model(*one) for one in inputs]
    return Content(
        base=model.run.base.folder,
        graph=encode_graph(model, kind),
        description=encode_description(model),
        golden=[
            encode_entry(task, text, ids[0].tolist(), one, with_tokens=index == 0)
            for index, ((task, text), (ids, _), one) in enumerate(zip(GOLDEN_TEXTS, inputs, vectors, strict=True))
        ],
        rows=[
            encode_rows(model, texts[i : i + ROWS_PER_BATCH], vectors[i : i + ROWS_PER_BATCH])
            for i in batch_starts(texts)
        ],
        tolerance=VECTOR_TOLERANCE,
        int8_limit=INT8_VECTOR_LIMIT,
    )


def encode_entry(task: str, text: str, token_ids: list[int], vectors: Vectors, *, with_tokens: bool) -> dict[str, Any]:
    """An entry of golden.json. Token vectors are many numbers: the first entry alone has them."""
    entry = {"task": task, "text": text, "token_ids": token_ids, "vector": vectors.sentences[0].tolist()}
    if with_tokens and vectors.tokens is not None:
        entry["token_vectors"] = vectors.tokens[0].flatten().tolist()
    return entry


def encode_description(model: Encoder) -> dict[str, Any]:
    """bundle.json of an encoder."""
    run, width = model.run, model.bert.config.hidden_size
    widths = run.sentence_loss.matryoshka
    return common_description(run) | {
        "dimensions": width,
        "token_dimensions": run.token_loss.width if run.token_loss else 0,
        "matryoshka_dimensions": sorted({*widths, width}) if widths else [],
        "prompts": run.texts.prompts.model_dump(),
        "outputs": {
            "sentence": {"output": SENTENCE_OUTPUT, "pooling": "none"},
            "tokens": TOKEN_OUTPUT if run.token_loss else None,
        },
        "max_tokens": run.texts.max_tokens,
    }


def encode_graph(model: Encoder, kind: GraphKind) -> onnx.ModelProto:
    """The encoder's graph."""
    graph = kind.start(model)
    width = model.bert.config.hidden_size
    states = add_bert(graph, model.bert.config, "bert.", with_segments=False, first_only=False)
    graph.unit_length(graph.mean_of_tokens(states, "mean_state"), SENTENCE_OUTPUT)
    outputs: dict[str, list[str | int]] = {SENTENCE_OUTPUT: ["batch", width]}
    if model.token_head is not None:
        narrow = graph.node("MatMul", [states, graph.matrix("token_head", "token_head")], "narrow_states")
        graph.unit_length(narrow, TOKEN_OUTPUT)
        outputs[TOKEN_OUTPUT] = ["batch", "tokens", model.token_head.out_features]
    return graph.model("encoder", ["input_ids", "attention_mask"], outputs)


def encode_rows(model: Encoder, texts: Sequence[str], vectors: Sequence[Vectors]) -> Rows:
    """Golden texts as a batch; what the graph gives for padding is not looked at."""
    ids, mask = (tensor.numpy() for tensor in model.inputs(texts))
    joined = join(vectors)
    expected = {SENTENCE_OUTPUT: joined.sentences.numpy()}
    if joined.tokens is not None:
        expected[TOKEN_OUTPUT] = np.where(mask[:, :, None] > 0, joined.tokens.numpy(), np.float32(np.nan))
    return Rows({"input_ids": ids, "attention_mask": mask}, expected)


def rerank_description(run: CrossEncoderRun) -> dict[str, Any]:
    """bundle.json of a cross-encoder."""
    return common_description(run) | {
        "pair": {
            "max_query_tokens": run.pairs.max_query_tokens,
            "segments": "exact_match_v1" if run.pairs.mark_exact_matches else "plain",
        },
        "outputs": {"score": "score"},
        "max_tokens": run.pairs.max_tokens,
    }


def common_description(run: Run) -> dict[str, Any]:
    """What bundle.json has for every task."""
    return {
        "format": FORMAT,
        "name": run.name,
        "task": run.task,
        "pad_token_id": 0,
        "lowercase": False,
        "source": f"trained by finemesh-trainer from {base_source(run)}; see README.md",
    }


def rerank_graph(model: CrossEncoder, kind: GraphKind) -> onnx.ModelProto:
    """The cross-encoder's graph."""
    graph = kind.start(model)
    add_cross_encoder(graph, model)
    return graph.model("cross_encoder", ["input_ids", "attention_mask", "token_type_ids"], {"score": ["batch"]})


def add_cross_encoder(graph: Graph, model: CrossEncoder) -> None:
    """Adds all nodes up to the output `score`."""
    states = add_bert(graph, model.bert.config, "bert.", with_segments=True, first_only=True)
    logit = graph.linear(states, "score", "logit", exact=True)
    graph.node("Reshape", [logit, graph.constant("flat", np.array([-1]))], "score")


def golden_score(model: CrossEncoder, pair: PairIds) -> float:
    """The score of one pair, computed alone."""
    with torch.no_grad():
        return model.score_pairs([pair]).item()


def rerank_rows(pairs: Sequence[PairIds], scores: Sequence[float]) -> Rows:
    """Golden pairs as a batch."""
    ids, mask, segments = (tensor.numpy() for tensor in padded(pairs, torch.device("cpu")))
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
    return Rows(inputs, {"score": np.array(scores, dtype=np.float32)})


def batch_starts(rows: Sequence[Any]) -> range:
    """Where the batches of golden inputs begin."""
    return range(0, len(rows), ROWS_PER_BATCH)
