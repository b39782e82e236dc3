"""BEIR folders become examples; an id that no file knows is named with its line."""

from pathlib import Path

import pytest

from finemesh_trainer.data.beir import read_folder
from finemesh_trainer.data.examples import Example
from finemesh_trainer.errors import DataError

CORPUS = """\
{"_id": "d1", "title": "One", "text": "first"}
{"_id": "d2", "text": "second"}
{"_id": "d3", "title": "Alone", "text": ""}
"""
QUERIES = '{"_id": "q1", "text": "which"}\n{"_id": "q2", "text": "who"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td3\t1\n"


def write_folder(folder: Path, corpus: str = CORPUS, queries: str = QUERIES, qrels: str = QRELS) -> Path:
    """A small folder."""
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text(corpus)
    (folder / "queries.jsonl").write_text(queries)
    (folder / "qrels" / "train.tsv").write_text(qrels)
    return folder


def test_judgements_become_examples(tmp_path: Path) -> None:
    assert read_folder(write_folder(tmp_path)) == [
        Example("which", "One first", ("second",), query_id="q1", positive_id="d1", negative_ids=("d2",)),
        Example("who", "Alone", query_id="q2", positive_id="d3"),
    ]


def test_trec_columns_without_a_header_are_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, qrels="q1 0 d1 1\n")
    assert [example.positive_id for example in read_folder(folder)] == ["d1"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"qrels": QRELS + "q9\td1\t1\n"}, "train.tsv:5: query 'q9' is not among the queries"),
        ({"qrels": QRELS + "q1\td9\t1\n"}, "train.tsv:5: document 'd9' is not in the corpus"),
        ({"qrels": QRELS + "q1\td1\thigh\n"}, "train.tsv:5: grade: 'high' is not a whole number"),
        ({"qrels": QRELS + "q1\n"}, "train.tsv:5: 1 columns"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, "train.tsv: holds no judgements"),
        ({"corpus": CORPUS + '{"_id": "d1", "text": "again"}'}, "corpus.jsonl:4: _id: 'd1' stands in line 1 already"),
        ({"corpus": CORPUS.replace("One", "").replace("first", "")}, "train.tsv:2: document 'd1' is empty"),
        ({"corpus": '{"text": "nameless"}'}, "corpus.jsonl:1: _id: is missing"),
        ({"queries": QUERIES + '{"_id": "q2", "text": "x"}'}, "queries.jsonl:3: _id: 'q2' stands in line 2 already"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_folder(write_folder(tmp_path, **files))
