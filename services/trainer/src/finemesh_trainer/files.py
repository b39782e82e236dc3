"""Whole files: hashed, and written so that a kill leaves no half of one."""

import hashlib
from pathlib import Path

from finemesh_trainer.errors import DataError


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
