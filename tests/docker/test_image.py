"""What is in the images."""

import json
import subprocess
import zlib
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from engine import docker, inspect


def compressed_mb(image: str) -> float:
    """What a registry keeps and sends, nearly."""
    compressor = zlib.compressobj()
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
        chunks = iter(lambda: save.stdout.read(1 << 20), b"")
        compressed = sum(len(compressor.compress(chunk)) for chunk in chunks) + len(compressor.flush())
    return compressed / 1e6


def test_sizes(image: str, slim_image: str) -> None:
    for name, pulled_mb_at_most in ((image, 180), (slim_image, 90)):
        pulled_mb = compressed_mb(name)
        print(f"\n{name}: {inspect(name)['Size'] / 1e6:.0f} MB, compressed {pulled_mb:.0f} MB", end="")
        assert pulled_mb <= pulled_mb_at_most


def test_neither_root_nor_a_shell(image: str, slim_image: str) -> None:
    for name in (image, slim_image):
        config = inspect(name)["Config"]
        assert config["User"] == "65532:65532"
        assert config["Healthcheck"]["Test"] == ["CMD", "finemesh", "health"]
        with pytest.raises(AssertionError, match=r"executable file not found|no such file"):
            docker("run", "--rm", "--entrypoint", "sh", name, "-c", "true")


def test_labels(slim_image: str) -> None:
    labels = inspect(slim_image)["Config"]["Labels"]
    for name in ("title", "version", "revision", "source", "licenses"):
        assert labels[f"org.opencontainers.image.{name}"]


def test_models_need_no_network_and_no_place_to_write(image: str) -> None:
    confined = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]
    report = docker("run", "--rm", *confined, image, "models", "verify")
    print(f"\n{report}")


def test_sbom(slim_image: str, tmp_path: Path) -> None:
    """The crates of which the program was built stand in it, as cargo-auditable writes them."""
    container = docker("create", slim_image).strip()
    try:
        docker("cp", f"{container}:/usr/local/bin/finemesh", tmp_path)
    finally:
        docker("rm", container)
    with (tmp_path / "finemesh").open("rb") as program:
        section = ELFFile(program).get_section_by_name(".dep-v0")
        names = {package["name"] for package in json.loads(zlib.decompress(section.data()))["packages"]}
    print(f"\n{len(names)} crates", end="")
    assert {"finemesh", "tonic", "tantivy", "object_store", "rustls"} <= names
