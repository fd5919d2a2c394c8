"""How large a file may be, and what a file that cannot be read looks like."""

from __future__ import annotations

from pathlib import Path

from ...errors import EmbeddingFileError

__all__ = ["MOST_BYTES", "check_size", "looks_like"]

MOST_BYTES = 256 * 1024**2
"""The largest embeddings in use (a hundred T5-XXL vectors) have 2 MB; beyond this it is a model, given by mistake."""


def check_size(path: Path) -> None:
    """Refuses a file that is a model rather than an embedding, before anything of it is loaded.

    Args:
        path: The file.

    Raises:
        EmbeddingFileError: If it has more than `MOST_BYTES`.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise EmbeddingFileError(
            f"{path} has {size / 1024**2:.0f} MiB; an embedding file has kilobytes. This looks like a model or a LoRA."
        )


def looks_like(head: bytes) -> str:
    """Guesses from a file's first bytes why it cannot be read.

    Args:
        head: The first bytes, none for an empty file.

    Returns:
        What it seems to be, and what to do.
    """
    if not head:
        return "it is empty, and was probably never copied completely"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull` where it came from"
    if head.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        return "it is a JPEG XL picture, which is not opened here; save it as PNG without loss"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page; download the file itself"
    return "it is damaged or incomplete; download or copy it again"
