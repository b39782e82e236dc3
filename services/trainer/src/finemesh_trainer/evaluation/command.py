"""`finemesh-trainer evaluate`: measures, compares, reports."""

import argparse
import subprocess
from typing import Any

from tqdm import tqdm

from finemesh_trainer.arguments import add_config
from finemesh_trainer.errors import ConfigError
from finemesh_trainer.evaluation.compare import Comparison, compare
from finemesh_trainer.evaluation.measure import Measurement, MeasurementError, measure
from finemesh_trainer.evaluation.plan import Contender, EvaluationPlan
from finemesh_trainer.evaluation.report import write_report
from finemesh_trainer.files import file_hash


def add_parser(subparsers: Any) -> None:
    """Adds `evaluate` to the command line."""
    parser = subparsers.add_parser("evaluate", help="measure pipelines with a model against the one without it")
    add_config(parser, "sets and contenders (TOML)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluates as the plan says and prints the table."""
    from finemesh_trainer.config import read_config

    print(evaluate(read_config(args.config, EvaluationPlan, args.set)))
    return 0


def evaluate(plan: EvaluationPlan) -> str:
    """Runs every cell, writes the report and returns its Markdown.

    Raises:
        ConfigError: a file is missing; nothing was run.
        MeasurementError: a cell failed.
    """
    if missing := plan.missing_files():
        raise ConfigError(missing)
    facts = describe_contenders(plan)
    cells = measure_all(plan)
    comparisons: dict[str, Comparison] = {
        candidate.name: compare(cells[candidate.name], cells[plan.baseline.name], plan.seed)
        for candidate in plan.candidates
    }
    return write_report(plan, cells, comparisons, facts)


def measure_all(plan: EvaluationPlan) -> dict[str, dict[str, Measurement]]:
    """Measurements by contender and set, one after the other: side by side they would slow each other's clocks."""
    contenders: list[Contender] = [plan.baseline, *plan.candidates]
    cells: dict[str, dict[str, Measurement]] = {contender.name: {} for contender in contenders}
    with tqdm(total=len(contenders) * len(plan.sets), unit="cell") as bar:
        for judged in plan.sets:
            for contender in contenders:
                bar.set_description(f"{contender.name} on {judged.name}")
                cells[contender.name][judged.name] = measure(plan, contender, judged)
                bar.update()
    return cells


def describe_contenders(plan: EvaluationPlan) -> dict[str, Any]:
    """The binary's version, and each configuration's hash: the weights as they were before anything was measured."""
    asked = subprocess.run([plan.binary, "--version"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise MeasurementError(f"{plan.binary} --version failed:\n{asked.stderr.strip()}")
    contenders: list[Contender] = [plan.baseline, *plan.candidates]
    hashes = {contender.name: file_hash(contender.config) for contender in contenders if contender.config}
    return {"binary": asked.stdout.strip(), "config_sha256": hashes}
