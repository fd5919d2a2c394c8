"""What lies beside picture files: their captions and their masks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from textual_inversion_ext.data.pictures.decoding import readable_extensions
from textual_inversion_ext.data.sources.captions import FolderCaptions
from textual_inversion_ext.data.sources.found import FoundPicture, Wanted
from textual_inversion_ext.data.sources.metadata import Metadata, read_metadata
from textual_inversion_ext.errors import DataError

__all__ = ["Beside", "mask_column", "masks_beside"]

_MASK_ENDINGS = ("_mask", ".mask")
_MASK_COLUMN = "mask"


class Beside:
    """Looks for captions and masks beside picture files; each folder is read once.

    Args:
        wanted: What to look for.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._metadata: dict[Path, Metadata | None] = {}
        self._captions: dict[Path, FolderCaptions] = {}
        self._masks: dict[Path, dict[str, Path]] = {}

    def found(self, picture: Path, root: Path) -> FoundPicture:
        """Puts a picture file together with what lies beside it.

        Args:
            picture: The file.
            root: The folder whose metadata and captions file are about it: its own or one above.

        Returns:
            The picture with its captions and its mask, as far as they are wanted.

        Raises:
            DataError: A file of captions or metadata is damaged.
        """
        captions = self.captions(root).of(picture) if self._wanted.captions else ()
        mask = self._mask_in_metadata(picture, root) if self._wanted.mask_column else None
        if mask is None and self._wanted.mask_files:
            mask = self._masks_of(picture.parent).get(picture.name)
        return FoundPicture(os.fspath(picture), picture, captions, mask)

    def metadata(self, root: Path) -> Metadata | None:
        """Reads the metadata file of a folder.

        Args:
            root: The folder.

        Returns:
            Its rows; None if there is no such file.

        Raises:
            DataError: It is damaged.
        """
        if root not in self._metadata:
            self._metadata[root] = read_metadata(root)
        return self._metadata[root]

    def captions(self, root: Path) -> FolderCaptions:
        """Reads the files of captions that are about all pictures of a folder.

        Args:
            root: The folder.

        Returns:
            Its captions.

        Raises:
            DataError: A file is damaged.
        """
        if root not in self._captions:
            self._captions[root] = FolderCaptions(root, self.metadata(root), self._wanted.caption_column)
        return self._captions[root]

    def _mask_in_metadata(self, picture: Path, root: Path) -> Path | None:
        metadata = self.metadata(root)
        if metadata is None:
            return None
        column = mask_column(metadata, self._wanted.mask_column_name)
        cell = metadata.rows.get(picture.relative_to(root).as_posix(), {}).get(column or "")
        return root / cell if isinstance(cell, str) and cell else None

    def _masks_of(self, folder: Path) -> dict[str, Path]:
        if folder not in self._masks:
            try:
                beside = masks_beside(folder.iterdir())
            except OSError:  # the picture itself will say what is wrong with the folder
                beside = {}
            self._masks[folder] = {picture.name: mask for picture, mask in beside.items()}
        return self._masks[folder]


def mask_column(metadata: Metadata, wanted: str | None) -> str | None:
    """Chooses the column of a metadata file that names mask files.

    Args:
        metadata: The file's rows.
        wanted: The user's choice, or None for ``mask``.

    Returns:
        The name, with ``_file_name`` where the column is called so (as `datasets`' imagefolder wants it); None if none
        was chosen and there is no usual one.

    Raises:
        DataError: The chosen column is not there.
    """
    name = wanted or _MASK_COLUMN
    for column in (f"{name}_file_name", name):
        if column in metadata.columns:
            return column
    if wanted is not None:
        raise DataError(
            f"{metadata.file} has no column {wanted + '_file_name'!r} or {wanted!r} (--mask_column); "
            f"it has: {', '.join(metadata.columns)}."
        )
    return None


def masks_beside(files: Iterable[Path]) -> dict[Path, Path]:
    """Finds which files are masks of which: ``corgi_mask.png`` or ``corgi.mask.png`` beside ``corgi.jpg``.

    Args:
        files: All files of one folder.

    Returns:
        Picture to mask. A file whose name ends like a mask's, without a picture of the shorter name, is a picture.
    """
    extensions = readable_extensions()
    pictures: dict[str, list[Path]] = {}
    for file in sorted(files):
        if file.suffix.lower() in extensions and not file.name.startswith("."):
            pictures.setdefault(file.stem.casefold(), []).append(file)
    found: dict[Path, Path] = {}
    for stem, masks in pictures.items():
        for ending in _MASK_ENDINGS:
            for picture in pictures.get(stem.removesuffix(ending), []) if stem.endswith(ending) else []:
                found.setdefault(picture, masks[0])
    return found
