"""The image and the compose file, on a real Docker engine. In the root of the repository:

python3 -m venv target/docker && target/docker/bin/pip install -q -r tests/docker/requirements.txt
DOCKER_TEST=1 target/docker/bin/python -m pytest -q -s tests/docker

The images are built first, which takes its time; FINEMESH_IMAGE and FINEMESH_SLIM_IMAGE name such as are there.
BUILD_OPTIONS are more options of `docker build`, such as the base images of base_images.sh.
"""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ROOT, docker, is_there
from mesh import Mesh


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """What not everyone has."""
    if os.environ.get("DOCKER_TEST") != "1":
        pytest.skip("builds images and runs a mesh of containers: only with DOCKER_TEST=1")
    if is_there():
        return
    if os.environ.get("CI") == "true":
        pytest.fail("no Docker engine with compose; CI has to have it")
    pytest.skip("no Docker engine with compose: not checked")


def built(target: str, variable: str) -> str:
    """The image of a target of the Dockerfile."""
    if image := os.environ.get(variable):
        return image
    image = f"finemesh-test:{target}"
    options = shlex.split(os.environ.get("BUILD_OPTIONS", ""))
    docker("build", *options, "--file", ROOT / "deploy/Dockerfile", "--target", target, "--tag", image, ROOT)
    return image


@pytest.fixture(scope="session")
def image() -> str:
    return built("with-models", "FINEMESH_IMAGE")


@pytest.fixture(scope="session")
def slim_image() -> str:
    return built("slim", "FINEMESH_SLIM_IMAGE")


@pytest.fixture(scope="session")
def mesh(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """That of the compose file, with a collection of two shards."""
    folder: Path = tmp_path_factory.mktemp("corpus")
    folder.chmod(0o755)
    mesh = Mesh(image, folder)
    try:
        mesh.start()
        yield mesh
    finally:
        mesh.remove()
