"""The service against sentence-transformers, in one run: the same weights, the same passages, the same cores, by turns.

    target/trainer/bin/python services/cross-encoder/benches/compare.py --finemesh target/release/finemesh

Needs the trainer's environment (README, "trainer test command") and pulled models; about four minutes on two quiet
cores. For one core and for two, pinned, with passages of about 64, 128 and 256 tokens and of all three mixed:

* the service, over loopback TCP, with the shipped int8 bundle and with the same model in f32: four callers at a time,
  each call a query and 20 passages;
* PyTorch: `CrossEncoder.predict` over the f32 weights;
* ONNX int8: the f32 graph quantised by `quantize_dynamic` as the ONNX backend's export does it, in the backend's loop.

Peers get all pairs of all calls at once, which is the best case for their sorting. They take turns, round by round; a
cell is the median of the rounds, with the lowest and the highest. Padding, fill (tokens of a batch, padding included,
by the batcher's limit) and the share of the threads' wall time inside ONNX Runtime are the int8 service's own words,
read from its log.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from peers import exact_bundle, onnx_int8, pytorch
from service import Batch, Call, Service
from work import LENGTHS, installed_bundle, make_calls

CALLERS = 4
RUNS = ("service f32", "PyTorch f32", "service int8", "ONNX int8")
RATIOS = (("service f32", "PyTorch f32", 1.5), ("service int8", "ONNX int8", 1.2))


@dataclass
class Row:
    """What was seen with one mixture of lengths on so many cores."""

    cores: int
    lengths: str
    rates: dict[str, list[float]] = field(default_factory=lambda: {run: [] for run in RUNS})
    batches: list[Batch] = field(default_factory=list)
    """Of the int8 service."""
    thread_s: float = 0.0
    """Time that its threads had."""

    def cells(self) -> list[str]:
        rates = [f"{statistics.median(it):.1f} [{min(it):.1f}, {max(it):.1f}]" for it in self.rates.values()]
        tokens, padding = (sum(getattr(it, name) for it in self.batches) for name in ("tokens", "padding_tokens"))
        limit = sum(batch.limit_tokens for batch in self.batches)
        inside = sum(batch.model_s for batch in self.batches) / self.thread_s
        shares = (padding / (tokens + padding), (tokens + padding) / limit, inside)
        ratios = (self.ratio(ours, theirs) for ours, theirs, _ in RATIOS)
        return [str(self.cores), self.lengths, *rates, *ratios, *(f"{share:.1%}" for share in shares)]

    def ratio(self, ours: str, theirs: str) -> str:
        """Of the medians, with the rounds' own: what disturbs the machine disturbs both of a round."""
        each = [one / other for one, other in zip(self.rates[ours], self.rates[theirs], strict=True)]
        medians = statistics.median(self.rates[ours]) / statistics.median(self.rates[theirs])
        return f"{medians:.2f} [{min(each):.2f}, {max(each):.2f}]"


def main() -> None:
    # The quantiser's advice.
    logging.disable(logging.WARNING)
    arguments = read_arguments()
    listed = subprocess.run([arguments.finemesh, "models", "list", "--json"], check=True, stdout=subprocess.PIPE)
    int8 = arguments.int8 or installed_bundle(json.loads(listed.stdout))
    with tempfile.TemporaryDirectory() as scratch:
        exact = exact_bundle(int8, Path(scratch) / "exact")
        print_header()
        for cores in arguments.cores:
            for row in measure(arguments, int8, exact, Path(scratch), cores):
                print(f"| {' | '.join(row.cells())} |", flush=True)
    wanted = ", ".join(f"{ours} / {theirs} at least {least}" for ours, theirs, least in RATIOS)
    print(f"\npairs per second, median [lowest, highest] of up to {arguments.rounds} rounds; wanted: {wanted}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finemesh", type=Path, required=True, help="the release binary")
    parser.add_argument("--int8", type=Path, help="bundle folder [default: the pulled one]")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--lengths", nargs="+", default=list(LENGTHS), choices=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=150, help="no round begins later, on so many cores")
    parser.add_argument("--tokens", type=int, default=16_000, help="of the passages of a round")
    return parser.parse_args()


def print_header() -> None:
    ratios = [f"{ours} / {theirs}" for ours, theirs, _ in RATIOS]
    header = ["cores", "tokens", *RUNS, *ratios, "padding", "fill", "inside the runtime"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)


def measure(arguments: argparse.Namespace, int8: Path, exact: Path, scratch: Path, cores: int) -> list[Row]:
    """All mixtures on so many cores."""
    os.sched_setaffinity(0, range(cores))
    rows = [Row(cores, lengths) for lengths in arguments.lengths]
    work = {it: make_calls(int8, LENGTHS[it], arguments.tokens) for it in arguments.lengths}
    with ExitStack() as stack:
        ours = {name: stack.enter_context(Service(arguments.finemesh, it, cores)) for name, it in services(int8, exact)}
        theirs = {
            "PyTorch f32": pytorch(exact, scratch / "pytorch", cores),
            "ONNX int8": onnx_int8(exact, scratch / "int8.onnx", cores),
        }
        warm_up(ours, theirs, next(iter(work.values())))
        end = time.time() + arguments.limit_s
        for _ in range(arguments.rounds):
            for row in rows:
                take_turns(row, ours, theirs, work[row.lengths])
            if time.time() > end:
                break
    return rows


def services(int8: Path, exact: Path) -> tuple[tuple[str, Path], ...]:
    return ("service f32", exact), ("service int8", int8)


def warm_up(ours: dict[str, Service], theirs: dict[str, Callable], calls: Sequence[Call]) -> None:
    for service in ours.values():
        service.rerank(calls[0])
    for predict in theirs.values():
        predict(pairs_of(calls[:1]))


def take_turns(row: Row, ours: dict[str, Service], theirs: dict[str, Callable], calls: Sequence[Call]) -> None:
    """One round."""
    pairs = pairs_of(calls)
    for run in RUNS:
        started = time.time()
        if run in ours:
            ask_all(ours[run], calls)
        else:
            theirs[run](pairs)
        taken_s = time.time() - started
        row.rates[run].append(len(pairs) / taken_s)
        if run == "service int8":
            row.batches += ours[run].batches(started, started + taken_s)
            row.thread_s += taken_s * row.cores


def pairs_of(calls: Sequence[Call]) -> list[tuple[str, str]]:
    return [(call.query, passage) for call in calls for passage in call.passages]


def ask_all(service: Service, calls: Sequence[Call]) -> None:
    with ThreadPoolExecutor(CALLERS) as callers:
        answers = list(callers.map(service.rerank, calls))
    for call, answer in zip(calls, answers, strict=True):
        if len(answer.logits) != len(call.passages):
            raise SystemExit("the service did not score all passages")


if __name__ == "__main__":
    main()
