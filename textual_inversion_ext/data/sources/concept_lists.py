"""Many concepts at once: a list in a file, or a folder of folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.data.pictures.decoding import readable_extensions
from textual_inversion_ext.data.sources.folders import is_noise, natural_order
from textual_inversion_ext.data.sources.found import listed
from textual_inversion_ext.data.sources.paths import expand_home
from textual_inversion_ext.data.sources.texts import read_text
from textual_inversion_ext.errors import ConceptError, DataError

__all__ = ["read_concepts"]

_LIST = "concepts.jsonl"
_NO_WORD = re.compile(r"[\s<>]+")


def read_concepts(path: Path) -> tuple[dict[str, Any], ...]:
    """Reads what is to be learned.

    - A file holds one JSON object a line, with the fields of `ConceptSpec`: ``{"placeholder_token": "<corgi>",
      "images": "pictures/corgi", "initializer": "dog"}``. Paths in it are relative to its folder.
    - A folder that holds a file ``concepts.jsonl`` stands for that file.
    - Of any other folder each sub-folder is a concept: ``corgi/`` holds the pictures of ``<corgi>``. White space in its
      name becomes ``-``.

    Args:
        path: The file or folder.

    Returns:
        One dict of `ConceptSpec` fields per concept, in the file's order or in natural order of the folders' names.

    Raises:
        DataError: It is missing, empty, or holds something else.
        ConceptError: A field of a concept cannot work; the message names the line.
    """
    path = expand_home(path)
    if path.is_dir():
        return _from_file(path / _LIST) if (path / _LIST).is_file() else _from_folder(path)
    if not path.is_file():
        raise DataError(f"--concepts {path} does not exist; give a file of JSON lines, or a folder of folders.")
    return _from_file(path)


def _from_file(file: Path) -> tuple[dict[str, Any], ...]:
    concepts = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{file}, line {number} is not valid JSON: {error}. Write one object for each concept on a line of its "
                f"own."
            ) from error
        try:
            concepts.append(_checked(fields, file.parent))
        except (ConceptError, DataError) as error:
            raise type(error)(f"{file}, line {number}: {error}") from error
    if not concepts:
        raise DataError(f"{file} is empty; it holds one JSON object a line, each a concept.")
    return tuple(concepts)


def _checked(fields: Any, folder: Path) -> dict[str, Any]:
    ConceptSpec.from_dict(fields)
    images = fields.get("images")
    if images is None:
        raise ConceptError("a concept of a list needs images: a folder, a list of paths, or a dataset_name.")
    if isinstance(images, Mapping) and "dataset_name" in images:
        name = folder / images["dataset_name"]
        images = {**images, "dataset_name": str(name)} if name.is_dir() else dict(images)
    elif isinstance(images, list) and all(isinstance(image, str) for image in images):
        images = [_placed(image, folder) for image in images]
    elif isinstance(images, str):
        images = _placed(images, folder)
    else:
        raise ConceptError(f"images is {images!r}; it must be a folder, a list of paths, or {{'dataset_name': ...}}.")
    start = fields.get("initializer", "")
    # A word is a word, even where a file of that name lies about.
    is_path = start and (fields.get("initialization") == "file" or "/" in start or os.sep in start)
    if (Path(start).suffix and (folder / start).is_file()) or (is_path and (folder / start).exists()):
        start = str(folder / start)
    return {**fields, "images": images, "initializer": start}


def _placed(path: str, folder: Path) -> str:
    return str(folder / expand_home(path))


def _from_folder(folder: Path) -> tuple[dict[str, Any], ...]:
    try:
        entries = sorted((entry for entry in folder.iterdir() if not is_noise(entry)), key=natural_order)
    except OSError as error:
        raise DataError(f"--concepts {folder} cannot be read: {error.strerror}.") from error
    pictures = [entry.name for entry in entries if entry.suffix.lower() in readable_extensions() and entry.is_file()]
    if pictures:
        raise DataError(
            f"--concepts {folder} holds pictures itself ({listed(pictures)}); it must hold a folder of pictures for "
            f"each concept. One concept is given with --train_data_dir and --placeholder_token."
        )
    inside = [entry for entry in entries if entry.is_dir()]
    if not inside:
        raise DataError(f"--concepts {folder} holds no folders; it needs one with pictures for each concept.")
    concepts = []
    for entry in inside:
        fields = {"placeholder_token": f"<{_NO_WORD.sub('-', entry.name)}>", "images": str(entry)}
        try:
            ConceptSpec.from_dict(fields)
        except ConceptError as error:
            raise ConceptError(f"{entry}: {error} The folder's name is the concept's; rename it.") from error
        concepts.append(fields)
    return tuple(concepts)
