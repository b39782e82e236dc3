"""How likely a position is to be looked at, relative to the one that is looked at most.

The position-based model: a passage is clicked when it is looked at and relevant, and looking depends on its position k
alone, P(click | q, d, k) = θ_k · r_qd. The log itself tells θ wherever it has shown one passage for one query at two
positions: what differs between them is the position (intervention harvesting: Agarwal et al., WSDM 2019). Given how
many clicks a pair got in all, where they fell has the likelihood

    Π_k (n_k θ_k / Σ_j n_j θ_j) ^ c_k          n_k times shown and c_k times clicked at k

in which r has cancelled: the conditional likelihood of a Poisson model with fixed effects (Hausman, Hall & Griliches
1984), consistent however seldom each pair was shown. Fitting r beside θ, as EM does (Wang et al., WSDM 2018), is not:
on simulated logs with two to five views a query it left θ too high by a factor of 1.1 to 2.2. The maximum is found by
the minorise-maximise steps of Hunter (Annals of Statistics 2004).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finemesh_trainer.data.click_log import Answer, ClickLog
from finemesh_trainer.data.lines import number_of, read_objects
from finemesh_trainer.errors import DataError

MAX_STEPS = 10_000
TOLERANCE = 1e-9
"""The steps end when no propensity moves by more than this."""


@dataclass(frozen=True, slots=True)
class MovedPairs:
    """Counts of the (query, passage) pairs that were shown at two positions or more and clicked at least once.

    One entry for each pair and position: arrays of the same length.
    """

    pair: np.ndarray
    position: np.ndarray
    views: np.ndarray
    clicks: np.ndarray


def estimate_propensities(log: ClickLog) -> dict[int, float]:
    """Propensity of each position that the log lets us compare with the others; the largest is 1.

    Positions that no moved pair links to the rest are left out, for nothing tells how they compare.

    Raises:
        DataError: where no clicked passage was shown for the same query at two positions.
    """
    moved = moved_pairs(log.answers)
    if not moved.pair.size:
        raise DataError(
            log.path,
            None,
            "tells nothing about position bias: no clicked passage was shown at two positions for the same query; "
            "give the propensities in a file",
        )
    linked = largest_linked(moved)
    positions, propensities = maximise(select(moved, np.isin(moved.position, list(linked))))
    return {int(position): float(value) for position, value in zip(positions, propensities, strict=True)}


def moved_pairs(answers: Iterable[Answer]) -> MovedPairs:
    """The counts that say something about positions."""
    views: Counter[tuple[str, str, int]] = Counter()
    clicks: Counter[tuple[str, str, int]] = Counter()
    for answer in answers:
        for shown in answer.shown:
            views[answer.query, shown.key, shown.position] += 1
            clicks[answer.query, shown.key, shown.position] += shown.clicked
    pair_numbers: dict[tuple[str, str], int] = {}
    rows = [
        (pair_numbers.setdefault((q, d), len(pair_numbers)), k, views[q, d, k], clicks[q, d, k]) for q, d, k in views
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return only_moved(MovedPairs(*table.T))


def only_moved(counts: MovedPairs) -> MovedPairs:
    """Leaves out the pairs with one position or without a click."""
    positions_of_pair = np.bincount(counts.pair)
    clicks_of_pair = np.bincount(counts.pair, counts.clicks)
    return select(counts, (positions_of_pair[counts.pair] > 1) & (clicks_of_pair[counts.pair] > 0))


def select(counts: MovedPairs, rows: np.ndarray) -> MovedPairs:
    """The counts of some rows."""
    return MovedPairs(counts.pair[rows], counts.position[rows], counts.views[rows], counts.clicks[rows])


def largest_linked(moved: MovedPairs) -> set[int]:
    """The largest set of positions that can be compared, directly or over others; of equal sets, the topmost."""
    positions_of_pair = defaultdict(list)
    for pair, position in zip(moved.pair.tolist(), moved.position.tolist(), strict=True):
        positions_of_pair[pair].append(position)
    components: list[set[int]] = []
    for positions in positions_of_pair.values():
        joined = set(positions).union(*(part for part in components if not part.isdisjoint(positions)))
        components = [part for part in components if part.isdisjoint(joined)] + [joined]
    return max(components, key=lambda part: (len(part), -min(part)))


def maximise(moved: MovedPairs) -> tuple[np.ndarray, np.ndarray]:
    """Positions, ascending, and the propensities that make the clicks most likely, scaled to a maximum of 1."""
    positions, position = np.unique(moved.position, return_inverse=True)
    pairs, pair = np.unique(moved.pair, return_inverse=True)
    clicks_of_pair = np.bincount(pair, moved.clicks, len(pairs))
    clicks_at = np.bincount(position, moved.clicks, len(positions))
    propensities = np.ones(len(positions))
    for _ in range(MAX_STEPS):
        exposure = np.bincount(pair, moved.views * propensities[position], len(pairs))
        expected = np.bincount(position, moved.views * (clicks_of_pair / exposure)[pair], len(positions))
        updated = clicks_at / expected
        updated /= updated.max()
        step = np.abs(updated - propensities).max()
        propensities = updated
        if step < TOLERANCE:
            break
    return positions, propensities


def read_propensities(path: str | Path) -> dict[int, float]:
    """Given propensities, one position a line: `{"position": 1, "propensity": 1.0}`, each in (0, 1]."""
    propensities: dict[int, float] = {}
    for place, record in read_objects(path):
        position = number_of(record.get("position"), "position", place)
        propensity = number_of(record.get("propensity"), "propensity", place)
        if position < 1 or position != int(position) or int(position) in propensities:
            raise place.error(f"position: {position:g} is not a whole number from 1, or comes twice")
        if not 0 < propensity <= 1:
            raise place.error(f"propensity: is {propensity:g}; it must lie in (0, 1]")
        propensities[int(position)] = propensity
    if not propensities:
        raise DataError(path, None, "holds no propensities")
    return propensities
