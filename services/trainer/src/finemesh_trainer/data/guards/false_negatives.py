"""Negatives that are right answers: the positive itself, nearly its text, or another positive of the same query."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from finemesh_trainer.data.examples import Example
from finemesh_trainer.data.guards.duplicates import MIN_JACCARD, SHINGLE_WORDS
from finemesh_trainer.data.guards.findings import Finding, Guard, quoted
from finemesh_trainer.data.text import jaccard, normalised, shingles, words


def find_false_negatives(examples: Sequence[Example]) -> Iterator[Finding]:
    """Negatives that look like answers."""
    answers: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        if example.negatives:
            answers[normalised(example.query)].add(normalised(example.positive))
    for index, example in enumerate(examples):
        if example.negatives:
            for negative, reason in false_negatives_of(example, answers[normalised(example.query)]):
                message = f"negative {negative + 1} of {quoted(example.query)} {reason}"
                yield Finding(Guard.FALSE_NEGATIVES, index, message, negative)


def false_negatives_of(example: Example, answers: set[str]) -> Iterator[tuple[int, str]]:
    """The negatives that look like answers, with the reason. `answers` are normalised."""
    positive_runs = shingles(words(example.positive), SHINGLE_WORDS)
    for negative, text in enumerate(example.negatives):
        if example.negative_ids and example.negative_ids[negative] == example.positive_id:
            yield negative, "has the positive's id"
        elif normalised(text) == normalised(example.positive):
            yield negative, "is the positive's text"
        elif normalised(text) in answers:
            yield negative, "is a positive of the same query in another example"
        elif jaccard(shingles(words(text), SHINGLE_WORDS), positive_runs) >= MIN_JACCARD:
            yield negative, "is nearly the positive's text"
