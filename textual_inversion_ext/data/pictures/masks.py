"""Masks: which part of a picture is the subject. White is inside, black outside, grey in between."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from PIL import Image

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.pictures.images import open_alpha, open_grey
from textual_inversion_ext.data.sources.found import FoundPicture
from textual_inversion_ext.errors import ConfigError, ImageError

__all__ = ["check_mask_settings", "choose_mask", "encode_mask", "open_mask"]

# What has to be found where a kind of mask is asked for, and what to do if it is not.
_MISSING = {
    "files": "no mask file lies beside it ({stem}_mask.png or {stem}.mask.png)",
    "column": "the column of masks (--mask_column, usually 'mask') holds nothing for it",
    "alpha": "it has no transparent pixels",
}


def check_mask_settings(config: TextualInversionConfig) -> None:
    """Refuses settings about masks that contradict each other.

    Args:
        config: A run's settings.

    Raises:
        ConfigError: A setting would have no effect, or one that it needs is missing.
    """
    needs = {
        "mask_column": (config.mask_column is not None, ("column", "auto")),
        "mask_model": (config.mask_model is not None, ("model", "auto")),
        "blur_background": (config.blur_background > 0, ("auto", "alpha", "files", "column", "model")),
        "fill_background": (config.fill_background is not None, ("auto", "alpha", "files", "column", "model")),
    }
    for name, (given, kinds) in needs.items():
        if given and config.masks not in kinds:
            raise ConfigError(f"--{name} has no effect with masks={config.masks}; add --masks {' or '.join(kinds)}.")
    if config.masks == "model" and config.mask_model is None:
        raise ConfigError("--masks model needs --mask_model: the Hub id or folder of a segmentation model.")
    if config.mask_label is not None and config.mask_model is None:
        raise ConfigError("--mask_label names a label of --mask_model, which is missing.")


def open_mask(source: str | os.PathLike[str] | bytes | Image.Image, *, name: str) -> Image.Image:
    """Opens a mask.

    A picture with only one value beside black is black and white whatever that value is: programs also write 0 and 1,
    or a colour of a palette.

    Args:
        source: A file, the content of a file, or a picture in memory; transparency counts as black.
        name: What to call it in messages.

    Returns:
        A new picture of mode ``L``, upright.

    Raises:
        ImageError: If it cannot be read.
    """
    grey = open_grey(source, name=name)
    values = [value for value, count in enumerate(grey.histogram()) if count and value]
    return grey.point([0] + [255] * 255) if len(values) == 1 else grey


def choose_mask(found: FoundPicture, image: Image.Image, kind: str) -> Path | bytes | Image.Image | None:
    """Picks the mask of a picture and checks that it can be one.

    Args:
        found: The picture, and the mask that was found for it.
        image: The picture, opened.
        kind: The setting ``masks``.

    Returns:
        The mask's source; None where masks are not used, or where none was found and none has to be.

    Raises:
        ImageError: The mask is missing, cannot be read, has another size, or is black everywhere.
    """
    if kind in ("none", "model"):
        return None
    mask: Any = found.mask
    if mask is None and kind in ("alpha", "auto"):
        alpha = open_alpha(found.source, name=found.name)
        # A picture may have an alpha channel that hides nothing; most screenshots do.
        mask = None if alpha is None or alpha.getextrema() == (255, 255) else encode_mask(alpha)
    if mask is None:
        if kind == "auto":
            return None
        missing = _MISSING[kind].format(stem=found.source.stem if isinstance(found.source, Path) else "NAME")
        raise ImageError(f"{found.name} has no mask: {missing}. With --masks auto pictures without one are used whole.")
    _check(mask, found.name, image.size)
    return mask


def encode_mask(mask: Image.Image) -> bytes:
    """Packs a mask that exists nowhere as a file.

    Args:
        mask: Of mode ``L``.

    Returns:
        The content of a PNG file.
    """
    stream = io.BytesIO()
    mask.save(stream, "PNG")
    return stream.getvalue()


def _check(source: Any, name: str, size: tuple[int, int]) -> None:
    label = f"{source} (mask of {name})" if isinstance(source, Path) else f"the mask of {name}"
    mask = open_mask(source, name=label)
    if mask.size != size:
        turned = mask.size == size[::-1]
        hint = (
            "it was made from the picture before its EXIF rotation; turn it upright" if turned else "save it as large"
        )
        raise ImageError(
            f"{label} is {mask.width}x{mask.height}, but its picture is {size[0]}x{size[1]} upright; {hint}."
        )
    if mask.getextrema()[1] == 0:
        raise ImageError(f"{label} is black everywhere, so nothing would be learned; paint the subject white.")
