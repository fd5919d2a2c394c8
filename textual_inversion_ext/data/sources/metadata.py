"""``metadata.jsonl`` and ``metadata.csv``: a row of facts about each picture, as `datasets`' imagefolder has them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from textual_inversion_ext.data.sources.texts import read_text
from textual_inversion_ext.errors import DataError

__all__ = ["Metadata", "read_metadata"]

_FILES = ("metadata.jsonl", "metadata.csv")
_NAME = "file_name"


@dataclass(frozen=True, slots=True)
class Metadata:
    """The rows of a metadata file.

    Attributes:
        file: The file.
        rows: Name of the picture, relative to the file's folder and with ``/``, to its row.
        columns: Names of all columns.
    """

    file: Path
    rows: Mapping[str, Mapping[str, Any]]
    columns: tuple[str, ...]


def read_metadata(folder: Path) -> Metadata | None:
    """Reads a folder's metadata file; ``metadata.jsonl`` goes before ``metadata.csv``.

    Args:
        folder: The folder.

    Returns:
        Its rows; None if there is no such file.

    Raises:
        DataError: It is damaged, or a row names no picture or one outside the folder.
    """
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        return None
    rows: dict[str, Mapping[str, Any]] = {}
    columns: dict[str, None] = {}
    for line, row in (_json_rows if file.suffix == ".jsonl" else _csv_rows)(file):
        name = row.get(_NAME)
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{file}, line {line}: no {_NAME}; each row names its picture, relative to the folder.")
        path = PurePosixPath(name.strip().replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{file}, line {line}: {name!r} lies outside the folder; name pictures inside it.")
        if path.as_posix() in rows:
            raise DataError(f"{file}, line {line}: {name!r} has a row already; write one for each picture.")
        rows[path.as_posix()] = row
        columns.update(dict.fromkeys(row))
    return Metadata(file, rows, tuple(columns))


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number} is not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number} must be an object with {_NAME!r}; it is {type(row).__name__}.")
        yield number, row


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{file}, line {reader.line_num}: more values than columns; quote texts with commas.")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num} is not valid CSV: {error}.") from error
