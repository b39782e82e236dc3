"""Click logs: what was asked, what was shown at which position, what was clicked and how long it was read.

One answer a line:

    {"query": "…", "shown": [{"id": "…", "document": "…", "position": 1, "clicked": true, "dwell_s": 12.5}, …]}

`id` names a passage of the corpus that is given with the log, `document` is the passage itself; one of them is needed.
Positions count from 1. `dwell_s` is optional; other fields, such as the time, are passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finemesh_trainer.data.beir import Document
from finemesh_trainer.data.lines import Place, kind_of, list_of, number_of, optional_text, read_objects, required_text
from finemesh_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class Impression:
    """One passage in one answer. `key` is its id, or its text where it has none; `clicked` means clicked and read."""

    key: str
    position: int
    clicked: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A line of the log."""

    query: str
    shown: tuple[Impression, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class ClickLog:
    """A log with the passages that it shows, by key."""

    path: Path
    answers: list[Answer]
    passages: dict[str, str]


def read_click_log(
    path: str | Path, corpus: Mapping[str, Document] | None = None, min_dwell_s: float = 0.0
) -> ClickLog:
    """Reads a log. A click that was read for a shorter time than `min_dwell_s` counts as none.

    Raises:
        DataError: with file and line, for an entry without position, an id that the corpus lacks, and the like.
    """
    reader = AnswerReader(corpus or {}, min_dwell_s)
    answers = [reader.answer(record, place) for place, record in read_objects(path)]
    if not answers:
        raise DataError(path, None, "holds no answers")
    return ClickLog(Path(path), answers, reader.passages)


class AnswerReader:
    """Turns lines into answers, and remembers each passage once."""

    def __init__(self, corpus: Mapping[str, Document], min_dwell_s: float) -> None:
        self.corpus = corpus
        self.min_dwell_s = min_dwell_s
        self.passages: dict[str, str] = {}

    def answer(self, record: dict[str, Any], place: Place) -> Answer:
        """The answer of one line. Neither a position nor a passage may come twice in it."""
        query = required_text(record, "query", place)
        if not list_of(record, "shown", place):
            raise place.error("shown: is missing or empty")
        shown = [self.impression(entry, f"shown[{index}]", place) for index, entry in enumerate(record["shown"])]
        refuse_repeated([impression.position for impression in shown], "position", place)
        refuse_repeated([impression.key for impression in shown], "passage", place)
        return Answer(query.strip(), tuple(shown), place)

    def impression(self, entry: object, field: str, place: Place) -> Impression:
        """One entry of `shown`."""
        if not isinstance(entry, dict):
            raise place.error(f"{field}: is {kind_of(entry)}, not an object")
        named = {f"{field}.{name}": value for name, value in entry.items()}
        position, clicked = position_of(named, field, place), self.was_read(named, field, place)
        return Impression(self.remember(named, field, place), position, clicked)

    def remember(self, named: dict[str, Any], field: str, place: Place) -> str:
        """The key of a passage, whose text is kept."""
        document_id = optional_text(named, f"{field}.id", place)
        document = optional_text(named, f"{field}.document", place)
        if document_id is None and document is None:
            raise place.error(f"{field}: has neither id nor document")
        key = document_id or document
        if document is None:
            document = self.passage_of(document_id, field, place)
        if self.passages.setdefault(key, document) != document:
            raise place.error(f"{field}: {key!r} has had another text in an earlier line")
        return key

    def passage_of(self, document_id: str, field: str, place: Place) -> str:
        """The corpus's passage of an id."""
        if not self.corpus:
            raise place.error(f"{field}: has an id but no document, and no corpus is given")
        if document_id not in self.corpus:
            raise place.error(f"{field}.id: {document_id!r} is not in the corpus")
        return self.corpus[document_id].passage

    def was_read(self, named: dict[str, Any], field: str, place: Place) -> bool:
        """Whether the passage was clicked and, where the log knows it, read for long enough."""
        clicked = named.get(f"{field}.clicked")
        if not isinstance(clicked, bool):
            raise place.error(f"{field}.clicked: true or false is expected, not {kind_of(clicked)}")
        dwell_s = named.get(f"{field}.dwell_s")
        if dwell_s is None:
            return clicked
        if number_of(dwell_s, f"{field}.dwell_s", place) < 0:
            raise place.error(f"{field}.dwell_s: is {dwell_s:g}; it cannot be below 0")
        return clicked and dwell_s >= self.min_dwell_s


def position_of(named: dict[str, Any], field: str, place: Place) -> int:
    """The position, a whole number from 1."""
    if f"{field}.position" not in named:
        raise place.error(f"{field}.position: is missing; a log without positions cannot be corrected for them")
    position = number_of(named[f"{field}.position"], f"{field}.position", place)
    if position < 1 or position != int(position):
        raise place.error(f"{field}.position: is {position:g}; positions are whole numbers from 1")
    return int(position)


def refuse_repeated(values: list[Any], what: str, place: Place) -> None:
    """Refuses an answer that has one value twice."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise place.error(f"shown: {what} {value!r} comes twice")
        seen.add(value)
