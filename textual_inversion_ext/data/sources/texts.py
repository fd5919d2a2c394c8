"""Text files that any editor wrote."""

from __future__ import annotations

import codecs
from pathlib import Path

from textual_inversion_ext.errors import DataError

__all__ = ["read_text"]


def read_text(file: Path) -> str:
    """Reads a text file.

    Args:
        file: UTF-8, or UTF-16 with its mark, as Windows' editor may write it.

    Returns:
        The text, without a byte order mark.

    Raises:
        DataError: It cannot be read or is in another encoding.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not {'UTF-16' if marked else 'UTF-8'} text (byte {error.start} is 0x{data[error.start]:02X}); "
            f"save it as UTF-8."
        ) from error
