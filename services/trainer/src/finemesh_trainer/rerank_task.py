"""Training the cross-encoder: lists of one positive and its negatives, scored together."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from finemesh_trainer.config import CrossEncoderRun
from finemesh_trainer.data.examples import Example
from finemesh_trainer.losses import kl_divergence, listwise_softmax, margin_mse
from finemesh_trainer.models.cross_encoder import CrossEncoder
from finemesh_trainer.training import SETTINGS_FILE, TRAINED_FILE, load_trained

HELD_OUT_SEED = 0


class RerankTask:
    """Implements `training.Task`."""

    def __init__(self, run: CrossEncoderRun, examples: Sequence[Example], held_out: Sequence[Example]) -> None:
        self.run, self.examples, self.held_out = run, examples, held_out
        self.model = CrossEncoder(run)
        self.teacher = load_cross_encoder(run.loss.teacher) if run.loss.teacher else None

    def loss(self, batch: Sequence[Example], draw: random.Random) -> Tensor:
        """The configured loss over the batch's lists."""
        lists = [self.candidates(example, self.examples, draw) for example in batch]
        queries = [example.query for example in batch]
        scores = self.model.score_lists(queries, [passages for passages, _ in lists])
        weights = torch.tensor([example.weight for example in batch], device=scores.device)
        if self.run.loss.kind == "listwise_softmax":
            return listwise_softmax(scores, weights)
        teacher = self.teacher_scores(queries, lists).to(scores.device)
        if self.run.loss.kind == "margin_mse":
            return margin_mse(scores, teacher, weights)
        return kl_divergence(scores, teacher, weights, self.run.loss.temperature)

    def candidates(
        self, example: Example, others: Sequence[Example], draw: random.Random
    ) -> tuple[list[str], list[float] | None]:
        """The positive, then as many negatives as the settings say; and the teacher's scores where all have one.

        What an example lacks is filled up with other examples' positives.
        """
        count = self.run.pairs.negatives
        chosen = draw.sample(range(len(example.negatives)), min(count, len(example.negatives)))
        passages = [example.positive, *(example.negatives[index] for index in chosen)]
        passages += random_passages(example, others, count + 1 - len(passages), draw)
        has_scores = example.positive_score is not None and example.negative_scores and len(chosen) == count
        scores = [example.positive_score, *(example.negative_scores[i] for i in chosen)] if has_scores else None
        return passages, scores

    def teacher_scores(self, queries: Sequence[str], lists: Sequence[tuple[list[str], list[float] | None]]) -> Tensor:
        """[lists, candidates]: carried by the examples, or else the teacher's."""
        if self.teacher is None:
            return torch.tensor([scores for _, scores in lists])
        self.teacher.to(self.model.device)
        with torch.no_grad():
            return self.teacher.score_lists(queries, [passages for passages, _ in lists])

    def measures(self) -> dict[str, float]:
        """On the held-out lists: how often the positive is first, and its mean reciprocal rank."""
        if not self.held_out:
            return {}
        draw = random.Random(HELD_OUT_SEED)
        lists = [self.candidates(example, self.held_out, draw)[0] for example in self.held_out]
        ranks = torch.cat([self.positive_rank(e.query, texts) for e, texts in zip(self.held_out, lists, strict=True)])
        return {"held_out_accuracy": (ranks == 1).float().mean().item(), "held_out_mrr": (1 / ranks).mean().item()}

    def positive_rank(self, query: str, passages: Sequence[str]) -> Tensor:
        """[1]: the rank of the first passage; equal scores rank before it."""
        scores = self.model.score_lists([query], [passages])
        return (scores[:, 1:] >= scores[:, :1]).sum(dim=1) + 1


def random_passages(example: Example, others: Sequence[Example], count: int, draw: random.Random) -> list[str]:
    """Other examples' positives, drawn until `count` are neither the positive's text nor a known answer's."""
    passages: list[str] = []
    while len(passages) < count:
        other = others[draw.randrange(len(others))]
        if other.query != example.query and other.positive != example.positive:
            passages.append(other.positive)
    return passages


def load_cross_encoder(folder: Path) -> CrossEncoder:
    """The cross-encoder of a run's folder, ready to score."""
    run = CrossEncoderRun.model_validate_json((folder / SETTINGS_FILE).read_text("utf-8"))
    model = CrossEncoder(run)
    load_trained(model, load_file(folder / TRAINED_FILE))
    return model.eval()
