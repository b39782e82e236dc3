"""How long a call takes, and how well it keeps a deadline that passes in the middle, through the real service.

    target/trainer/bin/python services/cross-encoder/benches/latency.py --finemesh target/release/finemesh

Needs the trainer's environment and pulled models; under two minutes. A call has a query and 20 passages of about 128
tokens; one caller, so many cores, pinned, the client on the same ones.

* alone: percentiles of a call without a deadline;
* cut: deadlines drawn from a fifth to four fifths of the median. How much later than its deadline the answer was there
  (below 0: before it), how much later than the end of the batch that was in flight then (the service's log says when
  that was), and how many batches were begun for the call behind its deadline.
"""

import argparse
import json
import os
import random
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from service import Batch, Call, Service
from work import PASSAGES, SEED, installed_bundle, make_calls

LENGTHS = (128,)
WARM_UP_CALLS = 3
PAUSE_S = 0.05
"""Between cut calls: what is in flight ends."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A call that was cut by its deadline."""

    deadline: float
    answered: float
    scored: int


def main() -> None:
    arguments = read_arguments()
    listed = subprocess.run([arguments.finemesh, "models", "list", "--json"], check=True, stdout=subprocess.PIPE)
    calls = make_calls(installed_bundle(json.loads(listed.stdout)), LENGTHS, arguments.calls * PASSAGES * LENGTHS[0])
    for cores in arguments.cores:
        os.sched_setaffinity(0, range(cores))
        with Service(arguments.finemesh, None, cores) as service:
            report(service, calls, cores)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finemesh", type=Path, required=True, help="the release binary")
    parser.add_argument("--cores", type=int, nargs="+", default=[2])
    parser.add_argument("--calls", type=int, default=100)
    return parser.parse_args()


def report(service: Service, calls: Sequence[Call], cores: int) -> None:
    for call in calls[:WARM_UP_CALLS]:
        service.rerank(call)
    alone_ms = np.array([time_alone(service, call) for call in calls]) * 1e3
    print(f"{cores} cores, {len(calls)} calls of {PASSAGES} passages")
    print(f"alone: {percentiles(alone_ms)} ms", flush=True)
    began = time.time()
    cuts = list(cut_calls(service, calls, float(np.median(alone_ms)) / 1e3))
    batches = service.batches(began)
    report_cuts(cuts, batches)


def time_alone(service: Service, call: Call) -> float:
    started = time.perf_counter()
    service.rerank(call)
    return time.perf_counter() - started


def cut_calls(service: Service, calls: Sequence[Call], median_s: float) -> list[Cut]:
    draw = random.Random(SEED)
    cuts = []
    for call in calls:
        timeout_s = median_s * draw.uniform(0.2, 0.8)
        deadline = time.time() + timeout_s
        try:
            scored = len(service.rerank(call, timeout_s).logits)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            scored = 0
        cuts.append(Cut(deadline, time.time(), scored))
        time.sleep(PAUSE_S)
    return cuts


def report_cuts(cuts: Sequence[Cut], batches: Sequence[Batch]) -> None:
    answered = [cut for cut in cuts if 0 < cut.scored < PASSAGES]
    print(
        f"cut: {len(cuts)} calls, of which {len(answered)} got a part, "
        f"{sum(cut.scored == PASSAGES for cut in cuts)} all, {sum(cut.scored == 0 for cut in cuts)} nothing"
    )
    if answered:
        after_deadline = np.array([cut.answered - cut.deadline for cut in answered]) * 1e3
        print(f"  answered after the deadline: {percentiles(after_deadline)} ms")
        in_flight = [(cut, end_of_flight(cut, batches)) for cut in answered]
        after_batch = np.array([cut.answered - end for cut, end in in_flight if end is not None]) * 1e3
        print(f"  answered after the batch in flight: {percentiles(after_batch)} ms ({len(after_batch)} had one)")
    begun = sum(begun_afterwards(cut, batches) for cut in cuts)
    print(f"  batches that were begun for a call behind its deadline: {begun}")


def end_of_flight(cut: Cut, batches: Sequence[Batch]) -> float | None:
    """When the first of the batches ended that were in flight at the deadline."""
    return min((batch.ended for batch in batches if batch.started <= cut.deadline <= batch.ended), default=None)


def begun_afterwards(cut: Cut, batches: Sequence[Batch]) -> int:
    return sum(cut.deadline < batch.started < cut.answered + PAUSE_S for batch in batches)


def percentiles(values: np.ndarray) -> str:
    if not len(values):
        return "none"
    middle, *rest = np.percentile(values, (50, 90, 95, 99))
    shown = " ".join(f"p{p} {value:.1f}" for p, value in zip((90, 95, 99), rest, strict=True))
    return f"p50 {middle:.1f} {shown} worst {values.max():.1f}"


if __name__ == "__main__":
    main()
