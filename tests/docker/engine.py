"""The docker command."""

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# An older client would build as it did before there was BuildKit.
ENVIRONMENT = os.environ | {"DOCKER_BUILDKIT": "1"}


def is_there() -> bool:
    """An engine that answers, and compose."""
    commands = (["docker", "version"], ["docker", "compose", "version"])
    try:
        return all(subprocess.run(command, capture_output=True).returncode == 0 for command in commands)
    except FileNotFoundError:
        return False


def docker(*arguments: str | Path, stdin: str = "", **variables: str) -> str:
    """What it prints; a failure is an error that shows both outputs."""
    command = ["docker", *map(str, arguments)]
    outcome = subprocess.run(command, input=stdin, capture_output=True, text=True, env=ENVIRONMENT | variables)
    assert outcome.returncode == 0, f"{' '.join(command)}: exit {outcome.returncode}\n{outcome.stdout}{outcome.stderr}"
    return outcome.stdout


def inspect(thing: str) -> dict:
    """What the engine knows of an image or a container."""
    return json.loads(docker("inspect", thing))[0]
