"""What is said after an installation."""

import shutil
from pathlib import Path

import pytest
import yaml

from rendering import CHART, Chart

SHOWN = "notes: {{ tpl (.Files.Get `NOTES.txt`) . | toJson }}\n"
"""Helm shows notes only when it installs: a copy of the chart has them in an object."""


@pytest.fixture
def showing_notes(chart: Chart, tmp_path: Path) -> Chart:
    folder = shutil.copytree(CHART, tmp_path / "finemesh")
    (folder / "templates/NOTES.txt").rename(folder / "NOTES.txt")
    (folder / "templates/notes.yaml").write_text(SHOWN)
    return Chart(chart.helm, folder)


def notes(showing_notes: Chart, scenario: str) -> str:
    values = CHART / "ci" / f"{scenario}-values.yaml"
    return yaml.safe_load(showing_notes.render(values, "--show-only", "templates/notes.yaml"))["notes"]


def test_they_say_how_to_send_the_first_query(showing_notes: Chart) -> None:
    said = notes(showing_notes, "default")
    assert "port-forward service/finemesh 7700" in said
    assert "grpcurl -plaintext -d" in said
    assert "finemesh --address http://127.0.0.1:7700 search --collection papers" in said
    assert "Calls are plaintext" in said
    assert "Whoever reaches the public port may search" in said


def test_they_know_what_the_public_port_asks_for(showing_notes: Chart) -> None:
    said = notes(showing_notes, "s3-mtls-ha")
    assert "get secret search-orchestrator" in said
    assert "-cacert ca.crt -authority finemesh-search -cert client.crt -key client.key" in said
    assert '-H "authorization: Bearer $KEY"' in said
    assert "plaintext" not in said
