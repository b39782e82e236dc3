"""Folders in BEIR's layout: `corpus.jsonl[.gz]`, `queries.jsonl[.gz]` and `qrels/<split>.tsv`.

An id that no file knows is refused with the line that names it.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finemesh_trainer.data.examples import Example, parse_title, passage_text
from finemesh_trainer.data.lines import Place, read_lines, read_objects, required_text
from finemesh_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class Document:
    """A passage of a corpus; `title` is empty where it has none."""

    document_id: str
    title: str
    text: str
    place: Place

    @property
    def passage(self) -> str:
        """The whole passage, as the mesh indexes it; empty for a document that has nothing."""
        return passage_text(self.title, self.text).strip()


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a BEIR folder."""

    query_id: str
    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class Judgement:
    """How relevant a document is to a query: 0 or less is not at all."""

    query_id: str
    document_id: str
    grade: int
    place: Place


@dataclass(frozen=True, slots=True)
class Collection:
    """A folder. Every judgement's query and document is there."""

    documents: dict[str, Document]
    queries: dict[str, Query]
    judgements: list[Judgement]


def read_corpus(path: str | Path) -> dict[str, Document]:
    """Documents by id, in the file's order."""
    documents: dict[str, Document] = {}
    for place, record in read_objects(path):
        document = parse_document(record, place)
        refuse_second(documents.get(document.document_id), document.document_id, place)
        documents[document.document_id] = document
    return documents


def read_queries(path: str | Path) -> dict[str, Query]:
    """Queries by id, in the file's order."""
    queries: dict[str, Query] = {}
    for place, record in read_objects(path):
        query = Query(required_text(record, "_id", place), required_text(record, "text", place), place)
        refuse_second(queries.get(query.query_id), query.query_id, place)
        queries[query.query_id] = query
    return queries


def read_qrels(path: str | Path) -> list[Judgement]:
    """Judgements in the file's order. A first line whose grade is no number is a header."""
    lines = list(read_lines(path))
    first_is_header = bool(lines) and not is_integer(lines[0][1].split()[-1])
    judgements = [parse_judgement(line, place) for place, line in lines[first_is_header:]]
    if not judgements:
        raise DataError(path, None, "holds no judgements")
    return judgements


def read_folder(folder: str | Path, split: str = "train") -> list[Example]:
    """One example for each judgement of `qrels/<split>.tsv` above 0; the query's other judged documents are negatives.

    Raises:
        DataError: with file and line, for an id that is in no file, and for whatever else cannot be used.
    """
    collection = read_collection(folder, split)
    queries, documents, judgements = collection.queries, collection.documents, collection.judgements
    for judgement in judgements:
        refuse_empty(judgement, documents)
    negatives = defaultdict(list)
    for judgement in judgements:
        if judgement.grade <= 0:
            negatives[judgement.query_id].append(documents[judgement.document_id])
    return [
        to_example(
            queries[judgement.query_id], documents[judgement.document_id], negatives[judgement.query_id], judgement
        )
        for judgement in judgements
        if judgement.grade > 0
    ]


def read_collection(folder: str | Path, split: str) -> Collection:
    """A whole folder, with the judgements of `qrels/<split>.tsv`.

    Raises:
        DataError: with file and line, for a judgement whose query or document does not exist.
    """
    documents = read_corpus(corpus_file(folder))
    queries = read_queries(queries_file(folder))
    judgements = read_qrels(qrels_file(folder, split))
    for judgement in judgements:
        refuse_unknown(judgement, queries, documents)
    return Collection(documents, queries, judgements)


def corpus_file(folder: str | Path) -> Path:
    """The folder's corpus."""
    return plain_or_gzipped(folder, "corpus.jsonl")


def queries_file(folder: str | Path) -> Path:
    """The folder's queries."""
    return plain_or_gzipped(folder, "queries.jsonl")


def qrels_file(folder: str | Path, split: str) -> Path:
    """The judgements of one split."""
    return Path(folder) / "qrels" / f"{split}.tsv"


def plain_or_gzipped(folder: str | Path, name: str) -> Path:
    """The file under this name, or, where there is none, the one with `.gz` behind it."""
    plain, packed = Path(folder) / name, Path(folder) / f"{name}.gz"
    return packed if packed.exists() and not plain.exists() else plain


def parse_document(record: dict[str, Any], place: Place) -> Document:
    """A line of a corpus. Collections have documents without a title, without a text, and with neither."""
    text = "" if record.get("text") == "" else required_text(record, "text", place)
    return Document(required_text(record, "_id", place), parse_title(record, place) or "", text, place)


def parse_judgement(line: str, place: Place) -> Judgement:
    """Query id, document id and grade; or TREC's four columns, of which the second is passed over."""
    columns = line.split()
    if len(columns) not in (3, 4):
        raise place.error(f"{len(columns)} columns; query id, document id and grade are expected")
    if not is_integer(columns[-1]):
        raise place.error(f"grade: {columns[-1]!r} is not a whole number")
    return Judgement(columns[0], columns[-2], int(columns[-1]), place)


def is_integer(text: str) -> bool:
    """Whether a column is a whole number."""
    return text.removeprefix("-").isdecimal()


def refuse_second(first: Document | Query | None, identifier: str, place: Place) -> None:
    """Refuses an id that comes twice."""
    if first is not None:
        raise place.error(f"_id: {identifier!r} stands in line {first.place.line} already")


def refuse_unknown(judgement: Judgement, queries: dict[str, Query], documents: dict[str, Document]) -> None:
    """Refuses a judgement whose query or document does not exist."""
    if judgement.query_id not in queries:
        raise judgement.place.error(f"query {judgement.query_id!r} is not among the queries")
    if judgement.document_id not in documents:
        raise judgement.place.error(f"document {judgement.document_id!r} is not in the corpus")


def refuse_empty(judgement: Judgement, documents: dict[str, Document]) -> None:
    """Refuses to learn from a document that has neither title nor text."""
    if not documents[judgement.document_id].passage:
        raise judgement.place.error(f"document {judgement.document_id!r} is empty")


def to_example(query: Query, positive: Document, negatives: list[Document], judgement: Judgement) -> Example:
    """The example of one positive judgement."""
    return Example(
        query=query.text,
        positive=positive.passage,
        negatives=tuple(negative.passage for negative in negatives),
        query_id=query.query_id,
        positive_id=positive.document_id,
        negative_ids=tuple(negative.document_id for negative in negatives),
        place=judgement.place,
    )
