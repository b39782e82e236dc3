"""The report: `report.md` with every cell, losses included, and `report.json` with every query."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from finemesh_trainer.evaluation.compare import Comparison, Difference
from finemesh_trainer.evaluation.measure import METRICS, Measurement
from finemesh_trainer.evaluation.plan import EvaluationPlan
from finemesh_trainer.files import write_whole

Cells = Mapping[str, Mapping[str, Measurement]]
"""Measurements by contender and set."""

Comparisons = Mapping[str, Comparison]
"""Of each candidate with the baseline."""

HEADER = ["set", "queries", "pipeline", "nDCG@10", "difference [95 %]", "Recall@100", "MRR@10", "p50 ms", "degraded"]


def write_report(plan: EvaluationPlan, cells: Cells, comparisons: Comparisons, facts: dict[str, Any]) -> str:
    """Writes both files into the plan's output folder and returns the Markdown. `facts` says what was measured."""
    text = markdown(plan, cells, comparisons)
    plan.output.mkdir(parents=True, exist_ok=True)
    write_whole(plan.output / "report.md", text)
    write_whole(plan.output / "report.json", json.dumps(as_json(plan, cells, comparisons, facts), indent=1) + "\n")
    return text


def markdown(plan: EvaluationPlan, cells: Cells, comparisons: Comparisons) -> str:
    """One row for each contender on each set, one for each over all, and a sentence for each candidate."""
    rows = [row for judged in plan.sets for row in set_rows(plan, cells, comparisons, judged.name)]
    rows += macro_rows(plan, cells, comparisons)
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    verdicts = "\n".join(verdict(plan, name, comparison) for name, comparison in comparisons.items())
    return f"{table}\n\n{verdicts}\n"


def set_rows(plan: EvaluationPlan, cells: Cells, comparisons: Comparisons, judged: str) -> list[list[str]]:
    """The rows of one set, the baseline first."""
    rows = []
    for name in [plan.baseline.name, *comparisons]:
        cell = cells[name][judged]
        delta = interval(comparisons[name].sets[judged]) if name in comparisons else ""
        numbers = [f"{cell.means[metric]:.4f}" for metric in METRICS]
        times = [f"{cell.latency_p50_ms:.1f}", str(cell.degraded)]
        rows.append([judged, str(len(cell.ndcg)), name, numbers[0], delta, *numbers[1:], *times])
    return rows


def macro_rows(plan: EvaluationPlan, cells: Cells, comparisons: Comparisons) -> list[list[str]]:
    """The rows over all sets: means of the sets' means."""
    rows = []
    for name in [plan.baseline.name, *comparisons]:
        numbers = [f"{macro_mean(cells[name], metric):.4f}" for metric in METRICS]
        delta = interval(comparisons[name].macro) if name in comparisons else ""
        queries = str(sum(len(cell.ndcg) for cell in cells[name].values()))
        rows.append(["**macro**", queries, name, numbers[0], delta, *numbers[1:], "", ""])
    return rows


def macro_mean(measurements: Mapping[str, Measurement], metric: str) -> float:
    """The mean over the sets, each with the same weight."""
    return sum(cell.means[metric] for cell in measurements.values()) / len(measurements)


def interval(delta: Difference) -> str:
    """A signed difference with its interval."""
    return f"{delta.mean:+.4f} [{delta.low:+.4f}, {delta.high:+.4f}]"


def verdict(plan: EvaluationPlan, name: str, comparison: Comparison) -> str:
    """Whether a candidate may be a default, and what stands against it."""
    fixed_on = next(candidate.weights_fixed_on for candidate in plan.candidates if candidate.name == name)
    outcome = "may be a default" if comparison.passes else f"stays switched off: {'; '.join(comparison.objections)}"
    return f"- **{name}** (weights fixed on: {fixed_on}): {outcome}."


def as_json(plan: EvaluationPlan, cells: Cells, comparisons: Comparisons, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, and what it was measured with."""
    return {
        **facts,
        "plan": plan.model_dump(mode="json"),
        "comparisons": {
            name: {**asdict(comparison), "passes": comparison.passes} for name, comparison in comparisons.items()
        },
        "cells": {name: {judged: asdict(cell) for judged, cell in row.items()} for name, row in cells.items()},
    }
