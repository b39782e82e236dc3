"""The chart's tests. They need Helm, what is in requirements.txt, and the program:

go install helm.sh/helm/v3/cmd/helm@v3.22.0
python3 -m venv target/chart && target/chart/bin/pip install -q -r tests/chart/requirements.txt
target/chart/bin/python -m pytest -q tests/chart
"""

from pathlib import Path

import pytest

import tools
from rendering import CI_FILES, Chart, Objects, scenario_of


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write the golden renders instead of comparing with them")


@pytest.fixture(scope="session")
def chart() -> Chart:
    return Chart(tools.helm())


@pytest.fixture(scope="session", params=CI_FILES, ids=scenario_of)
def values_file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="session")
def objects(chart: Chart, values_file: Path) -> Objects:
    """All objects of one scenario."""
    return Objects.parse(chart.render(values_file))


@pytest.fixture(scope="session")
def finemesh() -> str:
    return tools.finemesh()
