"""A run gives the same weights however often it is cut off."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch

from finemesh_trainer.cli import main
from finemesh_trainer.config import CrossEncoderRun, Training
from finemesh_trainer.data.examples import Example, write_examples
from finemesh_trainer.errors import ConfigError, TrainerError
from finemesh_trainer.rerank_task import RerankTask, load_cross_encoder
from finemesh_trainer.training import Loop, batch_of, learning_rate, read_curve, trained_weights

WORDS = [
    "shard",
    "index",
    "mesh",
    "deadline",
    "budget",
    "vector",
    "sparse",
    "dense",
    "hybrid",
    "score",
    "rank",
    "stage",
]


def examples(count: int = 24) -> list[Example]:
    draw = random.Random(5)
    texts = [(" ".join(draw.sample(WORDS, 2)), draw.sample(WORDS, 6)) for _ in range(count)]
    return [
        Example(query, f"{query} {' '.join(more)}", (" ".join(more[:3]), " ".join(more[3:]))) for query, more in texts
    ]


def run_in(folder: Path, base: Path, **changes: object) -> CrossEncoderRun:
    settings = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every_steps": 2, "device": "cpu"}
    values = {
        "name": "toy",
        "output": folder,
        "base": {"folder": base},
        "data": {"train": ["unused.jsonl"]},
        "dropout": 0.1,
        "pairs": {"max_tokens": 32, "max_query_tokens": 8, "negatives": 3},
        "training": settings,
    }
    return CrossEncoderRun.model_validate(values | changes)


def loop_of(run: CrossEncoderRun) -> Loop:
    torch.manual_seed(1)
    return Loop(run, RerankTask(run, examples(), examples(4)))


def assert_equal_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("adapters", [None, {"rank": 4}])
def test_a_run_that_is_killed_twice_gives_the_weights_of_one_that_is_not(
    tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch, adapters: dict | None
) -> None:
    how = {"trained": "adapters" if adapters else "all", "adapters": adapters}
    whole = loop_of(run_in(tmp_path / "whole", base_folder, **how))
    assert whole.fit().finished

    # Killed in the third step, then in the sixth: what was not yet in a checkpoint is lost and computed again.
    for fatal_step in (3, 5):
        loop = loop_of(run_in(tmp_path / "cut", base_folder, **how))
        step = loop.step
        monkeypatch.setattr(loop, "step", lambda at, step=step, fatal=fatal_step: 1 / 0 if at == fatal else step(at))
        with pytest.raises(ZeroDivisionError):
            loop.fit()
    last = loop_of(run_in(tmp_path / "cut", base_folder, **how))
    assert last.restore() == 4
    assert last.fit().finished
    assert_equal_weights(trained_weights(whole.task.model), trained_weights(last.task.model))
    for name in ("weights.safetensors", "run.json"):
        left, right = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "cut"))
        assert left.replace(b"whole", b"cut") == right


def test_training_changes_every_weight_that_it_should_and_no_other(tmp_path: Path, base_folder: Path) -> None:
    run = run_in(tmp_path, base_folder, trained="layers")
    loop = loop_of(run)
    before = {name: tensor.clone() for name, tensor in loop.task.model.state_dict().items()}
    loop.fit()
    unchanged = {n for n, t in loop.task.model.state_dict().items() if torch.equal(t, before[n])}
    assert {"bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight"} <= unchanged
    assert all(name.startswith("bert.embeddings.") or ".key.bias" in name for name in unchanged)
    assert not unchanged & trained_weights(loop.task.model).keys() - {n for n in unchanged if ".key.bias" in n}


def test_a_signal_ends_the_run_behind_its_step_with_a_checkpoint(tmp_path: Path, base_folder: Path) -> None:
    loop = loop_of(run_in(tmp_path, base_folder))
    step = loop.step

    def step_under_a_signal(at: int) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(at)

    loop.step = step_under_a_signal
    outcome = loop.fit()
    assert (outcome.step, outcome.finished) == (1, False)
    assert loop_of(run_in(tmp_path, base_folder)).restore() == 1


def test_a_run_is_not_resumed_under_other_settings(tmp_path: Path, base_folder: Path) -> None:
    loop_of(run_in(tmp_path, base_folder)).fit()
    with pytest.raises(ConfigError, match=r"the run there has dropout = 0\.1, this one 0\.3"):
        loop_of(run_in(tmp_path, base_folder, dropout=0.3)).fit()


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, base_folder: Path) -> None:
    loop = loop_of(run_in(tmp_path, base_folder))
    loop.task.add_gradients = lambda batch, draw: float("nan")
    with pytest.raises(TrainerError, match="step 1: the loss is nan"):
        loop.fit()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_curve_has_losses_and_held_out_measures_once_each(tmp_path: Path, base_folder: Path) -> None:
    settings = {"steps": 20, "batch_size": 2, "learning_rate": 1e-3, "checkpoint_every_steps": 10, "device": "cpu"}
    loop_of(run_in(tmp_path, base_folder, training=settings)).fit()
    curve = read_curve(tmp_path / "curve.jsonl")
    assert [entry["step"] for entry in curve if "loss" in entry] == [10, 20]
    assert [entry["step"] for entry in curve if "held_out_mrr" in entry] == [10, 20]


def test_a_finished_run_scores_as_the_model_that_was_trained(tmp_path: Path, base_folder: Path) -> None:
    loop = loop_of(run_in(tmp_path, base_folder))
    loop.fit()
    lists = [["mesh index", "dense shard score"]]
    model = loop.task.model.eval()
    assert torch.equal(load_cross_encoder(tmp_path).score_lists(["mesh"], lists), model.score_lists(["mesh"], lists))


def test_every_example_comes_once_a_round_in_a_seeded_order() -> None:
    items = [Example(str(number), "passage") for number in range(10)]
    batches = [batch_of(items, 4, seed=3, step=step) for step in range(5)]
    taken = [example.query for batch in batches for example in batch]
    assert sorted(taken[:10]) == sorted(taken[10:]) == sorted(example.query for example in items)
    assert taken[:10] != taken[10:]
    assert batch_of(items, 4, seed=4, step=0) != batches[0]


def test_the_learning_rate_rises_and_falls_in_straight_lines() -> None:
    settings = Training(steps=10, batch_size=1, learning_rate=1.0, warmup_steps=2)
    assert [learning_rate(settings, step) for step in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.125]


def test_the_command_trains_and_says_what_is_wrong(
    tmp_path: Path, base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(tmp_path / "train.jsonl", examples())
    values = run_in(tmp_path / "run", base_folder, data={"train": [tmp_path / "train.jsonl"]}).model_dump(mode="json")
    config = tmp_path / "run.toml"
    config.write_text(toml_of(values))
    command = ["train", "cross-encoder", "--config", str(config)]
    assert main([*command, "--set", "training.steps=3"]) == 0
    assert "toy: step 3 of 3" in capsys.readouterr().out
    assert main([*command, "--set", "training.steps=0", "--set", "pairs.max_token=9"]) == 64
    told = capsys.readouterr().err
    assert "training.steps" in told
    assert "pairs.max_token" in told


def toml_of(values: dict, prefix: str = "") -> str:
    """TOML without what is None."""
    flat = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict | None)]
    tables = [
        f"[{prefix}{key}]\n{toml_of(value, f'{prefix}{key}.')}"
        for key, value in values.items()
        if isinstance(value, dict)
    ]
    return "\n".join([*flat, *tables])


def test_a_second_stage_starts_from_the_weights_of_the_first(tmp_path: Path, base_folder: Path) -> None:
    first = loop_of(run_in(tmp_path / "first", base_folder))
    first.fit()
    second = loop_of(run_in(tmp_path / "second", base_folder, start=tmp_path / "first"))
    assert second.restore() == 0
    assert_equal_weights(trained_weights(first.task.model), trained_weights(second.task.model))


def test_a_second_stage_of_another_shape_is_refused(tmp_path: Path, base_folder: Path) -> None:
    how = {"trained": "adapters", "adapters": {"rank": 4}}
    loop_of(run_in(tmp_path / "first", base_folder, **how)).fit()
    other = how | {"adapters": {"rank": 2}, "start": tmp_path / "first"}
    with pytest.raises(TrainerError, match=r"is \[4, 32\] there and \[2, 32\] here"):
        loop_of(run_in(tmp_path / "second", base_folder, **other)).fit()
    with pytest.raises(ConfigError, match="has not reached a checkpoint"):
        loop_of(run_in(tmp_path / "third", base_folder, start=tmp_path / "none")).fit()
