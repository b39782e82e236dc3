"""What is compared of two scorings of the same head."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from finemesh_trainer.heads.head import Head

HEAD = 10
"""Depth of nDCG and of the agreement."""


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """The rank correlation of two scorings; 1 for fewer than two scores, ties in the order of the list."""
    count = len(left)
    if count < 2:
        return 1.0
    differences = ranks(left) - ranks(right)
    return 1 - 6 * float((differences**2).sum()) / (count * (count**2 - 1))


def ranks(scores: np.ndarray) -> np.ndarray:
    """Places from the highest score on, from 0."""
    return np.argsort(np.argsort(-scores, kind="stable"), kind="stable")


def blended(head: Head, own: np.ndarray, weight: float) -> list[str]:
    """The head's ids in the order that `search_core::rerank` gives them: both scores scaled by minimum and maximum
    within the head, `own` with `weight`; equal scores by id."""
    earlier = np.array([document.score for document in head.documents])
    scores = (1 - weight) * scaled(earlier) + weight * scaled(own.astype(np.float64))
    if not np.ptp(own) > 0:
        scores = earlier
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], head.documents[index].id))
    return [head.documents[index].id for index in order]


def scaled(scores: np.ndarray) -> np.ndarray:
    """From 0 to 1; zeros where all are the same."""
    return (scores - scores.min()) / (np.ptp(scores) or 1.0)


def ndcg(ranking: Sequence[str], grades: Mapping[str, float]) -> float:
    """nDCG@10 with the grades as gains, as `finemesh eval` has it."""
    ideal = discounted(sorted(grades.values(), reverse=True))
    return discounted([grades.get(document, 0.0) for document in ranking]) / ideal if ideal else 0.0


def discounted(gains: Sequence[float]) -> float:
    """The discounted sum of the first ten gains."""
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:HEAD]))


def agreement(left: Sequence[str], right: Sequence[str]) -> float:
    """The share of the first ten that both have."""
    count = min(HEAD, max(len(left), len(right)))
    return len(set(left[:HEAD]) & set(right[:HEAD])) / count if count else 1.0
