"""One thing to learn from: a query, a passage that answers it, and passages that do not.

A line of a file is a JSON object:

    {"query": "…", "positive": "…",                                 a pair
     "negative": "…"  or  "negatives": ["…", …],                    a triplet, or a mined list
     "title": "…",                                                  stands before the positive, as the mesh indexes it
     "weight": 1.0, "group": "…",
     "query_id": "…", "positive_id": "…", "negative_ids": ["…", …],
     "positive_score": 0.9, "negative_scores": [0.4, …]}            a teacher's scores

`qid` or `id` are read as `query_id`, and `doc` as `positive_id`: pair files are often cut from BEIR folders under these
names. Other fields are passed over.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finemesh_trainer.data.lines import (
    Place,
    list_of,
    number_of,
    optional_text,
    read_objects,
    required_text,
    text_of,
    write_objects,
)
from finemesh_trainer.errors import DataError

QUERY_ID_NAMES = ("query_id", "qid", "id")
POSITIVE_ID_NAMES = ("positive_id", "doc")


@dataclass(frozen=True, slots=True)
class Example:
    """A query with its positive and its negatives. Passages are whole: title and text.

    `negative_ids` and `negative_scores` are either empty or as long as `negatives`. `weight` scales the example's loss;
    `group` names where it comes from, so that one source can be capped. `place` is the line it was read from.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    weight: float = 1.0
    query_id: str | None = None
    positive_id: str | None = None
    negative_ids: tuple[str, ...] = ()
    positive_score: float | None = None
    negative_scores: tuple[float, ...] = ()
    group: str | None = None
    place: Place | None = field(default=None, compare=False)


def passage_text(title: str | None, text: str) -> str:
    """A passage as the mesh indexes it: title and text with one space between them."""
    return f"{title} {text}" if title else text


def read_examples(path: str | Path) -> list[Example]:
    """All examples of a file. A file without one is refused.

    Raises:
        DataError: with file and line, for a line that is not a usable example.
    """
    examples = [parse_example(record, place) for place, record in read_objects(path)]
    if not examples:
        raise DataError(path, None, "holds no examples")
    return examples


def write_examples(path: str | Path, examples: Iterable[Example]) -> int:
    """Writes examples, gzipped when the name ends in `.gz`, and returns how many. Same examples, same bytes."""
    return write_objects(path, (to_record(example) for example in examples))


def parse_example(record: dict[str, Any], place: Place) -> Example:
    """The example of one JSON object.

    Raises:
        DataError: for a missing, empty or ill-typed field, and for lists whose lengths differ.
    """
    negatives = parse_negatives(record, place)
    return Example(
        query=required_text(record, "query", place),
        positive=passage_text(parse_title(record, place), required_text(record, "positive", place)),
        negatives=negatives,
        weight=parse_weight(record, place),
        query_id=first_text(record, QUERY_ID_NAMES, place),
        positive_id=first_text(record, POSITIVE_ID_NAMES, place),
        negative_ids=parse_per_negative(record, "negative_ids", len(negatives), text_of, place),
        positive_score=parse_score(record, "positive_score", place),
        negative_scores=parse_per_negative(record, "negative_scores", len(negatives), number_of, place),
        group=optional_text(record, "group", place),
        place=place,
    )


def parse_title(record: dict[str, Any], place: Place) -> str | None:
    """The title; BEIR writes the empty string where a passage has none."""
    return None if record.get("title") == "" else optional_text(record, "title", place)


def parse_negatives(record: dict[str, Any], place: Place) -> tuple[str, ...]:
    """`negatives`, or the one `negative` of a triplet."""
    if "negative" not in record:
        texts = list_of(record, "negatives", place)
        return tuple(text_of(text, f"negatives[{i}]", place) for i, text in enumerate(texts))
    if "negatives" in record:
        raise place.error("negative, negatives: only one of them can be given")
    return (required_text(record, "negative", place),)


def parse_weight(record: dict[str, Any], place: Place) -> float:
    """The weight, above 0; 1 where none is given."""
    weight = number_of(record.get("weight", 1.0), "weight", place)
    if weight <= 0:
        raise place.error(f"weight: is {weight:g}; it must be above 0")
    return weight


def parse_score(record: dict[str, Any], name: str, place: Place) -> float | None:
    """A score that may be absent or null."""
    return None if record.get(name) is None else number_of(record[name], name, place)


def parse_per_negative(record: dict[str, Any], name: str, negatives: int, parse: Any, place: Place) -> tuple[Any, ...]:
    """A list that has one entry for each negative, or none at all."""
    values = tuple(parse(value, f"{name}[{i}]", place) for i, value in enumerate(list_of(record, name, place)))
    if values and len(values) != negatives:
        raise place.error(f"{name}: has {len(values)} entries for {negatives} negatives")
    return values


def first_text(record: dict[str, Any], names: Iterable[str], place: Place) -> str | None:
    """The text of the first of these fields that is there."""
    texts: Iterator[str | None] = (optional_text(record, name, place) for name in names)
    return next((text for text in texts if text is not None), None)


def to_record(example: Example) -> dict[str, Any]:
    """The JSON object of an example, without what it does not have."""
    record = {
        "query": example.query,
        "positive": example.positive,
        "negatives": list(example.negatives),
        "weight": example.weight,
        "query_id": example.query_id,
        "positive_id": example.positive_id,
        "negative_ids": list(example.negative_ids),
        "positive_score": example.positive_score,
        "negative_scores": list(example.negative_scores),
        "group": example.group,
    }
    return {name: value for name, value in record.items() if value not in (None, [])}
