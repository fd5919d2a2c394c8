"""Pictures as 8-bit sRGB, masks as 8-bit grey."""

from __future__ import annotations

import io
import logging
import os

import numpy as np
from PIL import Image, ImageCms

from textual_inversion_ext.data.pictures.decoding import open_upright, picture_label
from textual_inversion_ext.errors import ImageError

__all__ = ["open_alpha", "open_grey", "open_image"]

logger = logging.getLogger(__name__)

_SIXTEEN_BIT_MODES = frozenset(["I", "I;16", "I;16L", "I;16B", "I;16N"])
_ICC_SPACE_OF_MODE = {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}


def open_image(source: str | os.PathLike[str] | bytes | Image.Image, *, name: str | None = None) -> Image.Image:
    """Opens a picture upright, opaque, in sRGB.

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled, and colours are converted from the
    picture's ICC profile (Display P3, CMYK, ...) where it has one. The header is checked before any pixel is decoded.

    Args:
        source: A file, the content of a file, or a picture already in memory (which is not changed).
        name: What to call it in messages; by default its path.

    Returns:
        A new picture of mode ``RGB``.

    Raises:
        ImageError: If it cannot be read or has several frames; the message names the picture.
    """
    label = name or picture_label(source)
    upright = open_upright(source, name=label)
    try:
        return _to_srgb(upright, upright.info.get("icc_profile"), label)
    except ValueError as error:
        raise _unknown_colours(upright, label, error) from error


def open_alpha(source: str | os.PathLike[str] | bytes | Image.Image, *, name: str | None = None) -> Image.Image | None:
    """Opens the alpha channel of a picture, upright.

    Args:
        source: A file, the content of a file, or a picture already in memory.
        name: What to call it in messages; by default its path.

    Returns:
        A new picture of mode ``L``, white where the picture is opaque; None if it has no transparency.

    Raises:
        ImageError: If the picture cannot be read.
    """
    label = name or picture_label(source)
    upright = open_upright(source, name=label)
    if upright.mode in _SIXTEEN_BIT_MODES:
        return _scale_sixteen_bit(upright, label)[1]
    return _with_alpha(upright).getchannel("A") if upright.has_transparency_data else None


def open_grey(source: str | os.PathLike[str] | bytes | Image.Image, *, name: str | None = None) -> Image.Image:
    """Opens a picture as the brightness it stores, upright; what is transparent counts as black.

    No colour profile is applied: a mask's values are numbers, not light.

    Args:
        source: A file, the content of a file, or a picture already in memory.
        name: What to call it in messages; by default its path.

    Returns:
        A new picture of mode ``L``.

    Raises:
        ImageError: If it cannot be read.
    """
    label = name or picture_label(source)
    upright = open_upright(source, name=label)
    try:
        if upright.mode in _SIXTEEN_BIT_MODES:
            grey, alpha = _scale_sixteen_bit(upright, label)
        elif upright.has_transparency_data:
            both = _with_alpha(upright)
            grey, alpha = both.convert("RGB").convert("L"), both.getchannel("A")
        else:
            grey, alpha = upright.convert("L"), None
    except ValueError as error:
        raise _unknown_colours(upright, label, error) from error
    if alpha is not None:
        return Image.composite(grey, Image.new("L", grey.size), alpha)
    return grey.copy() if grey is upright else grey


def _unknown_colours(image: Image.Image, label: str, error: ValueError) -> ImageError:
    if isinstance(error, ImageError):
        return error
    return ImageError(f"{label} has colours of mode {image.mode!r}; save it as 8-bit RGB ({error}).")


def _with_alpha(image: Image.Image) -> Image.Image:
    # Pillow has no direct way from premultiplied grey to RGBA.
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _to_srgb(image: Image.Image, profile: bytes | None, label: str) -> Image.Image:
    alpha: Image.Image | None = None
    if image.mode in _SIXTEEN_BIT_MODES:
        colour, alpha = _scale_sixteen_bit(image, label)
    elif image.mode == "F":
        raise ImageError(f"{label} holds floating-point pixels, whose range is not known; save it with 8 bits.")
    elif image.has_transparency_data:
        grey = image.mode in ("LA", "La", "L", "1")
        rgba = _with_alpha(image)
        alpha, colour = rgba.getchannel("A"), rgba.getchannel("R") if grey else rgba.convert("RGB")
    else:
        kept = {"1": "L", "L": "L", "CMYK": "CMYK"}
        colour = image.convert(kept.get(image.mode, "RGB"))
    opaque = _apply_profile(colour, profile, label)
    if alpha is not None:
        white = Image.new("RGB", opaque.size, "white")
        white.paste(opaque, mask=alpha)
        return white
    # convert() returns the same object when there is nothing to do; the caller's picture must stay its own.
    return opaque.copy() if opaque is image else opaque


def _scale_sixteen_bit(image: Image.Image, label: str) -> tuple[Image.Image, Image.Image | None]:
    """Scales 0..65535 to 0..255; Pillow's own convert("L") would clip everything above 255 to white."""
    values = np.asarray(image.convert("I"))
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{label} holds 32-bit numbers from {values.min()} to {values.max()}, whose range is not known; "
            f"save it with 8 or 16 bits."
        )
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey, None
    return grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))


def _apply_profile(image: Image.Image, profile: bytes | None, label: str) -> Image.Image:
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        # An sRGB profile changes nothing but would round every pixel once more.
        is_srgb = (source.profile.profile_description or "").startswith("sRGB")
        if is_srgb or space != _ICC_SPACE_OF_MODE[image.mode]:
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    # ImportError: a Pillow built without LittleCMS.
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, ImportError) as error:
        logger.warning("%s: its colour profile cannot be used (%s); colours are taken as they are.", label, error)
        return image.convert("RGB")
    return converted if converted is not None else image.convert("RGB")
