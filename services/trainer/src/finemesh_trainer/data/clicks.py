"""Click logs become weighted examples: each click counts for those that the position hid.

For a passage that was clicked C times for a query, and shown at positions k_1 … k_n,

    relevance = C / Σ_i θ(k_i)          clicks over how often it was looked at
    weight    = n · relevance           the clicks there would have been, had every view been looked at

which is inverse propensity weighting (Joachims, Swaminathan & Schnabel, WSDM 2017) with the propensities of a pair's
views averaged before the division, for less variance. Propensities are clipped from below, so that no click counts for
more than `max_weight`, and weights are normalised to a mean of 1 over the log (Swaminathan & Joachims, NeurIPS 2015).

A passage is a negative of another one of the same query only where its relevance is clearly lower. One far down that
nobody clicked may never have been looked at; the weight of the clicks that do fall so far down makes up for it.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from finemesh_trainer.data.click_log import ClickLog
from finemesh_trainer.data.examples import Example
from finemesh_trainer.data.lines import Place
from finemesh_trainer.errors import DataError

DEFAULT_MAX_WEIGHT = 10.0
NEGATIVE_RELEVANCE_SHARE = 0.5
"""A negative has less than this share of the positive's relevance. On simulated logs .5 was never worse than 1."""


@dataclass(slots=True)
class Exposure:
    """What became of one passage for one query."""

    place: Place
    views: int = 0
    clicks: int = 0
    looked_at: float = 0.0
    """Sum of the propensities of its views."""

    @property
    def relevance(self) -> float:
        """Clicks for each time it was looked at."""
        return self.clicks / self.looked_at


@dataclass(slots=True)
class WeighedClicks:
    """The examples of a log, and what could not be used."""

    examples: list[Example] = field(default_factory=list)
    views: int = 0
    clicks: int = 0
    views_without_propensity: int = 0
    clicks_without_negative: int = 0


def weigh_clicks(
    log: ClickLog, propensities: Mapping[int, float], max_weight: float = DEFAULT_MAX_WEIGHT
) -> WeighedClicks:
    """One example for each query and clicked passage that has a negative, in the log's order.

    Views at positions without a propensity are left out and counted.

    Raises:
        DataError: where the log gives no example at all.
    """
    weighed = WeighedClicks()
    clipped = {position: max(propensity, 1 / max_weight) for position, propensity in propensities.items()}
    for query, exposures in expose(log, clipped, weighed).items():
        add_examples(weighed, query, exposures, log.passages)
    if not weighed.examples:
        raise DataError(log.path, None, "gives no example: no query has a clicked passage above a less relevant one")
    weighed.examples = with_mean_weight_1(weighed.examples)
    return weighed


def expose(log: ClickLog, propensities: Mapping[int, float], weighed: WeighedClicks) -> dict[str, dict[str, Exposure]]:
    """The exposures by query and passage."""
    by_query: dict[str, dict[str, Exposure]] = defaultdict(dict)
    for answer in log.answers:
        for shown in answer.shown:
            if shown.position not in propensities:
                weighed.views_without_propensity += 1
                continue
            exposure = by_query[answer.query].setdefault(shown.key, Exposure(answer.place))
            exposure.views += 1
            exposure.clicks += shown.clicked
            exposure.looked_at += propensities[shown.position]
            weighed.views += 1
            weighed.clicks += shown.clicked
    return by_query


def add_examples(
    weighed: WeighedClicks, query: str, exposures: Mapping[str, Exposure], passages: Mapping[str, str]
) -> None:
    """The examples of one query."""
    for key, exposure in exposures.items():
        if not exposure.clicks:
            continue
        bound = exposure.relevance * NEGATIVE_RELEVANCE_SHARE
        negatives = [other for other, exposed in exposures.items() if exposed.relevance < bound]
        if negatives:
            weighed.examples.append(to_example(query, key, exposure, negatives, passages))
        else:
            weighed.clicks_without_negative += exposure.clicks


def to_example(query: str, key: str, exposure: Exposure, negatives: list[str], passages: Mapping[str, str]) -> Example:
    """One example, its weight not yet normalised. Passages that are logged by their text have no id."""
    texts = tuple(passages[negative] for negative in negatives)
    all_have_ids = all(negative != text for negative, text in zip(negatives, texts, strict=True))
    return Example(
        query=query,
        positive=passages[key],
        negatives=texts,
        weight=exposure.views * exposure.relevance,
        positive_id=key if key != passages[key] else None,
        negative_ids=tuple(negatives) if all_have_ids else (),
        place=exposure.place,
    )


def with_mean_weight_1(examples: list[Example]) -> list[Example]:
    """The examples with their weights divided by the mean weight."""
    mean = sum(example.weight for example in examples) / len(examples)
    return [replace(example, weight=example.weight / mean) for example in examples]
