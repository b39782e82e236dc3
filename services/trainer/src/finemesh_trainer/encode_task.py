"""Training the encoder: sentence and token vectors of queries and passages, under both losses at once."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from finemesh_trainer.config import TRIPLET_KINDS, EncoderRun, SentenceLoss
from finemesh_trainer.data.examples import Example
from finemesh_trainer.lists import (
    CandidateList,
    candidate_list,
    require_equal_weights,
    require_scores,
    teacher_scores,
)
from finemesh_trainer.losses import contrastive, kl_divergence, margin_mse, maxsim, triplet
from finemesh_trainer.models.encoder import Encoder, Vectors, principal_directions, truncating
from finemesh_trainer.rerank_task import load_cross_encoder
from finemesh_trainer.training import load_run, load_trained_file

TEXTS_PER_MEASURE = 32
TEXTS_PER_START = 256
"""Passages that the token head is fitted to before the first step."""


@dataclass(frozen=True)
class Targets:
    """What a batch's scores are held against. Passages: all positives, in the queries' order, then all negatives."""

    weights: Tensor
    """[queries]."""
    excluded: Tensor
    """[queries, passages]: another's passage that answers this query as well."""
    teacher: Tensor | None
    """[queries, candidates]: scores of each query's own positive and negatives."""


class EncodeTask:
    """Implements `training.Task`."""

    def __init__(self, run: EncoderRun, examples: Sequence[Example], held_out: Sequence[Example]) -> None:
        self.run, self.examples, self.held_out = run, examples, held_out
        kind, teacher = run.sentence_loss.kind, run.sentence_loss.teacher
        self.distils = kind in ("kl", "margin_mse")
        if self.distils and teacher is None:
            require_scores(examples, run.texts.negatives)
        if kind in TRIPLET_KINDS:
            require_equal_weights(examples, kind)
        self.teacher = load_cross_encoder(teacher) if teacher else None
        self.model = Encoder(run)
        truncating(self.model.tokenizer, run.texts.training_max_tokens or run.texts.max_tokens)
        head = self.model.token_head
        # A head that is wider than the states keeps all products as it is.
        if head is not None and head.out_features <= head.in_features:
            self.start_token_head(head)

    def start_token_head(self, head: nn.Linear) -> None:
        """Sets the head to what loses least of the base's own token vectors, over passages from all of the examples."""
        step = -(-len(self.examples) // TEXTS_PER_START)
        passages = self.model.passages([example.positive for example in self.examples[::step]])
        chunks = [passages[i : i + TEXTS_PER_MEASURE] for i in range(0, len(passages), TEXTS_PER_MEASURE)]
        with torch.no_grad():
            states = torch.cat([self.model.token_states(*self.model.inputs(chunk)) for chunk in chunks])
            head.weight.copy_(principal_directions(states, head.out_features))

    def add_gradients(self, batch: Sequence[Example], draw: random.Random) -> float:
        """The losses over the batch, with or without gradient caching."""
        lists = [candidate_list(example, self.examples, self.run.texts.negatives, draw) for example in batch]
        targets = self.targets(lists)
        queries, passages = self.texts(lists)
        size = self.run.texts.texts_per_forward
        if size is None:
            loss = self.loss(self.embed(queries), self.embed(passages), targets)
            loss.backward()
            return loss.item()
        return self.add_cached_gradients([*queries, *passages], len(queries), targets, size, draw)

    def add_cached_gradients(
        self, texts: Sequence[str], queries: int, targets: Targets, size: int, draw: random.Random
    ) -> float:
        """All vectors without a graph, then the loss's gradients at them, then those chunk by chunk into the model.

        sentence-transformers' cached losses know sentence vectors alone; here the token vectors are cached with them.
        """
        chunks = [texts[i : i + size] for i in range(0, len(texts), size)]
        seeds = [draw.getrandbits(63) for _ in chunks]
        with torch.no_grad():
            outputs = [self.embed(chunk, seed) for chunk, seed in zip(chunks, seeds, strict=True)]
        vectors = [leaf_copy(output) for output in outputs]
        joined = join(vectors)
        loss = self.loss(rows(joined, slice(None, queries)), rows(joined, slice(queries, None)), targets)
        loss.backward()
        for chunk, seed, cached in zip(chunks, seeds, vectors, strict=True):
            push_back(self.embed(chunk, seed), cached)
        return loss.item()

    def embed(self, texts: Sequence[str], seed: int | None = None) -> Vectors:
        """Vectors of texts; with a seed, dropout is the same every time."""
        if seed is not None:
            torch.manual_seed(seed)
        return self.model(*self.model.inputs(texts))

    def texts(self, lists: Sequence[CandidateList]) -> tuple[list[str], list[str]]:
        """Queries, and passages in the order that `Targets` tells, with their prompts."""
        positives = [entry.passages[0] for entry in lists]
        negatives = [passage for entry in lists for passage in entry.passages[1:]]
        return self.model.queries([entry.query for entry in lists]), self.model.passages([*positives, *negatives])

    def targets(self, lists: Sequence[CandidateList]) -> Targets:
        """What the batch's scores are held against."""
        device = self.model.bert.device
        weights = torch.tensor([entry.weight for entry in lists], device=device)
        teacher = self.teacher.to(device).score_lists if self.teacher else None
        scores = teacher_scores(lists, teacher).to(device) if self.distils else None
        return Targets(weights, excluded_passages(lists).to(device), scores)

    def loss(self, queries: Vectors, passages: Vectors, targets: Targets) -> Tensor:
        """The sentence loss, and the token loss where there is one."""
        loss = matryoshka_loss(self.run.sentence_loss, queries.sentences, passages.sentences, targets)
        tokens = self.run.token_loss
        if tokens is None:
            return loss
        scores = maxsim(queries.tokens, passages.tokens, passages.tokens.detach().abs().sum(dim=2) > 0)
        own = torch.arange(len(queries.sentences), device=scores.device)
        return loss + tokens.weight * contrastive(scores * tokens.scale, own, targets.excluded, targets.weights)

    def measures(self) -> dict[str, float]:
        """The mean reciprocal rank of each held-out query's positive among all held-out positives."""
        if not self.held_out:
            return {}
        queries = self.embed_all(self.model.queries([example.query for example in self.held_out]))
        passages = self.embed_all(self.model.passages([example.positive for example in self.held_out]))
        measured = {"held_out_mrr": own_mrr(queries.sentences @ passages.sentences.T)}
        if queries.tokens is None:
            return measured
        scores = [
            maxsim(query[None], passages.tokens, passages.tokens.abs().sum(dim=2) > 0) for query in queries.tokens
        ]
        return measured | {"held_out_maxsim_mrr": own_mrr(torch.cat(scores))}

    def embed_all(self, texts: Sequence[str]) -> Vectors:
        """Vectors of many texts, a few at a time."""
        size = TEXTS_PER_MEASURE
        return join([self.embed(texts[i : i + size]) for i in range(0, len(texts), size)])


def matryoshka_loss(settings: SentenceLoss, queries: Tensor, passages: Tensor, targets: Targets) -> Tensor:
    """The mean of the sentence loss over the widths and the full one (Kusupati et al. 2022, arXiv 2205.13147)."""
    widths = sorted({*settings.matryoshka, queries.shape[1]})
    prefixes = [
        [functional.normalize(vectors[:, :width], dim=1) for vectors in (queries, passages)] for width in widths
    ]
    return torch.stack([sentence_loss(settings, *prefix, targets) for prefix in prefixes]).mean()


def sentence_loss(settings: SentenceLoss, queries: Tensor, passages: Tensor, targets: Targets) -> Tensor:
    """The configured loss of vectors [queries, width] and [passages, width]."""
    count = len(queries)
    positives, negatives = passages[:count], passages[count:].view(count, -1, passages.shape[1])
    if settings.kind in TRIPLET_KINDS:
        return triplet(settings.kind, settings.margin, queries, positives, negatives)
    if settings.kind == "in_batch_negatives":
        own = torch.arange(count, device=queries.device)
        return contrastive(queries @ passages.T * settings.scale, own, targets.excluded, targets.weights)
    own_passages = torch.cat([positives.unsqueeze(1), negatives], dim=1)
    scores = torch.einsum("qw,qcw->qc", queries, own_passages) * settings.scale
    if settings.kind == "margin_mse":
        return margin_mse(scores, targets.teacher, targets.weights)
    return kl_divergence(scores, targets.teacher, targets.weights, settings.temperature)


def excluded_passages(lists: Sequence[CandidateList]) -> Tensor:
    """[queries, passages], in the order of `Targets`: true where another's passage is a known answer of the query."""
    positives = [entry.passages[0] for entry in lists]
    passages = [*positives, *(passage for entry in lists for passage in entry.passages[1:])]
    answers: dict[str, set[str]] = {}
    for entry in lists:
        answers.setdefault(entry.query, set()).add(entry.passages[0])
    known = [[passage in answers[entry.query] for passage in passages] for entry in lists]
    excluded = torch.tensor(known)
    excluded[torch.arange(len(lists)), torch.arange(len(lists))] = False
    return excluded


def own_mrr(scores: Tensor) -> float:
    """Of scores [queries, passages] where query i's answer is passage i; equal scores rank before it."""
    ranks = (scores >= scores.diagonal().unsqueeze(1)).sum(dim=1)
    return (1 / ranks).mean().item()


def leaf_copy(vectors: Vectors) -> Vectors:
    """The same values, apart from the graph, to collect gradients."""
    return mapped(vectors, lambda tensor: tensor.detach().requires_grad_())


def push_back(vectors: Vectors, cached: Vectors) -> None:
    """Sends the gradients that were collected at `cached` through the graph of `vectors`."""
    outputs, leaves = [vectors.sentences], [cached.sentences]
    if vectors.tokens is not None:
        outputs, leaves = [*outputs, vectors.tokens], [*leaves, cached.tokens]
    torch.autograd.backward(outputs, [leaf.grad for leaf in leaves])


def join(parts: Sequence[Vectors]) -> Vectors:
    """The texts of all parts, token vectors padded to the longest."""
    sentences = torch.cat([part.sentences for part in parts])
    if parts[0].tokens is None:
        return Vectors(sentences, None)
    longest = max(part.tokens.shape[1] for part in parts)
    padded = [functional.pad(part.tokens, (0, 0, 0, longest - part.tokens.shape[1])) for part in parts]
    return Vectors(sentences, torch.cat(padded))


def rows(vectors: Vectors, which: slice) -> Vectors:
    """Some of the texts."""
    return mapped(vectors, lambda tensor: tensor[which])


def mapped(vectors: Vectors, change: Callable[[Tensor], Tensor]) -> Vectors:
    """The same change to both kinds of vectors."""
    return Vectors(change(vectors.sentences), None if vectors.tokens is None else change(vectors.tokens))


def load_encoder(folder: Path) -> Encoder:
    """The encoder of a run's folder, ready to encode."""
    model = Encoder(load_run(folder, EncoderRun))
    load_trained_file(model, folder)
    return model.eval()
