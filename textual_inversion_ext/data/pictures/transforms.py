"""From a picture of any shape to the tensor that a VAE encodes: which part of it is used, and at what size."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from textual_inversion_ext.errors import ConfigError

__all__ = ["Cut", "center_cut", "cut_out", "mask_weights", "random_cut", "squash", "to_tensor", "warn_if_enlarged"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cut:
    """Which part of a picture is used, and what it is resized to.

    Attributes:
        source: width and height of the picture in pixels.
        box: left, top, right and bottom of the part, in the picture's pixels.
        target: width and height of the result in pixels.
    """

    source: tuple[int, int]
    box: tuple[int, int, int, int]
    target: tuple[int, int]

    def sizes(self, mirrored: bool = False) -> tuple[float, ...]:
        """What Stable Diffusion XL is told about a picture.

        The picture is first resized so that the part has the target's size, then cut: the corner is in those pixels.

        Args:
            mirrored: whether the picture is mirrored left to right before it is cut.

        Returns:
            Original height and width, top and left of the cut in resized pixels, target height and width.

        Source:
            Podell et al. 2023 (arXiv:2307.01952), section 2.2; diffusers'
            ``examples/text_to_image/train_text_to_image_sdxl.py`` (``compute_time_ids``).
        """
        (width, height), (left, top, right, bottom) = self.source, self.box
        beside = width - right if mirrored else left
        across, down = self.target[0] / (right - left), self.target[1] / (bottom - top)
        return (height, width, round(top * down), round(beside * across), self.target[1], self.target[0])


def center_cut(source: tuple[int, int], target: tuple[int, int]) -> Cut:
    """The largest part in the middle that has the target's shape.

    Args:
        source: width and height of the picture.
        target: width and height of the result.

    Returns:
        The cut.
    """
    width, height = _largest(source, target)
    left, top = (source[0] - width) // 2, (source[1] - height) // 2
    return Cut(source, (left, top, left + width, top + height), target)


def random_cut(source: tuple[int, int], target: tuple[int, int], chance: random.Random) -> Cut:
    """The largest part that has the target's shape, anywhere in the picture.

    Args:
        source: width and height of the picture.
        target: width and height of the result.
        chance: where the randomness comes from.

    Returns:
        The cut; a picture of the target's shape has only one.
    """
    width, height = _largest(source, target)
    left, top = chance.randint(0, source[0] - width), chance.randint(0, source[1] - height)
    return Cut(source, (left, top, left + width, top + height), target)


def squash(source: tuple[int, int], target: tuple[int, int]) -> Cut:
    """The whole picture, whatever that does to its shape.

    Args:
        source: width and height of the picture.
        target: width and height of the result.

    Returns:
        The cut.

    Source:
        Gal et al. 2022, released code (``center_crop`` off), and diffusers' script, which resize like that.
    """
    return Cut(source, (0, 0, *source), target)


def cut_out(image: Image.Image, cut: Cut) -> Tensor:
    """Cut a part out of a picture and resize it.

    The part is cut before resizing, so that a panorama never becomes an enormous intermediate picture.

    Args:
        image: a picture of size ``cut.source``; converted to RGB if it is not.
        cut: which part, and how large the result is.

    Returns:
        (3, height, width) float32 in [-1, 1].
    """
    left, top, right, bottom = cut.box
    part = image.convert("RGB").crop(cut.box)
    # Both are antialiased in Pillow. Lanczos keeps more detail when shrinking; when enlarging it rings at edges.
    shrinks = right - left > cut.target[0] or bottom - top > cut.target[1]
    resample = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    pixels = np.array(part.resize(cut.target, resample), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().div_(127.5).sub_(1.0)


def to_tensor(image: Image.Image, resolution: int, *, name: str = "picture") -> Tensor:
    """Cut the centre square out of a picture and resize it; the aspect ratio is kept.

    Args:
        image: any size; converted to RGB if it is not.
        resolution: side of the result in pixels.
        name: what to call the picture in the log.

    Returns:
        (3, resolution, resolution) float32 in [-1, 1].

    Raises:
        ConfigError: the resolution is no positive whole number.
    """
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1:
        raise ConfigError(f"resolution is {resolution!r}; it must be a whole number of pixels, 1 or more.")
    cut = center_cut(image.size, (resolution, resolution))
    warn_if_enlarged(cut, name)
    return cut_out(image, cut)


def warn_if_enlarged(cut: Cut, name: str) -> None:
    """Say that a picture has fewer pixels than it is trained with.

    Args:
        cut: which part of it is used, and how large the result is.
        name: what to call the picture.
    """
    (left, top, right, bottom), (width, height) = cut.box, cut.target
    if right - left < width or bottom - top < height:
        size = "x".join(map(str, cut.source))
        logger.warning("%s is %s: enlarged to %dx%d, so fine detail will look soft.", name, size, width, height)


def mask_weights(mask: Image.Image, cut: Cut, latent_size: tuple[int, int], outside: float) -> Tensor:
    """Weights of the loss at latent resolution, from the same part of the mask as of the picture.

    Args:
        mask: mode L, of size ``cut.source``; white is the subject.
        cut: which part.
        latent_size: height and width of the latents.
        outside: weight where the mask is black; grey lies between it and 1.

    Returns:
        (1, h, w) float32; every entry is the average over the pixels that it stands for.
    """
    height, width = latent_size
    # BOX is the area average where it shrinks, and of floating-point pixels the exact one.
    part = mask.convert("L").crop(cut.box).convert("F")
    shares = np.array(part.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy(shares)[None].div_(255).mul_(1 - outside).add_(outside)


def _largest(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the largest part of a picture that has the target's shape."""
    (width, height), (across, down) = source, target
    if width * down >= height * across:
        return max(1, round(height * across / down)), height
    return width, max(1, round(width * down / across))
