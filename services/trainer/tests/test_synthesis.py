"""Queries made from a corpus: their form, and that none copies its passage."""

from collections import Counter
from pathlib import Path

import pytest

from finemesh_trainer.data.beir import Document
from finemesh_trainer.data.guards import Guard, inspect
from finemesh_trainer.data.lines import Place
from finemesh_trainer.data.synthesis import STYLES, Corpus, claim_of, keyword_candidates, synthesise
from finemesh_trainer.data.text import words

TOPICS = (
    "copper",
    "tundra",
    "violin",
    "glacier",
    "harbour",
    "orchid",
    "falcon",
    "marble",
    "saffron",
    "comet",
    "reef",
    "loom",
)
TONES = ("amber", "bronze", "coral", "denim", "ebony", "fawn", "ginger", "hazel", "indigo", "jade", "khaki", "lilac")


def document(number: int) -> Document:
    """A document about one topic, which eleven others share."""
    topic, tone = TOPICS[number % 12], TONES[number // 12]
    text = (
        f"We studied {topic} for many years in several places with great care and little money. "
        f"Our results show that {topic} number{number} depends on {tone} and on colour{number % 17} in most seasons. "
        f"Workers near shape{number % 11} and weight{number % 13} reported few changes of {topic} under stress. "
        "However, this needs more work by others who have the time and the patience that it takes."
    )
    return Document(
        f"d{number}", f"A report on {topic} and {tone} number{number}", text, Place(Path("corpus"), number + 1)
    )


CORPUS = Corpus.of(document(number) for number in range(144))


def test_every_style_is_made_as_often_as_asked() -> None:
    examples = list(synthesise(CORPUS, list(STYLES), per_style=30, seed=1))
    assert Counter(example.group for example in examples) == {"title": 30, "keywords": 30, "claim": 30}
    assert len({example.positive_id for example in examples if example.group == "claim"}) == 30
    assert all(example.place is not None for example in examples)


def test_the_seed_decides() -> None:
    first, again, other = (list(synthesise(CORPUS, list(STYLES), 20, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_style_does_not_depend_on_the_others() -> None:
    alone = list(synthesise(CORPUS, ["claim"], 10, seed=3))
    together = [example for example in synthesise(CORPUS, list(STYLES), 10, seed=3) if example.group == "claim"]
    assert alone == together


def test_no_query_copies_its_passage() -> None:
    examples = list(synthesise(CORPUS, list(STYLES), 144, seed=1))
    assert len(examples) > 400
    assert inspect(examples, [])[Guard.COPIES] == []


def test_titles_are_left_out_of_their_passage() -> None:
    for example in synthesise(CORPUS, ["title"], 10, seed=1):
        assert example.query.startswith("A report on")
        assert "report on" not in example.positive


def test_a_title_of_two_documents_asks_for_neither() -> None:
    twins = [
        Document(f"t{number}", "One title of two", document(number).text, Place(Path("c"), 1)) for number in (1, 2)
    ]
    assert list(synthesise(Corpus.of(twins), ["title"], 2, seed=1)) == []


def test_keywords_stand_in_their_passage_in_order() -> None:
    for example in synthesise(CORPUS, ["keywords"], 20, seed=1):
        passage = words(example.positive)
        places = [passage.index(word) for word in example.query.split()]
        assert 2 <= len(places) <= 5
        assert places == sorted(places)


def test_keywords_are_heavy_words() -> None:
    heavy = keyword_candidates(CORPUS, words(document(0).passage))
    assert "copper" in heavy
    assert "number0" not in heavy, "a word of one document alone may be a slip"
    assert not {"with", "and", "years"} & set(heavy), "words of every document tell none of them"


@pytest.mark.parametrize(
    ("sentence", "claim"),
    [
        ("Cooling it slowly lowers the pressure on all four walls.", None),
        (
            "Cooling a gas slowly lowers the pressure on all walls.",
            "Cooling a gas slowly lowers the pressure on all walls.",
        ),
        (
            "These results suggest that cooling a gas slowly lowers the pressure on all walls.",
            "Cooling a gas slowly lowers the pressure on all walls.",
        ),
        ("However, cooling a gas slowly lowers the pressure on all walls.", None),
        ("Does cooling a gas slowly lower the pressure on all walls?", None),
        ("Cooling a gas by $x_1$ slowly lowers the pressure on all walls.", None),
        ("Gas cools slowly.", None),
    ],
)
def test_claims_stand_by_themselves(sentence: str, claim: str | None) -> None:
    assert claim_of(sentence) == claim


def test_an_empty_document_gives_nothing() -> None:
    assert list(synthesise(Corpus.of([Document("e", "", "", Place(Path("c"), 1))]), list(STYLES), 5, seed=1)) == []
