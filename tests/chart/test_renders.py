"""Every scenario of ci/: lints, renders what it rendered before, and is what Kubernetes knows."""

from pathlib import Path

import pytest
import yaml

from rendering import CHART, CI_FILES, KUBERNETES, Chart, Objects, name_of, scenario_of
from tools import missing

CUSTOM_KINDS = {"Certificate", "GRPCRoute", "ScaledObject", "ServiceMonitor"}
"""Of others than Kubernetes: it has no schemas of these."""


def test_it_lints(chart: Chart, values_file: Path) -> None:
    outcome = chart.lint(values_file)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_it_renders_as_before(chart: Chart, values_file: Path, request: pytest.FixtureRequest) -> None:
    golden = CHART / "golden" / f"{scenario_of(values_file)}.yaml"
    rendered = chart.render(values_file)
    if request.config.getoption("--update"):
        golden.write_text(rendered)
    assert rendered == golden.read_text(), "changed on purpose? Write it anew with --update, and read the difference"


def test_each_golden_render_has_its_values() -> None:
    assert {path.stem for path in (CHART / "golden").iterdir()} == {scenario_of(path) for path in CI_FILES}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_object(objects: Objects, version: str) -> None:
    try:
        import kubernetes_validate
    except ImportError:
        missing("kubernetes-validate is not installed (tests/chart/requirements.txt)")
    problems = []
    for one in objects.all:
        if one["kind"] not in CUSTOM_KINDS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                problems.append(f"{name_of(one)}: {error.message} at {list(error.path)}")
    assert not problems


def test_all_kinds_are_covered_by_some_scenario(chart: Chart) -> None:
    """What no scenario renders, nothing here has looked at."""
    rendered = [chart.render(values_file) for values_file in CI_FILES]
    templates = {path.relative_to(CHART) for path in (CHART / "templates").rglob("*.yaml")}
    unused = {path for path in templates if not any(f"/{path}\n" in text for text in rendered)}
    assert unused == {Path("templates/checks.yaml")}


def test_values_and_schema_have_the_same_keys() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert values.keys() == schema["properties"].keys() - {"global"}
