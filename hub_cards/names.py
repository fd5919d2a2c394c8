"""Names that the Hub takes: of repositories, and of files in them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from hub_cards.errors import CardError

__all__ = ["check_path", "check_repo_id"]

_REPO_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


def check_path(path: str) -> None:
    """Refuses what is no path inside a repository.

    Args:
        path: The path.

    Raises:
        CardError: If it is empty or absolute, leaves the repository, or has backslashes.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise CardError(f"{path!r} is no path inside the repository; give one such as 'pictures/01.png'.")


def check_repo_id(repo_id: str) -> None:
    """Refuses what is no repository's name.

    Args:
        repo_id: The name.

    Raises:
        CardError: If it is not ``"user/name"``.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise CardError(
            f"{repo_id!r} is no repository of the Hub; expected 'user/name', of letters, digits, '-', '_' and '.'."
        )
