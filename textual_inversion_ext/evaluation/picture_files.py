"""One picture of a gallery as a PNG file that says by itself what it is."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from textual_inversion_ext import __version__
from textual_inversion_ext.atomic import atomic_write

_SIGNATURE = "textual_inversion_picture"  # name of the text chunk that a reused picture is known by
_MOST_LETTERS = 60
_UNPLAIN = re.compile(r"[^\w.-]+")


def slug(prompt: str) -> str:
    """Write a prompt as part of a file name.

    Args:
        prompt: Any text.

    Returns:
        Letters of any script, digits and hyphens; nothing that a file system refuses.
    """
    plain = _UNPLAIN.sub("-", prompt).strip("-. ").casefold()[:_MOST_LETTERS]
    return plain.encode("utf-8")[: 2 * _MOST_LETTERS].decode("utf-8", errors="ignore").strip("-. ") or "prompt"


def read_picture(file: Path, signature: str) -> Image.Image | None:
    """Read a picture if it is whole and the one that is asked for.

    Args:
        file: Where it should lie.
        signature: What it was written with.

    Returns:
        An RGB picture, or None.
    """
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture.convert("RGB") if _signature_of(picture) == signature else None
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for missing and damaged files
        return None  # it is made again


def seems_there(file: Path, signature: str) -> bool:
    """Look at a file's head only, to tell how much there is to do.

    Args:
        file: Where it should lie.
        signature: What it was written with.

    Returns:
        Whether it begins like the picture that is asked for.
    """
    try:
        with Image.open(file) as picture:
            return _signature_of(picture) == signature
    except (OSError, ValueError, SyntaxError):
        return False


def is_ours(file: Path) -> bool:
    """Look at a file's head only, to tell whether it was written here.

    Args:
        file: Any file.

    Returns:
        Whether `write_picture` wrote it, with whatever signature.
    """
    try:
        with Image.open(file) as picture:
            return _signature_of(picture) is not None
    except (OSError, ValueError, SyntaxError):
        return False


def write_picture(file: Path, picture: Image.Image, signature: str, facts: Mapping[str, Any]) -> Image.Image:
    """Write a picture, whole or not at all.

    Args:
        file: Where it goes.
        picture: The picture.
        signature: What `read_picture` will know it by.
        facts: How it was made, for people: JSON values.

    Returns:
        What `read_picture` will return.

    Raises:
        StorageError: It cannot be written.
    """
    info = PngInfo()
    info.add_text(_SIGNATURE, signature)
    info.add_text("Software", f"textual-inversion-ext {__version__}")
    for name, value in facts.items():
        # International text: prompts are not always Latin.
        info.add_itxt(name, value if isinstance(value, str) else json.dumps(value))
    plain = picture.convert("RGB")
    data = io.BytesIO()
    plain.save(data, "PNG", pnginfo=info)
    atomic_write(file, data.getvalue())
    return plain


def _signature_of(picture: Image.Image) -> str | None:
    return getattr(picture, "text", {}).get(_SIGNATURE)
