"""What an int8 cross-encoder costs and saves against its f32 bundle: order, nDCG@10 and speed, on one thread.

    finemesh-trainer heads --collection papers --queries … --qrels …/test.tsv --output papers.jsonl.gz
    python benches/int8.py --exact bundles/rerank --int8 bundles/rerank-int8 --weight 0.3 papers.jsonl.gz …

Heads are those of queries that nothing was chosen on. Speed is that of ONNX Runtime alone, in batches of 16 pairs of
like length; the two bundles take turns, batch by batch, and the ratio is that of the totals, with the interval of a
bootstrap over the batches.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from finemesh_trainer.heads.head import Head, read_heads
from finemesh_trainer.heads.measure import blended, ndcg, spearman
from finemesh_trainer.int8_choice import LEAST_SPEARMAN, HeadScorer, open_session
from finemesh_trainer.models.base import load_tokenizer
from finemesh_trainer.models.exact_match import PairTokenizer

SEED, RESAMPLES = 1, 2000
TIMED_BATCHES = 60
HEADER = ["heads", "queries", "Spearman mean", "worst", "≥ .99", "nDCG@10 f32", "int8 - f32 [95 %]"]


def main() -> None:
    """Prints the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--int8", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--weight", type=float, required=True, metavar="W", help="the model's, in the blend")
    parser.add_argument("heads", type=Path, nargs="+", metavar="HEADS")
    args = parser.parse_args()
    sessions = [open_session(str(bundle / "model.onnx")) for bundle in (args.exact, args.int8)]
    tokenizer = read_tokenizer(args.exact)
    scorers = {path: HeadScorer(tokenizer, read_heads([path])) for path in args.heads}
    print("\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, ["---"] * len(HEADER))))
    for path, scorer in scorers.items():
        exact, int8 = (scorer.score(session) for session in sessions)
        print(f"| {' | '.join(row(path, read_heads([path]), exact, int8, args.weight))} |", flush=True)
    print(f"\n{speed(sessions, [batch for scorer in scorers.values() for batch in scorer.inputs])}")


def read_tokenizer(bundle: Path) -> PairTokenizer:
    """As the bundle reads pairs."""
    description = json.loads((bundle / "bundle.json").read_text("utf-8"))
    pair = description["pair"]
    marks = pair["segments"] == "exact_match_v1"
    return PairTokenizer(load_tokenizer(bundle), description["max_tokens"], pair["max_query_tokens"], marks)


def row(path: Path, heads: Sequence[Head], exact: list, int8: list, weight: float) -> list[str]:
    """The figures of one file."""
    correlations = np.array([spearman(one, other) for one, other in zip(int8, exact, strict=True)])
    quality = np.array(
        [
            [ndcg(blended(head, s, weight), head.grades) for s in pair]
            for head, *pair in zip(heads, exact, int8, strict=True)
        ]
    )
    mean, low, high = interval(quality[:, 1] - quality[:, 0])
    order = [
        f"{correlations.mean():.4f}",
        f"{correlations.min():.4f}",
        f"{(correlations >= LEAST_SPEARMAN).mean():.3f}",
    ]
    return [path.name, str(len(heads)), *order, f"{quality[:, 0].mean():.4f}", f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean and its 95 % percentile interval."""
    rng = np.random.default_rng(SEED)
    means = [rng.choice(values, size=len(values)).mean() for _ in range(RESAMPLES)]
    return float(values.mean()), *(float(edge) for edge in np.quantile(means, (0.025, 0.975)))


def speed(sessions: Sequence[onnxruntime.InferenceSession], batches: Sequence[dict]) -> str:
    """Pairs per second of both, and their ratio."""
    chosen = batches[:: -(-len(batches) // TIMED_BATCHES)]
    seconds = np.array([[timed(session, batch) for session in sessions] for batch in chosen])
    pairs = sum(len(batch["input_ids"]) for batch in chosen)
    rng = np.random.default_rng(SEED)
    samples = (seconds[rng.integers(len(seconds), size=len(seconds))].sum(axis=0) for _ in range(RESAMPLES))
    low, high = np.quantile([exact / int8 for exact, int8 in samples], (0.025, 0.975))
    exact, int8 = seconds.sum(axis=0)
    return (
        f"{pairs} pairs, one thread: {pairs / exact:.0f} pairs/s in f32, {pairs / int8:.0f} in int8: "
        f"{exact / int8:.2f} times [{low:.2f}, {high:.2f}]"
    )


def timed(session: onnxruntime.InferenceSession, batch: dict) -> float:
    """Seconds of process time that a batch takes, so that others on the machine count as little as may be."""
    start = time.process_time()
    session.run(["score"], batch)
    return time.process_time() - start


if __name__ == "__main__":
    main()
