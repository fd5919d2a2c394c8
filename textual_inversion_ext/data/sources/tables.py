"""The pictures of a `datasets.Dataset`: a column of pictures, and perhaps one of captions and one of masks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual_inversion_ext.data.sources.beside import masks_beside
from textual_inversion_ext.data.sources.captions import CAPTION_COLUMNS, caption_column, clean_captions
from textual_inversion_ext.data.sources.found import FoundPicture, Wanted
from textual_inversion_ext.errors import DataError

if TYPE_CHECKING:
    import datasets

__all__ = ["find_in_table"]

_MASK_COLUMN = "mask"


def find_in_table(data: Any, wanted: Wanted) -> Iterator[FoundPicture]:
    """Finds the pictures of a data set, in the order of its rows.

    Args:
        data: A ``datasets.Dataset``.
        wanted: The columns, and what is read of them.

    Yields:
        The pictures, unopened; rows that are mask files of other rows are none.

    Raises:
        DataError: It is a data set of several splits or a stream, or a column is missing or of another kind.
    """
    import datasets

    if isinstance(data, dict):
        raise DataError(f"a data set with splits was given; choose one, e.g. data[{next(iter(data), 'train')!r}].")
    if isinstance(data, datasets.IterableDataset):
        raise DataError("a streaming data set was given; its length is not known. Load it with streaming=False.")
    picture = _picture_column(data, wanted.image_column)
    caption = _caption_column(data, wanted.caption_column) if wanted.captions else None
    mask = _mask_column(data, wanted.mask_column_name) if wanted.mask_column else None
    columns = [name for name in dict.fromkeys([picture, caption, mask]) if name is not None]
    rows = data.with_format(None).select_columns(columns)
    for column in dict.fromkeys(name for name in (picture, mask) if name is not None):
        # Undecoded, so that a damaged picture is met one by one when it is opened, with its EXIF data and profile.
        rows = rows.cast_column(column, datasets.Image(decode=False))
    masks = _mask_rows(rows, picture)
    for position, row in enumerate(rows):
        if position in masks.values():
            continue
        path = (row[picture] or {}).get("path")
        name = f"row {position} ({os.path.basename(path)})" if path else f"row {position}"
        captions = clean_captions(row[caption], f"{name}, column {caption!r}") if caption is not None else ()
        own = None if mask is None else _content(row[mask])
        if own is None and wanted.mask_files and position in masks:
            own = _content(rows[masks[position]][picture])
        yield FoundPicture(name, _content(row[picture]), captions, own)


def _mask_rows(rows: datasets.Dataset, column: str) -> dict[int, int]:
    """Finds rows that are masks of others by their file names: an imagefolder takes every file for a picture.

    Args:
        rows: The data set, its pictures undecoded.
        column: The column of the pictures.

    Returns:
        Row of a picture to row of its mask; empty where files have no names or share them.
    """
    paths = [(row[column] or {}).get("path") for row in rows.select_columns([column])]
    place = {Path(path): position for position, path in enumerate(paths) if path}
    if len(place) < len(paths):
        return {}
    found: dict[int, int] = {}
    for folder in dict.fromkeys(path.parent for path in place):
        pairs = masks_beside(path for path in place if path.parent == folder)
        found.update({place[picture]: place[mask] for picture, mask in pairs.items()})
    return found


def _content(cell: dict[str, Any] | None) -> bytes | Path | None:
    path, content = (cell or {}).get("path"), (cell or {}).get("bytes")
    return content if content is not None else Path(path) if path else None


def _picture_column(data: datasets.Dataset, wanted: str | None) -> str:
    columns = _image_columns(data)
    if wanted is not None:
        _check_image_column(data, wanted, "--image_column")
        return wanted
    if "image" in columns:
        return "image"
    others = [name for name in columns if name != _MASK_COLUMN]
    if len(others) == 1:
        return others[0]
    if columns:
        raise DataError(
            f"the data set has several image columns ({', '.join(columns)}); name the one to learn from with "
            f"--image_column."
        )
    raise DataError(
        f"the data set has no image column; it has {_described(data)}. Make one with data.cast_column(name, "
        f"datasets.Image())."
    )


def _caption_column(data: datasets.Dataset, wanted: str | None) -> str | None:
    column = caption_column(data.column_names, wanted, "the data set")
    if column is None or _holds_text(data.features[column]):
        return column
    if wanted is None:
        return None
    raise DataError(
        f"column {wanted!r} (--caption_column) does not hold text; the data set has {_described(data)}. Captions are "
        f"texts or lists of texts, usually in a column called {' or '.join(CAPTION_COLUMNS)}."
    )


def _holds_text(feature: Any) -> bool:
    while isinstance(feature, list) or hasattr(feature, "feature"):  # a list of texts
        feature = feature[0] if isinstance(feature, list) else feature.feature
    return getattr(feature, "dtype", "") in ("string", "large_string", "null")


def _mask_column(data: datasets.Dataset, wanted: str | None) -> str | None:
    if wanted is None:
        return _MASK_COLUMN if _MASK_COLUMN in _image_columns(data) else None
    _check_image_column(data, wanted, "--mask_column")
    return wanted


def _check_image_column(data: datasets.Dataset, name: str, flag: str) -> None:
    if name not in data.column_names:
        raise DataError(f"the data set has no column {name!r} ({flag}); it has: {', '.join(data.column_names)}.")
    if name not in _image_columns(data):
        raise DataError(
            f"column {name!r} ({flag}) does not hold pictures; the data set has {_described(data)}. Paths become "
            f"pictures with data.cast_column({name!r}, datasets.Image())."
        )


def _image_columns(data: datasets.Dataset) -> list[str]:
    import datasets

    return [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]


def _described(data: datasets.Dataset) -> str:
    return ", ".join(f"{name} ({type(feature).__name__})" for name, feature in data.features.items())
