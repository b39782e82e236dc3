"""Settings are checked whole, and every mistake is told at once."""

from pathlib import Path

import pytest

from finemesh_trainer.config import CrossEncoderRun, EncoderRun, read_config
from finemesh_trainer.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
GOOD = """
name = "x"
output = "out"
base.folder = "base"
data.train = ["a.jsonl"]
training.steps = 10
training.batch_size = 2
training.learning_rate = 1e-4
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*encoder.toml")))
def test_shipped_configs_are_good(name: str) -> None:
    kind = CrossEncoderRun if "cross_encoder" in name else EncoderRun
    assert read_config(CONFIGS / name, kind).name


def test_all_mistakes_come_at_once_with_their_keys(tmp_path: Path) -> None:
    text = GOOD.replace("steps = 10", "steps = 0") + 'trained = "adapters"\nloss.kind = "hinge"\npairs.max_tokns = 3\n'
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, text), CrossEncoderRun)
    told = str(caught.value)
    assert all(key in told for key in ("training.steps", "loss.kind", "pairs.max_tokns", "run.toml: "))


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        (CrossEncoderRun, 'trained = "adapters"', r"\[adapters\] must be given exactly where"),
        (CrossEncoderRun, "pairs.max_tokens = 20", "max_query_tokens is 48; max_tokens must exceed it by 4"),
        (CrossEncoderRun, "training.warmup_steps = 10", "must be below steps = 10"),
        (CrossEncoderRun, "data.guards.copys = 'keep'", "data.guards.copys"),
        (EncoderRun, "sentence_loss.matryoshka = [64, 32]", "widths must ascend"),
        (EncoderRun, "texts.negatives = 0\nsentence_loss.kind = 'triplet'", "needs one or more"),
    ],
)
def test_rules_across_keys(tmp_path: Path, kind: type, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(written(tmp_path, GOOD + line), kind)


def test_values_of_the_command_line_stand_in_place_of_the_files(tmp_path: Path) -> None:
    overrides = ["training.steps=3", "name=other", "pairs.mark_exact_matches=false", 'data.train=["b", "c"]']
    run = read_config(written(tmp_path, GOOD), CrossEncoderRun, overrides)
    assert (run.training.steps, run.name, run.pairs.mark_exact_matches) == (3, "other", False)
    assert run.data.train == [Path("b"), Path("c")]


@pytest.mark.parametrize("override", ["training.steps", "=3", "name.x=3", "a..b=3"])
def test_an_override_without_a_key_or_value_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        read_config(written(tmp_path, GOOD), CrossEncoderRun, [override])


def test_no_file_and_no_toml_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.toml", EncoderRun)
    with pytest.raises(ConfigError, match="is not TOML"):
        read_config(written(tmp_path, "name = "), EncoderRun)
