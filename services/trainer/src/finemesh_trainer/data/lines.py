"""Lines of text and JSON objects out of plain or gzipped files; whatever is wrong is told with file and line."""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from finemesh_trainer.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, counted from 1."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    def error(self, message: str) -> DataError:
        """The error that names this line."""
        return DataError(self.path, self.line, message)


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked when it starts as gzip does: the name does not matter."""
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            raw.seek(0)
            if is_gzip:
                with gzip.open(raw) as unpacked:
                    yield unpacked
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, None, f"is a damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror or error}") from error


def read_lines(path: str | Path) -> Iterator[tuple[Place, str]]:
    """Every line that is not blank, without its end, with its place. Bytes that are not UTF-8 are refused."""
    path = Path(path)
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            place = Place(path, number)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise place.error(f"byte {error.start + 1} is not UTF-8") from error
            if text.strip():
                yield place, text


def read_objects(path: str | Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The JSON object of every line."""
    for place, line in read_lines(path):
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise place.error(f"is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise place.error(f"a JSON object is expected, not {kind_of(record)}")
        yield place, record


def write_objects(path: str | Path, records: Iterable[dict[str, Any]]) -> int:
    """Writes one JSON object a line, gzipped when the name ends in `.gz`, and returns how many.

    The same records give the same bytes. The file gets its name only when it is complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("wb") as raw:
        # No file name and no time in the gzip header: both would differ from run to run.
        packed = gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) if path.suffix == ".gz" else raw
        with packed:
            for record in records:
                packed.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                count += 1
    partial.replace(path)
    return count


def kind_of(value: object) -> str:
    """What a JSON value is, in JSON's own words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names[type(value)]


def text_of(value: object, field: str, place: Place) -> str:
    """A string that holds more than white space, and nothing that UTF-8 has no form for."""
    if not isinstance(value, str):
        raise place.error(f"{field}: is {kind_of(value)}, not a string")
    if not value.strip():
        raise place.error(f"{field}: is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise place.error(f"{field}: character {error.start + 1} is half of a surrogate pair") from error
    return value


def required_text(record: dict[str, Any], field: str, place: Place) -> str:
    """The text of a field that must be there."""
    if field not in record:
        raise place.error(f"{field}: is missing")
    return text_of(record[field], field, place)


def optional_text(record: dict[str, Any], field: str, place: Place) -> str | None:
    """The text of a field that may be absent or null."""
    return None if record.get(field) is None else text_of(record[field], field, place)


def list_of(record: dict[str, Any], field: str, place: Place) -> list[Any]:
    """The list of a field; an absent one is empty."""
    value = record.get(field, [])
    if not isinstance(value, list):
        raise place.error(f"{field}: is {kind_of(value)}, not a list")
    return value


def number_of(value: object, field: str, place: Place) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise place.error(f"{field}: is {kind_of(value)}, not a number")
    if not math.isfinite(value):
        raise place.error(f"{field}: is {value}, not a finite number")
    return float(value)
