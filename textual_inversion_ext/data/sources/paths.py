"""Paths as users type them."""

from __future__ import annotations

import os
from pathlib import Path

from textual_inversion_ext.errors import DataError

__all__ = ["expand_home"]


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Puts the home folder in the place of ``~`` or ``~user`` at the start of a path.

    Args:
        path: What was typed.

    Returns:
        The path.

    Raises:
        DataError: There is no such user, or nothing says where the home folder is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{os.fspath(path)!r} starts with a home folder that is not known: there is no user of this name here. Give"
            " the full path; a name that does start with ~ is written ./~name."
        ) from error
