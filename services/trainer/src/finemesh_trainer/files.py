"""Whole files and folders: hashed, and written so that a kill leaves no half of one."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finemesh_trainer.errors import ConfigError, DataError


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror or error}") from error


def write_whole(path: Path, text: str) -> None:
    """Writes a text file that gets its name only when it is complete."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Gives a folder to write into, which gets the name `output` at the end; after a failure there is neither.

    Raises:
        ConfigError: when there is something at its place.
    """
    if output.exists():
        raise ConfigError([f"--output: {output} exists already"])
    staging = output.with_name(f".{output.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
