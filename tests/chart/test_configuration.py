"""The program's own word on the configurations that the chart makes."""

import os
import subprocess
from pathlib import Path

from rendering import Objects, Pod, configuration_text


def check(program: str, file: Path, environment: dict[str, str]) -> str:
    """What is wrong with the file; nothing: it is accepted."""
    command = [program, "check-config", str(file)]
    outcome = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    return "" if outcome.returncode == 0 else f"exit {outcome.returncode}: {outcome.stdout}{outcome.stderr}"


def settings_of(pod: Pod) -> dict[str, str]:
    """The settings among the pod's variables; the cluster would say which pod it is."""
    variables = [variable for variable in pod.containers[0].get("env", []) if variable["name"].startswith("FINEMESH__")]
    return {variable["name"]: variable.get("value", "0") for variable in variables}


def test_every_configuration_is_accepted(objects: Objects, finemesh: str, tmp_path: Path) -> None:
    problems = {}
    for pod in objects.pods():
        text = configuration_text(objects, pod)
        file = tmp_path / f"{pod.component}.toml"
        file.write_text(text)
        problem = check(finemesh, file, settings_of(pod))
        if "built without the feature `s3`" in problem:
            # A program for one machine: all but the bucket can be checked.
            file.write_text("".join(line for line in text.splitlines(keepends=True) if "s3://" not in line))
            problem = check(finemesh, file, settings_of(pod))
        if problem:
            problems[pod.component] = problem
    assert not problems, "\n".join(f"{component}: {problem}" for component, problem in problems.items())


def test_a_wrong_setting_is_refused(finemesh: str, tmp_path: Path) -> None:
    """That acceptance says something."""
    file = tmp_path / "wrong.toml"
    file.write_text("[server]\nmax_calls = 0\nunknown = 1\n")
    problem = check(finemesh, file, {})
    assert "max_calls" in problem
    assert "unknown" in problem
