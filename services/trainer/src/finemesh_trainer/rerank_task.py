"""Training the cross-encoder: lists of one positive and its negatives, scored together."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from finemesh_trainer.config import CrossEncoderRun
from finemesh_trainer.data.examples import Example
from finemesh_trainer.lists import CandidateList, candidate_list, require_scores, teacher_scores
from finemesh_trainer.losses import kl_divergence, listwise_softmax, margin_mse
from finemesh_trainer.models.cross_encoder import CrossEncoder
from finemesh_trainer.training import load_run, load_trained_file

HELD_OUT_SEED = 0


class RerankTask:
    """Implements `training.Task`."""

    def __init__(self, run: CrossEncoderRun, examples: Sequence[Example], held_out: Sequence[Example]) -> None:
        self.run, self.examples, self.held_out = run, examples, held_out
        if run.loss.kind != "listwise_softmax" and run.loss.teacher is None:
            require_scores(examples, run.pairs.negatives)
        self.teacher = load_cross_encoder(run.loss.teacher) if run.loss.teacher else None
        self.model = CrossEncoder(run)
        self.model.tokenizer.max_tokens = run.pairs.tokens_in_training

    def add_gradients(self, batch: Sequence[Example], draw: random.Random) -> float:
        """The configured loss over the batch's lists."""
        negatives = self.run.pairs.negatives
        loss = self.loss([candidate_list(example, self.examples, negatives, draw) for example in batch])
        loss.backward()
        return loss.item()

    def loss(self, lists: Sequence[CandidateList]) -> Tensor:
        """Of lists that are equally long."""
        scores = self.model.score_lists([entry.query for entry in lists], [entry.passages for entry in lists])
        weights = torch.tensor([entry.weight for entry in lists], device=scores.device)
        if self.run.loss.kind == "listwise_softmax":
            return listwise_softmax(scores, weights)
        teacher = self.teacher.to(scores.device).score_lists if self.teacher else None
        expected = teacher_scores(lists, teacher).to(scores.device)
        if self.run.loss.kind == "margin_mse":
            return margin_mse(scores, expected, weights)
        return kl_divergence(scores, expected, weights, self.run.loss.temperature)

    def measures(self) -> dict[str, float]:
        """On the held-out lists: how often the positive is first, and its mean reciprocal rank."""
        if not self.held_out:
            return {}
        draw = random.Random(HELD_OUT_SEED)
        negatives = self.run.pairs.negatives
        lists = [candidate_list(example, self.held_out, negatives, draw) for example in self.held_out]
        ranks = torch.cat([self.positive_rank(entry) for entry in lists])
        return {"held_out_accuracy": (ranks == 1).float().mean().item(), "held_out_mrr": (1 / ranks).mean().item()}

    def positive_rank(self, entry: CandidateList) -> Tensor:
        """[1]: the rank of the first passage; equal scores rank before it."""
        scores = self.model.score_lists([entry.query], [entry.passages])
        return (scores[:, 1:] >= scores[:, :1]).sum(dim=1) + 1


def load_cross_encoder(folder: Path) -> CrossEncoder:
    """The cross-encoder of a run's folder, ready to score."""
    model = CrossEncoder(load_run(folder, CrossEncoderRun))
    load_trained_file(model, folder)
    return model.eval()
