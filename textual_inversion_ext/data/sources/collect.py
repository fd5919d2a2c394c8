"""From a folder, a list or a data set to samples: pictures that are known to open, with their captions and masks."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image
from tqdm.auto import tqdm

from textual_inversion_ext.concept import ConceptSpec, HubDataset
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.pictures.backgrounds import Background
from textual_inversion_ext.data.pictures.images import open_image
from textual_inversion_ext.data.pictures.masks import check_mask_settings, choose_mask, encode_mask, open_mask
from textual_inversion_ext.data.pictures.segmentation import Segmenter
from textual_inversion_ext.data.sources.folders import find_in_list, find_in_path
from textual_inversion_ext.data.sources.found import FoundPicture, Wanted
from textual_inversion_ext.data.sources.hub_datasets import load_hub_dataset
from textual_inversion_ext.data.sources.tables import find_in_table
from textual_inversion_ext.errors import DataError, ImageError

__all__ = ["Sample", "SkippedImage", "collect_samples", "learned_samples", "make_segmenter", "training_data_digest"]

logger = logging.getLogger(__name__)

_REASONS = 8  # in a message; more would hide what it says

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
    """SHA-256 (hexadecimal) of its size and its decoded RGB pixels; also of captions, mask and background if used."""
    captions: tuple[str, ...] = ()
    """What people wrote about it, in order; several where it was captioned several times. Clean single lines."""
    mask: _Source | None = field(default=None, repr=False)
    """Its mask, of the same size; None where there is none or none is used."""
    background: Background | None = None
    """What replaces the pixels outside of the mask, if anything does."""

    @property
    def caption(self) -> str | None:
        """The first of its captions, or None."""
        return self.captions[0] if self.captions else None

    def open(self) -> Image.Image:
        """Decodes the picture, with its background replaced if that was asked for.

        Returns:
            A new upright RGB picture; see `textual_inversion_ext.data.pictures.images.open_image`.
        """
        image = open_image(self.source, name=self.name)
        mask = self.open_mask() if self.background is not None else None
        return image if mask is None or self.background is None else self.background.apply(image, mask)

    def open_mask(self) -> Image.Image | None:
        """Decodes the mask.

        Returns:
            A new picture of mode ``L`` and of the size of `open`, white on the subject; None without a mask.
        """
        return None if self.mask is None else open_mask(self.mask, name=f"the mask of {self.name}")


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """A picture that could not be used and was left out."""

    name: str
    reason: str
    """The whole message, which names the picture."""


def collect_samples(
    spec: ConceptSpec,
    config: TextualInversionConfig | None = None,
    *,
    concept: int = 0,
    segmenter: Segmenter | None = None,
) -> tuple[list[Sample], list[SkippedImage]]:
    """Finds the pictures of a concept and checks that each of them opens, with its mask if masks are used.

    Args:
        spec: The concept.
        config: ``skip_bad_images`` and the settings about captions, masks, columns and backgrounds are used; None for
            the defaults.
        concept: Place of the concept in the run, stored in its samples.
        segmenter: The loaded ``mask_model``; loaded here if it is needed and not given.

    Returns:
        The samples in a reproducible order (folders: natural order of the file names), and what was left out.

    Raises:
        DataError: If the source is missing, of an unknown kind, damaged, or has no picture that opens.
        ImageError: If a picture or its mask does not open and ``skip_bad_images`` is off.
        ConfigError: If settings about masks contradict each other.
    """
    config = config or TextualInversionConfig()
    check_mask_settings(config)
    checker = _Checker(config, spec, concept, segmenter or make_segmenter(config))
    samples: list[Sample] = []
    skipped: list[SkippedImage] = []
    try:
        found = list(_find(spec.images, Wanted.by(config)))
    except DataError as error:
        raise DataError(f"{spec.placeholder_token}: {error}") from error
    # disable=None: no bar where nobody is looking (output into a file)
    for item in tqdm(found, f"checking pictures of {spec.placeholder_token}", delay=2, leave=False, disable=None):
        try:
            samples.append(checker.sample(item))
        except ImageError as error:
            if not config.skip_bad_images:
                raise ImageError(f"{error} Or leave such pictures out with --skip_bad_images.") from error
            logger.warning("left out: %s", error)
            skipped.append(SkippedImage(item.name, str(error)))
    if not samples:
        reasons = "\n".join(f"  {item.reason}" for item in skipped[:_REASONS]) or "  The list is empty."
        raise DataError(f"{spec.placeholder_token}: no usable picture among {len(found)}.\n{reasons}")
    whole = sum(sample.mask is None for sample in samples)
    if config.masks != "none" and whole:
        logger.info("%s: %d of %d pictures have no mask.", spec.placeholder_token, whole, len(samples))
    return samples, skipped


def make_segmenter(config: TextualInversionConfig) -> Segmenter | None:
    """Loads the model that makes masks.

    Args:
        config: ``mask_model`` and ``mask_label`` are used.

    Returns:
        The model, or None where no setting names one.
    """
    return Segmenter(config.mask_model, config.mask_label) if config.mask_model is not None else None


def training_data_digest(samples: Iterable[Sample]) -> str:
    """Fingerprints the pictures of a run: equal if and only if what is learned from and its order are.

    Args:
        samples: All samples of the run, in order.

    Returns:
        SHA-256, hexadecimal, of the decoded pixels, and of captions, masks and replaced backgrounds where they are
        used; file names, metadata and file formats do not enter.
    """
    total = hashlib.sha256()
    for sample in samples:
        total.update(bytes.fromhex(sample.digest))
    return total.hexdigest()


def learned_samples(spec: ConceptSpec, config: TextualInversionConfig, digest: str | None) -> list[Sample] | None:
    """Collects the pictures of a concept again, if they still are those that it was learned from.

    Args:
        spec: The concept, as its run recorded it.
        config: The run's settings; the fingerprint is of all that the run read by them.
        digest: ``training_data_digest`` of the run; None if it is not known.

    Returns:
        The samples; none of them where there are others by now. None where that cannot be told: without a fingerprint,
        and with masks of a model, which would have to make them anew.

    Raises:
        TextualInversionError: As for ``collect_samples``.
    """
    if digest is None or config.mask_model is not None:
        return None
    samples, _ = collect_samples(spec, config)
    return samples if training_data_digest(samples) == digest else []


class _Checker:
    """Opens what was found, once, and makes samples of it.

    Args:
        config: The run's settings.
        spec: The concept.
        concept: Its place in the run.
        segmenter: The loaded ``mask_model``, if there is one.
    """

    def __init__(
        self, config: TextualInversionConfig, spec: ConceptSpec, concept: int, segmenter: Segmenter | None
    ) -> None:
        self._kind = config.masks
        self._background = Background.by(config)
        self._class_name = spec.class_name
        self._concept = concept
        self._segmenter = segmenter

    def sample(self, found: FoundPicture) -> Sample:
        """Opens a picture and its mask.

        Args:
            found: What a source offers.

        Returns:
            The sample.

        Raises:
            ImageError: One of them cannot be used.
        """
        source, name = found.source, found.name
        if not isinstance(source, Path | bytes | Image.Image):
            raise ImageError(f"{name} is {type(source).__name__}; a path or a PIL image is needed.")
        image = open_image(source, name=name)
        mask = choose_mask(found, image, self._kind)
        if mask is None and self._segmenter is not None:
            mask = encode_mask(self._segmenter.mask(image, self._class_name, name=name))
        background = self._background if mask is not None else None
        pixels = _sha256(image)
        parts = {
            "captions": json.dumps(found.captions) if found.captions else None,
            "mask": _sha256(open_mask(mask, name=name)).hex() if mask is not None else None,
            "background": repr(background) if background is not None else None,
        }
        used = {part: value for part, value in parts.items() if value is not None}
        # Pictures alone keep the digest that older files hold.
        digest = hashlib.sha256(pixels + json.dumps(used).encode()).digest() if used else pixels
        return Sample(source, name, self._concept, image.size, digest.hex(), found.captions, mask, background)


def _sha256(image: Image.Image) -> bytes:
    pixels = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    pixels.update(image.tobytes())
    return pixels.digest()


def _find(images: Any, wanted: Wanted) -> Iterator[FoundPicture]:
    """Yields the pictures of any source, without opening them."""
    if images is None:
        raise DataError("no pictures. If they were given in memory to the run that is repeated, give them again.")
    if isinstance(images, str | os.PathLike):
        yield from find_in_path(os.fspath(images), wanted)
    elif isinstance(images, Image.Image):
        yield FoundPicture("picture in memory", images)
    elif isinstance(images, HubDataset):
        yield from find_in_table(load_hub_dataset(images), wanted)
    elif _is_from_datasets(images):
        yield from find_in_table(images, wanted)
    elif isinstance(images, Sequence) and not isinstance(images, bytes):
        yield from find_in_list(images, wanted)
    else:
        raise DataError(
            f"pictures are given as {type(images).__name__}; allowed: a folder, a list of paths or PIL images, a "
            f"HubDataset, or a datasets.Dataset."
        )


def _is_from_datasets(images: Any) -> bool:
    # Whoever holds a data set has imported `datasets`; importing it here would cost everybody else a second.
    library = sys.modules.get("datasets")
    kinds = ("Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict")
    return library is not None and isinstance(images, tuple(getattr(library, kind) for kind in kinds))
