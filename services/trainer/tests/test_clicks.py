"""Click logs: the propensities are found again, and training on corrected clicks beats training on raw ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from click_simulator import LinearWorld

from finemesh_trainer.data.beir import Document
from finemesh_trainer.data.click_log import read_click_log
from finemesh_trainer.data.clicks import weigh_clicks
from finemesh_trainer.data.examples import Example, write_examples
from finemesh_trainer.data.lines import Place
from finemesh_trainer.data.propensities import estimate_propensities, read_propensities
from finemesh_trainer.errors import DataError

POSITIONS = 10
KNOWN = {position: 1 / position for position in range(1, POSITIONS + 1)}
NO_BIAS = dict.fromkeys(KNOWN, 1.0)
TRUTH = np.array([1.0, 1.0, 0.0, 0.0])
POLICY = np.array([0.3, 0.0, 1.5, 0.0])
"""What is shown first has little to do with what is relevant: raw clicks reward the third feature."""


def simulated_log(folder: Path, seed: int, queries: int = 100, views: int = 10) -> tuple[LinearWorld, Path]:
    """A log with the known propensities."""
    world = LinearWorld.draw(queries, POSITIONS, TRUTH, np.random.default_rng(seed))
    return world, world.log(folder / f"log{seed}.jsonl", POLICY, list(KNOWN.values()), views, seed)


def train_linear(examples: list[Example], world: LinearWorld, steps: int = 100) -> np.ndarray:
    """Weights of a linear ranker: weighted listwise softmax, full gradient steps of length 1."""
    lists = [np.array([world.features[e.query][name] for name in (e.positive_id, *e.negative_ids)]) for e in examples]
    total = sum(example.weight for example in examples)
    weights = np.zeros(len(TRUTH))
    for _ in range(steps):
        gradient = np.zeros(len(TRUTH))
        for example, features in zip(examples, lists, strict=True):
            scores = features @ weights
            shares = np.exp(scores - scores.max())
            gradient += example.weight * (shares @ features / shares.sum() - features[0])
        weights -= gradient / total
    return weights


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_corrected_training_beats_naive_training(tmp_path: Path, seed: int) -> None:
    world, path = simulated_log(tmp_path, seed)
    log = read_click_log(path)
    unseen = LinearWorld.draw(200, POSITIONS, TRUTH, np.random.default_rng(seed + 1000))

    naive = unseen.ndcg_at_10(train_linear(weigh_clicks(log, NO_BIAS).examples, world))
    corrected = unseen.ndcg_at_10(train_linear(weigh_clicks(log, estimate_propensities(log)).examples, world))
    given = unseen.ndcg_at_10(train_linear(weigh_clicks(log, KNOWN).examples, world))

    assert corrected > naive + 0.02
    assert abs(corrected - given) < 0.02


def test_the_known_propensities_are_found_again(tmp_path: Path) -> None:
    _, path = simulated_log(tmp_path, seed=4, queries=2000, views=4)
    found = estimate_propensities(read_click_log(path))
    errors = np.log([found[position] / known for position, known in KNOWN.items()])
    assert np.sqrt(np.mean(errors**2)) < 0.15


def test_no_bias_is_found_where_there_is_none(tmp_path: Path) -> None:
    world = LinearWorld.draw(500, 5, TRUTH, np.random.default_rng(5))
    path = world.log(tmp_path / "log.jsonl", POLICY, [1.0] * 5, 4, seed=5)
    assert min(estimate_propensities(read_click_log(path)).values()) > 0.85


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    _, path = simulated_log(tmp_path, seed=6, queries=20)
    written = []
    for name in ("first.jsonl.gz", "second.jsonl.gz"):
        log = read_click_log(path)
        write_examples(tmp_path / name, weigh_clicks(log, estimate_propensities(log)).examples)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_weights_are_clicks_over_mean_propensity_clipped_and_normalised(tmp_path: Path) -> None:
    path = write_log(
        tmp_path,
        [
            answer("a", [("x", 1, True), ("y", 2, False)]),
            answer("a", [("x", 1, False), ("y", 2, False)]),
            answer("b", [("x", 1, False), ("y", 2, True)]),
            answer("c", [("x", 1, False), ("y", 3, True)]),
        ],
    )
    examples = weigh_clicks(read_click_log(path), {1: 1.0, 2: 0.5, 3: 0.01}, max_weight=5).examples
    assert [(example.query, example.positive_id) for example in examples] == [("a", "x"), ("b", "y"), ("c", "y")]
    # Raw weights are 1, 2 and 5 (clipped, of 100); their mean is 8 / 3.
    assert [example.weight for example in examples] == pytest.approx([3 / 8, 6 / 8, 15 / 8])
    assert [example.negative_ids for example in examples] == [("y",), ("x",), ("x",)]


def test_a_passage_of_like_relevance_is_no_negative(tmp_path: Path) -> None:
    path = write_log(tmp_path, [answer("a", [("x", 1, True), ("y", 2, True), ("z", 3, False)])])
    examples = weigh_clicks(read_click_log(path), {1: 1.0, 2: 0.8, 3: 0.5}).examples
    assert [(example.positive_id, example.negative_ids) for example in examples] == [("x", ("z",)), ("y", ("z",))]


def test_short_reads_are_no_clicks(tmp_path: Path) -> None:
    entry = {"id": "x", "document": "text", "position": 1, "clicked": True, "dwell_s": 4.0}
    path = write_log(tmp_path, [{"query": "a", "shown": [entry]}])
    assert read_click_log(path, min_dwell_s=4.0).answers[0].shown[0].clicked
    assert not read_click_log(path, min_dwell_s=4.1).answers[0].shown[0].clicked


def test_ids_are_looked_up_in_the_corpus(tmp_path: Path) -> None:
    corpus = {"x": Document("x", "Title", "text", Place(tmp_path, 1))}
    path = write_log(tmp_path, [{"query": "a", "shown": [{"id": "x", "position": 1, "clicked": False}]}])
    assert read_click_log(path, corpus).passages == {"x": "Title text"}


def test_positions_that_nothing_links_have_no_propensity(tmp_path: Path) -> None:
    path = write_log(
        tmp_path,
        [
            answer("a", [("x", 1, True), ("y", 2, False), ("z", 7, True)]),
            answer("a", [("y", 1, False), ("x", 2, True), ("z", 7, True)]),
        ],
    )
    log = read_click_log(path)
    assert estimate_propensities(log) == pytest.approx({1: 1.0, 2: 1.0})
    assert weigh_clicks(log, estimate_propensities(log)).views_without_propensity == 2


def test_a_log_that_never_moves_a_passage_tells_no_propensities(tmp_path: Path) -> None:
    path = write_log(tmp_path, [answer("a", [("x", 1, True), ("y", 2, False)])] * 3)
    with pytest.raises(DataError, match="tells nothing about position bias"):
        estimate_propensities(read_click_log(path))


def test_a_log_without_a_click_gives_no_examples(tmp_path: Path) -> None:
    path = write_log(tmp_path, [answer("a", [("x", 1, False), ("y", 2, False)])])
    with pytest.raises(DataError, match="gives no example"):
        weigh_clicks(read_click_log(path), NO_BIAS)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": "x", "clicked": True}, r"shown\[0\].position: is missing"),
        ({"id": "x", "position": 0, "clicked": True}, "positions are whole numbers from 1"),
        ({"id": "x", "position": 1.5, "clicked": True}, "positions are whole numbers from 1"),
        ({"id": "x", "position": "1", "clicked": True}, "is a string, not a number"),
        ({"id": "x", "position": 1}, "true or false is expected, not null"),
        ({"id": "x", "position": 1, "clicked": 1}, "true or false is expected, not a number"),
        ({"id": "x", "position": 1, "clicked": True, "dwell_s": -1}, "cannot be below 0"),
        ({"id": "x", "position": 1, "clicked": True}, "no corpus is given"),
        ({"position": 1, "clicked": True}, "has neither id nor document"),
        ({"document": " ", "position": 1, "clicked": True}, "document: is empty"),
        ("x", r"shown\[0\]: is a string, not an object"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(tmp_path: Path, entry: object, message: str) -> None:
    good = answer("a", [("x", 1, True)])
    path = write_log(tmp_path, [good, {"query": "a", "shown": [entry]}])
    with pytest.raises(DataError, match=message) as refused:
        read_click_log(path)
    assert str(refused.value).startswith(f"{path}:2: ")


def test_unknown_ids_and_repetitions_are_refused(tmp_path: Path) -> None:
    corpus = {"y": Document("y", "", "text", Place(tmp_path, 1))}
    path = write_log(tmp_path, [{"query": "a", "shown": [{"id": "x", "position": 1, "clicked": True}]}])
    with pytest.raises(DataError, match="'x' is not in the corpus"):
        read_click_log(path, corpus)
    path = write_log(tmp_path, [answer("a", [("x", 1, True), ("y", 1, True)])])
    with pytest.raises(DataError, match="position 1 comes twice"):
        read_click_log(path)
    path = write_log(tmp_path, [answer("a", [("x", 1, True), ("x", 2, True)])])
    with pytest.raises(DataError, match="passage 'x' comes twice"):
        read_click_log(path)


def test_given_propensities_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "propensities.jsonl"
    path.write_text('{"position": 1, "propensity": 1.0}\n{"position": 2, "propensity": 0.5}\n')
    assert read_propensities(path) == {1: 1.0, 2: 0.5}
    path.write_text('{"position": 1, "propensity": 1.0}\n{"position": 2, "propensity": 0}\n')
    with pytest.raises(DataError, match=r"jsonl:2: propensity: is 0; it must lie in \(0, 1\]"):
        read_propensities(path)


def answer(query: str, shown: list[tuple[str, int, bool]]) -> dict:
    """A line of a log whose passages are called like their ids."""
    entries = [{"id": k, "document": f"text {k}", "position": p, "clicked": c} for k, p, c in shown]
    return {"query": query, "shown": entries}


def write_log(folder: Path, answers: list[dict]) -> Path:
    """A log in the folder."""
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in answers))
    return path
