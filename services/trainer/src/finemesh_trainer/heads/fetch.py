"""Heads from a running mesh."""

from collections.abc import Mapping
from pathlib import Path
from random import Random

from tqdm import tqdm

from finemesh_trainer.data.beir import Query, read_qrels, read_queries
from finemesh_trainer.data.examples import passage_text
from finemesh_trainer.errors import DataError
from finemesh_trainer.heads.head import Head, HeadDocument
from finemesh_trainer.mesh import SearchClient

DRAW_SEED = 1


def fetch_heads(
    client: SearchClient, collection: str, pipeline: str, queries: Path, qrels: Path, depth: int, limit: int | None
) -> list[Head]:
    """The best `depth` documents of the judged queries under `pipeline`; `limit` draws so many, always the same.

    Raises:
        DataError: a file cannot be used, or no query of it is judged.
        MeshError: the mesh does not answer, or only in part.
    """
    grades = read_grades(qrels)
    judged = [query for identifier, query in read_queries(queries).items() if identifier in grades]
    if not judged:
        raise DataError(qrels, None, f"judges no query of {queries}")
    return [
        fetch_head(client, collection, pipeline, query, grades[query.query_id], depth)
        for query in tqdm(drawn(judged, limit), unit="query", desc=collection)
    ]


def fetch_head(
    client: SearchClient, collection: str, pipeline: str, query: Query, grades: Mapping[str, float], depth: int
) -> Head:
    """One query's head."""
    answer = client.ask(collection, query.text, pipeline, depth)
    documents = [HeadDocument(hit.id, hit.score, passage_text(hit.title, hit.text)) for hit in answer.hits]
    return Head(query.query_id, query.text, dict(grades), documents)


def read_grades(qrels: Path) -> dict[str, dict[str, float]]:
    """The relevant documents of each query that has some."""
    grades: dict[str, dict[str, float]] = {}
    for judgement in read_qrels(qrels):
        if judgement.grade > 0:
            grades.setdefault(judgement.query_id, {})[judgement.document_id] = float(judgement.grade)
    return grades


def drawn(queries: list[Query], limit: int | None) -> list[Query]:
    """`limit` queries at random, in their order; all, where there are no more."""
    if limit is None or limit >= len(queries):
        return queries
    return [queries[index] for index in sorted(Random(DRAW_SEED).sample(range(len(queries)), limit))]
