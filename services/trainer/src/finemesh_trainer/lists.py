"""Lists of candidates out of examples: the positive first, then as many negatives as are wanted."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finemesh_trainer.data.examples import Example
from finemesh_trainer.errors import DataError, TrainerError

Score = Callable[[Sequence[str], Sequence[Sequence[str]]], Tensor]
"""Queries and their passages to scores [queries, passages]."""
MAX_DRAWS = 1000
"""After which it is taken that all examples have the same passage."""


@dataclass(frozen=True, slots=True)
class CandidateList:
    """A query's passages, the positive first, and a teacher's scores where the example carries one for each."""

    query: str
    passages: list[str]
    weight: float
    scores: list[float] | None


def candidate_list(example: Example, others: Sequence[Example], negatives: int, draw: random.Random) -> CandidateList:
    """Draws among the example's negatives; what it lacks is filled up with other examples' positives."""
    chosen = draw.sample(range(len(example.negatives)), min(negatives, len(example.negatives)))
    passages = [example.positive, *(example.negatives[index] for index in chosen)]
    passages += random_passages(example, others, negatives - len(chosen), draw)
    has_scores = example.positive_score is not None and example.negative_scores and len(chosen) == negatives
    scores = [example.positive_score, *(example.negative_scores[i] for i in chosen)] if has_scores else None
    return CandidateList(example.query, passages, example.weight, scores)


def random_passages(example: Example, others: Sequence[Example], count: int, draw: random.Random) -> list[str]:
    """Other examples' positives that are no known answer: neither of this text nor to this query."""
    passages: list[str] = []
    for _ in range(MAX_DRAWS):
        if len(passages) == count:
            return passages
        other = others[draw.randrange(len(others))]
        if other.query != example.query and other.positive != example.positive:
            passages.append(other.positive)
    raise TrainerError(f"the examples have too few different passages to draw {count} negatives for {example.place}")


def teacher_scores(lists: Sequence[CandidateList], teacher: Score | None) -> Tensor:
    """[lists, candidates]: carried by the examples, or else the teacher's."""
    if teacher is None:
        return torch.tensor([entry.scores for entry in lists])
    with torch.no_grad():
        return teacher([entry.query for entry in lists], [entry.passages for entry in lists])


def require_scores(examples: Sequence[Example], negatives: int) -> None:
    """Refuses, before any training, examples that a loss without a teacher model cannot use.

    Raises:
        DataError: with file and line of the first.
    """
    for example in examples:
        if example.positive_score is None or len(example.negative_scores) < negatives:
            raise example_error(
                example, f"needs a positive_score and {negatives} negative_scores, or else loss.teacher"
            )


def require_equal_weights(examples: Sequence[Example], kind: str) -> None:
    """Refuses weighted examples for a loss that takes no weights.

    Raises:
        DataError: with file and line of the first.
    """
    for example in examples:
        if example.weight != 1:
            raise example_error(example, f"weight: is {example.weight:g}; the loss {kind} takes no weights")


def example_error(example: Example, message: str) -> DataError:
    """The error that names an example's line."""
    return example.place.error(message) if example.place else DataError("examples", None, message)
