"""The parity gate: what it lets through, how documents are cut, and the rankings that PyTorch gives."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_export import trained
from test_int8_choice import toy_heads
from test_training import run_in as cross_encoder_run
from tokenizers import Tokenizer

from finemesh_trainer.data.beir import Document
from finemesh_trainer.data.lines import Place
from finemesh_trainer.errors import TrainerError
from finemesh_trainer.parity.command import is_plain, verdict
from finemesh_trainer.parity.expected import best_documents, cross_encoder_rankings, encoder_rankings, frozen_encoder
from finemesh_trainer.parity.gate import compare
from finemesh_trainer.parity.passages import Cuts, PassageSize, passages_of
from finemesh_trainer.rerank_task import load_cross_encoder

GRADES = {"q": {"d0": 1.0}}
TEN = [f"d{place}" for place in range(10)]


def document(text: str, title: str = "") -> Document:
    return Document("d", title, text, Place(Path("corpus.jsonl"), 1))


def test_equal_rankings_pass() -> None:
    parity = compare({"q": TEN}, {"q": TEN}, GRADES)
    assert parity.passes
    assert (parity.agreement, parity.expected_ndcg, parity.furthest) == (1.0, 1.0, [])
    assert verdict(parity, stated_only=False) == 0


def test_a_different_order_fails_by_its_ndcg_and_a_different_head_by_its_agreement(
    capsys: pytest.CaptureFixture[str],
) -> None:
    turned = compare({"q": TEN}, {"q": TEN[::-1]}, GRADES)
    assert [objection.split(" by ")[0] for objection in turned.objections] == ["nDCG@10 differs"]
    other = compare({"q": TEN, "r": TEN}, {"q": [*TEN[:9], "x"], "r": TEN}, GRADES | {"r": {"d0": 1.0}})
    assert other.objections == ["the first ten agree by 0.9500; 0.98 is asked for"]
    assert verdict(other, stated_only=False) == 1
    assert "furthest apart: q" in capsys.readouterr().out
    assert verdict(other, stated_only=True) == 0


def test_rankings_of_different_queries_are_not_compared() -> None:
    for served in ({}, {"p": TEN}):
        with pytest.raises(TrainerError, match="not of the same queries"):
            compare({"q": TEN}, served, GRADES)
    with pytest.raises(TrainerError, match="not of the same queries"):
        compare({}, {}, GRADES)


@pytest.mark.parametrize(
    ("query", "plain"),
    [("a well-known + b", False), ("fluid injection -dash", False), ('"a b"', False), ("x-ray", True)],
)
def test_queries_that_the_mesh_takes_apart_are_left_out(query: str, plain: bool) -> None:
    assert is_plain(query) == plain


def test_long_documents_are_cut_before_they_are_truncated(base_folder: Path) -> None:
    model = frozen_encoder(base_folder, 8)
    query = "shard index mesh plum pear apple"
    late = Document("late", "", "river " * 18 + query, Place(Path("c"), 1))
    other = Document("other", "", "plum pear", Place(Path("c"), 2))
    before = model.tokenizer.truncation
    rankings = encoder_rankings(model, [other, late], {"q": query}, PassageSize(8, 0))
    assert rankings["q"][0] == "late"
    assert model.tokenizer.truncation == before


def spans_of(text: str, length: int) -> list[tuple[int, int]]:
    """Pieces of words, `length` characters each."""
    found, start = [], 0
    for word in text.split(" "):
        found += [(start + at, start + min(at + length, len(word))) for at in range(0, len(word), length)]
        start += len(word) + 1
    return found


def test_texts_are_cut_as_the_indexer_cuts_them() -> None:
    """The example of libs/inference/src/split.rs."""
    text = "aaabbbccc dddeeefff ggghhhiii jjjkkklll mmmnnnooo pppqqqrrr"
    parts = [text[begin:end] for begin, end in Cuts(spans_of(text, 3), 16, 0).parts(len(text))]
    assert parts == ["aaabbbccc dddeeefff ggghhhiii ", "jjjkkklll mmmnnnooo pppqqqrrr"]
    assert list(Cuts([], 5, 1).parts(0)) == []
    assert list(Cuts([(1, 4), (5, 8)], 2, 1).parts(9)) == [(0, 9)]


@pytest.mark.parametrize(("words", "size", "overlap"), [(600, 64, 16), (65, 64, 16), (130, 64, 0), (7, 2, 1)])
def test_parts_are_bounded_of_like_size_and_overlap(words: int, size: int, overlap: int) -> None:
    spans = spans_of(" ".join(["ab"] * words), 2)
    ranges = list(Cuts(spans, size, overlap).token_ranges())
    sizes = [behind - first for first, behind in ranges]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert (ranges[0][0], ranges[-1][1]) == (0, words)
    assert all(before[1] - after[0] >= overlap for before, after in pairwise(ranges))


def test_every_passage_has_the_title_and_titles_are_cut(tokenizer: Tokenizer) -> None:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    cut = passages_of(document("shard index " * 20, "query mesh"), tokenizer, PassageSize(16, 4))
    assert len(cut) > 3
    assert all(passage.startswith("query mesh ") for passage in cut)
    assert all(len(tokenizer.encode(passage, add_special_tokens=False).ids) <= 14 for passage in cut)
    (long,) = passages_of(document("shard", "query " * 20), tokenizer, PassageSize(16, 4))
    assert long == "query " * 5 + "query shard"
    assert passages_of(document("  ", "query"), tokenizer, PassageSize(16, 4)) == []


def test_a_document_has_the_score_of_its_best_passage(base_folder: Path) -> None:
    model = frozen_encoder(base_folder, 16)
    long = Document("long", "", "river stone cloud " * 12 + "what is a shard", Place(Path("c"), 1))
    short = Document("short", "", "river stone cloud", Place(Path("c"), 2))
    size = PassageSize(16, 2)
    rankings = encoder_rankings(model, [short, long], {"q": "what is a shard", "r": "river stone cloud"}, size)
    with torch.no_grad():
        passages = [*passages_of(long, model.tokenizer, size), short.text]
        vectors = model(*model.inputs(["what is a shard", "river stone cloud", *passages])).sentences
    scores = vectors[:2] @ vectors[2:].T
    for name, row in zip("qr", scores, strict=True):
        assert rankings[name][0] == ("long" if row[:-1].max() > row[-1] else "short")


def test_equal_scores_are_ordered_by_id() -> None:
    assert best_documents(torch.tensor([0.5, 0.9, 0.5]).numpy(), ["z", "m", "a"]) == ["m", "a", "z"]


def test_a_cross_encoder_with_all_weight_orders_by_its_logits(base_folder: Path, tmp_path: Path) -> None:
    model = load_cross_encoder(trained(cross_encoder_run(tmp_path / "run", base_folder)))
    (head,) = toy_heads(1, 12)
    with torch.no_grad():
        logits = model.score_lists([head.query], [head.passages])[0]
    expected = [f"d{index}" for index in logits.argsort(descending=True).tolist()]
    assert cross_encoder_rankings(model, [head], 1.0) == {head.query_id: expected}
    assert cross_encoder_rankings(model, [head], 1e-9)[head.query_id] == [f"d{index}" for index in range(12)]
