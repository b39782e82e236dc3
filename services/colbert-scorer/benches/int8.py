"""What cutting, pooling and coding token vectors costs: nDCG@10 of the blend, against f32 of full and of stored width.

    python services/colbert-scorer/benches/int8.py --finemesh target/release/finemesh --bundle BUNDLE \\
        --collection papers --queries papers/queries.jsonl --qrels papers/qrels/test.tsv

Needs the trainer's packages, and a running mesh with a collection that has the stage colbert. For each judged query the
first 100 documents of `hybrid` are scored twice by the passage that each is shown by: by the served codes, whose
matches `search --explain` tells, and in f32 by the bundle's own graph. Both are blended with the scores of `hybrid` as
the pipeline does it. With the collection's `token_rotation.bin` (in the folder of a snapshot) the codes are also
compared with f32 vectors that were rotated and cut as theirs were: what is left then is the codes' own.
"""

import argparse
import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from finemesh_trainer.data.beir import read_queries
from finemesh_trainer.heads.fetch import drawn, read_grades
from finemesh_trainer.heads.head import Head, HeadDocument
from finemesh_trainer.heads.measure import agreement, blended, ndcg, spearman
from finemesh_trainer.models.base import load_tokenizer

WINDOW = 100
SEED, RESAMPLES = 1, 2000
WEIGHTS = (0.2, 1.0)
"""The default, and token vectors alone within the window."""

Scores = list[np.ndarray]
"""Of each head's documents, in their order."""


def main() -> None:
    """Prints a row for each weight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finemesh", type=Path, required=True, metavar="FILE")
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the collection was built with it")
    parser.add_argument("--address", default="http://127.0.0.1:7700", metavar="URL", help="a running mesh")
    parser.add_argument("--collection", required=True, metavar="NAME")
    parser.add_argument("--pipeline", default="colbert", metavar="NAME")
    parser.add_argument("--queries", type=Path, required=True, metavar="FILE")
    parser.add_argument("--qrels", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rotation", type=Path, metavar="FILE", help="token_rotation.bin of the collection")
    parser.add_argument("--limit", type=int, metavar="N", help="so many queries, drawn with a fixed seed")
    args = parser.parse_args()
    grades = read_grades(args.qrels)
    judged = [query for identifier, query in read_queries(args.queries).items() if identifier in grades]
    exact = ExactScorer(args.bundle)
    stored_width = read_rotation(args.rotation) if args.rotation else None
    heads, served, f32, cut = [], [], [], []
    for query in drawn(judged, args.limit):
        hits = ask(args, query.text)
        if hits:
            heads.append(Head(query.query_id, query.text, grades[query.query_id], [document_of(hit) for hit in hits]))
            served.append(np.array([served_score(hit) for hit in hits]))
            f32.append(exact.scores(query.text, heads[-1].passages))
            if stored_width is not None:
                cut.append(exact.scores(query.text, heads[-1].passages, stored_width))
    for name, reference in (("full width", f32), ("the stored width", cut)):
        if reference:
            correlation = np.mean([spearman(*pair) for pair in zip(served, reference, strict=True)])
            print(f"{args.collection}: {len(heads)} queries, f32 of {name}, Spearman {correlation:.4f}")
            for weight in WEIGHTS:
                print(row(heads, served, reference, weight), flush=True)


def read_rotation(file: Path) -> np.ndarray:
    """The first columns, [width, stored dimensions]: as `vector_math::Rotation` writes it."""
    content = file.read_bytes()
    magic, (width, dimensions) = content[:8], np.frombuffer(content, "<u4", count=2, offset=8)
    if magic != b"fmrot\0\0\1":
        raise SystemExit(f"{file} is no rotation")
    return np.frombuffer(content, "<f4", offset=24).reshape(width, width)[:, :dimensions]


def row(heads: Sequence[Head], served: Scores, f32: Scores, weight: float) -> str:
    """What a weight of the blend makes of both scorings."""
    rankings = [[blended(*pair, weight) for pair in zip(heads, scores, strict=True)] for scores in (served, f32)]
    ranked = zip(heads, *rankings, strict=True)
    quality = np.array([[ndcg(ranking, head.grades) for ranking in pair] for head, *pair in ranked])
    agreed = np.mean([agreement(*pair) for pair in zip(*rankings, strict=True)])
    mean, low, high = interval(quality[:, 0] - quality[:, 1])
    return (
        f"  weight {weight}: nDCG@10 {quality[:, 0].mean():.4f} served, {quality[:, 1].mean():.4f} f32, "
        f"{mean:+.4f} [{low:+.4f}, {high:+.4f}], the first ten agree to {agreed:.3f}"
    )


def ask(args: argparse.Namespace, query: str) -> list[dict]:
    """The window's hits that late interaction scored, with their trails."""
    search = ["search", "--collection", args.collection, "--pipeline", args.pipeline, "--k", str(WINDOW)]
    command = [str(args.finemesh), "--address", args.address, *search, "--explain", "--json", "--", query]
    hits = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["hits"]
    return [hit for hit in hits if entry(hit, "late_interaction").get("matches")]


def entry(hit: dict, stage: str) -> dict:
    """What a stage said of a hit."""
    return next((said for said in hit["trail"] if said["stage"] == stage), {})


def document_of(hit: dict) -> HeadDocument:
    """The hit with the score that it had before late interaction, and its passage as the encoder reads it."""
    own = entry(hit, "late_interaction")
    earlier = (hit["score"] - own["contribution"]) / (1 - own["weight"])
    return HeadDocument(hit["id"], earlier, f"{hit['title']} {hit['text']}".strip())


def served_score(hit: dict) -> float:
    """Of the passage that is shown."""
    return sum(match["similarity"] for match in entry(hit, "late_interaction")["matches"])


class ExactScorer:
    """MaxSim in f32 over the token vectors of a bundle's graph."""

    def __init__(self, bundle: Path) -> None:
        self.description = json.loads((bundle / "bundle.json").read_text("utf-8"))
        self.tokenizer = load_tokenizer(bundle)
        self.tokenizer.enable_truncation(self.description["max_tokens"])
        self.session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
        self.inputs = {argument.name for argument in self.session.get_inputs()}
        self.vectors: dict[str, np.ndarray] = {}

    def scores(self, query: str, passages: Iterable[str], cut: np.ndarray | None = None) -> np.ndarray:
        """One for each passage; of vectors that are cut by a rotation's first columns, if one is given."""

        def tokens(text: str) -> np.ndarray:
            vectors = self.tokens(text)
            return vectors if cut is None else unit(vectors @ cut)

        of_query = tokens(query)
        return np.array([(of_query @ tokens(passage).T).max(axis=1).sum() for passage in passages])

    def tokens(self, text: str) -> np.ndarray:
        """[tokens, width], of unit length; each text is encoded once."""
        if text not in self.vectors:
            ids = np.array([self.tokenizer.encode(text).ids])
            given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            feed = {name: value for name, value in given.items() if name in self.inputs}
            (vectors,) = self.session.run([self.description["outputs"]["tokens"]], feed)
            self.vectors[text] = unit(vectors[0])
        return self.vectors[text]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean and its 95 % percentile interval."""
    rng = np.random.default_rng(SEED)
    means = [rng.choice(values, size=len(values)).mean() for _ in range(RESAMPLES)]
    return float(values.mean()), *(float(edge) for edge in np.quantile(means, (0.025, 0.975)))


if __name__ == "__main__":
    main()
