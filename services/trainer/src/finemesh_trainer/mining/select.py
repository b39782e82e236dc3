"""One query: from the mesh's rankings to its positive as the mesh has it, and the negatives drawn for it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from finemesh_trainer.data.examples import Example, passage_text
from finemesh_trainer.data.text import collapsed
from finemesh_trainer.mesh import Answer, Hit, MeshError, Ranking
from finemesh_trainer.mining.recipe import Filter, Recipe

Judge = Callable[[str, Sequence[str]], Sequence[float]]
"""Scores passages for a query, higher is better: a cross-encoder."""

POSITIVE = "positive"

POSITIVE_PASSAGE_FROM = (Ranking.HYBRID, Ranking.DENSE, Ranking.SPARSE)
"""Rankings may differ in a document's best passage; the first of these that has the document decides."""


class Removed(StrEnum):
    """Why a candidate is no negative."""

    POSITIVE = "positive"
    SAME_TEXT = "same_text_as_a_positive"
    NEAR_POSITIVE = "scores_too_near_the_positive"
    VOTED = "voted_out"
    REPEATED = "taken_already"


class Dropped(StrEnum):
    """Why a query gives no example."""

    POSITIVE_NOT_FOUND = "positive_not_in_any_ranking"
    QUERY_REFUSED = "query_refused_by_the_mesh"
    NO_NEGATIVES = "no_negatives_left"


@dataclass(frozen=True, slots=True)
class Target:
    """An example, and all that may not be a negative of its query: the ids and collapsed texts of its positives."""

    example: Example
    positive_ids: frozenset[str]
    positive_texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage; `source` is the recipe's name of where it was drawn, or `POSITIVE`."""

    id: str
    text: str
    source: str


@dataclass(slots=True)
class Mined:
    """What came of one query. `suspects` are the ids that were filtered out: no random draw may bring them back.

    `removed` counts by source and reason; `positive_ranks` has the positive's rank (from 1) by ranking that has it.
    """

    dropped: Dropped | None = None
    positive: Passage | None = None
    negatives: list[Passage] = field(default_factory=list)
    suspects: list[str] = field(default_factory=list)
    removed: dict[str, Counter[str]] = field(default_factory=dict)
    positive_ranks: dict[str, int] = field(default_factory=dict)


def build_targets(examples: Sequence[Example]) -> list[Target]:
    """Targets in the order of the examples. All positives of a query, in whatever lines they stand, are off limits."""
    ids: dict[str, set[str]] = defaultdict(set)
    texts: dict[str, dict[str, None]] = defaultdict(dict)
    for example in examples:
        query = collapsed(example.query)
        texts[query][collapsed(example.positive)] = None
        if example.positive_id is not None:
            ids[query].add(example.positive_id)
    queries = [collapsed(example.query) for example in examples]
    return [
        Target(example, frozenset(ids[query]), tuple(texts[query]))
        for example, query in zip(examples, queries, strict=True)
    ]


def has_positive_text(target: Target, title: str, text: str) -> bool:
    """Whether a passage is the text of a positive, a part of it, or has all of it."""
    bare, whole = collapsed(text), collapsed(passage_text(title, text))
    return any(bare in positive or positive in whole for positive in target.positive_texts)


def select(target: Target, answers: dict[Ranking, Answer], recipe: Recipe, rng: Random, judge: Judge | None) -> Mined:
    """Finds the positive, filters each source's ranks, and draws. `rng` alone decides what is drawn of what is left."""
    ranks = {ranking: rank for ranking in answers if (rank := positive_rank(target, answers[ranking])) is not None}
    if not ranks:
        return Mined(dropped=Dropped.POSITIVE_NOT_FOUND)
    ranking = next(ranking for ranking in POSITIVE_PASSAGE_FROM if ranking in ranks)
    positive = answers[ranking].hits[ranks[ranking] - 1]
    text = positive_passage(target.example.positive, positive)
    mined = Mined(positive=Passage(positive.id, text, POSITIVE), positive_ranks=dict(ranks))
    ballot = Ballot(target.example.query, text, recipe.vote.margin, judge) if recipe.vote and judge else None
    limits = ceilings(recipe.filter, positive)
    lacking = 0
    for source in recipe.sources:
        candidates = answers[source.ranking].hits[source.first_rank - 1 : source.last_rank]
        removed = mined.removed[source.name] = Counter()
        pool = list(survivors(candidates, target, limits, mined, removed))
        drawn = draw(pool, source.negatives + lacking, rng, ballot, mined, removed)
        mined.negatives += [Passage(hit.id, passage_text(hit.title, hit.text), source.name) for hit in drawn]
        lacking += source.negatives - len(drawn)
    return mined


def positive_rank(target: Target, answer: Answer) -> int | None:
    """The rank (from 1) of the example's positive: by its id, or by its text when it has none."""
    wanted = target.example.positive_id
    for rank, hit in enumerate(answer.hits, start=1):
        if hit.id == wanted or (wanted is None and has_positive_text(target, hit.title, hit.text)):
            return rank
    return None


def positive_passage(positive: str, hit: Hit) -> str:
    """The mesh's passage of the positive, cut as the negatives are: another cut would give the positive away.

    The example's own text stays where it lacks what the passage has: synthesised queries are taken out of their
    positives (a title, a sentence), and must not come back into them.
    """
    own, title = collapsed(positive), collapsed(hit.title)
    if collapsed(hit.text) not in own:
        return positive
    return passage_text(hit.title, hit.text) if own.startswith(title) else hit.text


def ceilings(rule: Filter, positive: Hit) -> dict[str, float]:
    """By stage, the highest score that a negative may have beside this positive."""
    return {stage: ceiling.over(score_of(positive, stage)) for stage, ceiling in rule.items()}


def score_of(hit: Hit, stage: str) -> float:
    """The raw score of one stage."""
    if stage not in hit.scores:
        raise MeshError(f"hit {hit.id}: has no {stage} score, which the filter needs: was it indexed with that stage?")
    return hit.scores[stage]


def survivors(
    candidates: Iterable[Hit], target: Target, limits: dict[str, float], mined: Mined, removed: Counter[str]
) -> Iterable[Hit]:
    """The candidates that may be negatives; the others are counted by reason."""
    taken = {negative.id for negative in mined.negatives}
    texts = {collapsed(negative.text) for negative in mined.negatives}
    for hit in candidates:
        text = collapsed(passage_text(hit.title, hit.text))
        reason = why_removed(hit, target, limits)
        if reason is None and (hit.id in taken or text in texts):
            reason = Removed.REPEATED
        texts.add(text)
        if reason is None:
            yield hit
            continue
        removed[reason] += 1
        if reason is Removed.NEAR_POSITIVE:
            mined.suspects.append(hit.id)


def why_removed(hit: Hit, target: Target, limits: dict[str, float]) -> Removed | None:
    """The reason why a candidate is no negative of this query, if there is one."""
    if hit.id in target.positive_ids:
        return Removed.POSITIVE
    if has_positive_text(target, hit.title, hit.text):
        return Removed.SAME_TEXT
    if limits and all(score_of(hit, stage) > limit for stage, limit in limits.items()):
        return Removed.NEAR_POSITIVE
    return None


class Ballot:
    """A cross-encoder's vote: against what it puts above the positive's score minus `margin`."""

    def __init__(self, query: str, positive: str, margin: float, judge: Judge) -> None:
        self._query = query
        self._judge = judge
        self._limit = judge(query, [positive])[0] - margin

    def keeps(self, hits: Sequence[Hit]) -> list[bool]:
        """For each hit, whether it stays a negative."""
        passages = [passage_text(hit.title, hit.text) for hit in hits]
        return [score <= self._limit for score in self._judge(self._query, passages)]


def draw(
    pool: Sequence[Hit], wanted: int, rng: Random, ballot: Ballot | None, mined: Mined, removed: Counter[str]
) -> list[Hit]:
    """Up to `wanted` of the pool at random. Only what is drawn is voted on: a vote costs a cross-encoder's pass."""
    waiting = rng.sample(pool, len(pool))
    drawn: list[Hit] = []
    while waiting and len(drawn) < wanted:
        room = wanted - len(drawn)
        batch, waiting = waiting[:room], waiting[room:]
        kept = ballot.keeps(batch) if ballot else [True] * len(batch)
        drawn += [hit for hit, keep in zip(batch, kept, strict=True) if keep]
        outvoted = [hit.id for hit, keep in zip(batch, kept, strict=True) if not keep]
        mined.suspects += outvoted
        if outvoted:
            removed[Removed.VOTED] += len(outvoted)
    return drawn
