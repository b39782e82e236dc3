"""sentence-transformers' CrossEncoder over the weights of a served bundle: PyTorch, and ONNX with int8 weights.

The shipped bundle is int8. What its codes stand for, in f32, is a model of its own: `exact_bundle` writes it as the
trainer writes f32 bundles, so that the service and its peers compute the same model in f32, and the peers quantise it
their own way.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from finemesh_trainer.models.graph import Graph, add_bert
from finemesh_trainer.models.int8 import GELU_FLOOR
from onnxruntime.quantization import QuantType, quantize_dynamic
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

BATCH_PAIRS = 32
HEAD_WIDTH = 32
CODES = ".codes"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

Pairs = Sequence[tuple[str, str]]
Predict = Callable[[Pairs], np.ndarray]

disable_progress_bar()


def weights_of(bundle: Path) -> dict[str, torch.Tensor]:
    """All weights in f32, by PyTorch's names."""
    graph = onnx.load(bundle / "model.onnx").graph
    stored = {it.name: onnx.numpy_helper.to_array(it) for it in graph.initializer}
    weights = {name: value for name, value in stored.items() if name.endswith((".weight", ".bias"))}
    for name in stored:
        if name.endswith(CODES):
            weights |= decoded(name.removesuffix(CODES), stored)
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in weights.items()}


def decoded(prefix: str, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A layer that the trainer quantised per token (finemesh_trainer.models.int8)."""
    codes, scales = stored[f"{prefix}{CODES}"], stored[f"{prefix}.scales"]
    is_behind_gelu = prefix.endswith(".output.dense") and not prefix.endswith(".attention.output.dense")
    floor = GELU_FLOOR if is_behind_gelu else np.float32(0)
    raised_by = floor * codes.sum(axis=0, dtype=np.int32) * scales
    weight = codes.T.astype(np.float32) * scales[:, None]
    return {f"{prefix}.weight": weight, f"{prefix}.bias": stored[f"{prefix}.shifted_bias"] - raised_by}


def config_of(weights: dict[str, torch.Tensor]) -> BertConfig:
    """The shape of the model."""
    layers = 1 + max(int(name.split(".")[3]) for name in weights if name.startswith("bert.encoder.layer."))
    segments, width = weights["bert.embeddings.token_type_embeddings.weight"].shape
    return BertConfig(
        num_hidden_layers=layers,
        type_vocab_size=segments,
        num_labels=1,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=width // HEAD_WIDTH,
    )


def exact_bundle(bundle: Path, copy: Path) -> Path:
    """The same model in f32, as a bundle."""
    shutil.copytree(bundle, copy)
    weights = weights_of(bundle)
    graph = Graph(weights)
    states = add_bert(graph, config_of(weights), "bert.", with_segments=True, first_only=True)
    logit = graph.linear(states, "score", "logit", exact=True)
    graph.node("Reshape", [logit, graph.constant("flat", np.array([-1]))], "score")
    onnx.save(graph.model("cross_encoder", list(INPUTS), {"score": ["batch"]}), copy / "model.onnx")
    (copy / "model.safetensors").unlink(missing_ok=True)
    return copy


def limit_of(bundle: Path) -> int:
    """Tokens that the model reads."""
    return json.loads((bundle / "bundle.json").read_text("utf-8"))["max_tokens"]


def tokenizer_of(bundle: Path) -> PreTrainedTokenizerFast:
    """The bundle's tokenizer for PyTorch's library."""
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    file = str(bundle / "tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_file=file, model_input_names=list(INPUTS), **special)


def pytorch(exact: Path, folder: Path, threads: int) -> Predict:
    """`CrossEncoder.predict`. The pooler, which the bundle has not, is random: it costs what a trained one costs."""
    torch.set_num_threads(threads)
    weights = weights_of(exact)
    model = BertForSequenceClassification(config_of(weights))
    model.load_state_dict(weights, strict=False)
    model.save_pretrained(folder)
    tokenizer_of(exact).save_pretrained(folder)
    encoder = CrossEncoder(str(folder), max_length=limit_of(exact), device="cpu")
    return lambda pairs: encoder.predict(list(pairs), batch_size=BATCH_PAIRS, show_progress_bar=False)


def onnx_int8(exact: Path, file: Path, threads: int) -> Predict:
    """The f32 graph quantised as the ONNX backend's export does it, in the backend's loop.

    That is: longest pairs first, batches of 32, padded to the longest.
    """
    if not file.exists():
        quantize_dynamic(exact / "model.onnx", file, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    cut, limit = tokenizer_of(exact), limit_of(exact)

    def score(pairs: Pairs) -> np.ndarray:
        read = cut(list(pairs), padding=True, truncation=True, max_length=limit, return_tensors="np")
        return session.run(None, {name: read[name].astype(np.int64) for name in INPUTS})[0]

    def predict(pairs: Pairs) -> np.ndarray:
        by_length = sorted(range(len(pairs)), key=lambda at: -len(pairs[at][0]) - len(pairs[at][1]))
        scores = np.empty(len(pairs), np.float32)
        for start in range(0, len(pairs), BATCH_PAIRS):
            chunk = by_length[start : start + BATCH_PAIRS]
            scores[chunk] = score([pairs[at] for at in chunk])
        return scores

    return predict
