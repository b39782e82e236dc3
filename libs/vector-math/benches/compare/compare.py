"""MaxSim of vector-math beside PyPI's `maxsim-cpu` and the `gemm` crate: the same vectors, one core, in turns.

    pip install numpy maxsim-cpu
    python libs/vector-math/benches/compare/compare.py

Scores of all are compared with NumPy's in f32; times are medians over the rounds, and the best of them, because a busy
machine interrupts what takes long more often than what is short.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for library in ("RAYON", "OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"
# Children inherit the core.
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

# The number of threads is read at import.
import maxsim_cpu  # noqa: E402
import numpy as np  # noqa: E402

QUERY_TOKENS, PASSAGES, PASSAGE_TOKENS, DIMENSIONS = 32, 1000, 120, 96
ROUNDS = 101
SEED = 20
REFERENCES = ("maxsim-cpu", "gemm")
HERE = Path(__file__).parent
WORKSPACE = HERE.parents[3]


def unit_vectors(random: np.random.Generator, *shape: int) -> np.ndarray:
    values = random.standard_normal(shape, dtype=np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def exact_scores(query: np.ndarray, passages: np.ndarray) -> np.ndarray:
    return np.stack([(query @ passage.T).max(axis=1).sum() for passage in passages])


def start_rust(folder: Path, query: np.ndarray, passages: np.ndarray) -> subprocess.Popen[str]:
    query.tofile(folder / "query.f32")
    passages.tofile(folder / "passages.f32")
    command = ["cargo", "run", "--release", "--quiet", "--manifest-path", str(HERE / "Cargo.toml"), "--"]
    command += [str(folder), *map(str, (QUERY_TOKENS, PASSAGE_TOKENS, DIMENSIONS))]
    environment = os.environ | {"CARGO_TARGET_DIR": str(WORKSPACE / "target")}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask_rust(rust: subprocess.Popen[str], contestant: str) -> tuple[float, np.ndarray]:
    """Seconds and scores; no scores for a backend that the machine doesn't have."""
    rust.stdin.write(contestant + "\n")
    rust.stdin.flush()
    seconds, *scores = rust.stdout.readline().split()
    return float(seconds), np.array(scores, dtype=np.float32)


def ask_maxsim_cpu(query: np.ndarray, passages: np.ndarray) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    scores = maxsim_cpu.maxsim_scores(query, passages)
    return time.perf_counter() - start, scores


def main() -> int:
    random = np.random.default_rng(SEED)
    query = unit_vectors(random, QUERY_TOKENS, DIMENSIONS)
    passages = unit_vectors(random, PASSAGES, PASSAGE_TOKENS, DIMENSIONS)
    exact = exact_scores(query, passages)
    with tempfile.TemporaryDirectory() as folder, start_rust(Path(folder), query, passages) as rust:
        backends = [name for name in ("Avx512Vnni", "Avx2", "Neon") if ask_rust(rust, name)[1].size]
        contestants = {name: lambda name=name: ask_rust(rust, name) for name in (*backends, "gemm")}
        contestants["maxsim-cpu"] = lambda: ask_maxsim_cpu(query, passages)
        seconds = {name: [] for name in contestants}
        for _ in range(ROUNDS):
            for name, ask in contestants.items():
                seconds[name].append(ask()[0])
        errors = {name: np.abs(ask()[1] - exact).max() for name, ask in contestants.items()}
        rust.stdin.close()
    print_table(seconds, errors)
    return 0


def print_table(seconds: dict[str, list[float]], errors: dict[str, np.floating]) -> None:
    medians = {name: np.median(times) for name, times in seconds.items()}
    best = {name: min(times) for name, times in seconds.items()}
    print(f"{QUERY_TOKENS} x {PASSAGES} x {PASSAGE_TOKENS} tokens, {DIMENSIONS} dimensions, one core, {ROUNDS} rounds")
    print("| | median ms | best ms | largest error of a score | times as fast, median and best |")
    print("|---|---|---|---|---|")
    for name in seconds:
        ratios = [
            f"{reference} {medians[reference] / medians[name]:.1f} / {best[reference] / best[name]:.1f}"
            for reference in REFERENCES
            if name not in REFERENCES
        ]
        times = f"{medians[name] * 1e3:.2f} | {best[name] * 1e3:.2f}"
        print(f"| {name} | {times} | {errors[name]:.4f} | {', '.join(ratios)} |")


if __name__ == "__main__":
    sys.exit(main())
