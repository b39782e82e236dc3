"""`clicks`, `synthesize` and `check` from the command line: what is printed, written and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from click_simulator import LinearWorld

from finemesh_trainer.cli import main
from finemesh_trainer.data.examples import Example, read_examples, write_examples

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"


def test_clicks_writes_weighted_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = LinearWorld.draw(30, 5, np.array([1.0, 0.0]), np.random.default_rng(1))
    log = world.log(tmp_path / "log.jsonl", np.array([0.5, 1.0]), [1.0, 0.5, 0.4, 0.3, 0.2], 10, seed=1)
    assert main(["clicks", str(log), "--output", str(tmp_path / "out.jsonl.gz")]) == 0
    examples = read_examples(tmp_path / "out.jsonl.gz")
    assert np.mean([example.weight for example in examples]) == pytest.approx(1)
    printed = capsys.readouterr().out
    assert "position  propensity" in printed
    assert f"{len(examples)} examples from" in printed


def test_given_propensities_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [{"document": text, "position": n, "clicked": n == 2} for n, text in enumerate("abc", start=1)]
    (tmp_path / "log.jsonl").write_text(json.dumps({"query": "q", "shown": shown}))
    (tmp_path / "given.jsonl").write_text('{"position": 1, "propensity": 1}\n{"position": 2, "propensity": 0.25}')
    arguments = ["clicks", str(tmp_path / "log.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main([*arguments, "--propensities", str(tmp_path / "given.jsonl")]) == 0
    assert read_examples(tmp_path / "out.jsonl") == [Example("q", "b", ("a",))]
    assert "1 views at positions without a propensity are left out" in capsys.readouterr().out


def test_a_log_without_positions_exits_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_text('{"query": "q", "shown": [{"document": "a", "clicked": true}]}')
    assert main(["clicks", str(tmp_path / "log.jsonl"), "--output", str(tmp_path / "out.jsonl")]) == 64
    assert "log.jsonl:1: shown[0].position: is missing" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_synthesize_writes_the_styles_that_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"_id": f"d{n}", "title": f"About the number {n}", "text": f"{LONG} {LONG} {n}"} for n in range(9)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ["synthesize", str(tmp_path), "--output", str(tmp_path / "out.jsonl"), "--styles", "title"]
    assert main([*arguments, "--skip", "2", "--per-style", "50"]) == 0
    assert sorted(example.positive_id for example in read_examples(tmp_path / "out.jsonl")) == [
        f"d{n}" for n in range(2, 9)
    ]
    assert capsys.readouterr().out == "title           7\n"


def test_a_corpus_that_gives_nothing_exits_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "short"}')
    assert main(["synthesize", str(tmp_path), "--output", str(tmp_path / "out.jsonl")]) == 64
    assert "corpus.jsonl: gives no example among 1 documents" in capsys.readouterr().err


def test_check_prints_a_table_and_writes_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = tmp_path / "train.jsonl"
    write_examples(train, [Example("q", LONG), Example("Q", LONG), Example("three four five six seven", LONG)])
    assert main(["check", str(train), "--policy", "copies=keep", "--output", str(tmp_path / "left.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert f"repeated_pairs             1 drop    {train}:2: " in printed
    assert f"copies                     1 keep    {train}:3: " in printed
    assert "2 of 3 examples are left" in printed
    assert [example.query for example in read_examples(tmp_path / "left.jsonl")] == ["q", "three four five six seven"]


def test_check_exits_64_on_a_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    write_examples(train, [Example("other", LONG), Example("Same question?", LONG)])
    write_examples(held_out, [Example("same question", "somewhere else")])
    arguments = ["check", str(train), "--test", str(held_out), "--output", str(tmp_path / "left.jsonl")]
    assert main(arguments) == 64
    captured = capsys.readouterr()
    assert "leaked_queries             1 refuse" in captured.out
    assert captured.err == f'{train}:2: "Same question?" is the text of query of line 1 of held.jsonl\n'
    assert not (tmp_path / "left.jsonl").exists()
    assert main([*arguments, "--policy", "leaked_queries=drop"]) == 0
    assert [example.query for example in read_examples(tmp_path / "left.jsonl")] == ["other"]


def test_unknown_guards_and_actions_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_examples(tmp_path / "train.jsonl", [Example("q", LONG)])
    policies = ["--policy", "nothing=drop", "--policy", "copies=cap"]
    assert main(["check", str(tmp_path / "train.jsonl"), *policies]) == 64
    problems = capsys.readouterr().err.splitlines()
    assert problems[0].startswith("--policy nothing=drop: 'nothing' is none of leaked_queries, ")
    assert problems[1] == "--policy copies=cap: 'cap' is none of refuse, drop, keep"
