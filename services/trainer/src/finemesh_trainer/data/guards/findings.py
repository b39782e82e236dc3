"""What a guard found: which example, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from finemesh_trainer.data.examples import Example

MAX_QUOTED_CHARACTERS = 80


class Guard(StrEnum):
    """What is looked for, by the name that policies give it."""

    LEAKED_QUERIES = "leaked_queries"
    LEAKED_PASSAGES = "leaked_passages"
    REPEATED_PAIRS = "repeated_pairs"
    DUPLICATED_PASSAGES = "duplicated_passages"
    TEMPLATES = "templates"
    COPIES = "copies"
    FALSE_NEGATIVES = "false_negatives"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: `example` is its index, `negative` the index among its negatives where only that one is meant."""

    guard: Guard
    example: int
    message: str
    negative: int | None = None


def quoted(text: str) -> str:
    """A text in quotes, cut where it is long."""
    return f'"{text if len(text) <= MAX_QUOTED_CHARACTERS else text[: MAX_QUOTED_CHARACTERS - 1] + "…"}"'


def by_file(examples: Sequence[Example]) -> Iterator[list[int]]:
    """The indices of the examples of each file, in order; those of no file are together."""
    files: dict[object, list[int]] = {}
    for index, example in enumerate(examples):
        files.setdefault(example.place and example.place.path, []).append(index)
    yield from files.values()


def place_of(example: Example) -> str:
    """` (path:line)`, or nothing for an example of no file."""
    return f" ({example.place})" if example.place else ""
