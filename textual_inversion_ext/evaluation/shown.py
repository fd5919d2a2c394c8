"""The pictures of a report, read from its folder for pages and sheets.

A report may come from somebody else: only pictures inside its own folder are ever opened.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from textual_inversion_ext.evaluation.facts import PictureSet
from textual_inversion_ext.evaluation.report import EvaluationReport
from textual_inversion_ext.evaluation.score import REAL_PICTURES

_SMALL = 96  # pixels


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of a page.

    Attributes:
        picture: The picture, or None if its file is missing, no picture, or outside the report's folder.
        seed: The seed it was made with, or None.
        scores: Metric -> its own score, of the metrics that have one.
    """

    picture: Image.Image | None
    seed: int | None
    scores: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture as a part of a page.

    Attributes:
        address: ``data:image/...;base64,...``
        small: Whether it has so few pixels that a page should show them instead of smoothing them away.
    """

    address: str
    small: bool


def shown_pictures(report: EvaluationReport, folder: Path, entry: PictureSet, most: int) -> list[Shown]:
    """Read the first pictures of a subject and a prompt.

    Args:
        report: The report.
        folder: Where ``report.json`` lies.
        entry: One of its picture sets.
        most: How many at most.

    Returns:
        The pictures with their scores.
    """
    found = []
    for number, name in enumerate(entry.files[:most]):
        scores = []
        for metric in report.metrics:
            score = report.score(metric, entry.subject, entry.prompt)
            own = score.per_image[number] if score is not None and number < len(score.per_image) else None
            if own is not None:
                scores.append((metric, own))
        seed = entry.seeds[number] if number < len(entry.seeds) else None
        found.append(Shown(read_picture(folder, name), seed, tuple(scores)))
    return found


def references(report: EvaluationReport, folder: Path, most: int) -> list[Image.Image]:
    """Read the first real pictures.

    Args:
        report: The report.
        folder: Where ``report.json`` lies.
        most: How many at most.

    Returns:
        The pictures that could be read.
    """
    names = [name for entry in report.pictures if entry.subject == REAL_PICTURES for name in entry.files]
    found = [read_picture(folder, name) for name in names[:most]]
    return [picture for picture in found if picture is not None]


def read_picture(folder: Path, name: str) -> Image.Image | None:
    """Read one picture of a report's folder.

    Args:
        folder: Where ``report.json`` lies.
        name: File name with ``/``, relative to it.

    Returns:
        The picture, RGB; None if it is missing, damaged, or lies outside.
    """
    place = PurePosixPath(name)
    file = folder / place
    try:
        if place.is_absolute() or not file.resolve().is_relative_to(folder.resolve()):
            return None
        with Image.open(file) as picture:
            return picture.convert("RGB")
    # Pillow raises many kinds for damaged files; ValueError also comes from a name with a zero byte in it.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def embedded(picture: Image.Image, longest: int) -> Embedded:
    """Write a picture into an address, so that a page needs no second file.

    Args:
        picture: The picture, RGB.
        longest: Pixels of its longer side at most; larger ones are reduced.

    Returns:
        The picture as an address.
    """
    data = io.BytesIO()
    if max(picture.size) > longest:
        reduced = picture.copy()
        reduced.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        reduced.save(data, "JPEG", quality=88)
        kind = "jpeg"
    else:
        picture.save(data, "PNG", optimize=True)
        kind = "png"
    address = f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    return Embedded(address, max(picture.size) <= _SMALL)


def sets_of_prompt(report: EvaluationReport, prompt: str) -> Sequence[PictureSet]:
    """The picture sets of a prompt.

    Args:
        report: The report.
        prompt: The prompt with ``{}``.

    Returns:
        One per subject, in the order of tables.
    """
    order = {subject: place for place, subject in enumerate(report.subjects)}
    found = [entry for entry in report.pictures if entry.prompt == prompt]
    return sorted(found, key=lambda entry: order.get(entry.subject, len(order)))
