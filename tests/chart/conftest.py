"""The chart's tests: finds the tools, and renders what is in ci/."""

import os
import shutil
from pathlib import Path

import pytest
from rendering import CI_FILES, Chart, Objects, scenario_of


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write the golden renders instead of comparing with them")


def missing(tool: str) -> None:
    """Not everyone has every tool. CI has."""
    sentence = f"{tool}: what it would check is not checked"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{sentence}, which CI does not accept")
    pytest.skip(sentence)


@pytest.fixture(scope="session")
def chart() -> Chart:
    helm = shutil.which("helm") or shutil.which("helm", path=str(Path.home() / "go/bin"))
    if helm is None:
        missing("helm is not on the path (go install helm.sh/helm/v3/cmd/helm@v3.22.0)")
    return Chart(helm)


@pytest.fixture(scope="session", params=CI_FILES, ids=scenario_of)
def values_file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="session")
def objects(chart: Chart, values_file: Path) -> Objects:
    """All objects of one scenario."""
    return Objects.parse(chart.render(values_file))


@pytest.fixture(scope="session")
def finemesh() -> str:
    """The program, whose own word on a configuration counts."""
    program = os.environ.get("FINEMESH_BIN", "")
    if not Path(program).is_file():
        missing("FINEMESH_BIN names no finemesh program")
    return program
