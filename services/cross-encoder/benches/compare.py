"""The service against sentence-transformers, in one run: the same weights, the same passages of mixed length, the same cores.

    python compare.py --library LIBONNXRUNTIME --f32 BUNDLE --int8 BUNDLE [--cores 1 2] [--calls 60]

Needs sentence-transformers, onnx and onnxruntime (the trainer's environment has them) and cargo. On so many cores, pinned, one after
the other:

* `rerank.rs` beside this file, for both bundles: the real service over loopback TCP;
* PyTorch: `CrossEncoder.predict` over a BERT that has the f32 bundle's weights (the pooler, which the bundle has not, is random);
* ONNX int8: the f32 bundle's graph quantised by `quantize_dynamic`, int8 weights, as the ONNX backend's export does it, in the
  backend's loop: pairs sorted by length, batches of 32, padded to the longest.

A call has a query and 20 passages of about 64, 128 or 256 tokens, drawn from a seed. Peers get all pairs of all calls at once, which
is the best case for their sorting; the service gets the calls one by one, four callers at a time.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

SEED = 20
PASSAGES = 20
CALLERS = 4
PASSAGE_TOKENS = (64, 128, 256)
LENGTH_DEVIATION = 0.15
MAX_TOKENS = 384
PEER_BATCH = 32
RERANK = ("cargo", "bench", "-q", "-p", "cross-encoder", "--bench", "rerank", "--")


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        calls = make_calls(arguments.f32, arguments.calls)
        calls_file = folder / "calls.jsonl"
        calls_file.write_text("\n".join(map(json.dumps, calls)), "utf-8")
        pairs = [(call["query"], passage) for call in calls for passage in call["passages"]]
        bundles = {name: longer(getattr(arguments, name), folder / name) for name in ("f32", "int8")}
        print("| cores | service f32 | PyTorch f32 | ratio | service int8 | ONNX int8 | ratio |")
        print("|---|---|---|---|---|---|---|")
        for cores in arguments.cores:
            os.sched_setaffinity(0, range(cores))
            ours = {name: service(arguments.library, bundle, calls_file, cores) for name, bundle in bundles.items()}
            torch_rate = rate(pytorch(arguments.f32, folder / "hf", cores), pairs)
            onnx_rate = rate(onnx_int8(arguments.f32, folder / "q.onnx", cores), pairs)
            print_row(cores, ours, torch_rate, onnx_rate)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True, help="libonnxruntime")
    parser.add_argument("--f32", type=Path, required=True, help="bundle folder")
    parser.add_argument("--int8", type=Path, required=True, help="bundle folder of the same model")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--calls", type=int, default=60)
    return parser.parse_args()


def make_calls(bundle: Path, count: int) -> list[dict]:
    """Calls of words that are one token each."""
    draw = random.Random(SEED)
    vocabulary = json.loads((bundle / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2)

    def text(tokens: int) -> str:
        return " ".join(draw.choice(words) for _ in range(tokens))

    def passage() -> str:
        return text(max(8, round(draw.gauss(1, LENGTH_DEVIATION) * draw.choice(PASSAGE_TOKENS))))

    return [{"query": text(6), "passages": [passage() for _ in range(PASSAGES)]} for _ in range(count)]


def longer(bundle: Path, copy: Path) -> Path:
    """The bundle, reading MAX_TOKENS; golden pairs that the shorter limit cut are left out."""
    shutil.copytree(bundle, copy)
    description = json.loads((copy / "bundle.json").read_text("utf-8"))
    golden = json.loads((copy / "golden.json").read_text("utf-8"))
    limit = description["max_tokens"]
    golden["entries"] = [entry for entry in golden["entries"] if len(entry["token_ids"]) < limit]
    description["max_tokens"] = MAX_TOKENS
    (copy / "bundle.json").write_text(json.dumps(description), "utf-8")
    (copy / "golden.json").write_text(json.dumps(golden), "utf-8")
    return copy


def service(library: Path, bundle: Path, calls: Path, threads: int) -> dict:
    """What `rerank.rs` reports."""
    inputs = [str(path.resolve()) for path in (library, bundle, calls)]
    command = [*RERANK, *inputs, str(threads), str(CALLERS)]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def pytorch(bundle: Path, folder: Path, threads: int) -> Callable[[list], object]:
    torch.set_num_threads(threads)
    weights = initializers(bundle)
    layers = 1 + max(int(name.split(".")[3]) for name in weights if name.startswith("bert.encoder.layer."))
    segments, width = weights["bert.embeddings.token_type_embeddings.weight"].shape
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 32}
    config = BertConfig(num_hidden_layers=layers, type_vocab_size=segments, num_labels=1, **sizes)
    model = BertForSequenceClassification(config)
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in weights.items()}, strict=False)
    model.save_pretrained(folder)
    tokenizer(bundle).save_pretrained(folder)
    encoder = CrossEncoder(str(folder), max_length=MAX_TOKENS, device="cpu")
    return lambda pairs: encoder.predict(pairs, batch_size=PEER_BATCH, show_progress_bar=False)


def initializers(bundle: Path) -> dict[str, numpy.ndarray]:
    graph = onnx.load(bundle / "model.onnx").graph
    return {it.name: onnx.numpy_helper.to_array(it) for it in graph.initializer if it.name.startswith("bert.")}


def tokenizer(bundle: Path) -> PreTrainedTokenizerFast:
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_file=str(bundle / "tokenizer.json"), **tokens)


def onnx_int8(bundle: Path, file: Path, threads: int) -> Callable[[list], object]:
    quantize_dynamic(bundle / "model.onnx", file, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    cut = tokenizer(bundle)

    def batch(pairs: list) -> numpy.ndarray:
        inputs = cut(pairs, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="np")
        names = ("input_ids", "attention_mask", "token_type_ids")
        return session.run(None, {name: inputs[name].astype(numpy.int64) for name in names})[0]

    def predict(pairs: list) -> list[numpy.ndarray]:
        by_length = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]), reverse=True)
        return [batch(by_length[at : at + PEER_BATCH]) for at in range(0, len(pairs), PEER_BATCH)]

    return predict


def rate(predict: Callable[[list], object], pairs: list) -> float:
    predict(pairs[:PEER_BATCH])
    started = time.perf_counter()
    predict(pairs)
    return len(pairs) / (time.perf_counter() - started)


def print_row(cores: int, ours: dict[str, dict], torch_rate: float, onnx_rate: float) -> None:
    f32, int8 = (ours[name]["passages_per_second"] for name in ("f32", "int8"))
    rates = (
        f"{f32:.1f} | {torch_rate:.1f} | {f32 / torch_rate:.2f} | {int8:.1f} | {onnx_rate:.1f} | {int8 / onnx_rate:.2f}"
    )
    print(f"| {cores} | {rates} |", flush=True)
    for name, report in ours.items():
        print(f"{name} on {cores}: {json.dumps(report)}", flush=True)


if __name__ == "__main__":
    main()
