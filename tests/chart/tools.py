"""Tools that not everyone has. CI has."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
"""What CI installs with Go."""


def missing(tool: str) -> NoReturn:
    """Says what cannot be checked. Skips the test, or fails it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{tool}; CI has to have it")
    pytest.skip(f"{tool}: not checked")


def helm() -> str:
    """On the path, or where Go installs."""
    found = shutil.which("helm") or shutil.which("helm", path=Path.home() / "go/bin")
    return found or missing(f"helm is not installed (go install {HELM})")


def finemesh() -> str:
    """The program, whose own word on a configuration counts."""
    places = [os.environ.get("FINEMESH_BINARY", ""), ROOT / "target/debug/finemesh", ROOT / "target/release/finemesh"]
    for place in map(Path, filter(None, places)):
        if place.is_file():
            return str(place.absolute())
    missing("there is no finemesh binary (cargo build -p finemesh, or name one in FINEMESH_BINARY)")
