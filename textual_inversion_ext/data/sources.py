"""From a folder, a list or a `datasets.Dataset` to samples: pictures that are known to open."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image
from tqdm.auto import tqdm

from ..concept import ConceptSpec
from ..errors import DataError, ImageError
from .images import open_image, readable_extensions

if TYPE_CHECKING:
    import datasets

__all__ = ["Sample", "SkippedImage", "collect_samples", "training_data_digest"]

logger = logging.getLogger(__name__)

# Files that belong beside pictures; anything else that is passed over is mentioned in the log.
_SIDE_FILES = frozenset(
    [".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".md", ".yaml", ".yml", ".toml", ".npz"]
)
_SYSTEM_FILES = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini"])
_LISTED = 8  # names in a message; more would hide what it says

_Source: TypeAlias = "Path | bytes | Image.Image"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One picture of a concept. It has been decoded once, to check it, and is decoded again by `open`.

    Decoded pictures are not kept: a hundred camera files would fill gigabytes.
    """

    source: _Source = field(repr=False)
    name: str
    """What messages call it: its path, or its place in the list or data set."""
    concept: int
    """Place of its concept in the run, from 0."""
    size: tuple[int, int]
    """Width and height in pixels, upright."""
    digest: str
    """SHA-256 (hexadecimal) of its size and its decoded RGB pixels."""

    def open(self) -> Image.Image:
        """Decodes the picture.

        Returns:
            A new upright RGB picture; see `textual_inversion_ext.data.images.open_image`.
        """
        return open_image(self.source, name=self.name)


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """A picture that could not be used and was left out."""

    name: str
    reason: str
    """The whole message, which names the picture."""


def collect_samples(
    spec: ConceptSpec, *, skip_bad_images: bool = False, concept: int = 0
) -> tuple[list[Sample], list[SkippedImage]]:
    """Finds the pictures of a concept and checks that each of them opens.

    Args:
        spec: The concept.
        skip_bad_images: Leave pictures out that do not open, instead of stopping at the first.
        concept: Place of the concept in the run, stored in its samples.

    Returns:
        The samples in a reproducible order (folders: natural order of the file names), and what was left out.

    Raises:
        DataError: If the source is missing, of an unknown kind, or has no picture that opens.
        ImageError: If a picture does not open and `skip_bad_images` is off.
    """
    samples: list[Sample] = []
    skipped: list[SkippedImage] = []
    try:
        found = list(_find(spec.images))
    except DataError as error:
        raise DataError(f"{spec.placeholder_token}: {error}") from error
    # disable=None: no bar where nobody is looking (output into a file)
    for name, source in tqdm(
        found, f"checking pictures of {spec.placeholder_token}", delay=2, leave=False, disable=None
    ):
        try:
            samples.append(_check(name, source, concept))
        except ImageError as error:
            if not skip_bad_images:
                raise ImageError(f"{error} Or leave such pictures out with --skip_bad_images.") from error
            logger.warning("left out: %s", error)
            skipped.append(SkippedImage(name, str(error)))
    if not samples:
        reasons = "\n".join(f"  {item.reason}" for item in skipped[:_LISTED]) or "  The list is empty."
        raise DataError(f"{spec.placeholder_token}: no usable picture among {len(found)}.\n{reasons}")
    return samples, skipped


def training_data_digest(samples: Iterable[Sample]) -> str:
    """Fingerprints the pictures of a run: equal if and only if the decoded pixels and their order are.

    Args:
        samples: All samples of the run, in order.

    Returns:
        SHA-256, hexadecimal; file names, metadata and file formats do not enter.
    """
    total = hashlib.sha256()
    for sample in samples:
        total.update(bytes.fromhex(sample.digest))
    return total.hexdigest()


def _check(name: str, source: Any, concept: int) -> Sample:
    if not isinstance(source, Path | bytes | Image.Image):
        raise ImageError(f"{name} is {type(source).__name__}; a path or a PIL image is needed.")
    image = open_image(source, name=name)
    pixels = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    pixels.update(image.tobytes())
    return Sample(source, name, concept, image.size, pixels.hexdigest())


def _find(images: Any) -> Iterator[tuple[str, Any]]:
    """Yields the name and the source of each picture, without opening any."""
    if images is None:
        raise DataError("no pictures. If they were given in memory to the run that is repeated, give them again.")
    if isinstance(images, str | os.PathLike):
        yield from _find_in_path(os.fspath(images))
    elif isinstance(images, Image.Image):
        yield "picture in memory", images
    elif _is_from_datasets(images):
        yield from _find_in_dataset(images)
    elif isinstance(images, Sequence) and not isinstance(images, bytes):
        for position, image in enumerate(images, start=1):
            if isinstance(image, str | os.PathLike):
                yield os.fspath(image), Path(image).expanduser()
            else:
                yield getattr(image, "filename", "") or f"picture {position} of the list", image
    else:
        raise DataError(
            f"pictures are given as {type(images).__name__}; allowed: a folder, a list of paths or PIL images, or a "
            f"datasets.Dataset."
        )


def _find_in_path(text: str) -> Iterator[tuple[str, Path]]:
    path = Path(text).expanduser()
    if not text or not path.exists():
        raise DataError(
            f"folder {text!r} does not exist (looked for {path.absolute()}). Give a folder on this machine; from "
            f"the Hub, download first and give the folder, or what datasets.load_dataset returns."
        )
    if path.is_dir():
        yield from _find_in_folder(path)
    else:
        yield os.fspath(path), path


def _find_in_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    try:
        entries = sorted(folder.iterdir(), key=_natural_order)
    except OSError as error:
        raise DataError(f"folder {str(folder)!r} cannot be read: {error.strerror}.") from error
    visible = [entry for entry in entries if not _is_noise(entry)]
    files = [entry for entry in visible if not entry.is_dir()]
    extensions = readable_extensions()
    pictures = [file for file in files if file.suffix.lower() in extensions]
    if not pictures:
        raise DataError(_nothing_found(folder, entries, visible, extensions))
    strangers = [file.name for file in files if file not in pictures and file.suffix.lower() not in _SIDE_FILES]
    if strangers:
        logger.warning("%s: passed over, not a kind of picture that is read: %s", folder, _listed(strangers))
    for picture in pictures:
        yield os.fspath(picture), picture


def _nothing_found(folder: Path, entries: list[Path], visible: list[Path], extensions: tuple[str, ...]) -> str:
    names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]
    inside = [
        entry.name
        for entry in visible
        if entry.is_dir() and any(child.suffix.lower() in extensions for child in _children(entry))
    ]
    hint = f" Sub-folders are not searched; give {str(folder / inside[0])!r} itself." if inside else ""
    found = f"It holds: {_listed(names)}." if names else "It is empty."
    return f"folder {str(folder)!r} holds no pictures. {found} Read are: {' '.join(extensions)}.{hint}"


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _is_noise(entry: Path) -> bool:
    # "._name.jpg" and "__MACOSX" are what macOS leaves in archives and on foreign disks; they are not pictures.
    return entry.name.startswith(".") or entry.name == "__MACOSX" or entry.name.lower() in _SYSTEM_FILES


def _natural_order(entry: Path) -> tuple[list[tuple[int, str]], str]:
    """Sorts img2 before img10."""
    parts = re.split(r"([0-9]+)", entry.name.casefold())
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)], entry.name


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _is_from_datasets(images: Any) -> bool:
    # Whoever holds a data set has imported `datasets`; importing it here would cost everybody else a second.
    library = sys.modules.get("datasets")
    kinds = ("Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict")
    return library is not None and isinstance(images, tuple(getattr(library, kind) for kind in kinds))


def _find_in_dataset(images: Any) -> Iterator[tuple[str, Any]]:
    import datasets

    if isinstance(images, dict):
        raise DataError(f"a data set with splits was given; choose one, e.g. data[{next(iter(images), 'train')!r}].")
    if isinstance(images, datasets.IterableDataset):
        raise DataError("a streaming data set was given; its length is not known. Load it with streaming=False.")
    column = _image_column(images)
    # Undecoded, so that a damaged picture is met one by one in `open_image`, and EXIF and profiles are handled there.
    rows = images.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))
    for position, row in enumerate(rows):
        cell = row[column] or {}
        path, content = cell.get("path"), cell.get("bytes")
        name = f"row {position} ({os.path.basename(path)})" if path else f"row {position}"
        yield name, content if content is not None else Path(path) if path else None


def _image_column(data: datasets.Dataset) -> str:
    import datasets

    columns = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    if "image" in columns or len(columns) == 1:
        return "image" if "image" in columns else columns[0]
    if columns:
        raise DataError(
            f"the data set has several image columns ({', '.join(columns)}); name the one to learn from 'image', "
            f"e.g. data.rename_column({columns[0]!r}, 'image')."
        )
    kinds = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in data.features.items())
    raise DataError(
        f"the data set has no image column; it has {kinds}. Make one with data.cast_column(name, datasets.Image())."
    )
