"""How far two rankings of the same judged queries are apart, and what is let through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finemesh_trainer.errors import TrainerError
from finemesh_trainer.heads.measure import agreement, ndcg

MOST_DIFFERENCE = 0.001
"""Of the mean nDCG@10."""
LEAST_AGREEMENT = 0.98
"""Mean share of the first ten documents that both rankings have."""
ROUNDING = 1e-9

Rankings = Mapping[str, Sequence[str]]
"""Documents of each query, best first."""
Grades = Mapping[str, Mapping[str, float]]
"""Of each query's relevant documents."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Means over the queries, and the queries that differ most, worst first."""

    queries: int
    expected_ndcg: float
    served_ndcg: float
    agreement: float
    furthest: list[str]

    @property
    def passes(self) -> bool:
        """Whether the served path may stand for the trained model."""
        return not self.objections

    @property
    def objections(self) -> list[str]:
        """What is not let through."""
        difference = self.served_ndcg - self.expected_ndcg
        found = []
        if abs(difference) > MOST_DIFFERENCE + ROUNDING:
            found.append(f"nDCG@10 differs by {difference:+.4f}; {MOST_DIFFERENCE} is let through")
        if self.agreement < LEAST_AGREEMENT - ROUNDING:
            found.append(f"the first ten agree by {self.agreement:.4f}; {LEAST_AGREEMENT} is asked for")
        return found

    def described(self) -> str:
        """A sentence of figures."""
        return (
            f"{self.queries} queries: nDCG@10 {self.expected_ndcg:.4f} in PyTorch f32, {self.served_ndcg:.4f} served "
            f"({self.served_ndcg - self.expected_ndcg:+.4f}); the first ten agree by {self.agreement:.4f}"
        )


FURTHEST = 5


def compare(expected: Rankings, served: Rankings, grades: Grades) -> Parity:
    """Compares the rankings of the same queries.

    Raises:
        TrainerError: when there are none, or not the same.
    """
    if not expected or expected.keys() != served.keys():
        raise TrainerError("the rankings are not of the same queries")
    agreements = {query: agreement(expected[query], served[query]) for query in expected}
    return Parity(
        queries=len(expected),
        expected_ndcg=float(np.mean([ndcg(expected[query], grades[query]) for query in expected])),
        served_ndcg=float(np.mean([ndcg(served[query], grades[query]) for query in expected])),
        agreement=float(np.mean(list(agreements.values()))),
        furthest=sorted((query for query in agreements if agreements[query] < 1), key=agreements.get)[:FURTHEST],
    )
