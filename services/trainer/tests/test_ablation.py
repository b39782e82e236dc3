"""The ablation's script: it trains what is missing, once, and compares."""

import json
import sys
from pathlib import Path

import pytest
from test_training import examples

from finemesh_trainer.config import read_config
from finemesh_trainer.data.examples import write_examples
from finemesh_trainer.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parents[1] / "benches"))
from ablation import Ablation, run

BASE = """
name = "toy"
output = "unused"
base.folder = "{base}"
data.train = ["{lists}"]
pairs = {{ max_tokens = 32, max_query_tokens = 8, negatives = 3 }}
training = {{ steps = 6, batch_size = 4, learning_rate = 1e-3, device = "cpu" }}
"""


@pytest.fixture
def ablation(base_folder: Path, tmp_path: Path) -> Ablation:
    """Two variants of a toy run."""
    write_examples(tmp_path / "lists.jsonl", examples())
    base = tmp_path / "base.toml"
    base.write_text(BASE.format(base=base_folder, lists=tmp_path / "lists.jsonl"), "utf-8")
    variants = [
        {"name": "whole"},
        {"name": "unmarked", "set": ["pairs.mark_exact_matches=false"], "against": "whole"},
    ]
    return Ablation(
        base=base,
        output=tmp_path / "runs",
        held_out=[tmp_path / "lists.jsonl"],
        set=["training.steps=2"],
        variants=variants,
    )


def test_variants_are_trained_once_and_compared(ablation: Ablation) -> None:
    table = run(ablation)
    lines = table.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| whole | ")
    assert "| to whole: " in lines[3]
    checkpoint = ablation.output / "whole" / "checkpoint.pt"
    before = checkpoint.stat().st_mtime_ns
    assert run(ablation) == table
    assert checkpoint.stat().st_mtime_ns == before
    again = {"name": "again", "run": ablation.output / "whole", "against": "whole"}
    reused = run(Ablation(**(ablation.model_dump() | {"variants": [{"name": "whole"}, again]})))
    assert reused.splitlines()[-1].endswith("| to whole: +0.0000 [+0.0000, +0.0000] |")
    settings = json.loads((ablation.output / "unmarked" / "run.json").read_text("utf-8"))
    assert settings["pairs"]["mark_exact_matches"] is False


def test_comparisons_with_what_is_not_there_are_refused(ablation: Ablation) -> None:
    for variants, message in [
        ([{"name": "a", "against": "b"}], "b is no variant further up"),
        ([{"name": "a"}, {"name": "a"}], "a stands further up already"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run(Ablation(**(ablation.model_dump() | {"variants": variants})))
    assert not ablation.output.exists()


def test_the_shipped_ablation_is_read() -> None:
    read = read_config(Path(__file__).parents[1] / "configs" / "ablation.toml", Ablation)
    assert [variant.name for variant in read.variants if variant.against] == [
        "unmarked",
        "random-negatives",
        "corrected-clicks",
    ]
