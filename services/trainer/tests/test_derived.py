"""Runs nearer to their base, and runs as a base: what they compute."""

from pathlib import Path

import pytest
import torch
from test_encoder import run_of as encoder_run
from test_export import ADAPTERS, trained
from test_training import run_in as cross_encoder_run

from finemesh_trainer.cli import main
from finemesh_trainer.config import Base
from finemesh_trainer.encode_task import load_encoder
from finemesh_trainer.export import export
from finemesh_trainer.models.adapters import merged_state
from finemesh_trainer.models.base import load_base
from finemesh_trainer.models.cross_encoder import CrossEncoder
from finemesh_trainer.rerank_task import load_cross_encoder

WHOLE = {"trained": "all"}


def interpolate(folder: Path, output: Path, strength: str) -> int:
    return main(["interpolate", "--run", str(folder), "--strength", strength, "--output", str(output)])


@pytest.mark.parametrize("how", [WHOLE, ADAPTERS], ids=["whole", "adapters"])
def test_every_weight_lies_where_the_strength_says(base_folder: Path, tmp_path: Path, how: dict) -> None:
    folder = trained(encoder_run(base_folder, tmp_path / "run", **how))
    assert interpolate(folder, tmp_path / "quarter", "0.25") == 0
    there, here = load_encoder(folder), load_encoder(tmp_path / "quarter")
    base = load_base(there.run.base, 2, 0.0).state_dict()
    far, near = merged_state(there.bert), merged_state(here.bert)
    assert far.keys() == base.keys()
    for name, start in base.items():
        torch.testing.assert_close(near[name], start + 0.25 * (far[name] - start), atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(near[name], far[name]) for name in base)
    torch.testing.assert_close(here.token_head.weight, there.token_head.weight)


def test_full_strength_is_the_run_itself_and_can_be_exported(base_folder: Path, tmp_path: Path) -> None:
    folder = trained(encoder_run(base_folder, tmp_path / "run", **ADAPTERS))
    assert interpolate(folder, tmp_path / "same", "1") == 0
    texts = load_encoder(folder).inputs(["mesh", "dense vector index"])
    with torch.no_grad():
        torch.testing.assert_close(
            load_encoder(folder)(*texts).sentences, load_encoder(tmp_path / "same")(*texts).sentences
        )
    export(tmp_path / "same", tmp_path / "bundle", int8=None, base_apart=True)
    assert "1 (W_trained - W_base)" in (tmp_path / "bundle" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("strength", ["0", "1.5", "nan"])
def test_other_strengths_are_refused(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], strength: str
) -> None:
    folder = trained(encoder_run(base_folder, tmp_path / "run"))
    assert interpolate(folder, tmp_path / "other", strength) == 64
    assert "--strength: is" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("how", [WHOLE, ADAPTERS], ids=["whole", "adapters"])
def test_a_student_starts_from_the_layers_of_its_merged_teacher(base_folder: Path, tmp_path: Path, how: dict) -> None:
    teacher = load_cross_encoder(trained(cross_encoder_run(tmp_path / "teacher", base_folder, **how)))
    assert main(["merge", "--run", str(tmp_path / "teacher"), "--output", str(tmp_path / "merged")]) == 0
    run = cross_encoder_run(tmp_path / "student", tmp_path / "merged")
    student = CrossEncoder(run.model_copy(update={"base": Base(folder=tmp_path / "merged", layers=[1])}))
    expected = merged_state(teacher.bert)
    for name, weight in student.bert.state_dict().items():
        torch.testing.assert_close(weight, expected[name.replace("layer.0.", "layer.1.")])


def test_nothing_is_merged_over_something(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder))
    assert main(["merge", "--run", str(folder), "--output", str(folder)]) == 64
    assert "exists already" in capsys.readouterr().err
    assert main(["merge", "--run", str(tmp_path / "none"), "--output", str(tmp_path / "merged")]) == 64
    assert "holds no run" in capsys.readouterr().err
