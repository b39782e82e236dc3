"""Example files: what is read, what is written, and what is refused with file and line."""

import gzip
import json
from pathlib import Path

import pytest

from finemesh_trainer.data.examples import Example, read_examples, write_examples
from finemesh_trainer.errors import DataError

FULL = Example(
    query="what is it",
    positive="Ünïcode it is",
    negatives=("no", "neither"),
    weight=0.5,
    query_id="q1",
    positive_id="d1",
    negative_ids=("d2", "d3"),
    positive_score=1.5,
    negative_scores=(0.0, -2.0),
    group="made up",
)


@pytest.mark.parametrize("name", ["examples.jsonl", "examples.jsonl.gz"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    examples = [FULL, Example("another", "passage", positive_score=0.0)]
    assert write_examples(tmp_path / "new" / name, examples) == 2
    assert read_examples(tmp_path / "new" / name) == examples
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_the_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_examples(tmp_path / name, [FULL])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_pairs_and_triplets_are_read(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path,
        {"qid": "7", "doc": "d", "query": "q", "title": "Title", "positive": "text", "answers": ["x"]},
        {"query": "q", "title": "", "positive": "text", "negative": "other"},
    )
    pair, triplet = read_examples(path)
    assert pair == Example("q", "Title text", query_id="7", positive_id="d")
    assert triplet == Example("q", "text", negatives=("other",))
    assert str(triplet.place) == f"{path}:2"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"positive": "p"}, "query: is missing"),
        ({"query": "q"}, "positive: is missing"),
        ({"query": " \t", "positive": "p"}, "query: is empty"),
        ({"query": 3, "positive": "p"}, "query: is a number, not a string"),
        ({"query": "q", "positive": None}, "positive: is null, not a string"),
        ({"query": "q\ud800", "positive": "p"}, "query: character 2 is half of a surrogate pair"),
        ({"query": "q", "positive": "p", "negatives": "n"}, "negatives: is a string, not a list"),
        ({"query": "q", "positive": "p", "negatives": ["n", ""]}, r"negatives\[1\]: is empty"),
        ({"query": "q", "positive": "p", "negative": "n", "negatives": []}, "only one of them"),
        ({"query": "q", "positive": "p", "negatives": ["n"], "negative_ids": ["a", "b"]}, "2 entries for 1 negatives"),
        ({"query": "q", "positive": "p", "negatives": ["n"], "negative_scores": [True]}, "is a boolean, not a number"),
        ({"query": "q", "positive": "p", "weight": 0}, "weight: is 0; it must be above 0"),
        ({"query": "q", "positive": "p", "weight": float("nan")}, "weight: is nan, not a finite number"),
        ({"query": "q", "positive": "p", "positive_id": 5}, "positive_id: is a number, not a string"),
        (["query"], "a JSON object is expected, not a list"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, record: object, message: str) -> None:
    path = write_lines(tmp_path, {"query": "q", "positive": "p"}, record)
    with pytest.raises(DataError, match=message) as refused:
        read_examples(path)
    assert str(refused.value).startswith(f"{path}:2: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no examples"),
        (b"\n{", ":2: is not JSON"),
        (b'{"query": "\xff"}', ":1: byte 12 is not UTF-8"),
        (b"[" * 100_000, ":1: is not JSON"),
        (gzip.compress(b'{"query": "q", "positive": "p"}\n')[:-9], "is a damaged gzip file"),
        (b"\x1f\x8bnothing", "is a damaged gzip file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_examples(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.jsonl: cannot be read: No such file"):
        read_examples(tmp_path / "nowhere.jsonl")


def write_lines(folder: Path, *records: object) -> Path:
    """A file of JSON lines."""
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
