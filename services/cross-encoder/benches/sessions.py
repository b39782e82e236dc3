"""One ONNX Runtime session for each core, or one whose operators use all cores: which computes more, answers sooner.

    target/trainer/bin/python services/cross-encoder/benches/sessions.py --bundle BUNDLE

Needs the trainer's environment. Pairs of mixed length in batches of about one length, as the service makes them, of so
many tokens at most. `many` is their rate; `one call` is how long 20 pairs of 128 tokens take, from the first to the
last. The arrangements take turns, round by round; a cell is the median of the rounds, with the lowest and the highest.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from finemesh_trainer.models.base import load_tokenizer
from work import LENGTHS, MIXED, make_calls

MANY_TOKENS = 40_000

Feed = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the cores are used."""

    sessions: int
    threads_each: int
    batch_tokens: int

    def name(self) -> str:
        return f"{self.sessions} of {self.threads_each}, {self.batch_tokens} tokens"


class Runner:
    """Runs batches on the sessions of an arrangement, one thread for each."""

    def __init__(self, bundle: Path, arrangement: Arrangement) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arrangement.threads_each
        options.inter_op_num_threads = 1
        model = bundle / "model.onnx"
        self.sessions = [
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            for _ in range(arrangement.sessions)
        ]

    def seconds(self, feeds: Sequence[Feed]) -> float:
        """Until the last batch is done."""
        waiting = iter(feeds)
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(self.sessions)) as threads:
            list(threads.map(lambda session: self.drain(session, waiting), self.sessions))
        return time.perf_counter() - begin

    @staticmethod
    def drain(session: onnxruntime.InferenceSession, waiting: Iterator[Feed]) -> None:
        for feed in waiting:
            session.run(None, feed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    arrangements = [Arrangement(cores, 1, 256), Arrangement(1, cores, 256), Arrangement(1, cores, 1024)]
    many = pairs(arguments.bundle, LENGTHS[MIXED], MANY_TOKENS)
    one_call = pairs(arguments.bundle, LENGTHS["128"], 1)
    print("| sessions of threads, batch | many, pairs/s | one call, ms |\n|---|---|---|")
    runners = [Runner(arguments.bundle, arrangement) for arrangement in arrangements]
    rates, times = [[] for _ in runners], [[] for _ in runners]
    for measured in range(-1, arguments.rounds):
        for place, (runner, arrangement) in enumerate(zip(runners, arrangements, strict=True)):
            rate = len(many) / runner.seconds(batches(many, arrangement.batch_tokens))
            milliseconds = 1e3 * runner.seconds(batches(one_call, arrangement.batch_tokens))
            # The first round warms up.
            if measured >= 0:
                rates[place].append(rate)
                times[place].append(milliseconds)
    for arrangement, rate, milliseconds in zip(arrangements, rates, times, strict=True):
        print(f"| {arrangement.name()} | {cell(rate)} | {cell(milliseconds)} |")


def pairs(bundle: Path, lengths: tuple[int, ...], tokens: int) -> list[tuple[list[int], list[int]]]:
    """Tokens and segments of each pair."""
    tokenizer = load_tokenizer(bundle)
    tokenizer.no_padding()
    calls = make_calls(bundle, lengths, tokens)
    encoded = (tokenizer.encode(call.query, passage) for call in calls for passage in call.passages)
    return [(pair.ids, pair.type_ids) for pair in encoded]


def batches(encoded: Sequence[tuple[list[int], list[int]]], tokens: int) -> list[Feed]:
    """Neighbours in length together."""
    found, batch = [], []
    for pair in sorted(encoded, key=lambda pair: len(pair[0]), reverse=True):
        if batch and len(batch[0][0]) * (len(batch) + 1) > tokens:
            found.append(feed(batch))
            batch = []
        batch.append(pair)
    return [*found, feed(batch)]


def feed(batch: Sequence[tuple[list[int], list[int]]]) -> Feed:
    """Padded to the longest, which is the first."""
    ids, segments, mask = (np.zeros((len(batch), len(batch[0][0])), np.int64) for _ in range(3))
    for row, (tokens, types) in enumerate(batch):
        ids[row, : len(tokens)], segments[row, : len(types)], mask[row, : len(tokens)] = tokens, types, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def cell(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} [{min(values):.1f}, {max(values):.1f}]"


if __name__ == "__main__":
    main()
