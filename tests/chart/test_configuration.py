"""The program's own word on the configurations that the chart makes."""

import os
import subprocess
from pathlib import Path

import pytest
from rendering import Objects, Pod, configuration_text

STANDS_FOR = "/etc/finemesh"
"""The folder of a pod whose files have to be there."""


@pytest.fixture(scope="session")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pod would find mounted: certificates and keys."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("mounted")
    for name in ("tls", "api-keys"):
        (folder / name).mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert("finemesh-orchestrator", "127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "tls/tls.key")
    authority.cert_pem.write_to_path(folder / "tls/ca.crt")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(folder / "tls/tls.crt", append=True)
    (folder / "api-keys/api-keys").write_text("a-key-of-some-length\n")
    return folder


def check(program: str, file: Path, environment: dict[str, str]) -> str:
    """What is wrong with the file; nothing: it is accepted."""
    command = [program, "check-config", str(file)]
    outcome = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    return "" if outcome.returncode == 0 else f"exit {outcome.returncode}: {outcome.stdout}{outcome.stderr}"


def environment_of(pod: Pod) -> dict[str, str]:
    """The settings among the pod's variables; the cluster would say which pod it is."""
    variables = [variable for variable in pod.containers[0].get("env", []) if variable["name"].startswith("FINEMESH__")]
    return {variable["name"]: variable.get("value", "0") for variable in variables}


def test_every_configuration_is_accepted(objects: Objects, finemesh: str, mounted: Path, tmp_path: Path) -> None:
    problems = {}
    for pod in objects.pods():
        text = configuration_text(objects, pod).replace(STANDS_FOR, str(mounted))
        file = tmp_path / f"{pod.component}.toml"
        file.write_text(text)
        problem = check(finemesh, file, environment_of(pod))
        if "built without the feature `s3`" in problem:
            # A program for one machine: all but the bucket can be checked.
            file.write_text("".join(line for line in text.splitlines(keepends=True) if "s3://" not in line))
            problem = check(finemesh, file, environment_of(pod))
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
