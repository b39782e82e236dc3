"""Heads: their files, how they are fetched, and what is compared of two scorings."""

import json
from pathlib import Path

import numpy as np
import pytest
from fake_mesh import Document, FakeMesh, compile_contract

from finemesh_trainer.cli import main
from finemesh_trainer.errors import DataError
from finemesh_trainer.heads.head import Head, HeadDocument, read_heads, write_heads
from finemesh_trainer.heads.measure import agreement, blended, ndcg, spearman


def head_of(*scores: float, grades: dict | None = None) -> Head:
    """Documents d0, d1, … with these scores."""
    documents = [HeadDocument(f"d{place}", score, f"passage {place}") for place, score in enumerate(scores)]
    return Head("q1", "a query", grades or {"d1": 1.0}, documents)


def test_heads_are_written_and_read(tmp_path: Path) -> None:
    heads = [head_of(3.0, 2.0), head_of(1.5, grades={"x": 2.0})]
    assert write_heads(tmp_path / "heads.jsonl.gz", heads) == 2
    assert read_heads([tmp_path / "heads.jsonl.gz"]) == heads


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grades": [1]}, "grades: an object"),
        ({"grades": {"d": "high"}}, "grades.d: is a string, not a number"),
        ({"documents": []}, "documents: is empty"),
        ({"documents": ["d1"]}, "documents: objects are expected"),
        ({"documents": [{"id": "d", "score": None, "passage": "p"}]}, "documents.score: is null, not a number"),
        ({"query": ""}, "query"),
    ],
)
def test_what_is_no_head_is_refused_with_its_line(tmp_path: Path, change: dict, message: str) -> None:
    good = {"query_id": "q", "query": "a", "grades": {}, "documents": [{"id": "d", "score": 1, "passage": "p"}]}
    file = tmp_path / "heads.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n", "utf-8")
    with pytest.raises(DataError, match=rf"heads\.jsonl:2: .*{message}"):
        read_heads([file])


def test_a_file_without_heads_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(DataError, match="holds no heads"):
        read_heads([tmp_path / "none.jsonl"])


def test_heads_come_from_the_mesh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [Document("a", "Text of a.", 0.1, 0.3), Document("b", "Text of b.", 0.5, 0.5, title="B")]
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n', "utf-8")
    (tmp_path / "qrels.tsv").write_text("q\td\ts\nq2\ta\t2\nq1\ta\t0\n", "utf-8")
    files = ["--queries", str(tmp_path / "queries.jsonl"), "--qrels", str(tmp_path / "qrels.tsv")]
    output = tmp_path / "heads.jsonl"
    with FakeMesh(compile_contract(tmp_path), documents) as mesh:
        where = ["--address", mesh.address, "--collection", "papers"]
        assert main(["heads", *where, *files, "--output", str(output)]) == 0
    (head,) = read_heads([output])
    assert (head.query_id, head.query, head.grades) == ("q2", "two", {"a": 2.0})
    assert [(document.id, document.passage) for document in head.documents] == [
        ("b", "B Text of b."),
        ("a", "Text of a."),
    ]
    assert "1 heads" in capsys.readouterr().out


def test_a_blend_orders_as_the_mesh_does() -> None:
    """The example of libs/search-core: .75 · (1, .25, 0) + .25 · (0, 1, .5) is .75, .4375, .125."""
    head = head_of(8.0, 5.0, 4.0)
    assert blended(head, np.array([0.0, 1.0, 0.5]), 0.25) == ["d0", "d1", "d2"]
    assert blended(head, np.array([0.0, 1.0, 0.5]), 0.9) == ["d1", "d2", "d0"]
    assert blended(head, np.array([7.0, 7.0, 7.0]), 0.9) == ["d0", "d1", "d2"]
    assert blended(head_of(2.0, 2.0), np.array([1.0, 1.0]), 0.5) == ["d0", "d1"]


def test_measures() -> None:
    scores = np.array([0.3, 0.9, 0.1, 0.5])
    assert spearman(scores, scores * 7 - 3) == 1
    assert spearman(scores, -scores) == -1
    assert spearman(scores, np.array([0.9, 0.3, 0.1, 0.5])) == pytest.approx(1 - 6 * 8 / 60)
    assert spearman(scores[:1], scores[:1]) == 1
    assert ndcg(["x", "a"], {"a": 1.0}) == pytest.approx(1 / np.log2(3))
    assert ndcg([f"x{place}" for place in range(10)] + ["a"], {"a": 1.0}) == 0
    assert ndcg(["a"], {}) == 0
    assert agreement(["a", "b", "c"], ["c", "b", "x"]) == pytest.approx(2 / 3)
    assert agreement(list("abcdefghijk"), list("abcdefghijx")) == 1
    assert agreement([], []) == 1
