"""A few steps of training become a bundle, and ONNX Runtime gives over it what PyTorch gave."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_encoder import examples as encoder_examples
from test_encoder import run_of as encoder_run
from test_training import examples as lists
from test_training import run_in as cross_encoder_run

from finemesh_trainer.cli import main
from finemesh_trainer.config import Run
from finemesh_trainer.encode_task import EncodeTask
from finemesh_trainer.errors import ConfigError, TrainerError
from finemesh_trainer.export import export, rounded_up
from finemesh_trainer.models.graph import IR_VERSION, OPSET
from finemesh_trainer.models.int8 import HALF_STEPS, MAX_WEIGHT_CODE, STEPS, Int8Graph, Precision, quantized_matrix
from finemesh_trainer.rerank_task import RerankTask, load_cross_encoder
from finemesh_trainer.training import Loop

ADAPTERS = {"trained": "adapters", "adapters": {"rank": 4}}


def trained(run: Run) -> Path:
    """The folder of a short run."""
    torch.manual_seed(1)
    task = EncodeTask(run, encoder_examples(), []) if run.task == "encode" else RerankTask(run, lists(), [])
    Loop(run, task).fit()
    return run.output


def read(bundle: Path, name: str) -> dict:
    return json.loads((bundle / name).read_text("utf-8"))


def scores(bundle: Path, pairs: list[dict]) -> np.ndarray:
    """What ONNX Runtime gives for golden pairs, laid out by hand."""
    tokens = max(len(pair["token_ids"]) for pair in pairs)
    rows = {"input_ids": "token_ids", "token_type_ids": "segment_ids"}
    inputs = {
        name: np.array([pair[key] + [0] * (tokens - len(pair[key])) for pair in pairs]) for name, key in rows.items()
    }
    mask = [[1] * len(pair["token_ids"]) + [0] * (tokens - len(pair["token_ids"])) for pair in pairs]
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["score"], inputs | {"attention_mask": np.array(mask)})[0]


@pytest.mark.parametrize("adapters", [{}, ADAPTERS], ids=["whole", "adapters"])
@pytest.mark.parametrize("base_apart", [False, True])
def test_a_rerank_bundle_gives_the_golden_scores(
    base_folder: Path, tmp_path: Path, adapters: dict, base_apart: bool
) -> None:
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder, **adapters))
    export(folder, tmp_path / "bundle", int8=None, base_apart=base_apart)
    description, golden = read(tmp_path / "bundle", "bundle.json"), read(tmp_path / "bundle", "golden.json")
    assert description["task"] == "rerank"
    assert description["pair"] == {"max_query_tokens": 8, "segments": "exact_match_v1"}
    expected = [entry["score"] for entry in golden["entries"]]
    assert max(expected) - min(expected) > 0.01
    np.testing.assert_allclose(scores(tmp_path / "bundle", golden["entries"]), expected, atol=description["tolerance"])
    model = load_cross_encoder(folder)
    with torch.no_grad():
        again = [model.score_lists([entry["query"]], [[entry["passage"]]]).item() for entry in golden["entries"]]
    assert again == pytest.approx(expected, abs=1e-6)


def test_int8_scores_do_not_depend_on_the_batch(base_folder: Path, tmp_path: Path) -> None:
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder))
    export(folder, tmp_path / "bundle", int8=Precision.PER_TOKEN, base_apart=False)
    golden = read(tmp_path / "bundle", "golden.json")["entries"]
    alone = np.concatenate([scores(tmp_path / "bundle", [entry]) for entry in golden])
    np.testing.assert_allclose(scores(tmp_path / "bundle", golden), alone, atol=1e-5)


@pytest.mark.parametrize("behind_gelu", [False, True])
def test_int8_products_are_within_their_steps(behind_gelu: bool) -> None:
    torch.manual_seed(7)
    linear, inputs = torch.nn.Linear(64, 16), torch.randn(3, 5, 64)
    inputs[1, 2] *= 50
    graph = Int8Graph({"linear.weight": linear.weight.detach(), "linear.bias": linear.bias.detach()})
    states = graph.node("Gelu" if behind_gelu else "Identity", ["inputs"], "states")
    graph.linear(states, "linear", "outputs")
    info = [onnx.helper.make_tensor_value_info(name, 1, ["a", "b", "c"]) for name in ("inputs", "outputs")]
    body = onnx.helper.make_graph(graph.nodes, "g", info[:1], info[1:], list(graph.initializers.values()))
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"inputs": inputs.numpy()})
    values = torch.nn.functional.gelu(inputs) if behind_gelu else inputs
    expected = linear(values).detach().numpy()
    # Half a step of each factor, in the worst case on all 64 products.
    steps = values.abs().amax(dim=2, keepdim=True).numpy() / HALF_STEPS
    weights = linear.weight.detach().abs()
    bound = (steps / 2 * weights.sum(dim=1).numpy()) + (
        values.abs().sum(dim=2, keepdim=True).numpy() * weights.amax(dim=1).numpy() / MAX_WEIGHT_CODE
    )
    assert (np.abs(got - expected) <= bound).all()
    # The large token does not coarsen the others.
    assert np.abs(got - expected)[0].max() < 0.1


def test_no_sum_of_two_products_exceeds_16_bits() -> None:
    assert STEPS * MAX_WEIGHT_CODE * 2 < 2**15
    codes, scales = quantized_matrix(np.array([[1.0, -0.5, 0.004], [0, 0, 0]], dtype=np.float32))
    assert codes.tolist() == [[90, 0], [-45, 0], [0, 0]]
    assert scales[0] == pytest.approx(1 / 90)


def test_what_the_base_has_is_referred_to(base_folder: Path, tmp_path: Path) -> None:
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder, **ADAPTERS))
    export(folder, tmp_path / "bundle", int8=None, base_apart=True)
    graph = onnx.load(tmp_path / "bundle" / "model.onnx", load_external_data=False).graph
    external = {tensor.name for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}
    assert "bert.embeddings.word_embeddings.weight" in external
    assert "bert.encoder.layer.1.output.dense.weight" in external
    assert not any(name.endswith((".up", ".down", "token_type_embeddings.weight")) for name in external)


def test_an_int8_bundle_keeps_its_own_tolerance(base_folder: Path, tmp_path: Path) -> None:
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder))
    exported = export(folder, tmp_path / "bundle", int8=Precision.PER_TOKEN, base_apart=True)
    golden = read(tmp_path / "bundle", "golden.json")["entries"]
    expected = np.array([entry["score"] for entry in golden])
    assert 0 < exported.difference <= exported.tolerance
    np.testing.assert_allclose(scores(tmp_path / "bundle", golden), expected, atol=exported.tolerance)
    operators = {node.op_type for node in onnx.load(tmp_path / "bundle" / "model.onnx").graph.node}
    assert "MatMulInteger" in operators


def test_all_matrices_of_a_cross_encoder_can_be_in_blocks(base_folder: Path, tmp_path: Path) -> None:
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder))
    export(folder, tmp_path / "bundle", int8=Precision.BLOCKS, base_apart=True)
    operators = {node.op_type for node in onnx.load(tmp_path / "bundle" / "model.onnx").graph.node}
    assert "MatMulNBits" in operators
    assert "MatMulInteger" not in operators


def test_an_encoder_has_no_blocks(base_folder: Path, tmp_path: Path) -> None:
    folder = trained(encoder_run(base_folder, tmp_path / "run"))
    with pytest.raises(ConfigError, match="blocks is for cross-encoders"):
        export(folder, tmp_path / "bundle", int8=Precision.BLOCKS, base_apart=False)


def test_a_model_serves_more_tokens_than_it_was_trained_with(base_folder: Path, tmp_path: Path) -> None:
    run = cross_encoder_run(
        tmp_path / "run", base_folder, pairs={"max_tokens": 40, "training_max_tokens": 24, "max_query_tokens": 8}
    )
    task = RerankTask(run, lists(), [])
    assert task.model.tokenizer.max_tokens == 24
    export(trained(run), tmp_path / "bundle", int8=None, base_apart=False)
    assert read(tmp_path / "bundle", "bundle.json")["max_tokens"] == 40


@pytest.mark.parametrize("tokens", [None, {"width": 12}])
@pytest.mark.parametrize("int8", [None, Precision.PER_TOKEN])
def test_an_encode_bundle_gives_the_golden_vectors(
    base_folder: Path, tmp_path: Path, tokens: dict | None, int8: Precision | None
) -> None:
    loss = {"kind": "in_batch_negatives", "matryoshka": [8, 16]}
    folder = trained(encoder_run(base_folder, tmp_path / "run", token_loss=tokens, sentence_loss=loss))
    exported = export(folder, tmp_path / "bundle", int8=int8, base_apart=False)
    description, golden = read(tmp_path / "bundle", "bundle.json"), read(tmp_path / "bundle", "golden.json")
    assert description["matryoshka_dimensions"] == [8, 16, 32]
    assert description["token_dimensions"] == (12 if tokens else 0)
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx", providers=["CPUExecutionProvider"])
    for entry in golden["entries"]:
        ids = np.array([entry["token_ids"]])
        outputs = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        np.testing.assert_allclose(outputs[0][0], entry["vector"], atol=exported.tolerance)
        assert np.linalg.norm(entry["vector"]) == pytest.approx(1, abs=1e-5)
        if "token_vectors" in entry:
            np.testing.assert_allclose(outputs[1].ravel(), entry["token_vectors"], atol=exported.tolerance)
    assert ("token_vectors" in golden["entries"][0]) == (tokens is not None)


def test_a_graph_that_computes_something_else_is_refused_and_leaves_nothing(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough for golden pairs of different lengths: it is the padding that goes wrong here.
    pairs = {"max_tokens": 60, "max_query_tokens": 20, "negatives": 3}
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder, pairs=pairs))
    weights = load_file(folder / "weights.safetensors")
    save_file(weights | {"score.weight": weights["score.weight"] * 100}, folder / "weights.safetensors")
    monkeypatch.setattr("finemesh_trainer.models.graph.MASKED", 0.0)
    with pytest.raises(TrainerError, match="the graph differs from PyTorch by"):
        export(folder, tmp_path / "bundle", int8=None, base_apart=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_bundle_is_not_written_over_another_nor_without_a_run(base_folder: Path, tmp_path: Path) -> None:
    folder = trained(cross_encoder_run(tmp_path / "run", base_folder))
    with pytest.raises(ConfigError, match="exists already"):
        export(folder, folder, int8=None, base_apart=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds no run: run.json is missing"):
        export(tmp_path / "empty", tmp_path / "bundle", int8=None, base_apart=False)


@pytest.mark.parametrize("model", ["encoder", "cross-encoder"])
def test_the_shipped_toy_configs_go_from_pairs_to_bundles(
    base_folder: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    run = tmp_path / "run"
    config = f"configs/toy_{model.replace('-', '_')}.toml"
    small = ["--set", f"base.folder={base_folder}", "--set", f"output={run}"]
    limits = ["--set", f"{'texts' if model == 'encoder' else 'pairs'}.max_tokens=60"]
    assert main(["train", model, "--config", config, *small, *limits]) == 0
    assert main(["export", "--run", str(run), "--output", str(tmp_path / "bundle")]) == 0
    assert "differs from PyTorch by" in capsys.readouterr().out
    card = (tmp_path / "bundle" / "README.md").read_text("utf-8")
    assert "toy_pairs.jsonl" in card
    assert "Loss " in card


def test_tolerances_are_rounded_up_to_two_digits() -> None:
    assert [rounded_up(value) for value in (0.0123, 0.4701, 3.0, 0.00991)] == [0.013, 0.48, 3.0, 0.01]
