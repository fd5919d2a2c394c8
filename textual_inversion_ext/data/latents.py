"""Pictures of one shape, encoded once: VAE moments, weights of the loss, and what the model is told of their size."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.pictures.transforms import (
    Cut,
    center_cut,
    cut_out,
    mask_weights,
    random_cut,
    squash,
    warn_if_enlarged,
)
from textual_inversion_ext.data.seeds import seed_for
from textual_inversion_ext.data.sources.collect import Sample

__all__ = ["Latents", "MomentEncoder", "cuts_of", "encode_pictures"]

logger = logging.getLogger(__name__)

VAE_BATCH = 4  # pictures a VAE call: larger ones gain little and need gigabytes at 1024 px


class MomentEncoder(Protocol):
    """What building a resident set needs of a family adapter."""

    native_resolution: int

    @property
    def device(self) -> torch.device:
        """The training device."""

    @property
    def size_multiple(self) -> int:
        """Pixels of which the sides of a picture that is not square are multiples."""

    def moments(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pictures in [-1, 1] to (B, 2C, h, w) posterior moments."""

    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """(B, 2C, h, w) moments and (B, C, h, w) noise to latents."""


@dataclass(frozen=True, slots=True)
class Latents:
    """``M`` pictures of one shape, each in ``K`` cuts and perhaps mirrored.

    The entry of picture ``m`` in cut ``k`` is ``m + M * k``, that of its mirror image ``m + M * (k + K)``.

    Attributes:
        moments: (E, 2C, h, w) float32, ``E = M * K``, twice that with mirror images.
        masks: (E, 1, h, w) float32 weights of the loss, or None where no picture has a mask.
        sizes: (E, 6) float32, see ``Batch.sizes``.
    """

    moments: Tensor
    masks: Tensor | None
    sizes: Tensor


def cuts_of(
    sample: Sample, target: tuple[int, int], token: str, number: int, config: TextualInversionConfig
) -> tuple[Cut, ...]:
    """The parts of a picture that are kept.

    Args:
        sample: the picture.
        target: width and height that it is trained with.
        token: placeholder token of its concept.
        number: its number within the concept, from 1.
        config: ``crop``, ``random_crops`` and ``seed`` are used.

    Returns:
        One cut, or ``random_crops`` of them.
    """
    if config.crop == "none":
        return (squash(sample.size, target),)
    if config.crop == "random":
        chance = random.Random(seed_for(config.seed, token, "crops", number))
        return tuple(random_cut(sample.size, target, chance) for _ in range(config.random_crops))
    return (center_cut(sample.size, target),)


def encode_pictures(
    adapter: MomentEncoder,
    samples: Sequence[Sample],
    cuts: Sequence[tuple[Cut, ...]],
    *,
    mirrored: bool,
    outside: float,
    bar: tqdm | None = None,
) -> Latents:
    """Encode pictures of one shape.

    A mirror image is encoded by itself: a VAE does not commute with mirroring.

    Args:
        adapter: the family adapter, its VAE on the training device.
        samples: M pictures.
        cuts: K parts of each, all of one target size.
        mirrored: whether mirror images are wanted.
        outside: weight of the loss outside of a mask.
        bar: advanced by one for each picture and cut.

    Returns:
        The encoded pictures on the adapter's device.
    """
    plain, flipped = [], []
    for pixels in _batches(samples, cuts):
        plain.append(adapter.moments(pixels))
        if mirrored:
            flipped.append(adapter.moments(pixels.flip(-1)))
        if bar is not None:
            bar.update(len(pixels))
    count = len(cuts[0])
    moments = torch.cat([_by_cut(torch.cat(views), count) for views in (plain, flipped) if views])
    masks = _masks(samples, cuts, (moments.shape[-2], moments.shape[-1]), outside)
    if masks is not None:
        masks = _by_cut(masks, count)
        masks = torch.cat([masks, masks.flip(-1)]) if mirrored else masks
        masks = masks.to(adapter.device)
    views = (False, True) if mirrored else (False,)
    sizes = [_by_cut(torch.tensor([cut.sizes(view) for own in cuts for cut in own]), count) for view in views]
    return Latents(moments, masks, torch.cat(sizes).float().to(adapter.device))


def _batches(samples: Sequence[Sample], cuts: Sequence[tuple[Cut, ...]]) -> Iterator[Tensor]:
    """Cut pictures in batches, so that only a few are decoded at a time.

    Args:
        samples: the pictures.
        cuts: parts of each.

    Yields:
        (up to VAE_BATCH, 3, height, width) float32 in [-1, 1]; all cuts of a picture after one another.
    """
    waiting: list[Tensor] = []
    for sample, own in zip(samples, cuts, strict=True):
        image = sample.open()
        warn_if_enlarged(own[0], sample.name)
        for cut in own:
            waiting.append(cut_out(image, cut))
            if len(waiting) == VAE_BATCH:
                yield torch.stack(waiting)
                waiting = []
    if waiting:
        yield torch.stack(waiting)


def _by_cut(entries: Tensor, count: int) -> Tensor:
    """Reorder entries from picture by picture to cut by cut.

    Args:
        entries: (M * K, ...), all cuts of a picture after one another.
        count: K.

    Returns:
        (K * M, ...), all pictures of a cut after one another.
    """
    return entries.unflatten(0, (-1, count)).transpose(0, 1).flatten(0, 1)


def _masks(
    samples: Sequence[Sample], cuts: Sequence[tuple[Cut, ...]], latent_size: tuple[int, int], outside: float
) -> Tensor | None:
    """Weights of the loss, from the pictures' masks.

    Args:
        samples: M pictures.
        cuts: K parts of each.
        latent_size: height and width of the latents.
        outside: weight outside of a mask.

    Returns:
        (M * K, 1, h, w) float32 on the CPU, 1 for pictures without a mask; None if no picture has one.
    """
    if all(sample.mask is None for sample in samples):
        return None
    weights = []
    for sample, own in zip(samples, cuts, strict=True):
        mask = sample.open_mask()
        for cut in own:
            everywhere = torch.ones(1, *latent_size)
            inside = everywhere if mask is None else mask_weights(mask, cut, latent_size, outside)
            if not inside.any():
                logger.warning("%s: the part that is used shows nothing of its mask, so all of it counts.", sample.name)
                inside = everywhere
            weights.append(inside)
    return torch.stack(weights)
