"""Differences between two pipelines over the same queries, their intervals, and the rule that makes a default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finemesh_trainer.evaluation.measure import Measurement, MeasurementError

RESAMPLES = 10_000
INTERVAL = (0.025, 0.975)
LARGEST_LOSS_OF_A_SET = 0.005
"""nDCG@10 that a default may lose on one set."""

ROUNDING = 1e-9
"""Below what a mean of doubles is exact to: -0.005 computed is -0.005 meant."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference with its 95 % percentile interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One candidate against the baseline: by set and over all (each set weighs the same), and why it fails the rule."""

    sets: dict[str, Difference]
    macro: Difference
    objections: list[str]

    @property
    def passes(self) -> bool:
        """Whether the candidate may be a default."""
        return not self.objections


def compare(candidate: Mapping[str, Measurement], baseline: Mapping[str, Measurement], seed: int) -> Comparison:
    """Compares nDCG@10 query by query, on each set and over all; both arguments are by the sets' names."""
    deltas = {name: paired_deltas(name, candidate[name], baseline[name]) for name in baseline}
    # One seed for every candidate: all are compared on the same resampled queries.
    rng = np.random.default_rng(seed)
    resampled = {name: resampled_means(values, rng) for name, values in deltas.items()}
    sets = {name: difference(float(values.mean()), resampled[name]) for name, values in deltas.items()}
    macro_mean = float(np.mean([values.mean() for values in deltas.values()]))
    macro = difference(macro_mean, np.mean(list(resampled.values()), axis=0))
    degraded = {name: measurement.degraded for name, measurement in candidate.items()}
    return Comparison(sets, macro, objections(sets, macro, degraded))


def paired_deltas(name: str, candidate: Measurement, baseline: Measurement) -> np.ndarray:
    """nDCG@10 of the candidate minus the baseline's, by query, in the order of the ids."""
    if candidate.ndcg.keys() != baseline.ndcg.keys():
        raise MeasurementError(f"{name}: the two pipelines were measured on different queries")
    return np.array([candidate.ndcg[query] - baseline.ndcg[query] for query in sorted(baseline.ndcg)])


def resampled_means(deltas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of `RESAMPLES` samples with replacement, of the size of the set."""
    return np.array([rng.choice(deltas, size=len(deltas)).mean() for _ in range(RESAMPLES)])


def difference(mean: float, resampled: np.ndarray) -> Difference:
    """A mean with the percentile interval of its resampled twins."""
    low, high = np.quantile(resampled, INTERVAL)
    return Difference(mean, float(low), float(high))


def objections(sets: Mapping[str, Difference], macro: Difference, degraded: Mapping[str, int]) -> list[str]:
    """What stands against a default: macro nDCG@10 below the baseline's, a set that loses too much, partial answers."""
    found: Sequence[str] = [
        f"{name}: nDCG@10 falls by {-delta.mean:.4f}, more than {LARGEST_LOSS_OF_A_SET}"
        for name, delta in sets.items()
        if delta.mean < -LARGEST_LOSS_OF_A_SET - ROUNDING
    ]
    partial = [f"{name}: {count} answers were degraded" for name, count in degraded.items() if count]
    below = [f"macro nDCG@10 falls by {-macro.mean:.4f}"] if macro.mean < -ROUNDING else []
    return [*below, *found, *partial]
