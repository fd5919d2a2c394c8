"""Decodes one picture, whatever a camera, a browser or a scanner made of it, and stands it upright."""

from __future__ import annotations

import io
import logging
import os
import stat
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from textual_inversion_ext.errors import ImageError

__all__ = ["open_upright", "picture_label", "readable_extensions"]

logger = logging.getLogger(__name__)

# Only these decoders ever run: Pillow also has some that start other programs (EPS: Ghostscript).
# HEIF exists only when a plugin such as pillow-heif has been registered.
_FORMAT_OF_EXTENSION = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".mpo": "MPO",
    ".png": "PNG",
    ".apng": "PNG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".jp2": "JPEG2000",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
# Their further frames are previews, depth maps or the other eye; the first one is the photograph.
_FIRST_FRAME_IS_THE_PICTURE = frozenset(["MPO", "HEIF"])

_ORIENTATION_TAG = 0x0112
# EXIF 2.32, 4.6.4 A "Orientation": how the stored picture must be turned to stand upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def readable_extensions() -> tuple[str, ...]:
    """Lists the file name endings, lower case with dot, that `open_image` reads with the installed Pillow."""
    Image.init()
    return tuple(extension for extension, kind in _FORMAT_OF_EXTENSION.items() if kind in Image.OPEN)


def open_upright(source: str | os.PathLike[str] | bytes | Image.Image, *, name: str | None = None) -> Image.Image:
    """Decodes a picture and applies its EXIF rotation. The header is checked before any pixel is decoded.

    Args:
        source: A file, the content of a file, or a picture already in memory.
        name: What to call it in messages; by default its path.

    Returns:
        A loaded picture of any mode, with at least one pixel; it may be `source` itself, so it must not be changed.

    Raises:
        ImageError: If it cannot be read or has several frames; the message names the picture.
    """
    label = name or picture_label(source)
    if isinstance(source, Image.Image):
        return _loaded(source, label)
    with _open_file(source, label) as image:
        return _loaded(image, label)


def picture_label(source: str | os.PathLike[str] | bytes | Image.Image) -> str:
    """Names a picture in messages.

    Args:
        source: A file, the content of a file, or a picture already in memory.

    Returns:
        Its path where it is known.
    """
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "")) or "picture in memory"
    return "picture in memory" if isinstance(source, bytes) else os.fspath(source)


def _open_file(source: str | os.PathLike[str] | bytes, label: str) -> Image.Image:
    """Reads the header only; pixels come with `Image.load`."""
    _check_file(source, label)
    stream = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    Image.init()
    formats = [kind for kind in dict.fromkeys(_FORMAT_OF_EXTENSION.values()) if kind in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels, which phones have by now, and refuses from twice that many.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(stream, formats=formats)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{label} is too large: {error} Save it smaller.") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{label} is no picture that can be read ({_looks_like(source)}). Read are: {', '.join(formats)}."
        ) from error
    except Exception as error:  # decoders raise nearly every class there is on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"{label} cannot be opened: {error.strerror}.") from error
        raise _damaged(label, error) from error


def _check_file(source: str | os.PathLike[str] | bytes, label: str) -> None:
    if isinstance(source, bytes):
        size = len(source)
    else:
        try:
            status = os.stat(source)
        except (OSError, ValueError) as error:  # ValueError: a null character in the name
            cause = getattr(error, "strerror", None) or error
            raise ImageError(f"{label} cannot be opened: {cause}.") from error
        # Opening a named pipe would wait for ever.
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise ImageError(f"{label} is {kind}; a picture file is needed.")
        size = status.st_size
    if size == 0:
        raise ImageError(f"{label} is empty (zero bytes); it was probably never copied completely.")


def _looks_like(source: str | os.PathLike[str] | bytes) -> str:
    head = source[:64] if isinstance(source, bytes) else _first_bytes(Path(source))
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run `git lfs pull` where it came from"
    if head[4:8] == b"ftyp":
        return "it looks like HEIC or a video: export it as JPEG, or install and register pillow-heif"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "it looks like a web page or SVG, not like pixels"
    return f"it starts with {head[:8]!r}"


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(64)


def _damaged(label: str, error: BaseException) -> ImageError:
    cause = str(error) or type(error).__name__
    return ImageError(f"{label} is damaged or incomplete ({cause}). Copy or export it again.")


def _loaded(image: Image.Image, label: str) -> Image.Image:
    try:
        several = getattr(image, "is_animated", False) and image.format not in _FIRST_FRAME_IS_THE_PICTURE
        if not several:
            image.load()
    except Exception as error:  # see _open_file
        raise _damaged(label, error) from error
    if several:
        raise ImageError(
            f"{label} has several frames or pages, and which one is meant is not clear. Save the wanted one as its own "
            f"picture: Image.open(path).convert('RGB').save('first.png'), after .seek(n) for another than the first."
        )
    if 0 in image.size:
        raise ImageError(f"{label} has no pixels: its size is {image.width}x{image.height}.")
    return _upright(image, label)


def _upright(image: Image.Image, label: str) -> Image.Image:
    # After load(): Pillow's TIFF reader turns the picture itself there and then removes the tag.
    # Not ImageOps.exif_transpose: it rewrites all EXIF tags, which fails on maker notes that cameras really write.
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception as error:  # see _open_file
        logger.warning("%s: its EXIF data cannot be read (%s), so it is used as stored, not rotated.", label, error)
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)
