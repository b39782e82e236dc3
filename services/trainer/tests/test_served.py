"""The whole loop at toy size: train, export, verify, serve, and the mesh ranks as PyTorch does.

Needs the binary: `cargo build -p finemesh`, or `FINEMESH_BINARY`.
"""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny import PIECES

from finemesh_trainer.cli import main
from finemesh_trainer.encode_task import load_encoder

ROOT = Path(__file__).parents[3]
DOCUMENTS, QUERIES, SEED = 300, 40, 7
HEAD = 10
LEAST_AGREEMENT = 0.98
"""Of the served top 10 with that of the training framework, by nDCG with PyTorch's top 10 as the relevant documents."""

TOY_AGREEMENT = 0.95
"""Mean share of the first ten that the served and PyTorch's ranking have in common."""


@pytest.fixture(scope="module")
def finemesh() -> Path:
    """The binary under test."""
    places = [os.environ.get("FINEMESH_BINARY", ""), ROOT / "target/debug/finemesh", ROOT / "target/release/finemesh"]
    for place in map(Path, filter(None, places)):
        if place.is_file():
            return place
    if os.environ.get("CI"):
        pytest.fail("no finemesh binary in target/, and FINEMESH_BINARY names none")
    pytest.skip("no finemesh binary: cargo build -p finemesh, or name one in FINEMESH_BINARY")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Seeded texts of the tiny model's words, all different."""
    words = [piece for piece in PIECES.split() if not piece.startswith("##")]
    draw = random.Random(SEED)
    return [" ".join(draw.choices(words, k=draw.randint(4, 20))) for _ in range(DOCUMENTS + QUERIES)]


def trained_bundle(model: str, base_folder: Path, folder: Path) -> Path:
    """A bundle of a toy run, by the two commands that a user types."""
    root = ROOT / "services/trainer/configs"
    settings = {
        "base.folder": base_folder,
        "output": folder / "run",
        "data.train": f'["{root / "toy_pairs.jsonl"}"]',
        f"{'texts' if model == 'encoder' else 'pairs'}.max_tokens": 60,
    }
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    config = root / f"toy_{model.replace('-', '_')}.toml"
    assert main(["train", model, "--config", str(config), *overrides]) == 0
    assert main(["export", "--run", str(folder / "run"), "--output", str(folder / "bundle")]) == 0
    return folder / "bundle"


def run(finemesh: Path, *arguments: str | Path) -> str:
    """What a command prints."""
    done = subprocess.run([finemesh, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(finemesh: Path, config: Path, data: Path) -> Iterator[str]:
    """The address of a mesh that runs meanwhile."""
    command = [finemesh, "--config", config, "--data", data, "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as mesh:
        try:
            yield next(line for line in mesh.stdout if "serves on" in line).split()[-1]
        finally:
            mesh.terminate()


def exact_heads(folder: Path, texts: list[str]) -> list[list[int]]:
    """PyTorch's best documents of each query."""
    model = load_encoder(folder)
    with torch.no_grad():
        documents = model(*model.inputs(model.passages(texts[:DOCUMENTS]))).sentences
        queries = model(*model.inputs(model.queries(texts[DOCUMENTS:]))).sentences
    return (queries @ documents.T).topk(HEAD).indices.tolist()


def write_judged(folder: Path, texts: list[str], heads: list[list[int]]) -> None:
    """The texts as a collection whose relevant documents are PyTorch's heads."""
    rows = [json.dumps({"_id": f"d{number}", "text": text}) for number, text in enumerate(texts[:DOCUMENTS])]
    (folder / "corpus.jsonl").write_text("\n".join(rows), "utf-8")
    rows = [json.dumps({"_id": f"q{number}", "text": text}) for number, text in enumerate(texts[DOCUMENTS:])]
    (folder / "queries.jsonl").write_text("\n".join(rows), "utf-8")
    rows = [f"q{query}\td{document}\t1" for query, head in enumerate(heads) for document in head]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]), "utf-8")


def test_a_trained_encoder_ranks_in_the_mesh_as_in_pytorch(
    finemesh: Path, texts: list[str], base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = trained_bundle("encoder", base_folder, tmp_path)
    run(finemesh, "models", "verify", bundle)
    write_judged(tmp_path, texts, exact_heads(tmp_path / "run", texts))
    config = tmp_path / "finemesh.toml"
    config.write_text(f'[server]\naddress = "127.0.0.1:0"\n[models]\nencoder_bundle = "{bundle}"\n', "utf-8")
    mesh = ["--config", config, "--data", tmp_path / "mesh"]
    collection = ["--collection", "toy"]
    run(
        finemesh,
        "index",
        *mesh,
        *collection,
        "--passage-tokens",
        "60",
        "--overlap-tokens",
        "8",
        tmp_path / "corpus.jsonl",
    )
    judged = ["--queries", tmp_path / "queries.jsonl", "--qrels", tmp_path / "qrels.tsv"]
    report = json.loads(run(finemesh, "eval", *mesh, *collection, *judged, "--pipeline", "dense", "--json"))
    assert report["queries"] == QUERIES
    assert report["pipelines"]["dense"]["ndcg@10"] >= LEAST_AGREEMENT
    with running(finemesh, config, tmp_path / "mesh") as address:
        gate = ["--run", tmp_path / "run", "--address", address, *collection, *judged]
        gate += ["--corpus", tmp_path / "corpus.jsonl", "--overlap-tokens", "0"]
        capsys.readouterr()
        agreements = []
        for passage_tokens in ("60", "6"):
            main(["parity", "encoder", *map(str, gate), "--passage-tokens", passage_tokens])
            agreements.append(float(capsys.readouterr().out.split("agree by ")[1].split("\n")[0]))
    # A toy's vectors are nearly alike: quantised, more of them change places than the gate lets through.
    assert agreements[0] >= TOY_AGREEMENT
    # Documents cut otherwise than they were indexed.
    assert agreements[1] < TOY_AGREEMENT


def test_a_trained_cross_encoder_is_verified(finemesh: Path, base_folder: Path, tmp_path: Path) -> None:
    bundle = trained_bundle("cross-encoder", base_folder, tmp_path)
    run(finemesh, "models", "verify", bundle)
    golden = bundle / "golden.json"
    tampered = json.loads(golden.read_text("utf-8"))
    tampered["entries"][0]["score"] += 1
    golden.write_text(json.dumps(tampered), "utf-8")
    refused = subprocess.run([finemesh, "models", "verify", bundle], capture_output=True, text=True, timeout=300)
    assert refused.returncode == 1
    assert "score" in refused.stderr
