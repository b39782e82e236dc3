"""One head, and the files of them: a JSON object a line, plain or gzipped."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finemesh_trainer.data.lines import Place, list_of, number_of, read_objects, required_text, write_objects
from finemesh_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class HeadDocument:
    """A document with its score in the ranking, and its best passage: title and text, joined by a space."""

    id: str
    score: float
    passage: str


@dataclass(frozen=True, slots=True)
class Head:
    """A query's best documents, best first; `grades` has the query's relevant documents, above 0."""

    query_id: str
    query: str
    grades: dict[str, float]
    documents: list[HeadDocument]

    @property
    def passages(self) -> list[str]:
        """The texts, best first."""
        return [document.passage for document in self.documents]


def write_heads(path: Path, heads: Iterable[Head]) -> int:
    """Writes a file and returns how many heads it has."""
    return write_objects(path, map(asdict, heads))


def read_heads(paths: Iterable[Path]) -> list[Head]:
    """The heads of some files, of one document at least.

    Raises:
        DataError: with file and line, for what is no head; a file without one is refused.
    """
    heads = []
    for path in paths:
        found = [parse_head(record, place) for place, record in read_objects(path)]
        if not found:
            raise DataError(path, None, "holds no heads")
        heads += found
    return heads


def parse_head(record: dict[str, Any], place: Place) -> Head:
    """A line of a file."""
    grades = record.get("grades")
    if not isinstance(grades, dict):
        raise place.error("grades: an object of grades by document is expected")
    documents = [parse_document(document, place) for document in list_of(record, "documents", place)]
    if not documents:
        raise place.error("documents: is empty")
    return Head(
        query_id=required_text(record, "query_id", place),
        query=required_text(record, "query", place),
        grades={document: number_of(grade, f"grades.{document}", place) for document, grade in grades.items()},
        documents=documents,
    )


def parse_document(record: Any, place: Place) -> HeadDocument:
    """One of a line's documents."""
    if not isinstance(record, dict):
        raise place.error("documents: objects are expected")
    score = number_of(record.get("score"), "documents.score", place)
    return HeadDocument(required_text(record, "id", place), score, required_text(record, "passage", place))
