"""The evaluation: how the binary is called, what is compared, and the rule."""

import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from finemesh_trainer.config import read_config
from finemesh_trainer.errors import ConfigError
from finemesh_trainer.evaluation.command import evaluate
from finemesh_trainer.evaluation.compare import compare
from finemesh_trainer.evaluation.measure import Measurement, MeasurementError
from finemesh_trainer.evaluation.plan import EvaluationPlan

BINARY = """#!{python}
import json, pathlib, sys
if sys.argv[1:] == ["--version"]:
    print("finemesh 1.2.3")
    sys.exit()
here = pathlib.Path(__file__).parent
with (here / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
collection = sys.argv[sys.argv.index("--collection") + 1]
pipeline = sys.argv[sys.argv.index("--pipeline") + 1]
scores = json.loads((here / "scores.json").read_text())[collection].get(pipeline)
if scores is None:
    sys.exit(f"pipeline {{pipeline}} is not known")
print(json.dumps({{"collection": collection, "queries": len(scores), "pipelines": {{pipeline: {{
    "ndcg@10": sum(scores) / len(scores), "recall@100": 0.9, "mrr@10": 0.5, "degraded": 0,
    "latency_us": {{"p50": 1500, "p95": 2500, "p99": 3000}},
    "per_query": {{f"q{{i}}": {{"ndcg@10": score}} for i, score in enumerate(scores)}}}}}}}}))
"""


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A folder with a `finemesh` that prints the scores of `scores.json`."""
    binary = tmp_path / "finemesh"
    binary.write_text(BINARY.format(python=sys.executable))
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    for name in ("queries.jsonl", "test.tsv", "full.toml"):
        (tmp_path / name).write_text(name)
    write_scores(tmp_path, {"one": {"hybrid": [0.5, 0.6], "full": [0.6, 0.7]}, "two": {"hybrid": [0.2], "full": [0.2]}})
    return tmp_path


def write_scores(folder: Path, scores: dict) -> None:
    (folder / "scores.json").write_text(json.dumps(scores))


def plan_values(folder: Path) -> dict:
    files = {"queries": folder / "queries.jsonl", "qrels": folder / "test.tsv"}
    return {
        "binary": folder / "finemesh",
        "data": folder,
        "output": folder / "report",
        "sets": [
            {"name": "First", "collection": "one", "limit": 7, **files},
            {"name": "Second", "collection": "two"} | files,
        ],
        "baseline": {"name": "hybrid", "pipeline": "hybrid"},
        "candidates": [
            {"name": "full", "pipeline": "full", "config": folder / "full.toml", "weights_fixed_on": "training queries"}
        ],
    }


def cell(*ndcg: float, degraded: int = 0) -> Measurement:
    means = {"ndcg@10": sum(ndcg) / len(ndcg), "recall@100": 1.0, "mrr@10": 1.0}
    return Measurement(means, {f"q{i}": score for i, score in enumerate(ndcg)}, degraded, 1.0, 2.0)


def test_every_cell_is_measured_and_reported(bench: Path) -> None:
    printed = evaluate(EvaluationPlan(**plan_values(bench)))
    assert "| First | 2 | hybrid | 0.5500 |  | 0.9000 | 0.5000 | 1.5 | 0 |" in printed
    assert "| First | 2 | full | 0.6500 | +0.1000 [+0.1000, +0.1000] | 0.9000 | 0.5000 | 1.5 | 0 |" in printed
    assert "| **macro** | 3 | full | 0.4250 | +0.0500 [+0.0500, +0.0500] |" in printed
    assert "- **full** (weights fixed on: training queries): may be a default." in printed
    assert (bench / "report" / "report.md").read_text() == printed
    report = json.loads((bench / "report" / "report.json").read_text())
    assert report["binary"] == "finemesh 1.2.3"
    assert report["comparisons"]["full"]["passes"] is True
    assert report["cells"]["full"]["First"]["ndcg"] == {"q0": 0.6, "q1": 0.7}
    assert len(report["config_sha256"]["full"]) == 64


def test_the_binary_is_given_the_contenders_config_and_the_sets_limit(bench: Path) -> None:
    evaluate(EvaluationPlan(**plan_values(bench)))
    calls = [json.loads(line) for line in (bench / "calls.jsonl").read_text().splitlines()]
    assert len(calls) == 4
    assert "--config" not in calls[0]
    assert calls[1][:2] == ["--config", str(bench / "full.toml")]
    assert calls[0][-2:] == ["--limit", "7"]
    assert "--limit" not in calls[2]


def test_a_failing_binary_is_quoted(bench: Path) -> None:
    write_scores(bench, {"one": {"hybrid": [0.5]}, "two": {"hybrid": [0.5]}})
    with pytest.raises(MeasurementError, match=r"full on First: .* failed:\npipeline full is not known"):
        evaluate(EvaluationPlan(**plan_values(bench)))


def test_files_that_are_missing_are_told_at_once_before_anything_runs(bench: Path) -> None:
    for name in ("full.toml", "test.tsv"):
        (bench / name).unlink()
    with pytest.raises(ConfigError) as refused:
        evaluate(EvaluationPlan(**plan_values(bench)))
    assert [problem.split(":")[0] for problem in refused.value.problems] == [
        "sets.0.qrels",
        "sets.1.qrels",
        "candidates.0.config",
    ]
    assert not (bench / "calls.jsonl").exists()


def test_names_given_twice_are_refused(bench: Path) -> None:
    values = plan_values(bench)
    values["candidates"][0]["name"] = "hybrid"
    with pytest.raises(ValidationError, match="contenders: names must differ, hybrid is given twice"):
        EvaluationPlan(**values)


@pytest.mark.parametrize(
    ("losses", "objection"),
    [
        ({"a": 0.010, "b": -0.005}, None),
        ({"a": 0.100, "b": -0.006}, "b: nDCG@10 falls by 0.0060"),
        ({"a": 0.002, "b": -0.004}, "macro nDCG@10 falls by 0.0010"),
        ({"a": 0.0, "b": 0.0}, None),
    ],
)
def test_the_rule(losses: dict[str, float], objection: str | None) -> None:
    baseline = {name: cell(0.3, 0.5) for name in losses}
    candidate = {name: cell(0.3 + delta, 0.5 + delta) for name, delta in losses.items()}
    comparison = compare(candidate, baseline, seed=1)
    assert comparison.passes == (objection is None)
    assert [text[: len(objection)] for text in comparison.objections] == [objection] if objection else True


def test_a_candidate_with_degraded_answers_is_no_default() -> None:
    comparison = compare({"a": cell(0.9, degraded=2)}, {"a": cell(0.1)}, seed=1)
    assert comparison.objections == ["a: 2 answers were degraded"]


def test_different_queries_are_not_compared() -> None:
    with pytest.raises(MeasurementError, match="a: the two pipelines were measured on different queries"):
        compare({"a": cell(0.9)}, {"a": cell(0.1, 0.2)}, seed=1)


def test_intervals_are_seeded_and_as_wide_as_the_normal_ones() -> None:
    deltas = np.random.default_rng(5).normal(0.05, 0.2, size=400)
    baseline = {"a": cell(*([0.5] * 400)), "b": cell(*([0.5] * 400))}
    candidate = {"a": cell(*(0.5 + deltas)), "b": cell(*(0.5 + deltas))}
    first, again = (compare(candidate, baseline, seed=3) for _ in range(2))
    assert first == again
    half_width = 1.96 * deltas.std() / 20
    delta = first.sets["a"]
    assert delta.mean == pytest.approx(deltas.mean())
    assert delta.high - delta.mean == pytest.approx(half_width, rel=0.05)
    assert delta.mean - delta.low == pytest.approx(half_width, rel=0.05)
    assert first.macro.high - first.macro.low == pytest.approx(2 * half_width / 2**0.5, rel=0.05)


def test_the_shipped_plan_is_read() -> None:
    plan = read_config(Path(__file__).parents[1] / "configs" / "evaluate.toml", EvaluationPlan)
    assert plan.candidates[0].weights_fixed_on
