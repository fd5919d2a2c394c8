"""Containers: whatever a file is, it becomes flat `Content` here, or an error that says what is wrong with it.

Which container a file is, is read from its first bytes: endings lie, and every reader here is safe to use on anything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import EmbeddingFileError
from ..base import Content
from .pickles import read_pickle
from .pictures import read_picture
from .safetensors_file import read_safetensors, safetensors_bytes

__all__ = ["ENDINGS", "open_content", "safetensors_bytes"]

ENDINGS: dict[str, str] = {
    ".safetensors": "safetensors",
    ".pti": "safetensors",
    ".bin": "pickle",
    ".pt": "pickle",
    ".pth": "pickle",
    ".ckpt": "pickle",
    ".png": "picture",
    ".webp": "picture",
    ".jxl": "picture",
    ".avif": "picture",
}
"""Endings of embedding files, and the container that each promises."""

_READERS: dict[str, Callable[[Path, bytes], Content]] = {
    "safetensors": read_safetensors,
    "pickle": read_pickle,
    "picture": read_picture,
}

# Texts that tools put beside an embedding, and their name in the metadata.
_BESIDE = {
    "token_identifier.txt": "token_identifier",
    "type_of_concept.txt": "type_of_concept",
    "special_params.json": "special_params",
}
_HAVE_TEXTS_BESIDE = ("learned_embeds", "embeddings")
_MOST_TEXT_BYTES = 10_000


def open_content(path: Path) -> Content:
    """Reads a file of any known container. Nothing in it is executed and nothing is written.

    Args:
        path: The file.

    Returns:
        Its content, with the texts that the tool put beside it.

    Raises:
        EmbeddingFileError: If there is no such file, or it is damaged, dangerous, or far too large for an embedding.
    """
    try:
        if not path.is_file():
            raise EmbeddingFileError(f"no embedding file or folder at {path} (looked for {path.absolute()}).")
        with path.open("rb") as stream:
            head = stream.read(64)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, EmbeddingFileError):
            raise
        cause = getattr(error, "strerror", None) or error
        raise EmbeddingFileError(f"{path} cannot be opened: {cause}.") from error
    content = _READERS[_container(path, head)](path, head)
    return Content(
        content.tensors,
        {**_texts_beside(path), **content.metadata},
        path.stem.removesuffix(".ti"),
        content.container,
        content.notes,
    )


def _container(path: Path, head: bytes) -> str:
    if head[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "pickle"
    is_webp, is_avif = head.startswith(b"RIFF") and head[8:12] == b"WEBP", head[4:12] == b"ftypavif"
    if head.startswith((b"\x89PNG", b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")) or is_webp or is_avif:
        return "picture"
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        also = " It is the optimizer's state of AUTOMATIC1111, not an embedding." if ending == ".optim" else ""
        raise EmbeddingFileError(
            f"{path} ends in {path.suffix!r}; embedding files that are read end in {', '.join(ENDINGS)}.{also}"
        )
    return ENDINGS[ending]


def _texts_beside(path: Path) -> dict[str, str]:
    """Read what tools keep in small files beside an embedding: its token, its kind."""
    if not path.stem.startswith(_HAVE_TEXTS_BESIDE):
        return {}
    texts = {}
    for name, key in _BESIDE.items():
        try:
            with (path.parent / name).open("rb") as stream:
                data = stream.read(_MOST_TEXT_BYTES + 1)
        except OSError:
            continue
        if len(data) <= _MOST_TEXT_BYTES:
            texts[key] = data.decode("utf-8", errors="replace").strip()
    return texts
