"""What is mined, and how it is mixed: the configuration of `finemesh-trainer mine`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from finemesh_trainer.config import Section
from finemesh_trainer.mesh import Ranking

DEEPEST_RANK = 1000
"""Hits that the mesh gives for one request."""

RANDOM = "random"
"""The name that random negatives have in counts; no source may take it."""

Rank = Annotated[int, Field(ge=1, le=DEEPEST_RANK)]


class Source(Section):
    """Negatives of one kind: so many, drawn from the ranks first_rank to last_rank (from 1, both included)."""

    name: Annotated[str, Field(min_length=1)]
    ranking: Ranking
    first_rank: Rank
    last_rank: Rank
    negatives: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def ranks_are_a_range(self) -> Self:
        """The range holds at least as many ranks as negatives are drawn from it."""
        if self.last_rank - self.first_rank + 1 < self.negatives:
            raise ValueError(f"ranks {self.first_rank} to {self.last_rank} have no room for {self.negatives} negatives")
        if self.name == RANDOM:
            raise ValueError(f"the name {RANDOM!r} is taken by `random_negatives`")
        return self


class Ceiling(Section):
    """The highest raw score that a negative may have beside a positive's (NV-Retriever, arXiv 2407.15831).

    It is `max_share` times the positive's score (TopK-PercPos), or the positive's minus `min_margin` (TopK-MarginPos)
    where that is lower.
    """

    max_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_margin: Annotated[float, Field(ge=0)] = 0.0

    def over(self, positive_score: float) -> float:
        """The ceiling beside one positive. A share of a score that is not above 0 would lie above the score itself."""
        share = positive_score * self.max_share if positive_score > 0 else positive_score
        return min(share, positive_score - self.min_margin)


Filter = dict[Literal["sparse", "dense"], Ceiling]
"""Positive-aware filtering: a candidate is removed when it is above the ceiling of *every* stage that is named here.

With one stage it is the paper's rule. With both it takes two witnesses: a weak retriever that puts the positive low has
most hard negatives above it, and they are none the less negatives.
"""

DEFAULT_FILTER: Filter = {"sparse": Ceiling(max_share=0.85), "dense": Ceiling(max_share=0.85)}
"""On 400 questions of SQuAD 1.1 this removes 6 % of the best 20 by BM25 and 6 % of the best 20 by the vectors; 13 % and
11 % of those contain the answer, and 1.8 % and 2.2 % of what stays. The vectors alone at .95 leave as many, and remove
8 % and 23 %: most of them are good hard negatives."""


class Vote(Section):
    """A trained cross-encoder's say: what it scores above the positive's score minus `margin` is removed."""

    run: Path
    """The folder of its finished training run."""
    margin: Annotated[float, Field(ge=0)] = 0.0


class Recipe(Section):
    """The mix. What one source lacks after filtering is drawn from the next one, and at last at random."""

    sources: list[Source]
    random_negatives: Annotated[int, Field(ge=0)] = 0
    filter: Filter = DEFAULT_FILTER
    vote: Vote | None = None

    @model_validator(mode="after")
    def sources_differ(self) -> Self:
        """At least one source, each with a name of its own."""
        names = [source.name for source in self.sources]
        if not names:
            raise ValueError("sources: at least one is needed")
        if len(set(names)) < len(names):
            raise ValueError(f"sources: names must differ, got {', '.join(names)}")
        return self

    def depths(self) -> dict[Ranking, int]:
        """How deep each ranking is asked for: to the deepest rank that a source draws from."""
        depths: dict[Ranking, int] = {}
        for source in self.sources:
            depths[source.ranking] = max(source.last_rank, depths.get(source.ranking, 0))
        return depths

    @property
    def needs_vectors(self) -> bool:
        """Whether a collection that was indexed without vectors will not do."""
        return set(self.depths()) != {Ranking.SPARSE} or "dense" in self.filter


class MiningConfig(Section):
    """One run: `pairs` are example files, whose own negatives are left behind; `output` is a folder of its own.

    `limit` takes a seeded sample; `concurrency` is the number of queries in flight.
    """

    address: str
    collection: str
    pairs: Annotated[list[Path], Field(min_length=1)]
    output: Path
    recipe: Recipe
    seed: int = 1
    limit: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
