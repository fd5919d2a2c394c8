"""Whether a file of a repository is the one that is here, told without downloading it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.hf_api import RepoFile

__all__ = ["digests", "is_same"]

_PIECE = 1024 * 1024
# Of either digest; enough to tell files apart that nobody made to be mistaken for each other.
_DIGITS = 16


def digests(content: bytes | Path) -> str:
    """Name a file as the Hub may: it calls large files by their sha256, and all others as git does.

    Args:
        content: The content, or the file that holds it.

    Returns:
        The beginnings of git's name and of the sha256, in hexadecimal digits, with a blank between them.
    """
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    git, sha256 = hashlib.sha1(f"blob {size}\0".encode()), hashlib.sha256()
    for piece in _pieces(content):
        git.update(piece)
        sha256.update(piece)
    return f"{git.hexdigest()[:_DIGITS]} {sha256.hexdigest()[:_DIGITS]}"


def is_same(entry: RepoFile, names: str) -> bool:
    """Compare a file of a repository with one that is known by its digests.

    Args:
        entry: The file there.
        names: What `digests` returned.

    Returns:
        Whether the two hold the same; never true of text that is no such digests.
    """
    git, _, sha256 = names.partition(" ")
    there, known = (entry.lfs.sha256, sha256) if entry.lfs is not None else (entry.blob_id, git)
    return len(known) == _DIGITS and there[:_DIGITS] == known


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with open(content, "rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece
