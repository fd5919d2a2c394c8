"""The pictures of a folder, and of a list of files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from textual_inversion_ext.data.pictures.decoding import readable_extensions
from textual_inversion_ext.data.sources.beside import Beside, mask_column, masks_beside
from textual_inversion_ext.data.sources.found import FoundPicture, Wanted, listed
from textual_inversion_ext.data.sources.paths import expand_home
from textual_inversion_ext.errors import DataError

__all__ = ["find_in_list", "find_in_path", "is_noise", "natural_order"]

logger = logging.getLogger(__name__)

# Files that belong beside pictures; anything else that is passed over is mentioned in the log.
_SIDE_FILES = frozenset(
    [".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".md", ".yaml", ".yml", ".toml", ".npz"]
)
_SYSTEM_FILES = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini"])
_TABLES = frozenset([".parquet", ".arrow"])


def find_in_path(text: str, wanted: Wanted) -> Iterator[FoundPicture]:
    """Finds the pictures of a folder, or the one picture that a path names.

    A folder's pictures are the files in it, in natural order of their names. Sub-folders are not searched; but where
    the folder itself holds no picture, its metadata file may name pictures in them.

    Args:
        text: The path.
        wanted: What to look for beside the pictures.

    Yields:
        The pictures, unopened.

    Raises:
        DataError: There is no such path, it holds no pictures, or a file beside the pictures is damaged.
    """
    path = expand_home(text)
    if not text or not path.exists():
        raise DataError(
            f"folder {text!r} does not exist (looked for {path.absolute()}). Give a folder on this machine; a data "
            f"set of the Hub is given with --dataset_name USER/NAME, in Python as HubDataset('USER/NAME')."
        )
    if path.is_dir():
        yield from _find_in_folder(path, wanted)
    else:
        yield Beside(wanted).found(path, path.parent)


def find_in_list(images: Sequence[Any], wanted: Wanted) -> Iterator[FoundPicture]:
    """Finds the pictures of a list, in its order.

    A mask is no picture: where a list holds ``corgi.jpg`` and ``corgi_mask.png`` of the same folder, as a search for
    files finds them, the second is left out.

    Args:
        images: Paths and PIL images.
        wanted: What to look for beside the pictures.

    Yields:
        The pictures, unopened.

    Raises:
        DataError: A file beside the pictures is damaged.
    """
    beside = Beside(wanted)
    paths = [expand_home(image) for image in images if isinstance(image, str | os.PathLike)]
    masks: set[Path] = set()
    for folder in dict.fromkeys(path.parent for path in paths):
        masks.update(masks_beside(path for path in paths if path.parent == folder).values())
    _mention_masks(len(masks), wanted)
    for position, image in enumerate(images, start=1):
        if not isinstance(image, str | os.PathLike):
            yield FoundPicture(getattr(image, "filename", "") or f"picture {position} of the list", image)
            continue
        path = expand_home(image)
        if path not in masks:
            found = beside.found(path, path.parent)
            yield FoundPicture(os.fspath(image), path, found.captions, found.mask)


def is_noise(entry: Path) -> bool:
    """Recognises what operating systems leave in folders.

    Args:
        entry: A file or folder.

    Returns:
        Whether it is hidden or a system's own.
    """
    # "._name.jpg" and "__MACOSX" are what macOS leaves in archives and on foreign disks; they are not pictures.
    return entry.name.startswith(".") or entry.name == "__MACOSX" or entry.name.lower() in _SYSTEM_FILES


def natural_order(entry: Path) -> tuple[list[tuple[int, str]], str]:
    """Sorts img2 before img10.

    Args:
        entry: A file or folder.

    Returns:
        The key to sort by.
    """
    parts = re.split(r"([0-9]+)", entry.name.casefold())
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)], entry.name


def _find_in_folder(folder: Path, wanted: Wanted) -> Iterator[FoundPicture]:
    try:
        entries = sorted(folder.iterdir(), key=natural_order)
    except OSError as error:
        raise DataError(f"folder {str(folder)!r} cannot be read: {error.strerror}.") from error
    visible = [entry for entry in entries if not is_noise(entry)]
    files = [entry for entry in visible if not entry.is_dir()]
    extensions = readable_extensions()
    beside = Beside(wanted)
    readable = [file for file in files if file.suffix.lower() in extensions]
    masks = set(masks_beside(readable).values())
    named = _masks_in_metadata(folder, beside, wanted)
    pictures = [file for file in readable if file not in masks | named]
    if not pictures:
        metadata = beside.metadata(folder)
        pictures = [folder / name for name in metadata.rows] if metadata is not None else []
    if not pictures:
        raise DataError(_nothing_found(folder, entries, visible, extensions))
    strangers = [file.name for file in files if file not in readable and file.suffix.lower() not in _SIDE_FILES]
    if strangers:
        logger.warning("%s: passed over, not a kind of picture that is read: %s", folder, listed(strangers))
    _mention_masks(len(masks), wanted)
    if wanted.image_column is not None:
        logger.warning(
            "notice: --image_column %s names a column of a data set; %s is a folder, and all of its pictures are used.",
            *(wanted.image_column, folder),
        )
    if wanted.captions:
        beside.captions(folder).mention_strangers()
    for picture in pictures:
        yield beside.found(picture, folder)


def _masks_in_metadata(folder: Path, beside: Beside, wanted: Wanted) -> set[Path]:
    metadata = beside.metadata(folder) if wanted.mask_column else None
    column = mask_column(metadata, wanted.mask_column_name) if metadata is not None else None
    if metadata is None or column is None:
        return set()
    return {folder / row[column] for row in metadata.rows.values() if isinstance(row.get(column), str)}


def _mention_masks(count: int, wanted: Wanted) -> None:
    if count and not wanted.mask_files:
        logger.info("%d mask file(s) beside the pictures are not used; --masks files uses them.", count)


def _nothing_found(folder: Path, entries: list[Path], visible: list[Path], extensions: tuple[str, ...]) -> str:
    names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]
    inside = [
        entry.name
        for entry in visible
        if entry.is_dir() and any(child.suffix.lower() in extensions for child in _children(entry))
    ]
    hint = ""
    if inside:
        hint = (
            f" Sub-folders are not searched; give {str(folder / inside[0])!r} itself, the whole folder with "
            f"--dataset_name as datasets reads it, or with --concepts if each sub-folder is a concept of its own."
        )
    elif any(entry.suffix.lower() in _TABLES for entry in visible):
        hint = f" It looks like a data set: give it with --dataset_name {folder}."
    found = f"It holds: {listed(names)}." if names else "It is empty."
    return f"folder {str(folder)!r} holds no pictures. {found} Read are: {' '.join(extensions)}.{hint}"


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
