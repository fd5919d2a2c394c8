"""What must not leave this machine: access tokens, and where its files lie.

Everything that is published goes through here: settings, reports, the metadata of embedding files, and pictures, whose
metadata may hold a prompt's author, a place on Earth or a path.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_cards.problems import without_tokens
from textual_inversion_ext.errors import PublishError

__all__ = [
    "clean_json",
    "clean_metadata",
    "clean_picture",
    "clean_safetensors",
    "clean_text",
    "is_local",
    "refuse_private",
    "refuse_private_words",
]

# Names of settings that hold a secret; `placeholder_token` and `initializer_token` are words.
_SECRET = re.compile(r"(?i)(hf|hub|access|auth|api|bearer|use_auth)_?token|.*(password|passwd|secret|api_?key).*")
_HOME = r"~(?:[A-Za-z_][\w.-]*)?"  # one's own or somebody's; "~50/50" is none
_STARTS_LIKE_A_PATH = re.compile(rf"(/|{_HOME}[/\\]|\.{{1,2}}[/\\]|[A-Za-z]:[\\/]|\\\\|file:)")
# Paths inside longer texts: from the root, from a home, with a drive or of a server. Not addresses, tags, or "and/or".
_PATH_INSIDE = re.compile(
    rf"(?<![\w/\\:.<>*~-])(?:(?:{_HOME})?/(?:[\w.@+~-]+/)+[\w.@+~-]*"
    r"|[A-Za-z]:[\\/](?:[\w.@+~ -]+[\\/])*[\w.@+~-]*|\\\\[\w.-]+\\(?:[\w.@+~$ -]+[\\/])*[\w.@+~$-]*)"
)
_LOSSLESS = ("PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def is_local(value: str) -> bool:
    """Whether a text is the path of something on this machine.

    Args:
        value: A setting's value.

    Returns:
        True for what is written like a path, and for what exists here.
    """
    if _STARTS_LIKE_A_PATH.match(value):
        return True
    try:
        return bool(value) and ("/" in value or os.sep in value) and Path(value).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def clean_text(value: str) -> str:
    """Blot out tokens, and leave only the last name of every path.

    Args:
        value: Any text.

    Returns:
        The text; of one that is a path, the last name.
    """
    value = without_tokens(value)
    if is_local(value) and "\n" not in value:
        return _last_name(value)
    return _PATH_INSIDE.sub(lambda found: _last_name(found.group()), value)


def clean_json(value: Any) -> Any:
    """Clean every text in a JSON value, and leave out settings that are secrets.

    Args:
        value: What ``json.loads`` returns.

    Returns:
        A new value of the same form.
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_json(entry) for entry in value]
    if isinstance(value, dict):
        return {clean_text(key): clean_json(entry) for key, entry in value.items() if not _SECRET.fullmatch(key)}
    return value


def clean_metadata(told: Mapping[str, str]) -> dict[str, str]:
    """Clean what an embedding file says about itself.

    Args:
        told: Text to text; a value may be JSON.

    Returns:
        The same without secrets and local paths.
    """
    return {key: _clean_value(value) for key, value in told.items() if not _SECRET.fullmatch(key)}


def clean_safetensors(file: Path) -> bytes | Path:
    """Clean the metadata of a safetensors file; its tensors stay as they are, bit for bit.

    Args:
        file: The file.

    Returns:
        The file itself if nothing had to be changed, else its new content.

    Raises:
        PublishError: It is no safetensors file.
    """
    try:
        with open(file, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
            told = header.get("__metadata__", {})
            cleaned = clean_metadata(told)
            if cleaned == told:
                return file
            header["__metadata__"] = cleaned
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            text += b" " * (-len(text) % 8)  # The format wants the data to start at a multiple of 8.
            return struct.pack("<Q", len(text)) + text + stream.read()
    except (OSError, ValueError, struct.error, AttributeError) as error:
        raise PublishError(f"{file} cannot be read as a safetensors file ({error}); train or save it again.") from error


def clean_picture(file: Path) -> tuple[bytes, str]:
    """Take everything but the pixels, and the colour profile that says what they mean, out of a picture.

    Args:
        file: The picture.

    Returns:
        Its content, written anew, and the ending for its name.

    Raises:
        PublishError: It is no picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            kind = picture.format or ""
            upright = ImageOps.exif_transpose(picture)
            bare = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
            # Pillow writes what `info` holds without being asked; of it only the colours' meaning stays.
            colours = picture.info.get("icc_profile") if picture.mode in ("RGB", "RGBA") else None
            bare.info.clear()
            written = io.BytesIO()
            if kind in _LOSSLESS or bare.mode == "RGBA":
                bare.save(written, "PNG", icc_profile=colours)
                return written.getvalue(), ".png"
            # A JPEG loses a little by this, but a file can hide text in more places than Pillow tells of.
            bare.save(written, "JPEG", quality=95, subsampling=0, icc_profile=colours)
            return written.getvalue(), ".jpg"
    except UnidentifiedImageError as error:
        raise PublishError(f"{file} is no picture of a known kind; leave it out.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PublishError(f"{file} cannot be read as a picture ({error}); leave it out.") from error


def refuse_private(name: str, content: bytes, folder: Path | None = None) -> None:
    """Look once more at what is about to be sent.

    Args:
        name: Path in the repository.
        content: The content of a text file, or a file's header.
        folder: The folder that is published.

    Raises:
        PublishError: It holds a token, or the address of this machine's home or of the folder.
    """
    text = content.decode("utf-8", errors="replace")
    places = [str(Path.home()), *([] if folder is None else [str(folder.resolve())])]
    if without_tokens(text) != text:
        raise PublishError(f"{name} holds what looks like an access token; take it out first.")
    found = next((place for place in places if len(place) > 1 and f"{place}/" in f"{text}/"), None)
    if found is not None:
        raise PublishError(f"{name} holds a path of this machine ({found}); take it out first.")


def refuse_private_words(name: str, text: str) -> None:
    """Refuse a text of the publisher's own with a secret in it: cut, it might say what was never meant.

    Args:
        name: What errors call it.
        text: The text.

    Raises:
        PublishError: It holds a token, or a path; "/r/corgi/", whose first folder is not here, is none.
    """
    refuse_private(name, text.encode())
    path = next((found.group() for found in _PATH_INSIDE.finditer(text) if _starts_here(found.group())), None)
    if path is not None:
        raise PublishError(f"{name} holds a path of this machine ({path}); take it out first.")


def _starts_here(path: str) -> bool:
    try:
        return not path.startswith("/") or Path(*Path(path).parts[:2]).exists()
    except OSError:  # too long for a name
        return False


def _clean_value(value: str) -> str:
    if value.startswith(("{", "[")):
        try:
            return json.dumps(clean_json(json.loads(value)), ensure_ascii=False)
        except ValueError:
            pass
    return clean_text(value)


def _last_name(path: str) -> str:
    names = [name for name in re.split(r"[\\/]+", path.removeprefix("file:")) if name not in ("", ".", "..", "~")]
    return names[-1] if names else "folder"
