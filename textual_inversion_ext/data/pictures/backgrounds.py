"""What is put in the place of everything that a mask leaves out, before a picture is encoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageFilter

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError

__all__ = ["Background"]

_REFERENCE_SIDE = 512
"""Lengths are pixels of a picture whose short side has this many, so that they mean the same for every camera."""
_FEATHER = 1.0  # softens the edge of a hard mask, which would otherwise be learned as a feature of the subject


@dataclass(frozen=True, slots=True)
class Background:
    """How the surroundings of the subject are replaced.

    Attributes:
        blur: Radius of the Gaussian blur, in pixels of a picture whose short side is 512; 0 for none.
        fill: A plain colour (name or ``#rrggbb``) instead, or None.
    """

    blur: float = 0.0
    fill: str | None = None

    @classmethod
    def by(cls, config: TextualInversionConfig) -> Background | None:
        """Reads it from a run's settings.

        Args:
            config: ``blur_background`` and ``fill_background`` are used.

        Returns:
            What to do, or None when pictures stay as they are.

        Raises:
            ConfigError: Both are given, or the colour is unknown.
        """
        if config.fill_background is None:
            return cls(config.blur_background) if config.blur_background > 0 else None
        if config.blur_background > 0:
            raise ConfigError("--blur_background and --fill_background replace the same pixels; give one of them.")
        try:
            ImageColor.getrgb(config.fill_background)
        except ValueError as error:
            raise ConfigError(
                f"fill_background is {config.fill_background!r}; it must be a colour, for example white or '#808080'."
            ) from error
        return cls(fill=config.fill_background)

    def apply(self, image: Image.Image, mask: Image.Image) -> Image.Image:
        """Replaces what lies outside the mask. Grey in the mask mixes, so that its edges are soft.

        Args:
            image: An RGB picture.
            mask: Of mode ``L`` and the same size, white on what stays.

        Returns:
            A new RGB picture.
        """
        pixel = min(image.size) / _REFERENCE_SIDE
        soft = mask.filter(ImageFilter.GaussianBlur(_FEATHER * pixel))
        if self.fill is not None:
            behind = Image.new("RGB", image.size, ImageColor.getrgb(self.fill)[:3])
        else:
            behind = _blurred_outside(image, mask, self.blur * pixel)
        return Image.composite(image, behind, soft)


def _blurred_outside(image: Image.Image, mask: Image.Image, radius: float) -> Image.Image:
    """Blurs the surroundings without the subject's colours bleeding into them as a halo.

    Normalised convolution: the picture with the subject blacked out, divided by how much of each neighbourhood was not
    blacked out.

    Args:
        image: An RGB picture.
        mask: White on the subject.
        radius: Standard deviation in pixels.

    Returns:
        A new RGB picture; where no surroundings are near, the picture itself.
    """
    blur = ImageFilter.GaussianBlur(radius)
    outside = mask.point(lambda value: 255 - value)
    black = Image.new("RGB", image.size)
    weight = np.asarray(outside.filter(blur), dtype=np.float32)[..., None]
    colour = np.asarray(Image.composite(image, black, outside).filter(blur), dtype=np.float32)
    mixed = np.where(weight > 0, colour * 255 / np.maximum(weight, 1), np.asarray(image, dtype=np.float32))
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
