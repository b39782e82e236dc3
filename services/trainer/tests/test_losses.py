"""Losses against what their formulas give by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from finemesh_trainer.config import TRIPLET_KINDS
from finemesh_trainer.losses import contrastive, kl_divergence, listwise_softmax, margin_mse, maxsim, triplet

ONES = torch.ones(2)
SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])


def softmax_loss(scores: list[float], index: int) -> float:
    return -math.log(math.exp(scores[index]) / sum(map(math.exp, scores)))


def test_listwise_softmax_takes_the_first_for_the_positive() -> None:
    expected = (softmax_loss([2, 1, 0], 0) + softmax_loss([0, 3, 1], 0)) / 2
    assert listwise_softmax(SCORES, ONES).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weights", [[3.0, 1.0], [1.0, 0.25]])
def test_a_weight_is_worth_as_many_copies(weights: list[float]) -> None:
    copies = torch.repeat_interleave(SCORES, torch.tensor([round(weight * 4) for weight in weights]), dim=0)
    weighted, copied = (
        listwise_softmax(SCORES, torch.tensor(weights)),
        listwise_softmax(copies, torch.ones(len(copies))),
    )
    assert weighted.item() == pytest.approx(copied.item(), abs=1e-6)


def test_kl_is_zero_for_the_teachers_scores_and_any_shift_of_them() -> None:
    assert kl_divergence(SCORES + 5, SCORES, ONES, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert kl_divergence(SCORES.flip(1), SCORES, ONES, 1.0).item() > 0.5


def test_kl_is_the_divergence_of_the_softmaxes() -> None:
    teacher, student = (torch.tensor(s).softmax(0) for s in ([1.0, 0.0], [0.0, 2.0]))
    expected = (teacher * (teacher / student).log()).sum().item() * 4
    got = kl_divergence(torch.tensor([[0.0, 4.0]]), torch.tensor([[2.0, 0.0]]), torch.ones(1), temperature=2.0)
    assert got.item() == pytest.approx(expected, abs=1e-5)


def test_margin_mse_compares_margins_alone() -> None:
    assert margin_mse(SCORES + 7, SCORES, ONES).item() == pytest.approx(0, abs=1e-6)
    # Margins 1 and 2 against 0 and 0; then -3 and -1 against 0 and 0.
    assert margin_mse(SCORES, torch.zeros(2, 3), ONES).item() == pytest.approx(((1 + 4) / 2 + (9 + 1) / 2) / 2)


def test_contrastive_leaves_out_what_is_excluded() -> None:
    excluded = torch.tensor([[False, False, True], [False, False, False]])
    expected = (softmax_loss([2, 1], 0) + softmax_loss([0, 3, 1], 1)) / 2
    got = contrastive(SCORES, torch.tensor([0, 1]), excluded, ONES)
    assert got.item() == pytest.approx(expected, abs=1e-6)


def test_maxsim_is_three_loops() -> None:
    torch.manual_seed(3)
    queries, passages = torch.randn(2, 4, 8), torch.randn(3, 5, 8)
    queries[1, 3] = 0
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[2, 2:] = False
    expected = [
        [loops(q[: 3 if i else 4], p[m]) for p, m in zip(passages, mask, strict=True)] for i, q in enumerate(queries)
    ]
    torch.testing.assert_close(maxsim(queries, passages, mask), torch.tensor(expected))


def loops(query: Tensor, passage: Tensor) -> float:
    return sum(max(float(q @ p) for p in passage) for q in query)


@pytest.mark.parametrize("kind", TRIPLET_KINDS)
def test_triplet_losses_are_lower_where_positives_are_nearer(kind: str) -> None:
    torch.manual_seed(4)
    queries, others = normalize(torch.randn(6, 16), dim=1), normalize(torch.randn(6, 16), dim=1)
    near = normalize(queries + 0.05 * others, dim=1)
    negatives = normalize(torch.randn(6, 2, 16), dim=2)
    assert triplet(kind, 0.3, queries, near, negatives) < triplet(kind, 0.3, queries, others, negatives)
