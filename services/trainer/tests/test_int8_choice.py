"""The choice of precisions: the path, the bisection, and a bundle that keeps the gate."""

import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from test_export import trained
from test_training import run_in as cross_encoder_run
from tiny import PIECES

from finemesh_trainer.errors import ConfigError, TrainerError
from finemesh_trainer.export import export
from finemesh_trainer.heads.head import Head, HeadDocument, write_heads
from finemesh_trainer.int8_choice import (
    LEAST_SPEARMAN,
    Choice,
    choose,
    first_that_keeps_the_gate,
    open_session,
    path_to_exact,
    quantised_sizes,
)
from finemesh_trainer.models.graph import IR_VERSION, OPSET
from finemesh_trainer.models.int8 import BLOCK, MAX_BLOCK_CODE, Int8Graph, Precision, blocks_of_matrix
from finemesh_trainer.rerank_task import load_cross_encoder

PER_TOKEN, BLOCKS, EXACT = Precision


def toy_heads(count: int, documents: int) -> list[Head]:
    """Seeded heads of the tiny model's words."""
    words = [piece for piece in PIECES.split() if not piece.startswith("##")]
    draw = random.Random(3)

    def text(least: int, most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(least, most)))

    return [
        Head(f"q{number}", text(2, 5), {}, [HeadDocument(f"d{i}", -i, text(3, 20)) for i in range(documents)])
        for number in range(count)
    ]


def test_products_in_blocks_are_within_their_steps() -> None:
    torch.manual_seed(5)
    linear, inputs = torch.nn.Linear(96, 16), torch.randn(2, 3, 96)
    inputs[..., 1] *= 50
    weights = {"linear.weight": linear.weight.detach(), "linear.bias": linear.bias.detach()}
    graph = Int8Graph(weights, precisions={"linear": BLOCKS})
    graph.linear("inputs", "linear", "outputs")
    info = [onnx.helper.make_tensor_value_info(name, 1, ["a", "b", "c"]) for name in ("inputs", "outputs")]
    body = onnx.helper.make_graph(graph.nodes, "g", info[:1], info[1:], list(graph.initializers.values()))
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION)
    (got,) = open_session(model).run(None, {"inputs": inputs.numpy()})
    bound = sum(
        half_steps(inputs[..., block], linear.weight.detach()[:, block]) for block in (slice(0, 64), slice(64, 96))
    )
    assert (np.abs(got - linear(inputs).detach().numpy()) <= bound.numpy() + 1e-5).all()


def half_steps(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The most that a block's product can be off: half a step of each factor, on all of its values."""
    of_inputs = inputs.abs().amax(dim=-1, keepdim=True) / MAX_BLOCK_CODE / 2
    of_weights = weights.abs().amax(dim=1) / MAX_BLOCK_CODE / 2
    return (
        of_inputs * weights.abs().sum(dim=1) + (inputs.abs().sum(dim=-1, keepdim=True) + BLOCK * of_inputs) * of_weights
    )


def test_codes_of_a_matrix_are_around_their_zero() -> None:
    matrix = np.zeros((2, 70), dtype=np.float32)
    matrix[0, :2] = 1, -0.5
    matrix[1, 69] = -2
    codes, scales = blocks_of_matrix(matrix)
    assert (codes.shape, scales.shape) == ((2, 2, BLOCK), (2, 2))
    assert codes[0, 0, :3].tolist() == [255, 64, 128]
    assert codes[1, 1, 5] == 1
    assert scales[1, 1] == pytest.approx(2 / 127)


def test_the_path_takes_first_what_gives_most_for_its_time() -> None:
    found = {
        "worst": {PER_TOKEN: 9.0, BLOCKS: 8.0, EXACT: 0.0},
        "large": {PER_TOKEN: 9.0, BLOCKS: 1.0, EXACT: 0.0},
        "good": {PER_TOKEN: 0.1, BLOCKS: 0.0, EXACT: 0.0},
    }
    path = path_to_exact(found, {"worst": 1, "large": 4, "good": 1})
    assert path[0] == dict.fromkeys(found, PER_TOKEN)
    assert path[1] == path[0] | {"worst": EXACT}
    assert path[2] == path[1] | {"large": BLOCKS}
    assert path[-1] == dict.fromkeys(found, EXACT)


@pytest.mark.parametrize("first_good", range(6))
def test_the_first_that_keeps_the_gate_is_found(first_good: int) -> None:
    def measured(step: int) -> Choice:
        return Choice({"step": step}, [1.0, LEAST_SPEARMAN if step >= first_good else 0.98])

    assert first_that_keeps_the_gate(6, measured).precisions == {"step": first_good}


def test_every_head_keeps_its_order(base_folder: Path, tmp_path: Path) -> None:
    model = load_cross_encoder(trained(cross_encoder_run(tmp_path / "run", base_folder)))
    choice = choose(model, toy_heads(8, 12))
    assert choice.precisions.keys() == quantised_sizes(model).keys()
    assert min(choice.spearman) >= LEAST_SPEARMAN
    assert len(choice.spearman) == 8


def test_an_exported_bundle_says_what_was_chosen(base_folder: Path, tmp_path: Path) -> None:
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder))
    write_heads(tmp_path / "heads.jsonl", toy_heads(3, 12))
    export(folder, tmp_path / "bundle", int8=Precision.PER_TOKEN, base_apart=False, heads=[tmp_path / "heads.jsonl"])
    card = (tmp_path / "bundle" / "README.md").read_text("utf-8")
    assert "## Int8" in card
    assert "in 3 heads of training queries" in card
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text("utf-8"))["task"] == "rerank"


def test_heads_are_for_int8_cross_encoders_and_need_something_to_order(base_folder: Path, tmp_path: Path) -> None:
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder))
    write_heads(tmp_path / "heads.jsonl", toy_heads(2, 1))
    with pytest.raises(ConfigError, match="--heads: are for int8 cross-encoders"):
        export(folder, tmp_path / "bundle", int8=None, base_apart=False, heads=[tmp_path / "heads.jsonl"])
    with pytest.raises(TrainerError, match="no head has two documents"):
        export(
            folder, tmp_path / "bundle", int8=Precision.PER_TOKEN, base_apart=False, heads=[tmp_path / "heads.jsonl"]
        )
