"""From an RGB picture to the square tensor that a VAE encodes."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from PIL import Image

from ..errors import ConfigError

__all__ = ["to_tensor"]

logger = logging.getLogger(__name__)


def to_tensor(
    image: Image.Image, resolution: int, fit: Literal["crop"] = "crop", *, name: str = "picture"
) -> torch.Tensor:
    """Cuts the centre square out of a picture and resizes it; the aspect ratio is kept.

    The square is cut before resizing, so that a panorama never becomes an enormous intermediate picture.

    Args:
        image: Any size; converted to RGB if it is not.
        resolution: Side of the result in pixels.
        fit: ``"crop"``: the largest centred square.
        name: What to call the picture in the log.

    Returns:
        Shape (3, resolution, resolution), float32 in [-1, 1].

    Raises:
        ConfigError: If the resolution is no positive whole number or `fit` is unknown.
    """
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1:
        raise ConfigError(f"resolution is {resolution!r}; it must be a whole number of pixels, 1 or more.")
    if fit != "crop":
        raise ConfigError(f"fit is {fit!r}; allowed: 'crop'.")
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    if side < resolution:
        logger.warning(
            "%s is %dx%d: enlarged to %dx%d, so fine detail will look soft.",
            name,
            width,
            height,
            resolution,
            resolution,
        )
    # Both are antialiased in Pillow. Lanczos keeps more detail when shrinking; when enlarging it rings at edges.
    resample = Image.Resampling.LANCZOS if side > resolution else Image.Resampling.BICUBIC
    pixels = np.array(square.resize((resolution, resolution), resample), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().div_(127.5).sub_(1.0)
