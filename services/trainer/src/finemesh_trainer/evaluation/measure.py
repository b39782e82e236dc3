"""One pipeline on one judged set, measured by `finemesh eval --json --per-query`."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from finemesh_trainer.errors import TrainerError
from finemesh_trainer.evaluation.plan import Contender, EvaluationPlan, JudgedSet

METRICS = ("ndcg@10", "recall@100", "mrr@10")


class MeasurementError(TrainerError):
    """`finemesh eval` failed, or its output is not what this trainer reads."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One cell: means over the queries, nDCG@10 by query id, and what else the reader has to know.

    `degraded` counts the answers in which a stage did less than it was asked to; times are in milliseconds.
    """

    means: dict[str, float]
    ndcg: dict[str, float]
    degraded: int
    latency_p50_ms: float
    latency_p95_ms: float


def measure(plan: EvaluationPlan, contender: Contender, judged: JudgedSet) -> Measurement:
    """Runs one cell.

    Raises:
        MeasurementError: with the binary's own words.
    """
    arguments = command_line(plan, contender, judged)
    finished = subprocess.run(arguments, capture_output=True, text=True, check=False)
    cell = f"{contender.name} on {judged.name}"
    if finished.returncode != 0:
        raise MeasurementError(f"{cell}: {' '.join(arguments)} failed:\n{finished.stderr.strip()}")
    try:
        return read_measurement(json.loads(finished.stdout)["pipelines"][contender.pipeline])
    except (KeyError, TypeError, ValueError) as error:
        raise MeasurementError(f"{cell}: {plan.binary} eval printed something else than expected: {error!r}") from error


def command_line(plan: EvaluationPlan, contender: Contender, judged: JudgedSet) -> list[str]:
    """The call of the binary for one cell."""
    config = ["--config", str(contender.config)] if contender.config else []
    limit = ["--limit", str(judged.limit)] if judged.limit else []
    files = ["--queries", str(judged.queries), "--qrels", str(judged.qrels)]
    return [
        str(plan.binary),
        *config,
        *("--data", str(plan.data), "eval", "--collection", judged.collection),
        *files,
        *("--pipeline", contender.pipeline, "--json", "--per-query"),
        *limit,
    ]


def read_measurement(printed: dict[str, Any]) -> Measurement:
    """A pipeline's part of the printed JSON."""
    latency = printed["latency_us"]
    return Measurement(
        means={metric: float(printed[metric]) for metric in METRICS},
        ndcg={query: float(scores["ndcg@10"]) for query, scores in printed["per_query"].items()},
        degraded=int(printed["degraded"]),
        latency_p50_ms=latency["p50"] / 1000,
        latency_p95_ms=latency["p95"] / 1000,
    )
