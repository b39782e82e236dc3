"""The random part of the mix: positives of other queries, which are passages as good as any, and of another matter.

They are drawn when all queries are mined, so that the pool does not depend on the order in which answers came.
"""

from collections.abc import Sequence
from random import Random

from finemesh_trainer.data.text import collapsed
from finemesh_trainer.mining.recipe import RANDOM, Recipe
from finemesh_trainer.mining.select import Dropped, Mined, Passage, Target, has_positive_text

SPARE_DRAWS = 16
"""Draws beyond those that are known to be needed, for passages that turn out to have a text that is taken."""


def add_randoms(targets: Sequence[Target], mined: Sequence[Mined], recipe: Recipe, seed: int) -> None:
    """Fills every example up to the recipe's number of negatives; one that still has none is dropped."""
    pool = list({found.positive.id: found.positive for found in mined if found.positive is not None}.values())
    full = recipe.random_negatives + sum(source.negatives for source in recipe.sources)
    for target, found in zip(targets, mined, strict=True):
        if found.dropped is None:
            rng = query_rng(seed, target, RANDOM)
            found.negatives += draw_randoms(target, found, pool, full - len(found.negatives), rng)
            found.dropped = None if found.negatives else Dropped.NO_NEGATIVES


def query_rng(seed: int, target: Target, purpose: str) -> Random:
    """Random numbers of one query and purpose: the same whatever was mined before it, or beside it."""
    return Random("\n".join([str(seed), purpose, target.example.query, target.example.positive]))


def draw_randoms(target: Target, found: Mined, pool: Sequence[Passage], wanted: int, rng: Random) -> list[Passage]:
    """Up to `wanted` of the pool: no positive of the query, nothing that was filtered out, nothing twice."""
    barred = {*target.positive_ids, *found.suspects, *(negative.id for negative in found.negatives)}
    texts = {collapsed(negative.text) for negative in found.negatives}
    drawn: list[Passage] = []
    for passage in rng.sample(pool, min(len(pool), wanted + len(barred) + SPARE_DRAWS)):
        text = collapsed(passage.text)
        if len(drawn) == wanted:
            break
        if passage.id in barred or text in texts or has_positive_text(target, "", passage.text):
            continue
        texts.add(text)
        drawn.append(Passage(passage.id, passage.text, RANDOM))
    return drawn
