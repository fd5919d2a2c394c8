"""Captions that lie beside pictures: one text file each, or one file about all of them.

The first of these that says something about a picture is used, and the others are not asked:

1. ``captions.json``: ``{"corgi.jpg": "a dog on a lawn", "two.jpg": ["short", "a longer one"]}``
2. ``metadata.jsonl``: ``{"file_name": "corgi.jpg", "text": "a dog on a lawn"}`` a line, as in an imagefolder
3. ``metadata.csv``: the same as a table with a first line of column names
4. ``corgi.txt``
5. ``corgi.caption``
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from textual_inversion_ext.data.sources.found import listed
from textual_inversion_ext.data.sources.metadata import Metadata
from textual_inversion_ext.data.sources.texts import read_text
from textual_inversion_ext.errors import DataError

__all__ = ["CAPTION_COLUMNS", "FolderCaptions", "caption_column", "clean_captions"]

logger = logging.getLogger(__name__)

CAPTION_COLUMNS = ("text", "caption", "captions")
"""Names under which captions are looked for, in this order, when no column is named."""

_ABOUT_ALL = "captions.json"
_ABOUT_ONE = (".txt", ".caption")


class FolderCaptions:
    """The captions of the pictures of one folder.

    Args:
        folder: The folder.
        metadata: Its metadata file, None if it has none.
        column: Name of the captions in metadata files; None for the first of `CAPTION_COLUMNS`.

    Raises:
        DataError: A file about all pictures is damaged, or has no such column.
    """

    def __init__(self, folder: Path, metadata: Metadata | None, column: str | None = None) -> None:
        self._folder = folder
        self._texts = _from_json(folder / _ABOUT_ALL)
        for name, captions in _from_metadata(metadata, column).items():
            if not self._texts.get(name):
                self._texts[name] = captions

    def of(self, picture: Path) -> tuple[str, ...]:
        """Finds what was written about a picture.

        Args:
            picture: A file in the folder or below it.

        Returns:
            Its captions; empty where there are none.

        Raises:
            DataError: The text beside it cannot be read.
        """
        named = self._texts.get(picture.relative_to(self._folder).as_posix())
        if named:
            return named
        for ending in _ABOUT_ONE:
            file = picture.with_suffix(ending)
            if file.is_file():
                captions = clean_captions(read_text(file), str(file))
                if captions:
                    return captions
        return ()

    def mention_strangers(self) -> None:
        """Says in the log which names have captions and no picture: they may be mistyped."""
        missing = [name for name in self._texts if not (self._folder / name).exists()]
        if missing:
            logger.warning("%s: captions for pictures that are not there: %s", self._folder, listed(missing))


def clean_captions(value: Any, where: str) -> tuple[str, ...]:
    """Makes clean single lines of what a file or a data set holds as the caption of a picture.

    Args:
        value: Text, a list of texts, or None.
        where: What to call its place in messages.

    Returns:
        The captions, without line breaks and doubled white space, letters and their accents in one; empty texts are
        left out.

    Raises:
        DataError: It is something else than text, or text that was decoded wrongly.
    """
    texts = value if isinstance(value, list | tuple) else [] if value is None else [value]
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise DataError(f"{where}: a caption is {wrong[0]!r}; it must be text, or a list of texts.")
    if any("\0" in text for text in texts):
        raise DataError(f"{where} holds null characters: it is no text, or UTF-16 without its mark. Save it as UTF-8.")
    # U+FEFF: a byte order mark that was pasted into the middle of a file.
    lines = [" ".join(normalize("NFC", text).replace("\ufeff", " ").split()) for text in texts]
    return tuple(line for line in lines if line)


def caption_column(columns: Sequence[str], wanted: str | None, where: str) -> str | None:
    """Chooses the column that holds captions.

    Args:
        columns: The names there are.
        wanted: The user's choice, or None.
        where: What to call the table in messages.

    Returns:
        A name, or None when none was chosen and none of the usual ones is there.

    Raises:
        DataError: The chosen column is not there.
    """
    if wanted is not None and wanted not in columns:
        raise DataError(f"{where} has no column {wanted!r} (--caption_column); it has: {', '.join(columns)}.")
    return wanted or next((name for name in CAPTION_COLUMNS if name in columns), None)


def _from_metadata(metadata: Metadata | None, wanted: str | None) -> dict[str, tuple[str, ...]]:
    if metadata is None:
        return {}
    column = caption_column(metadata.columns, wanted, str(metadata.file))
    if column is None:
        return {}
    return {name: clean_captions(row.get(column), f"{metadata.file}, {name}") for name, row in metadata.rows.items()}


def _from_json(file: Path) -> dict[str, tuple[str, ...]]:
    if not file.is_file():
        return {}
    try:
        table = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(table, dict):
        raise DataError(f'{file} must be an object such as {{"corgi.jpg": ["a dog on a lawn"]}}.')
    return {Path(name).as_posix(): clean_captions(value, f"{file}, {name}") for name, value in table.items()}
