"""Queries that are cut out of their passage: they teach to look for the same words, and nothing else."""

from collections.abc import Iterator, Sequence

from finemesh_trainer.data.examples import Example
from finemesh_trainer.data.guards.findings import Finding, Guard, quoted
from finemesh_trainer.data.text import shingles, words

RUN_WORDS = 3
MIN_QUERY_WORDS = 5
"""Shorter queries are keywords, which stand in their passage as a matter of course."""
MIN_COPIED_SHARE = 0.8


def find_copies(examples: Sequence[Example]) -> Iterator[Finding]:
    """Examples most of whose query stands in the positive word for word."""
    runs_of_passage: dict[str, set[int]] = {}
    for index, example in enumerate(examples):
        if example.positive not in runs_of_passage:
            runs_of_passage[example.positive] = shingles(words(example.positive), RUN_WORDS)
        if is_copied(example.query, runs_of_passage[example.positive]):
            yield Finding(Guard.COPIES, index, f"{quoted(example.query)} is copied from its passage")


def is_copied(query: str, runs_of_passage: set[int]) -> bool:
    """Whether at least MIN_COPIED_SHARE of the query's runs of three words are among the passage's."""
    query_words = words(query)
    if len(query_words) < MIN_QUERY_WORDS:
        return False
    runs = shingles(query_words, RUN_WORDS)
    return len(runs & runs_of_passage) >= MIN_COPIED_SHARE * len(runs)
